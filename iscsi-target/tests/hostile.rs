//! Initiators that break the protocol, each in its own way. Every case ends in a Reject, an error or a dropped connection (or
//! is passed over, where RFC 7143 has it so); meanwhile somebody else's I/O is right, and nothing is left behind.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block_io::MemoryDevice;
use iscsi_target::limits;
use iscsi_target::pdu::{BHS_BYTES, opcode, padding};
use iscsi_target::scsi::{LogicalUnit, LuIdentity, LuOptions};
use support::{
    BEGUN, Bench, Honest, Initiator, LUN_BYTES, NODE, TARGET, gated, header, names, put, resident_bytes,
    write_cdb,
};

/// What became of a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Reject, with its reason.
    Rejected(u8),
    /// A SCSI status that is not GOOD, with ASC and ASCQ where there is sense data.
    Failed(u8, Option<(u8, u8)>),
    /// A SCSI command that went well.
    Good,
    /// A login response with this status.
    Login(u16),
    /// Another PDU.
    Answered(u8),
    /// The connection was closed.
    Dropped,
}

const PING: u32 = 0xfeed;
const PROTOCOL_ERROR: End = End::Rejected(4);

/// Send what may no longer be wanted.
fn offer(initiator: &mut Initiator, mut header: [u8; BHS_BYTES], data: &[u8]) {
    header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len() + padding(data.len()), 0);
    offer_bytes(initiator, &bytes);
}

fn offer_bytes(initiator: &mut Initiator, bytes: &[u8]) {
    // The target may have closed the connection already; what it said before is still read.
    let _ = initiator.stream.write_all(bytes);
}

/// The next PDU. A target that neither answers nor closes fails the test.
fn next(initiator: &mut Initiator) -> (End, [u8; BHS_BYTES]) {
    let mut header = [0; BHS_BYTES];
    let mut whole = |bytes: &mut [u8]| match initiator.stream.read_exact(bytes) {
        Ok(()) => true,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("the target neither answers nor closes the connection")
        }
        Err(_) => false,
    };
    if !whole(&mut header) {
        return (End::Dropped, header);
    }
    let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
    let mut data = vec![0; length + padding(length)];
    if !whole(&mut data) {
        return (End::Dropped, header);
    }
    let end = match header[0] {
        opcode::REJECT => End::Rejected(header[2]),
        opcode::SCSI_RESPONSE if header[3] == 0 => End::Good,
        opcode::SCSI_RESPONSE => End::Failed(header[3], (length > 15).then(|| (data[14], data[15]))),
        opcode::LOGIN_RESPONSE => End::Login(u16::from_be_bytes([header[36], header[37]])),
        other => End::Answered(other),
    };
    (end, header)
}

/// Everything that comes until the connection is closed, or until it is shown to be alive, and at least so much.
fn ends(initiator: &mut Initiator, least: usize) -> Vec<End> {
    let mut ends = Vec::new();
    while ends.len() < least && ends.last() != Some(&End::Dropped) {
        ends.push(next(initiator).0);
    }
    if ends.last() == Some(&End::Dropped) {
        return ends;
    }
    let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, PING);
    put(&mut ping, 20, u32::MAX);
    put(&mut ping, 24, initiator.cmd_sn);
    offer(initiator, ping, &[]);
    loop {
        let (end, header) = next(initiator);
        if end == End::Answered(opcode::NOP_IN) && header[16..20] == PING.to_be_bytes() {
            return ends;
        }
        ends.push(end);
        if end == End::Dropped {
            return ends;
        }
    }
}

fn command(initiator: &mut Initiator, flags: u8, expected: u32, cdb: &[u8], data: &[u8]) -> u32 {
    let tag = initiator.next_tag();
    let mut pdu = header(opcode::SCSI_COMMAND, flags, tag);
    put(&mut pdu, 20, expected);
    put(&mut pdu, 24, initiator.cmd_sn);
    initiator.cmd_sn = initiator.cmd_sn.wrapping_add(1);
    pdu[32..32 + cdb.len()].copy_from_slice(cdb);
    offer(initiator, pdu, data);
    tag
}

/// A write of 64 KiB that has been asked for its data: its tag, and that of the R2T.
fn asked(initiator: &mut Initiator) -> (u32, u32) {
    let tag = command(initiator, 0xa0, 65_536, &write_cdb(0, 65_536), &[]);
    let r2t = initiator.expect(opcode::R2T);
    (tag, r2t.u32(20))
}

fn text(initiator: &mut Initiator, flags: u8, ttt: u32, data: &[u8]) {
    let mut pdu = header(0x40 | opcode::TEXT, flags, 0x7e);
    put(&mut pdu, 20, ttt);
    put(&mut pdu, 24, initiator.cmd_sn);
    offer(initiator, pdu, data);
}

fn data_out(initiator: &mut Initiator, tag: u32, ttt: u32, numbers: (u32, u32), last: bool, data: &[u8]) {
    let mut pdu = header(opcode::DATA_OUT, if last { 0x80 } else { 0 }, tag);
    put(&mut pdu, 20, ttt);
    put(&mut pdu, 36, numbers.0);
    put(&mut pdu, 40, numbers.1);
    offer(initiator, pdu, data);
}

const WRONG_AMOUNT: End = End::Failed(2, Some((0x0c, 0x0d)));
const UNEXPECTED: End = End::Failed(2, Some((0x0c, 0x0c)));
const SOLICITED: &str = "InitialR2T=Yes\0ImmediateData=No\0";

/// A case in full feature phase: its name, the keys of its login, what is sent, and all that comes of it.
type Case = (&'static str, &'static str, fn(&mut Initiator), &'static [End]);

const CASES: &[Case] = &[
    ("an opcode that is reserved", "", |i| offer(i, header(0x1c, 0x80, 1), &[1; 100]), &[End::Rejected(5)]),
    ("an opcode of targets", "", |i| offer(i, header(opcode::R2T, 0x80, 1), &[]), &[End::Rejected(5)]),
    (
        "a SNACK at error recovery level 0",
        "",
        |i| offer(i, header(opcode::SNACK, 0x80, 1), &[]),
        &[End::Rejected(3)],
    ),
    (
        "a login in full feature phase",
        "",
        |i| offer(i, header(0x40 | opcode::LOGIN, 0x87, 1), names(NODE, Some(TARGET)).as_bytes()),
        &[PROTOCOL_ERROR, End::Dropped],
    ),
    ("data of a task that is not there", "", |i| data_out(i, 0x999, 7, (0, 0), true, &[1; 512]), &[]),
    (
        "data under a tag that is no R2T's",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt ^ 0x5555, (0, 0), true, &[1; 8192]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "data that overlaps what came before",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, 0), false, &[1; 8192]);
            data_out(i, tag, ttt, (1, 4096), true, &[2; 8192]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "more data than was asked for",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, 0), false, &[1; 65_536]);
            data_out(i, tag, ttt, (1, 65_536), true, &[2; 65_536]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "an offset beyond all numbers",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, u32::MAX - 3), true, &[1; 8192]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "an R2T answered with nothing, for long",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            (0..5000).for_each(|sn| data_out(i, tag, ttt, (sn, 0), false, &[]));
            data_out(i, tag, ttt, (5000, 0), true, &[]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "an R2T answered twice",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, 0), true, &[0; 65_536]);
            data_out(i, tag, ttt, (0, 0), true, &[0; 65_536]);
        },
        &[End::Good],
    ),
    (
        "immediate data where none was agreed",
        SOLICITED,
        |i| _ = command(i, 0xa0, 512, &write_cdb(0, 512), &[1; 512]),
        &[UNEXPECTED],
    ),
    (
        "unsolicited data where none was agreed",
        SOLICITED,
        |i| {
            let tag = command(i, 0x20, 4096, &write_cdb(0, 4096), &[]);
            data_out(i, tag, u32::MAX, (0, 0), true, &[1; 4096]);
        },
        &[UNEXPECTED],
    ),
    (
        "unsolicited data beyond the first burst",
        "InitialR2T=No\0FirstBurstLength=4096\0",
        |i| {
            let tag = command(i, 0x20, 65_536, &write_cdb(0, 65_536), &[]);
            data_out(i, tag, u32::MAX, (0, 0), true, &[1; 8192]);
        },
        &[UNEXPECTED],
    ),
    (
        "data for a command that writes nothing",
        "",
        |i| _ = command(i, 0x80, 0, &[0; 6], &[1; 4096]),
        &[UNEXPECTED],
    ),
    (
        "a data segment longer than was agreed",
        "",
        |i| {
            let mut pdu = header(opcode::SCSI_COMMAND, 0x80, 1);
            pdu[5..8].fill(0xff);
            offer_bytes(i, &pdu);
        },
        &[End::Dropped],
    ),
    (
        "the longest additional headers there can be",
        "",
        |i| {
            let mut pdu = header(0x40 | opcode::TEXT, 0x80, 1);
            put(&mut pdu, 20, u32::MAX);
            pdu[4] = 255;
            offer_bytes(i, &pdu);
            offer_bytes(i, &[0x5a; 1020]);
        },
        &[End::Rejected(9)],
    ),
    (
        "the longest CDB there can be",
        "",
        |i| {
            let mut pdu = header(opcode::SCSI_COMMAND, 0x80, 1);
            put(&mut pdu, 24, i.cmd_sn);
            i.cmd_sn += 1;
            pdu[4] = 255;
            pdu[32] = 0x7f;
            offer_bytes(i, &pdu);
            let mut segment = [0x5a; 1020];
            segment[..2].copy_from_slice(&1017u16.to_be_bytes());
            (segment[2], segment[3]) = (1, 0);
            offer_bytes(i, &segment);
        },
        &[End::Failed(2, Some((0x20, 0)))],
    ),
    (
        "a header digest that is wrong",
        "HeaderDigest=CRC32C\0",
        |i| {
            offer_bytes(i, &header(0x40 | opcode::NOP_OUT, 0x80, 1));
            offer_bytes(i, &[1, 2, 3, 4]);
        },
        &[End::Dropped],
    ),
    (
        "a command number behind the window, and one beyond it",
        "",
        |i| {
            let sn = i.cmd_sn;
            for wrong in [sn.wrapping_sub(1), sn + limits::QUEUE_DEPTH, sn ^ 1 << 31] {
                i.cmd_sn = wrong;
                command(i, 0x80, 0, &[0; 6], &[]);
            }
            i.cmd_sn = sn;
        },
        &[],
    ),
    (
        "a task tag that is in use, and one that is none",
        SOLICITED,
        |i| {
            let (tag, _) = asked(i);
            for wrong in [tag, u32::MAX] {
                i.tag = wrong.wrapping_sub(1);
                let mut pdu = header(opcode::SCSI_COMMAND, 0x80, wrong);
                put(&mut pdu, 24, i.cmd_sn);
                // What is rejected has had its turn.
                i.cmd_sn += 1;
                offer(i, pdu, &[]);
            }
        },
        &[PROTOCOL_ERROR, PROTOCOL_ERROR],
    ),
    ("text that is no pairs", "", |i| text(i, 0x80, u32::MAX, b"no pairs\0"), &[End::Rejected(9)]),
    ("text that goes on where none began", "", |i| text(i, 0x80, 77, b"A=1\0"), &[PROTOCOL_ERROR]),
    (
        "every target asked for again and again",
        "",
        |i| text(i, 0x80, u32::MAX, &b"SendTargets=All\0".repeat(4000)),
        &[PROTOCOL_ERROR],
    ),
    (
        "text of more than fits",
        "",
        |i| text(i, 0x80, u32::MAX, &[b'A'; limits::MAX_TEXT_BYTES + 4]),
        &[End::Rejected(0x0a)],
    ),
    (
        "task management that there is none of",
        "",
        |i| _ = i.task_management(0x7f, 0, 1),
        &[End::Answered(opcode::TASK_MANAGEMENT_RESPONSE)],
    ),
    (
        "a logout to recover a connection",
        "",
        |i| offer(i, header(0x40 | opcode::LOGOUT, 0x82, 3), &[]),
        &[End::Answered(opcode::LOGOUT_RESPONSE)],
    ),
    (
        "a CDB of nonsense",
        "",
        |i| _ = command(i, 0x80, 0, &[0xff; 16], &[]),
        &[End::Failed(2, Some((0x20, 0)))],
    ),
    (
        "a transfer of four gigabytes",
        "",
        |i| {
            _ = command(
                i,
                0xc0,
                u32::MAX,
                &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
                &[],
            );
        },
        &[End::Failed(2, Some((0x21, 0)))],
    ),
];

#[test]
fn every_named_breach_of_the_protocol_has_its_end() {
    let bench = Bench::new();
    let honest = Honest::start(bench.address);
    let (used, resident) = (bench.pool.used_bytes(), resident_bytes());
    for (name, keys, act, expected) in CASES {
        let mut initiator = bench.login(keys);
        act(&mut initiator);
        if keys.contains("HeaderDigest") {
            // It speaks without digests from here on, which is as wrong.
            initiator.digests = (false, false);
        }
        assert_eq!(ends(&mut initiator, expected.len()), *expected, "{name}");
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

/// What is answered to the first bytes of a connection.
fn greeted(address: SocketAddr, bytes: &[&[u8]]) -> Vec<End> {
    let mut initiator = Initiator::connect(address);
    bytes.iter().for_each(|bytes| offer_bytes(&mut initiator, bytes));
    let mut ends = Vec::new();
    while ends.last() != Some(&End::Dropped) {
        ends.push(next(&mut initiator).0);
    }
    ends
}

fn login_pdu(flags: u8, text: &[u8]) -> Vec<u8> {
    let mut pdu = header(0x40 | opcode::LOGIN, flags, 1);
    pdu[5..8].copy_from_slice(&(text.len() as u32).to_be_bytes()[1..]);
    let mut bytes = [&pdu[..], text].concat();
    bytes.resize(bytes.len() + padding(text.len()), 0);
    bytes
}

#[test]
fn every_breach_of_a_login_is_refused_or_ends_the_connection() {
    let bench = Bench::new();
    let address = bench.address;
    let honest = Honest::start(address);
    let names = names(NODE, Some(TARGET));
    let refused = |status| vec![End::Login(status), End::Dropped];
    for before in
        [opcode::SCSI_COMMAND, opcode::NOP_OUT, opcode::TEXT, opcode::DATA_OUT, opcode::LOGOUT, 0x1f]
    {
        assert_eq!(greeted(address, &[&header(before, 0x80, 1)]), refused(0x020b), "opcode {before:#x}");
    }
    let mut joined = login_pdu(0x87, names.as_bytes());
    joined[14] = 7;
    assert_eq!(greeted(address, &[&joined]), refused(0x020a), "a session that is not there");
    let mut newer = login_pdu(0x87, names.as_bytes());
    newer[3] = 1;
    assert_eq!(greeted(address, &[&newer]), refused(0x0205), "a version that is not there");
    let keys: Vec<u8> = (0..10_000).flat_map(|key| format!("K{key}=1\0").into_bytes()).collect();
    let mut parts: Vec<Vec<u8>> = keys.chunks(8000).map(|part| login_pdu(0x44, part)).collect();
    parts.insert(0, login_pdu(0x44, names.as_bytes()));
    parts.push(login_pdu(0x87, b""));
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let mut answers = greeted(address, &parts);
    answers.retain(|end| *end != End::Login(0));
    assert_eq!(answers, refused(0x0200), "ten thousand keys");
    let more = login_pdu(0x44, b"");
    let mut answers = greeted(address, &vec![&more[..]; limits::MAX_TEXT_PDUS + 1]);
    answers.retain(|end| *end != End::Login(0));
    assert_eq!(answers, refused(0x0200), "text that never ends");
    let again = login_pdu(0x04, names.as_bytes());
    let idle = login_pdu(0x04, b"");
    let mut requests = vec![&again[..]];
    requests.resize(limits::MAX_LOGIN_EXCHANGES + 1, &idle);
    let mut answers = greeted(address, &requests);
    answers.retain(|end| *end != End::Login(0));
    assert_eq!(answers, refused(0x0200), "a login that never ends");
    let mut long = header(0x40 | opcode::LOGIN, 0x87, 1);
    long[5..8].fill(0xff);
    assert_eq!(greeted(address, &[&long]), [End::Dropped], "more data than a login may have");
    let mut additional = header(0x40 | opcode::LOGIN, 0x87, 1);
    additional[4] = 255;
    assert_eq!(greeted(address, &[&additional]), [End::Dropped], "additional headers");
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
