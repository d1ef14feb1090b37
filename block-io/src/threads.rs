//! How is I/O done without io_uring, and where do system calls that block without limit run?
//!
//! Two bounded pools of plain threads, shared by the process: one moves data (the `threads` engine),
//! one does what may take seconds (fallocate, zeroing, probing), so that neither a worker nor
//! anybody's reads wait for it. Threads start when there is work and leave when there is none.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::reactor::{Operation, Request};

/// Transfers at the same time: what keeps a handful of disks busy without io_uring.
const TRANSFER_THREADS: usize = 32;
/// Long system calls at the same time.
const BLOCKING_THREADS: usize = 8;
/// Transfers queued or running; more wait in their own futures.
const TRANSFERS_IN_FLIGHT: usize = 1024;
/// A thread with nothing to do for this long ends.
const IDLE_TIME: Duration = Duration::from_secs(10);

static TRANSFERS: ThreadPool = ThreadPool::new("labsan-io", TRANSFER_THREADS);
static TRANSFER_SLOTS: Semaphore = Semaphore::const_new(TRANSFERS_IN_FLIGHT);
static BLOCKING: ThreadPool = ThreadPool::new("labsan-blocking", BLOCKING_THREADS);

/// Run one transfer once on the pool.
pub(crate) async fn perform(mut operation: Operation) -> (Operation, Result<usize, i32>) {
    // The semaphore is never closed.
    let _slot = TRANSFER_SLOTS.acquire().await;
    TRANSFERS
        .run(move || {
            let result = execute(&mut operation);
            (operation, result)
        })
        .await
}

/// Run a system call that may block for long, away from the workers.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    BLOCKING.run(work).await
}

fn execute(operation: &mut Operation) -> Result<usize, i32> {
    let (position, start, count) = (operation.position(), operation.done, operation.remaining());
    let file = &operation.file;
    let result = match &mut operation.request {
        Request::Read(buffer) => file.read_at(&mut buffer[start..start + count], position),
        Request::Write { data, durable: false } => file.write_at(&data[start..start + count], position),
        Request::Write { data, durable: true } => {
            return write_durably(file.as_raw_fd(), &data[start..start + count], position);
        }
        Request::Sync => file.sync_data().map(|()| 0),
    };
    result.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

fn write_durably(fd: libc::c_int, data: &[u8], position: u64) -> Result<usize, i32> {
    let part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let position = libc::off_t::try_from(position).map_err(|_| libc::EINVAL)?;
    // SAFETY: one iovec over a live slice, which a write only reads.
    let written = unsafe { libc::pwritev2(fd, &raw const part, 1, position, libc::RWF_DSYNC) };
    usize::try_from(written).map_err(|_| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

type Job = Box<dyn FnOnce() + Send>;

struct ThreadPool {
    name: &'static str,
    limit: usize,
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl ThreadPool {
    const fn new(name: &'static str, limit: usize) -> Self {
        let state = State { jobs: VecDeque::new(), threads: 0, idle: 0 };
        Self { name, limit, state: Mutex::new(state), work: Condvar::new() }
    }

    async fn run<T: Send + 'static>(&'static self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = oneshot::channel();
        self.submit(Box::new(move || {
            // A caller that no longer waits does not need the result.
            let _ = done.send(work());
        }));
        match result.await {
            Ok(value) => value,
            Err(_) => panic!("a job of the {} threads panicked", self.name),
        }
    }

    fn submit(&'static self, job: Job) {
        let mut state = self.lock();
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle || state.threads >= self.limit {
            drop(state);
            self.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let started = std::thread::Builder::new().name(self.name.into()).spawn(|| self.serve());
        if let Err(error) = started {
            tracing::warn!("cannot start a thread for input/output: {error}");
            self.without_a_thread();
        }
    }

    /// A thread could not be started. If there is none at all, the caller does the work itself.
    fn without_a_thread(&self) {
        let mut state = self.lock();
        state.threads -= 1;
        if state.threads == 0
            && let Some(job) = state.jobs.pop_front()
        {
            drop(state);
            job();
        }
    }

    fn serve(&self) {
        while let Some(job) = self.next() {
            // The waiter is told by its channel; this thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    /// The next job, or None when this thread has idled long enough and is counted out.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        if let Some(job) = state.jobs.pop_front() {
            return Some(job);
        }
        state.idle += 1;
        let (mut state, _) = self
            .work
            .wait_timeout_while(state, IDLE_TIME, |state| state.jobs.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        let job = state.jobs.pop_front();
        if job.is_none() {
            state.threads -= 1;
        }
        job
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn never_more_threads_than_the_limit_and_never_fewer_than_help() {
        static POOL: ThreadPool = ThreadPool::new("test", 4);
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let jobs = (0..200).map(|number| {
            POOL.run(move || {
                MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
                RUNNING.fetch_sub(1, Ordering::SeqCst);
                number
            })
        });
        assert_eq!(block_on(join_all(jobs)), (0..200).collect::<Vec<_>>());
        assert!((2..=4).contains(&MOST.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_job_that_panics_does_not_take_its_thread_with_it() {
        static POOL: ThreadPool = ThreadPool::new("test", 1);
        let failed = catch_unwind(|| block_on(POOL.run(|| panic!("meant to fail"))));
        assert!(failed.is_err());
        assert_eq!(block_on(POOL.run(|| 5)), 5);
        assert_eq!(POOL.lock().threads, 1);
    }
}
