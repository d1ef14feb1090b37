//! What runs the futures? One thread per worker, each with its own tokio runtime and its own engine.
//!
//! A future lives and completes on the worker it was spawned on. Which engine carries the I/O is chosen
//! once, at start, by really trying it.

#[cfg(test)]
mod tests;
mod worker;

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::reactor::Entered;
use crate::uring::Uring;
pub use worker::WorkerPool;

/// Which engine the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring if the kernel lets us, else threads.
    #[default]
    Auto,
    /// io_uring or an error.
    IoUring,
    /// The thread pool.
    Threads,
}

/// What carries I/O to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// One ring per worker.
    IoUring,
    /// A shared, bounded pool of threads doing pread and pwrite.
    Threads,
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Threads => "threads",
        })
    }
}

/// Why work cannot be run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The kernel, or the container, refuses io_uring, and it was asked for by name.
    #[error("io_uring is not available here: {0}; the engine \"threads\" works everywhere")]
    NoIoUring(#[source] Arc<io::Error>),
    /// A worker could not be started.
    #[error("cannot start worker {worker}: {source}")]
    Start {
        /// The worker's name.
        worker: String,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The workers have been shut down, or the work itself panicked.
    #[error("the work was not finished: its worker has stopped or the work failed")]
    Stopped,
}

/// Find the engine to use, by creating a ring and asking the kernel what it can do with it.
pub fn detect(choice: EngineChoice) -> Result<Engine, RuntimeError> {
    if choice == EngineChoice::Threads {
        return Ok(Engine::Threads);
    }
    match Uring::new() {
        Ok(_) => Ok(Engine::IoUring),
        Err(error) if choice == EngineChoice::Auto => {
            tracing::warn!("io_uring is not available here ({error}); using threads, which cost more");
            Ok(Engine::Threads)
        }
        Err(error) => Err(RuntimeError::NoIoUring(Arc::new(error))),
    }
}

/// Run a future on this thread with a runtime of its own, a `LocalSet` and this engine. For tests and tools.
/// Tasks it spawned and did not wait for are dropped at the end.
///
/// # Panics
/// If the system cannot provide a runtime or a ring.
pub fn run_local<F: Future>(engine: Engine, future: F) -> F::Output {
    match LocalRuntime::new(engine) {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => panic!("cannot start a local runtime with {engine}: {error}"),
    }
}

/// A runtime, its local tasks and its engine, on one thread.
///
/// Fields drop in order: tasks first, which abandons their I/O; then the ring, which waits for it; then
/// the runtime whose epoll the ring was in.
pub(crate) struct LocalRuntime {
    tasks: LocalSet,
    _engine: Entered,
    runtime: Runtime,
}

impl LocalRuntime {
    pub(crate) fn new(engine: Engine) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let tasks = LocalSet::new();
        let ring = match engine {
            Engine::Threads => None,
            Engine::IoUring => {
                let ring = Rc::new(Uring::new()?);
                let _context = runtime.enter();
                tasks.spawn_local(ring.driver()?);
                Some(ring)
            }
        };
        Ok(Self { tasks, _engine: Entered::new(ring), runtime })
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.tasks.block_on(&self.runtime, future)
    }
}
