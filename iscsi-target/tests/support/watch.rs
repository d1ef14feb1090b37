//! Somebody who reads and writes all the time, and what a server has in use.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use iscsi_target::pdu::opcode;

use super::{Bench, Initiator, TARGET};

/// Open descriptors of this process.
pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Bytes of memory that this process has in use now.
pub fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// As many descriptors as the system lets us have: a session is two of them here.
pub fn allow_many_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Verified I/O on a session of its own, on the last quarter of the unit.
pub struct Honest {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

pub const HONEST_BLOCK: u32 = 3 * (super::LUN_BYTES as u32 / 512) / 4;

impl Honest {
    pub fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut initiator = Initiator::connect(address);
            initiator.isid[5] = 200;
            initiator
                .log_in("iqn.2026-11.com.example:honest", Some(TARGET), "HeaderDigest=CRC32C\0")
                .unwrap();
            let mut rounds = 0_u64;
            loop {
                // The last round begins when everything that might disturb it has been done.
                let last = told.load(Ordering::SeqCst);
                rounds += 1;
                let length = [512, 4096, 65_536, 150_016][rounds as usize % 4];
                let data: Vec<u8> = (0..length).map(|at| (at as u64 * 31 + rounds * 7) as u8).collect();
                let block = HONEST_BLOCK + (rounds % 16) as u32 * 512;
                let written = initiator.write(block, &data, length.min(8192), 8192);
                assert_eq!(written.header[3], 0, "an honest write in round {rounds}: {written:02x?}");
                assert!(initiator.read(block, length).0 == data, "an honest read in round {rounds}");
                if last {
                    break;
                }
            }
            let mut logout = super::header(0x40 | opcode::LOGOUT, 0x80, 0x7777);
            super::put(&mut logout, 24, initiator.cmd_sn);
            initiator.send(logout, &[]);
            initiator.expect(opcode::LOGOUT_RESPONSE);
        });
        Self { stop, thread }
    }

    /// One more round, and all of them have gone well.
    pub fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("honest I/O failed");
    }
}

impl Bench {
    /// Nothing is left of sessions that are gone: no buffer, no task (each holds its target), no logical unit's nexus.
    pub fn nothing_left(&self) {
        let target = self.registry.target(TARGET).unwrap();
        self.eventually("no session is left", || self.registry.sessions().is_empty());
        self.eventually("all buffers are back", || self.pool.used_bytes() == 0);
        // One is the registry's, one is ours.
        self.eventually("no task or connection is left", || Arc::strong_count(&target) == 2);
    }
}
