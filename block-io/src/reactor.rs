//! Who carries this thread's operations to the kernel, and when is one finished?
//!
//! An [`Operation`] owns its file and its memory and moves into the engine; it comes back with the
//! result. So nothing that the kernel may still touch is ever freed, whatever becomes of the future.
//! Threads that have no engine of their own use the thread pool.

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::uring::Uring;
use crate::{Buffer, threads};

/// The longest single transfer handed to the kernel, which itself stops a little below 2 GiB.
#[cfg(not(test))]
pub(crate) const MAX_TRANSFER_BYTES: usize = 1 << 30;
/// Small in tests, so that every longer transfer there is one that has to be continued.
#[cfg(test)]
pub(crate) const MAX_TRANSFER_BYTES: usize = 24 << 10;

/// How often a transient refusal (EAGAIN) is retried, a millisecond apart, before it is an error.
const TRANSIENT_RETRIES: u32 = 1000;

/// What the kernel is asked to do.
pub(crate) enum Request {
    /// Fill the buffer.
    Read(Buffer),
    /// Write the data; `durable` means RWF_DSYNC.
    Write { data: Bytes, durable: bool },
    /// fdatasync.
    Sync,
}

/// One transfer and how far it has come.
pub(crate) struct Operation {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) request: Request,
    /// Bytes of the request that are done already.
    pub(crate) done: usize,
}

/// Why a transfer ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The kernel said so.
    Errno(i32),
    /// The file ends before the range does.
    EndOfFile,
}

impl Operation {
    pub(crate) fn new(file: &Arc<File>, offset: u64, request: Request) -> Self {
        Self { file: Arc::clone(file), offset, request, done: 0 }
    }

    /// Bytes asked for in all.
    pub(crate) fn len(&self) -> usize {
        match &self.request {
            Request::Read(buffer) => buffer.len(),
            Request::Write { data, .. } => data.len(),
            Request::Sync => 0,
        }
    }

    /// Where in the file the rest begins.
    pub(crate) fn position(&self) -> u64 {
        self.offset + self.done as u64
    }

    /// How much of the rest goes to the kernel at once.
    pub(crate) fn remaining(&self) -> usize {
        (self.len() - self.done).min(MAX_TRANSFER_BYTES)
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Uring>>> = const { RefCell::new(None) };
}

/// Makes a ring this thread's engine until dropped.
pub(crate) struct Entered {
    before: Option<Rc<Uring>>,
}

impl Entered {
    pub(crate) fn new(engine: Option<Rc<Uring>>) -> Self {
        Self { before: CURRENT.replace(engine) }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        // Dropping the ring here waits for what is still in flight.
        drop(CURRENT.replace(before));
    }
}

/// Run one operation once, on this thread's engine: bytes moved, or an errno.
async fn perform(operation: Operation) -> (Operation, Result<usize, i32>) {
    match CURRENT.with_borrow(Clone::clone) {
        Some(ring) => ring.perform(operation).await,
        None => threads::perform(operation).await,
    }
}

/// Carry a transfer to its end: short counts are continued, EINTR and EAGAIN retried.
///
/// `granule` is the unit of direct I/O: a count that stops inside one is taken back to its start.
pub(crate) async fn transfer(mut operation: Operation, granule: usize) -> (Operation, Result<(), Failure>) {
    let mut refusals = 0;
    loop {
        let asked = operation.remaining();
        let result;
        (operation, result) = perform(operation).await;
        match result {
            Ok(_) if asked == 0 => return (operation, Ok(())),
            Ok(count) if operation.done + count >= operation.len() => return (operation, Ok(())),
            Ok(count) => {
                let whole = count - count % granule;
                if whole == 0 {
                    return (operation, Err(Failure::EndOfFile));
                }
                operation.done += whole;
            }
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) if refusals < TRANSIENT_RETRIES => {
                refusals += 1;
                threads::blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
            }
            Err(errno) => return (operation, Err(Failure::Errno(errno))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Engine, EngineChoice, detect, run_local};
    use std::io::Write;

    fn on_all_engines(test: impl AsyncFn()) {
        run_local(Engine::Threads, test());
        match detect(EngineChoice::IoUring) {
            Ok(engine) => run_local(engine, test()),
            Err(error) => println!("skipped: {error}"),
        }
    }

    #[test]
    fn a_count_inside_a_block_is_taken_back_to_its_start() {
        on_all_engines(async || {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[7; 700]).unwrap();
            let read = Operation::new(&Arc::new(file), 0, Request::Read(Buffer::zeroed(1024)));
            let (read, result) = transfer(read, 512).await;
            assert_eq!((result, read.done), (Err(Failure::EndOfFile), 512));
        });
    }

    #[test]
    fn a_short_count_is_continued() {
        on_all_engines(async || {
            let file = tempfile::tempfile().unwrap();
            let bytes: Vec<u8> = (0..3 * MAX_TRANSFER_BYTES + 5).map(|i| (i % 241) as u8).collect();
            let file = Arc::new(file);
            let data = Bytes::from(bytes.clone());
            let write = Operation::new(&file, 3, Request::Write { data, durable: true });
            assert_eq!(transfer(write, 1).await.1, Ok(()));
            let read = Operation::new(&file, 3, Request::Read(Buffer::zeroed(bytes.len())));
            let (read, result) = transfer(read, 1).await;
            assert_eq!(result, Ok(()));
            assert!(matches!(read.request, Request::Read(buffer) if buffer[..] == bytes[..]));
        });
    }

    #[test]
    fn what_the_kernel_refuses_comes_back_with_its_buffer() {
        on_all_engines(async || {
            let file = Arc::new(File::open("/").unwrap());
            let read = Operation::new(&file, 0, Request::Read(Buffer::copy_of(&[3; 512])));
            let (read, result) = transfer(read, 1).await;
            assert_eq!(result, Err(Failure::Errno(libc::EISDIR)));
            assert!(matches!(read.request, Request::Read(buffer) if buffer.len() == 512));
        });
    }
}
