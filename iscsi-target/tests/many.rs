//! Many sessions, idle or lost at any stage: nothing of them is left behind.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use iscsi_target::pdu::opcode;
use socket2::SockRef;
use support::{
    Bench, Honest, Initiator, NODE, TARGET, allow_many_descriptors, descriptors, header, names, put,
    resident_bytes, write_cdb,
};

const IDLE_SESSIONS: u32 = 1000;
const CYCLES: u32 = 5000;
const THREADS: u32 = 4;

fn numbered(bench_address: std::net::SocketAddr, number: u32, keys: &str) -> Initiator {
    let mut initiator = Initiator::connect(bench_address);
    initiator.isid[2..6].copy_from_slice(&(number + 1000).to_be_bytes());
    initiator.log_in(NODE, Some(TARGET), keys).unwrap();
    initiator
}

#[test]
fn a_thousand_idle_sessions_leave_nothing_behind() {
    allow_many_descriptors();
    let bench = Bench::new();
    let (open, resident) = (descriptors(), resident_bytes());
    let honest = Honest::start(bench.address);
    let mut idle: Vec<Initiator> =
        (0..IDLE_SESSIONS).map(|number| numbered(bench.address, number, "DataDigest=CRC32C\0")).collect();
    bench.eventually("everybody is logged in", || {
        bench.registry.sessions().len() == IDLE_SESSIONS as usize + 1
    });
    // Each has a receive buffer, of which next to nothing was ever used.
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < 160 << 20, "{grown} bytes for a thousand idle sessions");
    // They are alive, and idle for good: the last quarter does not even say good-bye.
    for initiator in idle.iter_mut().step_by(7) {
        let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 5);
        put(&mut ping, 24, initiator.cmd_sn);
        initiator.send(ping, b"still there");
        assert_eq!(initiator.expect(opcode::NOP_IN).data, b"still there");
    }
    honest.stop();
    for (number, mut initiator) in idle.into_iter().enumerate() {
        if number % 2 == 0 {
            let mut logout = header(0x40 | opcode::LOGOUT, 0x80, 78);
            put(&mut logout, 24, initiator.cmd_sn);
            initiator.send(logout, &[]);
            initiator.expect(opcode::LOGOUT_RESPONSE);
        }
    }
    bench.nothing_left();
    bench.eventually("all descriptors are closed", || descriptors() <= open);
}

#[test]
fn five_thousand_connections_lost_at_every_stage_leave_nothing_behind() {
    allow_many_descriptors();
    let bench = Bench::new();
    // Whatever a first session sets up for good.
    drop(bench.login(""));
    bench.nothing_left();
    let (open, resident) = (descriptors(), resident_bytes());
    let honest = Honest::start(bench.address);
    let address = bench.address;
    let losers: Vec<_> = (0..THREADS)
        .map(|thread| {
            std::thread::spawn(move || {
                for cycle in (thread..CYCLES).step_by(THREADS as usize) {
                    lose(address, cycle);
                }
            })
        })
        .collect();
    for loser in losers {
        loser.join().unwrap();
    }
    honest.stop();
    bench.nothing_left();
    bench.eventually("all descriptors are closed", || descriptors() <= open);
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < 64 << 20, "{grown} bytes are gone");
    let contents = bench.device.contents();
    assert!(contents[..1 << 20].iter().all(|byte| *byte == 0), "no half of a write was carried out");
}

/// One connection, lost at a stage of its own; every other one by a reset.
fn lose(address: std::net::SocketAddr, cycle: u32) {
    let write = |initiator: &mut Initiator, length: usize| {
        let tag = initiator.command(0xa0, length as u32, &write_cdb(0, length), &[]);
        (tag, initiator.expect(opcode::R2T))
    };
    let stream: TcpStream = match cycle / 2 % 8 {
        0 => TcpStream::connect(address).unwrap(),
        1 => {
            // In the middle of a login request.
            let mut stream = TcpStream::connect(address).unwrap();
            let mut login = header(0x40 | opcode::LOGIN, 0x87, 1);
            login[7] = 200;
            stream.write_all(&login[..24 + cycle as usize % 24]).unwrap();
            stream
        }
        2 => {
            // Between two login requests.
            let mut initiator = Initiator::connect(address);
            let mut login = header(0x40 | opcode::LOGIN, 0x81, 1);
            login[8..14].copy_from_slice(&initiator.isid);
            initiator.send(login, names(NODE, Some(TARGET)).as_bytes());
            assert_eq!(initiator.expect(opcode::LOGIN_RESPONSE).header[36], 0);
            initiator.stream
        }
        3 => numbered(address, cycle, "").stream,
        4 => {
            let mut initiator = numbered(address, cycle, "InitialR2T=Yes\0ImmediateData=No\0");
            write(&mut initiator, 65_536);
            initiator.stream
        }
        5 => {
            // In the middle of a Data-Out.
            let mut initiator = numbered(address, cycle, "InitialR2T=Yes\0ImmediateData=No\0");
            let (tag, r2t) = write(&mut initiator, 131_072);
            initiator.data_out(tag, r2t.u32(20), 0, 0, false, &[3; 4096]);
            let mut half = header(opcode::DATA_OUT, 0x80, tag);
            put(&mut half, 20, r2t.u32(20));
            put(&mut half, 36, 1);
            put(&mut half, 40, 4096);
            half[5..8].copy_from_slice(&[1, 0, 0]);
            initiator.stream.write_all(&half).unwrap();
            initiator.stream.write_all(&vec![4; 20_000]).unwrap();
            initiator.stream
        }
        6 => {
            // With answers under way that nobody reads.
            let mut initiator = numbered(address, cycle, "MaxRecvDataSegmentLength=512\0");
            let mut cdb = write_cdb(0, 65_536);
            cdb[0] = 0x28;
            for _ in 0..4 {
                initiator.command(0xc0, 65_536, &cdb, &[]);
            }
            initiator.stream
        }
        _ => {
            // With task management and early commands.
            let mut initiator = numbered(address, cycle, "InitialR2T=Yes\0ImmediateData=No\0");
            let (tag, _) = write(&mut initiator, 65_536);
            initiator.cmd_sn += 5;
            initiator.command(0xa0, 65_536, &write_cdb(0, 65_536), &[]);
            initiator.task_management(2, 0, tag);
            initiator.stream
        }
    };
    if cycle.is_multiple_of(2) {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop(stream);
}

#[test]
fn logins_of_one_nexus_at_the_same_time_leave_one_session() {
    let bench = Bench::new();
    let address = bench.address;
    for _ in 0..20 {
        let start = Arc::new(std::sync::Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let start = Arc::clone(&start);
                std::thread::spawn(move || {
                    let mut initiator = Initiator::connect(address);
                    start.wait();
                    let logged_in = initiator.log_in_untold(NODE, Some(TARGET), "").is_ok();
                    (logged_in, initiator)
                })
            })
            .collect();
        let mut initiators: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(initiators.iter().all(|(logged_in, _)| *logged_in));
        assert_eq!(
            bench.registry.sessions().len(),
            1,
            "all were answered, so all but the last were replaced"
        );
        let served = initiators.iter_mut().filter_map(|(_, initiator)| {
            let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 5);
            put(&mut ping, 24, initiator.cmd_sn);
            // Those that were replaced may be gone already, if they were not told before.
            initiator.stream.write_all(&ping).ok()?;
            let pdu = initiator.receive()?;
            assert!(matches!(pdu.header[0], opcode::NOP_IN | opcode::ASYNC_MESSAGE), "{pdu:02x?}");
            (pdu.header[0] == opcode::NOP_IN).then_some(pdu)
        });
        assert_eq!(served.count(), 1);
    }
    bench.nothing_left();
}
