//! Somebody who reads and writes all the time, whatever others do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use iscsi_target::pdu::opcode;

use super::initiator::{Initiator, TARGET, header, put};

/// Its name.
pub const HONEST: &str = "iqn.2026-11.com.example:honest";
/// It uses the last quarter of a unit of 16 MiB.
const FIRST_BLOCK: u32 = 24_576;

/// Verified I/O on a session of its own.
pub struct Honest {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Honest {
    pub fn start(address: SocketAddr) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut initiator = Initiator::connect(address);
            initiator.isid[5] = 200;
            initiator.log_in(HONEST, Some(TARGET), "HeaderDigest=CRC32C\0").unwrap();
            loop {
                // The last round begins when everything that might disturb it has been done.
                let last = told.load(Ordering::SeqCst);
                let round = count.load(Ordering::SeqCst) + 1;
                write_and_read(&mut initiator, round);
                count.store(round, Ordering::SeqCst);
                if last {
                    break;
                }
            }
            let mut logout = header(0x40 | opcode::LOGOUT, 0x80, 0x7777);
            put(&mut logout, 24, initiator.cmd_sn);
            initiator.send(logout, &[]);
            initiator.expect(opcode::LOGOUT_RESPONSE);
        });
        Self { stop, rounds, thread }
    }

    /// Rounds that have gone well so far.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::SeqCst)
    }

    /// Something went wrong, or it was told to stop.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// One more round, and all of them have gone well.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("honest I/O failed");
    }
}

fn write_and_read(initiator: &mut Initiator, round: u64) {
    let length = [512, 4096, 65_536, 150_016][round as usize % 4];
    let data: Vec<u8> = (0..length).map(|at| (at as u64 * 31 + round * 7) as u8).collect();
    let block = FIRST_BLOCK + (round % 16) as u32 * 512;
    let written = initiator.write(block, &data, length.min(8192), 8192);
    assert_eq!(written.header[3], 0, "an honest write in round {round}: {written:02x?}");
    assert!(initiator.read(block, length).0 == data, "an honest read in round {round}");
}
