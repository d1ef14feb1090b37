//! Memory for data is everybody's: nobody keeps it by asking for it and not using it.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block_io::{BufferPool, MemoryDevice};
use iscsi_target::pdu::opcode;
use iscsi_target::server::Patience;
use support::{Bench, Initiator, LUN_BYTES, TARGET, gated_with, header, put, write_cdb};

const TASK_SET_FULL: u8 = 0x28;
const HOUR: Duration = Duration::from_secs(3600);

fn other(bench: &Bench) -> Initiator {
    let mut initiator = Initiator::connect(bench.address);
    initiator.log_in("iqn.2026-11.com.example:other", Some(TARGET), "FirstBurstLength=262144\0").unwrap();
    initiator
}

/// It sends no data at all, and is otherwise alive.
#[test]
fn one_session_does_not_have_all_memory_for_data_that_it_does_not_send() {
    const LENGTH: u32 = 512 << 10;
    let device = MemoryDevice::new("memory", LUN_BYTES);
    let bench = Bench::over(Arc::new(device.clone()), device, 4 << 20);
    let mut greedy = bench.login("InitialR2T=Yes\0ImmediateData=No\0");
    let mut asked_for = 0;
    for _ in 0..16 {
        let tag = greedy.command(0xa0, LENGTH, &write_cdb(0, LENGTH as usize), &[]);
        let answer = greedy.receive().unwrap();
        assert_eq!(answer.tag(), tag);
        if answer.opcode() == opcode::R2T {
            asked_for += 1;
        } else {
            assert_eq!(answer.header[3], TASK_SET_FULL);
        }
    }
    assert!((2..=5).contains(&asked_for), "{asked_for} of 8 that there is room for");
    let mut other = other(&bench);
    assert_eq!(other.write(0, &[5; 256 << 10], 256 << 10, 256 << 10).header[3], 0, "others have room");
    assert!(greedy.ping().is_empty());
}

/// As when disks take long: whoever waits for memory is told so before its initiator takes us for gone.
#[test]
fn a_socket_is_not_left_unread_for_want_of_memory() {
    let patience = Patience { memory: Duration::from_millis(50), ..Patience::default() };
    let pool = BufferPool::new(1 << 20);
    let (bench, gate) = gated_with(|config| (config.patience, config.pool) = (patience, pool.clone()));
    let mut writer = bench.login("InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=262144\0");
    for block in 0..4 {
        writer.command(0xa0, 256 << 10, &write_cdb(block * 512, 256 << 10), &vec![7; 256 << 10]);
    }
    bench.eventually("the writes run", || {
        gate.waiting.load(Ordering::SeqCst) && pool.try_take(256 << 10).is_none()
    });
    let mut other = other(&bench);
    let tag = other.command(0xa0, 256 << 10, &write_cdb(0, 256 << 10), &[1; 256 << 10]);
    let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 99);
    put(&mut ping, 20, u32::MAX);
    put(&mut ping, 24, other.cmd_sn);
    other.send(ping, &[]);
    let mut answers =
        [other.receive().unwrap(), other.receive().unwrap()].map(|pdu| (pdu.opcode(), pdu.tag()));
    answers.sort_unstable();
    assert_eq!(answers, [(opcode::NOP_IN, 99), (opcode::SCSI_RESPONSE, tag)]);
    gate.open.store(true, Ordering::SeqCst);
    bench.eventually("all buffers are back", || pool.used_bytes() == 0);
}

/// It answers whatever it is asked, but for the data.
#[test]
fn who_does_not_send_the_data_that_it_was_asked_for_is_dropped() {
    let patience = Patience { data: Duration::from_millis(200), silence: HOUR, ..Patience::default() };
    let bench = Bench::with(|config| config.patience = patience);
    let mut initiator = bench.login("InitialR2T=Yes\0ImmediateData=No\0");
    // Who sends it, late as it may be, stays.
    let tag = initiator.command(0xa0, 1024, &write_cdb(0, 1024), &[]);
    let ttt = initiator.expect(opcode::R2T).u32(20);
    initiator.data_out(tag, ttt, 0, 0, true, &[3; 1024]);
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).header[3], 0);
    initiator.command(0xa0, 1024, &write_cdb(0, 1024), &[]);
    initiator.expect(opcode::R2T);
    let ping = |initiator: &mut Initiator| {
        let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 99);
        put(&mut ping, 20, u32::MAX);
        put(&mut ping, 24, initiator.cmd_sn);
        initiator.send(ping, &[]);
        bench.pause();
        initiator.receive().unwrap()
    };
    let told = (0..5000).map(|_| ping(&mut initiator)).find(|pdu| pdu.opcode() != opcode::NOP_IN).unwrap();
    assert_eq!((told.opcode(), told.header[36]), (opcode::ASYNC_MESSAGE, 2), "this connection is dropped");
    bench.eventually("nothing is kept", || {
        bench.registry.sessions().is_empty() && bench.pool.used_bytes() == 0
    });
    assert_eq!(bench.device.contents()[..1024], [3; 1024]);
}

/// Its number never has its turn, for the one before it never comes.
#[test]
fn who_leaves_a_gap_in_its_numbers_does_not_keep_memory_for_ever() {
    let patience = Patience { data: Duration::from_millis(20), silence: HOUR, ..Patience::default() };
    let bench = Bench::with(|config| config.patience = patience);
    let mut initiator = bench.login("InitialR2T=Yes\0ImmediateData=No\0");
    initiator.cmd_sn += 1;
    initiator.command(0xa0, 1 << 20, &write_cdb(0, 1 << 20), &[]);
    bench.eventually("it holds memory", || bench.pool.used_bytes() > 0);
    assert_eq!(
        initiator.receive().map(|pdu| (pdu.opcode(), pdu.header[36])),
        Some((opcode::ASYNC_MESSAGE, 2))
    );
    bench.eventually("nothing is kept", || {
        bench.registry.sessions().is_empty() && bench.pool.used_bytes() == 0
    });
}

#[test]
fn who_sends_half_of_its_data_does_not_keep_memory_for_ever() {
    let patience = Patience { data: Duration::from_millis(100), silence: HOUR, ..Patience::default() };
    let bench = Bench::with(|config| config.patience = patience);
    let mut initiator = bench.login("InitialR2T=Yes\0ImmediateData=Yes\0");
    let mut write = header(opcode::SCSI_COMMAND, 0xa0, 5);
    write[6] = 2;
    put(&mut write, 20, 1 << 20);
    put(&mut write, 24, initiator.cmd_sn);
    write[32..48].copy_from_slice(&write_cdb(0, 1 << 20));
    initiator.stream.write_all(&[&write[..], &[6; 200]].concat()).unwrap();
    bench.eventually("it holds memory", || bench.pool.used_bytes() > 0);
    assert!(initiator.receive().is_some_and(|pdu| pdu.opcode() == opcode::ASYNC_MESSAGE));
    bench.eventually("nothing is kept", || bench.pool.used_bytes() == 0);
}

/// What is taken for them is what they announce; of that they name little.
#[test]
fn announced_data_counts_as_it_is_kept() {
    let device = MemoryDevice::new("memory", LUN_BYTES);
    let bench = Bench::over(Arc::new(device.clone()), device, 4 << 20);
    let mut greedy = bench.login("InitialR2T=No\0ImmediateData=No\0FirstBurstLength=262144\0");
    for _ in 0..40 {
        // 256 KiB to come by themselves, for one block.
        greedy.command(0x20, 256 << 10, &write_cdb(0, 512), &[]);
    }
    assert!(greedy.ping().iter().all(|pdu| pdu.header[3] == TASK_SET_FULL));
    let used = bench.pool.used_bytes();
    assert!(used <= (4 << 20) * 3 / 4, "{used}");
    assert_eq!(other(&bench).write(0, &[5; 256 << 10], 256 << 10, 256 << 10).header[3], 0);
}

/// On a slow link what asks for data comes behind answers that are long on their way.
#[test]
fn who_has_not_been_asked_for_its_data_yet_is_not_dropped_for_it() {
    let patience = Patience { data: Duration::from_millis(500), silence: HOUR, ..Patience::default() };
    let bench = Bench::with(|config| config.patience = patience);
    let mut slow = bench.login("InitialR2T=Yes\0ImmediateData=No\0");
    let mut read = write_cdb(0, 1 << 20);
    read[0] = 0x28;
    for _ in 0..12 {
        slow.command(0xc0, 1 << 20, &read, &[]);
    }
    bench.eventually("answers wait for it", || bench.pool.used_bytes() > 6 << 20);
    slow.command(0xa0, 512, &write_cdb(0, 512), &[]);
    // Twice as long as another is given that was asked.
    for _ in 0..2 {
        let mut silent = other(&bench);
        silent.command(0xa0, 1 << 20, &write_cdb(0, 1 << 20), &[]);
        silent.expect(opcode::R2T);
        silent.expect(opcode::ASYNC_MESSAGE);
    }
    let r2t = loop {
        let pdu = slow.receive().expect("it was dropped");
        if pdu.opcode() == opcode::R2T {
            break pdu;
        }
        assert_eq!(pdu.opcode(), opcode::DATA_IN);
    };
    slow.data_out(r2t.tag(), r2t.u32(20), 0, 0, true, &[4; 512]);
    let response = loop {
        let pdu = slow.receive().expect("it was dropped");
        if pdu.opcode() == opcode::SCSI_RESPONSE {
            break pdu;
        }
    };
    assert_eq!(response.header[2..4], [0, 0]);
    assert_eq!(bench.device.contents()[0], 4);
}
