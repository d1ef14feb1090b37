//! What passes between this thread and the kernel: entries in, completions out.
//!
//! Both queues hold at least as many entries as may be in flight, so neither can overflow. The kernel
//! holds pointers only into operations that sit in [`Slots`], where they stay until they complete.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::task::Waker;

use io_uring::{IoUring, Probe, opcode, squeue, types};

use super::slots::{Completed, Slots};
use crate::reactor::{Operation, Request};

/// Operations in flight per worker: more than any disk queues, small enough to pin no memory to speak of.
const ENTRIES: u32 = 1024;
/// Where the kernel limits locked memory (before 5.12), a smaller ring is better than none.
const MIN_ENTRIES: u32 = 64;

pub(super) struct Ring {
    ring: IoUring,
    slots: Slots,
}

/// What a reaping found, to be acted upon when the ring is no longer borrowed.
#[derive(Default)]
pub(super) struct Reaped {
    pub(super) wakers: Vec<Waker>,
    pub(super) orphans: Vec<Operation>,
    /// Slots whose operation completed.
    pub(super) completed: usize,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        let mut entries = ENTRIES;
        loop {
            match build(entries) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && entries > MIN_ENTRIES => {
                    entries /= 2;
                }
                ring => {
                    let ring = ring?;
                    require_operations(&ring)?;
                    return Ok(Self { ring, slots: Slots::default() });
                }
            }
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// How many operations may be in flight.
    pub(super) fn room(&self) -> usize {
        self.ring.params().sq_entries() as usize
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// Queue an operation for the next submission. The operation comes back if there is no room.
    pub(super) fn push(&mut self, operation: Operation) -> Result<u32, Option<Operation>> {
        let (index, operation) = self.slots.insert(operation);
        let entry = entry(operation).user_data(u64::from(index));
        // SAFETY: the file, and the memory that the entry points to, are owned by the slot, which lives
        // until the completion has been reaped (see `Drop` of `Uring`).
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| self.slots.withdraw(index))?;
        Ok(index)
    }

    /// Hand all queued entries to the kernel.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                // A kernel without SUBMIT_ALL stops after an entry that fails at once.
                Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Wait until something completes.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.ring.submit_and_wait(1).map(drop)
    }

    pub(super) fn reap(&mut self, reaped: &mut Reaped) {
        for completion in self.ring.completion() {
            match self.slots.complete(completion.user_data(), completion.result()) {
                Completed::Wake(waker) => reaped.wakers.extend(waker),
                Completed::Orphan(operation) => reaped.orphans.push(operation),
                Completed::Unknown => continue,
            }
            reaped.completed += 1;
        }
    }

    pub(super) fn poll(&mut self, index: u32, waker: &Waker) -> Option<(Operation, i32)> {
        self.slots.poll(index, waker)
    }

    pub(super) fn abandon(&mut self, index: u32) -> Option<Operation> {
        self.slots.abandon(index)
    }
}

/// The newest flags the kernel takes: COOP_TASKRUN (5.19) spares interrupts, SINGLE_ISSUER (6.0) locks.
fn build(entries: u32) -> io::Result<IoUring> {
    let mut newest = IoUring::builder();
    newest.dontfork().setup_submit_all().setup_coop_taskrun().setup_single_issuer();
    let mut cooperative = IoUring::builder();
    cooperative.dontfork().setup_submit_all().setup_coop_taskrun();
    let mut plain = IoUring::builder();
    plain.dontfork();
    for builder in [newest, cooperative] {
        match builder.build(entries) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            ring => return ring,
        }
    }
    plain.build(entries)
}

fn require_operations(ring: &IoUring) -> io::Result<()> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE];
    if needed.iter().all(|&code| probe.is_supported(code)) {
        Ok(())
    } else {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn entry(operation: &mut Operation) -> squeue::Entry {
    let fd = types::Fd(operation.file.as_raw_fd());
    let (position, start) = (operation.position(), operation.done);
    // At most MAX_TRANSFER_BYTES.
    let count = operation.remaining() as u32;
    match &mut operation.request {
        Request::Read(buffer) => {
            let rest = buffer[start..].as_mut_ptr();
            opcode::Read::new(fd, rest, count).offset(position).build()
        }
        Request::Write { data, durable } => {
            let flags = if *durable { libc::RWF_DSYNC } else { 0 };
            let rest = data[start..].as_ptr();
            opcode::Write::new(fd, rest, count).offset(position).rw_flags(flags).build()
        }
        Request::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
    }
}
