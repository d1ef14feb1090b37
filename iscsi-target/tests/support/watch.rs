//! What a server has in use.

use std::fs;
use std::sync::Arc;

use super::{Bench, TARGET};

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
