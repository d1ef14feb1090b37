//! Initiators that break the protocol, each in its own way. Every case ends in a Reject, an error or a dropped connection (or
//! is passed over, where RFC 7143 has it so); meanwhile somebody else's I/O is right, and nothing is left behind.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block_io::MemoryDevice;
use iscsi_target::limits;
use iscsi_target::pdu::{BHS_BYTES, opcode, padding};
use iscsi_target::scsi::{LogicalUnit, LuIdentity, LuOptions};
use support::breach::*;
use support::cases::*;
use support::initiator::Pace;
use support::{
    BEGUN, Bench, Honest, Initiator, LUN_BYTES, NODE, TARGET, gated, header, names, put, resident_bytes,
    write_cdb,
};

#[test]
fn every_named_breach_of_the_protocol_has_its_end() {
    let bench = Bench::new();
    let honest = Honest::start(bench.address);
    let (used, resident) = (bench.pool.used_bytes(), resident_bytes());
    for pace in [Pace::AtOnce, Pace::ByteByByte] {
        for case in CASES {
            assert_eq!(ends_of(bench.address, case, pace), case.3, "{}, {pace:?}", case.0);
        }
    }
    assert!(used <= bench.pool.capacity_bytes());
    honest.stop();
    bench.nothing_left();
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < bench.pool.capacity_bytes() + (16 << 20), "{grown} bytes more");
    assert!(
        bench.device.contents()[..1 << 20].iter().all(|byte| *byte == 0),
        "nothing that was spoilt was written"
    );
}

#[test]
fn every_breach_of_a_login_is_refused_or_ends_the_connection() {
    let bench = Bench::new();
    let address = bench.address;
    let honest = Honest::start(address);
    for code in 0..64 {
        let (pdu, expected) = nonsense_first(code);
        assert_eq!(greeted(address, &[pdu], Pace::AtOnce), expected, "opcode {code:#x}");
    }
    for (name, requests, expected) in login_breaches() {
        let mut answers = greeted(address, &requests, Pace::AtOnce);
        answers.retain(|end| *end != End::Login(0));
        assert_eq!(answers, expected, "{name}");
    }
    honest.stop();
    bench.nothing_left();
}

#[test]
fn half_open_logins_take_only_their_share_and_give_it_back() {
    support::allow_many_descriptors();
    let bench = Bench::new();
    let honest = Honest::start(bench.address);
    bench.eventually("the honest one is in", || bench.registry.sessions().len() == 1);
    let half: Vec<Initiator> = (0..limits::MAX_LOGINS + 40)
        .map(|number| {
            let mut initiator = Initiator::connect(bench.address);
            offer_bytes(&mut initiator, &login_pdu(0x87, b"")[..number % 48]);
            initiator
        })
        .collect();
    // Those beyond the limit are turned away, the last among them.
    let mut half = half.into_iter();
    let mut last = half.next_back().unwrap();
    assert_eq!(next(&mut last).0, End::Dropped);
    drop(half);
    bench.eventually("logins are possible again", || {
        Initiator::connect(bench.address).try_log_in(NODE, TARGET).is_some()
    });
    honest.stop();
    bench.nothing_left();
}

/// A connection to a server that gives logins this long.
fn with_login_limit(limit: Duration) -> Bench {
    Bench::with(|config| config.patience.login = limit)
}

/// Nobody is kept waiting for a login that is not through: whatever it has said, and whether it goes on saying it.
#[test]
fn a_login_that_is_not_through_in_time_is_dropped() {
    let bench = with_login_limit(Duration::from_millis(300));
    let mut through = bench.login("");
    let request = login_pdu(0x04, names(NODE, Some(TARGET)).as_bytes());
    let silent = |said: &[u8]| {
        let mut initiator = Initiator::connect(bench.address);
        offer_bytes(&mut initiator, said);
        initiator
    };
    let mut half = [&[][..], &request[..1], &request[..BHS_BYTES], &request[..request.len() - 1]].map(silent);
    let mut between = silent(&request);
    assert_eq!(next(&mut between).0, End::Login(0));
    for initiator in half.iter_mut().chain([&mut between]) {
        assert_eq!(next(initiator).0, End::Dropped);
    }
    // The limit is that of the login, not of silence within it.
    assert_eq!(through.ready(), None);
}

#[test]
fn a_login_of_a_byte_now_and_then_is_dropped_too() {
    let bench = with_login_limit(Duration::from_millis(300));
    let mut initiator = Initiator::connect(bench.address);
    initiator.stream.set_nodelay(true).unwrap();
    initiator.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let request = login_pdu(0x87, &[b'A'; 4000]);
    let closed = request.iter().any(|byte| {
        let sent = initiator.stream.write_all(&[*byte]);
        match initiator.stream.read(&mut [0]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                sent.is_err()
            }
            Ok(0) | Err(_) => true,
            Ok(_) => panic!("half a request is answered"),
        }
    });
    assert!(closed, "it is let go on byte by byte");
}

#[test]
fn bytes_that_come_one_by_one_are_as_good_as_others() {
    let bench = Bench::new();
    let mut initiator = Initiator::connect(bench.address);
    initiator.stream.set_nodelay(true).unwrap();
    for byte in login_pdu(0x87, (names(NODE, Some(TARGET)) + "InitialR2T=Yes\0").as_bytes()) {
        offer_bytes(&mut initiator, &[byte]);
    }
    assert_eq!(next(&mut initiator).0, End::Login(0));
    initiator.cmd_sn = 0;
    assert_eq!(initiator.ready(), Some(BEGUN));
    let mut long = header(opcode::SCSI_COMMAND, 0x80, 1);
    put(&mut long, 24, initiator.cmd_sn);
    long[4] = 3;
    for byte in [&long[..], &[0, 9, 1, 0], &[0x5a; 8]].concat() {
        offer_bytes(&mut initiator, &[byte]);
    }
    assert_eq!(next(&mut initiator).0, End::Failed(2, Some((0x20, 0))));
    initiator.cmd_sn += 1;
    let mut write = header(opcode::SCSI_COMMAND, 0xa0, 1);
    put(&mut write, 20, 1024);
    put(&mut write, 24, initiator.cmd_sn);
    write[6] = 2;
    write[32..48].copy_from_slice(&write_cdb(0, 1024));
    for byte in [&write[..], &[7; 512]].concat() {
        offer_bytes(&mut initiator, &[byte]);
    }
    let (end, r2t) = next(&mut initiator);
    assert_eq!(end, End::Answered(opcode::R2T));
    let mut data = header(opcode::DATA_OUT, 0x80, 1);
    data[20..24].copy_from_slice(&r2t[20..24]);
    put(&mut data, 40, 512);
    data[6] = 2;
    for byte in [&data[..], &[8; 512]].concat() {
        offer_bytes(&mut initiator, &[byte]);
    }
    assert_eq!(next(&mut initiator).0, End::Good);
    assert_eq!(bench.device.contents()[..1024], [[7; 512], [8; 512]].concat());
}

#[test]
fn one_early_command_number_is_one_command_however_often_it_comes() {
    let bench = Bench::new();
    let resident = resident_bytes();
    let mut initiator = bench.login(SOLICITED);
    let due = initiator.cmd_sn;
    let mut first = None;
    for _ in 0..20_000 {
        initiator.cmd_sn = due + 1;
        let tag = command(&mut initiator, 0x80, 0, &[0; 6], &[]);
        first.get_or_insert(tag);
    }
    initiator.cmd_sn = due;
    assert_eq!(ends(&mut initiator, 0), [], "nobody's turn has come");
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < 4 << 20, "{grown} bytes for one command");
    initiator.cmd_sn = due;
    let tag = command(&mut initiator, 0x80, 0, &[0; 6], &[]);
    let answered =
        [initiator.expect(opcode::SCSI_RESPONSE).tag(), initiator.expect(opcode::SCSI_RESPONSE).tag()];
    assert_eq!(answered, [tag, first.unwrap()]);
    initiator.cmd_sn = due + 2;
    assert_eq!(ends(&mut initiator, 0), []);
}

#[test]
fn early_pings_with_data_are_kept_only_as_far_as_one_text() {
    let bench = Bench::new();
    let mut initiator = bench.login("");
    let due = initiator.cmd_sn;
    for early in 1..limits::QUEUE_DEPTH {
        let mut ping = header(opcode::NOP_OUT, 0x80, early);
        put(&mut ping, 20, u32::MAX);
        put(&mut ping, 24, due + early);
        offer(&mut initiator, ping, &[0x5a; 32 << 10]);
    }
    let rejected = limits::QUEUE_DEPTH as usize - 1 - 2;
    assert_eq!(ends(&mut initiator, 0), vec![End::Rejected(0x0a); rejected]);
}

#[test]
fn a_text_that_never_ends_is_given_up() {
    let bench = Bench::new();
    let mut initiator = bench.login("");
    text(&mut initiator, 0x40, u32::MAX, b"A=");
    for _ in 1..limits::MAX_TEXT_PDUS {
        text(&mut initiator, 0x40, 1, b"1");
    }
    assert_eq!(ends(&mut initiator, 0), vec![End::Answered(opcode::TEXT_RESPONSE); limits::MAX_TEXT_PDUS]);
    text(&mut initiator, 0x40, 1, b"1");
    assert_eq!(ends(&mut initiator, 0), [End::Rejected(0x0a)]);
    text(&mut initiator, 0x80, u32::MAX, b"SendTargets=All\0");
    assert_eq!(ends(&mut initiator, 0), [End::Answered(opcode::TEXT_RESPONSE)]);
}

#[test]
fn a_flood_of_immediate_commands_is_cut_at_the_limit() {
    let (bench, gate) = gated();
    let mut initiator = bench.login("");
    let most = limits::QUEUE_DEPTH as usize + limits::MAX_IMMEDIATE;
    let flood = 400;
    for tag in 0..flood {
        let mut write = header(0x40 | opcode::SCSI_COMMAND, 0xa0, tag);
        put(&mut write, 20, 512);
        put(&mut write, 24, initiator.cmd_sn);
        write[32..48].copy_from_slice(&write_cdb(0, 512));
        offer(&mut initiator, write, &[9; 512]);
    }
    assert_eq!(ends(&mut initiator, 0), vec![End::Rejected(6); flood as usize - most]);
    // Nor are aborts that wait for them without number.
    for _ in 0..500 {
        initiator.task_management(2, 0, 0);
    }
    assert_eq!(ends(&mut initiator, 0), vec![End::Rejected(6); 500 - limits::MAX_IMMEDIATE]);
    gate.open.store(true, Ordering::SeqCst);
    for _ in 0..limits::MAX_IMMEDIATE {
        assert_eq!(next(&mut initiator).0, End::Answered(opcode::TASK_MANAGEMENT_RESPONSE));
    }
    assert_eq!(ends(&mut initiator, 0), [], "aborted commands have no response");
    drop(initiator);
    bench.nothing_left();
}

/// TASK SET FULL would have it sent again for ever.
#[test]
fn a_parameter_list_that_no_memory_could_hold_is_refused_for_its_length() {
    let bench = Bench::new();
    let mut initiator = bench.login("");
    let lists: [(u8, usize); 2] = [(0x83, 10), (0x5f, 5)];
    for (operation, at) in lists {
        let mut cdb = [0; 16];
        cdb[0] = operation;
        let length = limits::PARAMETER_POOL_BYTES as u32 + 1;
        cdb[at..at + 4].copy_from_slice(&length.to_be_bytes());
        command(&mut initiator, 0xa0, length, &cdb, &[0; 512]);
        assert_eq!(next(&mut initiator).0, End::Failed(2, Some((0x1a, 0))), "{operation:02x}");
    }
    drop(initiator);
    bench.nothing_left();
}

#[test]
fn a_command_that_is_turned_away_leaves_no_place_in_the_task_set() {
    let device = MemoryDevice::new("memory", LUN_BYTES);
    let bench = Bench::over(Arc::new(device.clone()), device, 256 << 10);
    let mut initiator = bench.login("InitialR2T=Yes\0ImmediateData=Yes\0FirstBurstLength=262144\0");
    let tag = command(&mut initiator, 0xa0, 196_608, &write_cdb(0, 196_608), &[]);
    let ttt = initiator.expect(opcode::R2T).u32(20);
    // ORDERED, with all of its data, for which there is no memory.
    command(&mut initiator, 0xa2, 131_072, &write_cdb(1024, 131_072), &[2; 131_072]);
    assert_eq!(next(&mut initiator).0, End::Failed(0x28, None));
    data_out(&mut initiator, tag, ttt, (0, 0), true, &[1; 196_608]);
    assert_eq!(next(&mut initiator).0, End::Good, "nothing is before it");
    command(&mut initiator, 0xa2, 131_072, &write_cdb(1024, 131_072), &[3; 131_072]);
    assert_eq!(next(&mut initiator).0, End::Good);
    assert_eq!(bench.device.contents()[1024 * 512], 3);
    drop(initiator);
    bench.nothing_left();
}

#[test]
fn whoever_takes_no_answers_gets_little_memory_and_is_replaced_at_once() {
    let bench = Bench::new();
    let honest = Honest::start(bench.address);
    bench.eventually("the honest one is in", || bench.registry.sessions().len() == 1);
    let resident = resident_bytes();
    let mut deaf = bench.login("MaxRecvDataSegmentLength=65536\0");
    deaf.stream.set_nonblocking(true).unwrap();
    let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 1);
    put(&mut ping, 20, u32::MAX);
    put(&mut ping, 24, deaf.cmd_sn);
    ping[6] = 0x80;
    let ping = [&ping[..], &vec![0x5a; 32 << 10]].concat();
    // As many as the target takes in: it stops when it has enough answers waiting.
    let (mut sent, mut refused) = (0, 0);
    while refused < 200 && sent < 256 << 20 {
        match deaf.stream.write(&ping[sent % ping.len()..]) {
            Ok(count) => {
                sent += count;
                refused = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                std::thread::yield_now();
                bench.pause();
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent < 256 << 20, "it takes in pings without end");
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < 10 << 20, "{grown} bytes for one that does not listen");
    // The same nexus comes again, and need not wait until the deaf one is given up.
    let session =
        || bench.registry.sessions().into_iter().find(|session| session.initiator == NODE).unwrap().id;
    let former = session();
    let again = bench.login("");
    assert!(session() != former && bench.registry.sessions().len() == 2);
    drop((deaf, again));
    honest.stop();
    bench.nothing_left();
}

/// xorshift64*: the seed is all there is to know.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

const SEEDS: u64 = 200;
const PDUS: u64 = 24;
/// The unit that is written to, tortured and erased; the honest one is another.
const VICTIM: u64 = 1 << 48;

/// One PDU that is right in most, and wrong in something.
fn some_pdu(random: &mut Random, initiator: &mut Initiator, transfer_tag: u32) -> Vec<u8> {
    let opcodes =
        [0x00, 0x01, 0x01, 0x01, 0x01, 0x02, 0x04, 0x05, 0x05, 0x05, 0x06, 0x10, 0x03, 0x1c, 0x21, 0x3f];
    let known = if random.chance(20) { 16 } else { 10 };
    let opcode = opcodes[random.below(known) as usize];
    let immediate = if random.chance(30) { 0x40 } else { 0 };
    let flags = if random.chance(80) { 0x80 } else { 0 } | if random.chance(50) { 0x20 } else { 0 };
    let mut pdu = header(immediate | opcode, flags | (random.below(8) as u8), random.below(6) as u32);
    let luns = [VICTIM, VICTIM, VICTIM, 5 << 48, 0x4001_0000_0000_0000, random.next() | 1];
    pdu[8..16].copy_from_slice(&luns[random.below(6) as usize].to_be_bytes());
    let lengths = [0, 512, 4096, 65_536, 1 << 20, u32::MAX];
    put(&mut pdu, 20, lengths[random.below(6) as usize]);
    put(
        &mut pdu,
        24,
        initiator.cmd_sn.wrapping_add(if random.chance(20) { random.below(200) as u32 } else { 0 }),
    );
    match opcode {
        opcode::SCSI_COMMAND => {
            let cdbs = [
                0x00, 0x03, 0x12, 0x1a, 0x25, 0x28, 0x2a, 0x2a, 0x2a, 0x2f, 0x35, 0x41, 0x42, 0x55, 0x5e,
                0x5f,
            ];
            let more = [
                0x83, 0x84, 0x88, 0x89, 0x8a, 0x8b, 0x8f, 0x93, 0x9c, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0x48,
                0x15,
            ];
            pdu[32] = [cdbs, more][random.below(2) as usize][random.below(16) as usize];
            if random.chance(30) {
                (33..48).for_each(|at| pdu[at] = random.next() as u8);
            } else {
                (pdu[36], pdu[39], pdu[40]) = (1, random.below(2) as u8, random.below(200) as u8);
            }
            if pdu[1] & 0x20 == 0 && random.chance(50) {
                pdu[1] |= 0x40;
            }
        }
        // Resets of the whole target would end the honest one's commands, as they should.
        opcode::TASK_MANAGEMENT => pdu[1] = 0x80 | [1, 2, 3, 4, 5, 8, 0x7f][random.below(7) as usize],
        opcode::DATA_OUT => {
            put(&mut pdu, 20, if random.chance(60) { transfer_tag } else { u32::MAX });
            put(&mut pdu, 36, random.below(3) as u32);
            put(&mut pdu, 40, [0, 512, 4096, 8192, u32::MAX][random.below(5) as usize]);
        }
        // That would end the exchange.
        opcode::LOGOUT => pdu[1] = 0x82,
        _ => {}
    }
    let data = if random.chance(50) { [4, 24, 512, 513, 4096, 40_000][random.below(6) as usize] } else { 0 };
    if !matches!(opcode, opcode::LOGIN) && immediate == 0 && random.chance(80) {
        initiator.cmd_sn = initiator.cmd_sn.wrapping_add(1);
    }
    if random.chance(5) {
        pdu[4] = random.next() as u8;
    }
    pdu[5..8].copy_from_slice(&(data as u32).to_be_bytes()[1..]);
    let mut bytes = pdu.to_vec();
    bytes.resize(BHS_BYTES + usize::from(pdu[4]) * 4, 0x11);
    bytes.extend((0..data + padding(data)).map(|at| at as u8));
    if random.chance(3) {
        // From here on it is another stream.
        let at = random.below(bytes.len() as u64) as usize;
        bytes.truncate(at);
    }
    bytes
}

/// One connection's worth; nothing that is sent leaves it hanging.
fn torture(address: SocketAddr, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut initiator = Initiator::connect(address);
    initiator.isid[5] = seed as u8 % 100;
    let keys = ["", SOLICITED, "InitialR2T=No\0", "DataDigest=CRC32C\0", "HeaderDigest=CRC32C\0"];
    initiator.log_in(NODE, Some(TARGET), keys[random.below(5) as usize]).unwrap();
    let mut reader = initiator.stream.try_clone().unwrap();
    let drained = std::thread::spawn(move || {
        let mut all = Vec::new();
        match reader.read_to_end(&mut all) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            // Closed, or reset because of what it did not read any more.
            _ => Some(all.len()),
        }
    });
    let first_tag = random.below(8) as u32;
    for number in 0..PDUS {
        let bytes = some_pdu(&mut random, &mut initiator, first_tag + number as u32 / 4);
        offer_bytes(&mut initiator, &bytes);
    }
    // It may be gone already.
    let _ = initiator.stream.shutdown(Shutdown::Write);
    assert!(drained.join().unwrap().is_some(), "seed {seed}: the target hangs");
}

#[test]
fn seeded_torture_disturbs_nobody_else_and_leaves_nothing() {
    let bench = Bench::new();
    let victim = MemoryDevice::new("victim", 1 << 20);
    let identity =
        LuIdentity { uuid: uuid::Uuid::from_u128(9), serial: "9".into(), product: "VICTIM".into() };
    let unit = LogicalUnit::new(Arc::new(victim), identity, LuOptions::default());
    bench.registry.map_lun(TARGET, 1, unit).unwrap();
    let only: Option<u64> = std::env::var("LABSAN_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let honest = Honest::start(bench.address);
    let resident = resident_bytes();
    for seed in only.map_or(1..SEEDS + 1, |seed| seed..seed + 1) {
        torture(bench.address, seed);
    }
    honest.stop();
    bench.nothing_left();
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < bench.pool.capacity_bytes() + (32 << 20), "{grown} bytes more");
}
