//! The server over real sockets, with an initiator that does as it is told.

mod support;

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block_io::MemoryDevice;
use iscsi_target::chap::{Account, Algorithm, ChapPolicy, Secret};
use iscsi_target::limits;
use iscsi_target::pdu::opcode;
use iscsi_target::registry::AccessPolicy;
use support::breach::{End, ends, next, offer_bytes};
use support::cases::nonsense;
use support::{Bench, Initiator, LUN_BYTES, NODE, TARGET, gated, header, put, write_cdb};

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 7 + seed * 13) >> 3) as u8).collect()
}

#[test]
fn every_way_of_sending_data_ends_in_the_same_bytes() {
    let bench = Bench::new();
    let ways = [
        "InitialR2T=Yes\0ImmediateData=No\0",
        "InitialR2T=Yes\0ImmediateData=Yes\0FirstBurstLength=65536\0MaxBurstLength=65536\0",
        "HeaderDigest=CRC32C\0DataDigest=CRC32C\0MaxRecvDataSegmentLength=4096\0",
    ];
    for (seed, keys) in ways.into_iter().enumerate() {
        let mut initiator = bench.login(keys);
        let immediate_allowed = !keys.contains("ImmediateData=No");
        for (index, length) in [512, 4096, 65_536, 65_536 + 512, 300_032, 1 << 20].into_iter().enumerate() {
            let data = pattern(length, seed * 10 + index);
            let immediate = if immediate_allowed { length.min(8192) } else { 0 };
            let response = initiator.write(64, &data, immediate, 8192 + 512);
            assert_eq!(response.header[3], 0, "{keys}, {length}: {response:02x?}");
            let (read, pdus) = initiator.read(64, length);
            assert!(read == data, "{keys}, {length}");
            let segment = if keys.contains("4096") { 4096 } else { 8192 };
            assert_eq!(pdus, length.div_ceil(segment), "cut at the initiator's MaxRecvDataSegmentLength");
        }
        assert_eq!(bench.device.contents()[64 * 512..][..1 << 20], pattern(1 << 20, seed * 10 + 5));
    }
    bench.eventually("all buffers are back", || bench.pool.used_bytes() == 0);
}

#[test]
fn unsolicited_data_may_follow_the_command() {
    let bench = Bench::new();
    let mut initiator = bench.login("InitialR2T=No\0FirstBurstLength=16384\0");
    let data = pattern(20_480, 3);
    let tag = initiator.command(0x20, 20_480, &write_cdb(0, 20_480), &data[..4096]);
    initiator.data_out(tag, u32::MAX, 0, 4096, false, &data[4096..8192]);
    initiator.data_out(tag, u32::MAX, 1, 8192, true, &data[8192..16_384]);
    let r2t = initiator.expect(opcode::R2T);
    assert_eq!((r2t.u32(36), r2t.u32(40), r2t.u32(44)), (0, 16_384, 4096));
    initiator.data_out(tag, r2t.u32(20), 0, 16_384, true, &data[16_384..]);
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).header[3], 0);
    assert_eq!(bench.device.contents()[..20_480], data);
}

#[test]
fn spoilt_data_writes_nothing_and_the_session_goes_on() {
    let bench = Bench::new();
    let mut initiator = bench.login("InitialR2T=Yes\0ImmediateData=No\0");
    for (data_sn, offset, length) in [(5, 0, 4096), (0, 512, 3584), (0, 0, 8192), (0, 0, 512)] {
        let tag = initiator.command(0xa0, 4096, &write_cdb(0, 4096), &[]);
        let r2t = initiator.expect(opcode::R2T);
        initiator.data_out(tag, r2t.u32(20), data_sn, offset, true, &vec![0xee; length]);
        let response = initiator.expect(opcode::SCSI_RESPONSE);
        assert_eq!((response.header[3], response.sense()), (2, (0x0b, 0x0c, 0x0d)));
    }
    assert!(bench.device.contents().iter().all(|byte| *byte == 0));
    bench.eventually("all buffers are back", || bench.pool.used_bytes() == 0);
}

#[test]
fn discovery_names_only_what_the_initiator_may_see() {
    let bench = Bench::new();
    bench.registry.create_target("iqn.2026-11.org.labsan:hidden", None).unwrap();
    let ask = |node: &str| {
        let mut initiator = Initiator::connect(bench.address);
        initiator.log_in(node, None, "").unwrap();
        let mut text = header(opcode::TEXT, 0x80, 5);
        put(&mut text, 20, u32::MAX);
        put(&mut text, 24, initiator.cmd_sn);
        initiator.send(text, b"SendTargets=All\0");
        let answer = initiator.expect(opcode::TEXT_RESPONSE);
        String::from_utf8(answer.data).unwrap()
    };
    let expected = format!("TargetName={TARGET}\0TargetAddress={},1\0", bench.address);
    assert_eq!(ask(NODE), expected);
    assert_eq!(ask("iqn.2026-11.org.stranger:x"), "");
}

#[test]
fn logins_are_refused_with_the_right_codes() {
    let bench = Bench::new();
    let log_in = |node: &str, target: &str| {
        Initiator::connect(bench.address).log_in(node, Some(target), "").map(|_| ()).unwrap_err()
    };
    assert_eq!(log_in(NODE, "iqn.2026-11.org.labsan:nothing"), 0x0203);
    assert_eq!(log_in("iqn.2026-11.org.stranger:x", TARGET), 0x0202);
    let accounts = vec![Account { name: "user".into(), secret: Secret::new("a long secret") }];
    bench.registry.set_chap(TARGET, ChapPolicy { accounts, mutual: None }).unwrap();
    assert_eq!(log_in(NODE, TARGET), 0x0201);
    for algorithm in [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha3_256] {
        let chap = |name, secret| Initiator::connect(bench.address).log_in_with_chap(algorithm, name, secret);
        assert!(chap("user", "a long secret").is_ok(), "{algorithm:?}");
        assert_eq!(chap("user", "a wrong secret").unwrap_err(), 0x0201);
        assert_eq!(chap("nobody", "a long secret").unwrap_err(), 0x0201);
    }
}

#[test]
fn pings_are_echoed_and_logout_closes() {
    let bench = Bench::new();
    let mut initiator = bench.login("");
    let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 77);
    put(&mut ping, 20, u32::MAX);
    put(&mut ping, 24, initiator.cmd_sn);
    initiator.send(ping, b"are you there?");
    let echo = initiator.expect(opcode::NOP_IN);
    assert_eq!((echo.tag(), &echo.data[..]), (77, &b"are you there?"[..]));
    let mut logout = header(0x40 | opcode::LOGOUT, 0x80, 78);
    put(&mut logout, 24, initiator.cmd_sn);
    initiator.send(logout, &[]);
    assert_eq!(initiator.expect(opcode::LOGOUT_RESPONSE).header[2], 0);
    assert!(initiator.receive().is_none());
    bench.eventually("the session is gone", || bench.registry.sessions().is_empty());
}

#[test]
fn commands_outside_the_window_are_ignored_and_early_ones_wait() {
    let bench = Bench::new();
    let mut initiator = bench.login("");
    let first = initiator.cmd_sn;
    initiator.cmd_sn = first + limits::QUEUE_DEPTH;
    initiator.command(0x80, 0, &[0; 6], &[]);
    initiator.cmd_sn = first + 1;
    let early = initiator.command(0x80, 0, &[0; 6], &[]);
    initiator.cmd_sn = first;
    let due = initiator.command(0x80, 0, &[0; 6], &[]);
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).tag(), due);
    let second = initiator.expect(opcode::SCSI_RESPONSE);
    assert_eq!((second.tag(), second.u32(28)), (early, first + 2));
}

#[test]
fn a_command_whose_data_is_here_before_its_turn_is_carried_out_in_it() {
    let bench = Bench::new();
    let mut initiator = bench.login("InitialR2T=No\0ImmediateData=Yes\0");
    let first = initiator.cmd_sn;
    initiator.cmd_sn = first + 1;
    let early = initiator.command(0x20, 2048, &write_cdb(0, 2048), &[5; 512]);
    initiator.data_out(early, u32::MAX, 0, 512, false, &[5; 512]);
    initiator.data_out(early, u32::MAX, 1, 1024, true, &[5; 1024]);
    assert!(initiator.ping().is_empty());
    initiator.cmd_sn = first;
    let due = initiator.command(0x80, 0, &[0; 6], &[]);
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).tag(), due);
    let response = initiator.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (early, 0));
    assert_eq!(bench.device.contents()[..2048], [5; 2048]);
}

/// A connection whose own commands hold the memory and wait for data: it reads on, and turns commands away.
#[test]
fn a_command_that_is_turned_away_leaves_no_trace() {
    let device = MemoryDevice::new("memory", LUN_BYTES);
    let bench = Bench::over(Arc::new(device.clone()), device, 512 << 10);
    let mut initiator = bench.login("InitialR2T=No\0ImmediateData=Yes\0");
    let holding = initiator.command(0xa0, 512 << 10, &write_cdb(0, 512 << 10), &[]);
    let r2t = initiator.expect(opcode::R2T);
    let (simple, ordered) = (0xa1, 0xa2);
    for (flags, immediate, length) in
        [(simple, 4096, 4096), (ordered, 4096, 4096), (simple, 512, 256 << 10), (0x21, 512, 1024)]
    {
        let tag = initiator.command(flags, length, &write_cdb(1024, length as usize), &vec![9; immediate]);
        if flags == 0x21 {
            initiator.data_out(tag, u32::MAX, 0, 512, true, &[9; 512]);
        }
        let response = initiator.expect(opcode::SCSI_RESPONSE);
        assert_eq!((response.tag(), response.header[3]), (tag, 0x28), "TASK SET FULL");
    }
    assert_eq!(bench.device.contents()[1024 * 512], 0);
    let all = vec![4; 256 << 10];
    initiator.data_out(holding, r2t.u32(20), 0, r2t.u32(40), true, &all);
    let r2t = initiator.expect(opcode::R2T);
    initiator.data_out(holding, r2t.u32(20), 0, r2t.u32(40), true, &all);
    let response = initiator.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (holding, 0));
    // Nothing that was turned away is still counted as running before this one.
    let tag = initiator.command(ordered, 4096, &write_cdb(0, 4096), &[7; 4096]);
    let response = initiator.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (tag, 0));
    bench.eventually("all buffers are back", || bench.pool.used_bytes() == 0);
}

#[test]
fn an_abort_is_answered_only_when_the_task_can_change_nothing_more() {
    for function in [1, 2, 4, 5, 6] {
        let (bench, gate) = gated();
        let mut initiator = bench.login("");
        let write = initiator.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
        bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
        let abort = initiator.task_management(function, 0, write);
        // A ping overtakes the abort that has to wait.
        let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 99);
        put(&mut ping, 24, initiator.cmd_sn);
        initiator.send(ping, &[]);
        assert_eq!(initiator.expect(opcode::NOP_IN).tag(), 99);
        assert_eq!(gate.inner.contents()[0], 0);
        gate.open.store(true, Ordering::SeqCst);
        let answer = initiator.expect(opcode::TASK_MANAGEMENT_RESPONSE);
        assert_eq!((answer.tag(), answer.header[2]), (abort, 0), "function {function}");
        assert_eq!(gate.inner.contents()[0], 9, "what had begun has ended before the answer");
    }
}

#[test]
fn a_reset_ends_the_tasks_of_every_target_and_everybody_is_told() {
    const SECOND: &str = "iqn.2026-11.org.labsan:second";
    let told = (6, 0x29, 3);
    for function in [5, 6] {
        let (bench, gate) = gated();
        let (_, unit) = bench.registry.target(TARGET).unwrap().luns.units().remove(0);
        bench.registry.create_target(SECOND, None).unwrap();
        let everyone = AccessPolicy::of_names(&["*"], true);
        bench.registry.set_access(SECOND, everyone).unwrap();
        bench.registry.map_lun(SECOND, 0, unit).unwrap();
        let mut clearing = bench.login("");
        let mut hit = Initiator::connect(bench.address);
        hit.log_in(NODE, Some(SECOND), "").unwrap();
        hit.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
        bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
        let clear = clearing.task_management(function, 0, 0);
        let mut ready = || {
            hit.command(0x80, 0, &[0; 16], &[]);
            let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 99);
            put(&mut ping, 24, hit.cmd_sn);
            hit.send(ping, &[]);
            loop {
                let pdu = hit.receive().unwrap();
                match pdu.opcode() {
                    // A write that was just ending when the reset came has a response.
                    opcode::SCSI_RESPONSE if pdu.header[3] == 0 => {}
                    opcode::SCSI_RESPONSE => break Some(pdu.sense()),
                    // The answer may come later, or never: what asks is itself a task that may be cleared.
                    _ => break None,
                }
            }
        };
        let mut told_at_last = || (0..100_000).find_map(|_| ready());
        gate.open.store(true, Ordering::SeqCst);
        let answer = clearing.expect(opcode::TASK_MANAGEMENT_RESPONSE);
        assert_eq!((answer.tag(), answer.header[2]), (clear, 0), "function {function}");
        assert_eq!(gate.inner.contents()[0], 9, "what had begun has ended before the answer");
        assert_eq!(told_at_last(), Some(told), "function {function}");
        clearing.command(0x80, 0, &[0; 16], &[]);
        let response = clearing.expect(opcode::SCSI_RESPONSE);
        // A reset is told to every nexus, also to the one that asked (SAM-5 clause 6.3.3).
        assert_eq!(response.sense(), told, "function {function}");
    }
}

/// TST is 001b: each nexus has a task set of its own (SPC-4 clause 7.5.10).
#[test]
fn clearing_a_task_set_ends_ones_own_tasks_only() {
    let (bench, gate) = gated();
    let mut clearing = bench.login("");
    let mut other = Initiator::connect(bench.address);
    other.log_in("iqn.2026-11.com.example:other", Some(TARGET), "").unwrap();
    let kept = other.command(0xa0, 512, &write_cdb(1, 512), &[8; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    clearing.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
    assert!(clearing.ping().is_empty());
    let clear = clearing.task_management(4, 0, 0);
    assert!(clearing.ping().is_empty(), "its write still runs");
    gate.open.store(true, Ordering::SeqCst);
    let response = other.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (kept, 0));
    assert_eq!(other.ready(), None);
    let answer = clearing.expect(opcode::TASK_MANAGEMENT_RESPONSE);
    assert_eq!((answer.tag(), answer.header[2]), (clear, 0), "and its write is not answered");
    assert_eq!(clearing.ready(), None);
}

/// The write is none of a nexus that the unit still knows, but it may land all the same.
#[test]
fn a_reset_waits_for_a_write_by_a_lun_that_is_gone() {
    let (bench, gate) = gated();
    bench.registry.create_target("iqn.2026-11.org.labsan:second", None).unwrap();
    bench.registry.set_access("iqn.2026-11.org.labsan:second", AccessPolicy::of_names(&["*"], true)).unwrap();
    let (_, unit) = bench.registry.target(TARGET).unwrap().luns.units().remove(0);
    bench.registry.map_lun("iqn.2026-11.org.labsan:second", 0, unit).unwrap();
    let mut resetting = bench.login("");
    let mut gone = Initiator::connect(bench.address);
    gone.log_in(NODE, Some("iqn.2026-11.org.labsan:second"), "").unwrap();
    gone.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    bench.registry.unmap_lun("iqn.2026-11.org.labsan:second", 0).unwrap();
    let reset = resetting.task_management(5, 0, 0);
    assert!(resetting.ping().is_empty(), "its write still runs");
    gate.open.store(true, Ordering::SeqCst);
    let answer = resetting.expect(opcode::TASK_MANAGEMENT_RESPONSE);
    assert_eq!((answer.tag(), answer.header[2]), (reset, 0));
    assert_eq!(gate.inner.contents()[0], 9);
}

#[test]
fn task_management_names_what_is_not_there() {
    let bench = Bench::new();
    let mut initiator = bench.login("");
    let mut answer = |function, lun| {
        initiator.task_management(function, lun, 12_345);
        initiator.expect(opcode::TASK_MANAGEMENT_RESPONSE).header[2]
    };
    assert_eq!(answer(5, 7 << 48), 2);
    assert_eq!(answer(8, 0), 4);
    assert_eq!(answer(3, 0), 5);
    assert_eq!(answer(1, 0), 1, "its RefCmdSN (0) lies before the window");
}

#[test]
fn a_session_that_comes_again_waits_for_its_former_self() {
    let (bench, gate) = gated();
    let mut old = bench.login("");
    old.command(0xa0, 512, &write_cdb(0, 512), &[1; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    let address = bench.address;
    let again = std::thread::spawn(move || {
        let mut initiator = Initiator::connect(address);
        initiator.isid = [0x80, 0, 0, 0, 0, 1];
        initiator.log_in(NODE, Some(TARGET), "").unwrap();
        initiator
    });
    assert_eq!(old.expect(opcode::ASYNC_MESSAGE).header[36], 3, "all connections are dropped");
    assert!(old.receive().is_none(), "the old connection is closed");
    assert!(!again.is_finished(), "its write still runs");
    gate.open.store(true, Ordering::SeqCst);
    let mut new = again.join().unwrap();
    assert_eq!(bench.registry.sessions().len(), 1);
    assert_eq!(new.write(0, &[2; 512], 512, 512).header[3], 0);
    assert_eq!(gate.inner.contents()[0], 2, "the old write never comes after the new");
}

#[test]
fn a_connection_lost_half_way_leaves_nothing_behind() {
    let bench = Bench::new();
    for round in 0..20 {
        let mut initiator = bench.login("InitialR2T=Yes\0ImmediateData=No\0");
        let tag = initiator.command(0xa0, 65_536, &write_cdb(0, 65_536), &[]);
        let r2t = initiator.expect(opcode::R2T);
        if round % 2 == 0 {
            initiator.data_out(tag, r2t.u32(20), 0, 0, false, &[3; 4096]);
        }
        drop(initiator);
    }
    bench.eventually("sessions and buffers are gone", || {
        bench.registry.sessions().is_empty() && bench.pool.used_bytes() == 0
    });
    assert!(bench.device.contents().iter().all(|byte| *byte == 0), "no half of a write was carried out");
}

#[test]
fn a_full_pool_pushes_back_and_everything_still_ends() {
    let device = MemoryDevice::new("memory", LUN_BYTES);
    // Room for two of the writes at once.
    let bench = Bench::over(Arc::new(device.clone()), device, 512 << 10);
    let address = bench.address;
    let writers: Vec<_> = (0..6u8)
        .map(|writer| {
            std::thread::spawn(move || {
                let mut initiator = Initiator::connect(address);
                initiator.isid[5] = writer;
                initiator.log_in(NODE, Some(TARGET), "InitialR2T=Yes\0ImmediateData=No\0").unwrap();
                for _ in 0..20 {
                    let data = vec![writer + 1; 256 << 10];
                    let response = initiator.write(u32::from(writer) * 512, &data, 0, 64 << 10);
                    assert_eq!(response.header[3], 0);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    for writer in 0..6 {
        assert_eq!(bench.device.contents()[writer * (256 << 10)], writer as u8 + 1);
    }
}

/// Everything that comes, until the target closes the connection.
fn until_closed(initiator: &mut Initiator) -> Vec<End> {
    let mut ends = Vec::new();
    while ends.last() != Some(&End::Dropped) {
        ends.push(next(initiator).0);
    }
    ends
}

#[test]
fn garbage_has_its_end_and_disturbs_nobody_else() {
    let bench = Bench::new();
    let mut good = bench.login("");
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = |bytes: &mut [u8]| {
        for byte in bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
    };
    for round in 0..200 {
        let mut initiator = Initiator::connect(bench.address);
        let mut bytes = vec![0; 48 + round];
        random(&mut bytes);
        if round % 3 == 0 {
            // A login header that promises more than may come.
            bytes[0] = 0x43;
        }
        offer_bytes(&mut initiator, &bytes);
        // Nothing follows; it may know that already.
        let _ = initiator.stream.shutdown(Shutdown::Write);
        let refused = until_closed(&mut initiator);
        assert!(
            matches!(refused[..], [End::Dropped] | [End::Login(1..), End::Dropped]),
            "{round}: {refused:?}"
        );
    }
    // In full feature phase: every opcode with random fields, on a session of its own.
    for code in 0..64u8 {
        let mut initiator = Initiator::connect(bench.address);
        initiator.isid = [0x80, 0, 0, 0, 1, code];
        initiator.log_in(NODE, Some(TARGET), "").unwrap();
        let mut filling = [0; 28];
        random(&mut filling);
        let (pdu, expected) = nonsense(code, filling);
        offer_bytes(&mut initiator, &pdu);
        assert_eq!(ends(&mut initiator, expected.len()), expected, "opcode {code:#x}");
    }
    assert_eq!(good.write(0, &[4; 4096], 4096, 4096).header[3], 0);
    bench.eventually("only the good session is left", || bench.registry.sessions().len() == 1);
    bench.eventually("all buffers are back", || bench.pool.used_bytes() == 0);
}

#[test]
fn a_stop_asks_initiators_to_log_out() {
    let mut bench = Bench::new();
    let mut initiator = bench.login("");
    let server = bench.server.take().unwrap();
    let workers = bench.workers.clone();
    let stopping = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(workers.call_background(move || server.shut_down())).unwrap();
    });
    let message = initiator.expect(opcode::ASYNC_MESSAGE);
    assert_eq!(message.header[36], 1, "logout request");
    assert_eq!(message.header[42..44], limits::LOGOUT_GRACE_S.to_be_bytes(), "Parameter3: seconds");
    let mut logout = header(0x40 | opcode::LOGOUT, 0x80, 5);
    put(&mut logout, 24, initiator.cmd_sn);
    initiator.send(logout, &[]);
    initiator.expect(opcode::LOGOUT_RESPONSE);
    stopping.join().unwrap();
    assert!(TcpStream::connect(bench.address).is_err() || bench.registry.sessions().is_empty());
}

/// "Logged out" means that nothing of the session can change data any more, and that what it had reserved is free.
#[test]
fn a_logout_is_answered_when_the_session_is_over() {
    let (bench, gate) = gated();
    let mut initiator = bench.login("");
    let mut other = Initiator::connect(bench.address);
    other.log_in(NODE, Some(TARGET), "").unwrap();
    let reserve = [0x16, 0, 0, 0, 0, 0];
    initiator.command(0xc0, 0, &reserve, &[]);
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).header[3], 0);
    initiator.command(0xa0, 512, &write_cdb(0, 512), &[7; 512]);
    bench.eventually("the write is at the device", || gate.waiting.load(Ordering::SeqCst));
    let mut logout = header(0x40 | opcode::LOGOUT, 0x80, 5);
    put(&mut logout, 24, initiator.cmd_sn);
    initiator.send(logout, &[]);
    initiator.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(initiator.receive().is_none(), "the write is not over");
    initiator.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    gate.open.store(true, Ordering::SeqCst);
    assert_eq!(initiator.expect(opcode::LOGOUT_RESPONSE).header[2], 0);
    other.command(0xc0, 0, &reserve, &[]);
    assert_eq!(other.expect(opcode::SCSI_RESPONSE).header[3], 0);
    assert_eq!(bench.registry.sessions().len(), 1);
}
