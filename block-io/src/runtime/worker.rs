//! Which thread does what? Data workers serve clients; one background worker does the long jobs.
//!
//! Work is handed to a worker as a closure that makes its future there, so the future need not be `Send`.
//! These hand-overs happen per connection and per administrative call, never per I/O.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use super::{Engine, LocalRuntime, RuntimeError};

type Job = Box<dyn FnOnce() + Send>;

enum Message {
    /// Called on the worker, inside its `LocalSet`: spawns what it has to run.
    Run(Job),
    Stop,
}

/// The process's workers. Clones are handles to the same threads.
#[derive(Clone)]
pub struct WorkerPool {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    data: Vec<Worker>,
    background: Worker,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Worker {
    /// Unbounded, because whoever accepts connections or administers must not wait for a busy worker;
    /// the number of connections and calls is limited where they come in.
    inbox: mpsc::UnboundedSender<Message>,
}

impl std::fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerPool")
            .field("engine", &self.shared.engine)
            .field("data_workers", &self.len())
            .finish_non_exhaustive()
    }
}

impl WorkerPool {
    /// Start `data_workers` (at least one) workers and a background worker. If any cannot start, none does.
    pub fn start(engine: Engine, data_workers: usize) -> Result<Self, RuntimeError> {
        let mut threads = Vec::new();
        let mut start = |name: &str| {
            let (worker, thread) = Worker::start(name, engine)?;
            threads.push(thread);
            Ok(worker)
        };
        // On an error the inboxes of those that did start are dropped, which ends them.
        let data = (0..data_workers.max(1))
            .map(|index| start(&format!("labsan-w{index}")))
            .collect::<Result<Vec<_>, RuntimeError>>()?;
        let background = start("labsan-bg")?;
        Ok(Self { shared: Arc::new(Shared { engine, data, background, threads: Mutex::new(threads) }) })
    }

    /// The number of data workers; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.shared.data.len()
    }

    /// The engine they all use.
    pub fn engine(&self) -> Engine {
        self.shared.engine
    }

    /// Run a future on data worker `worker` (counted modulo [`Self::len`]). After a shut-down it is dropped.
    pub fn spawn_on<F, Fut>(&self, worker: usize, make: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.shared.data[worker % self.len()].spawn(make);
    }

    /// Run a future on the background worker. After a shut-down it is dropped.
    pub fn spawn_background<F, Fut>(&self, make: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        self.shared.background.spawn(make);
    }

    /// Run a future on the background worker and bring its result back. The work, once called for, runs to
    /// completion even if the caller is dropped. Fails if the pool is shut down before the work is done.
    pub fn call_background<F, Fut, T>(
        &self,
        make: F,
    ) -> impl Future<Output = Result<T, RuntimeError>> + Send + use<F, Fut, T>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.shared.background.call(make)
    }

    /// The same on data worker `worker` (counted modulo [`Self::len`]).
    pub fn call_on<F, Fut, T>(
        &self,
        worker: usize,
        make: F,
    ) -> impl Future<Output = Result<T, RuntimeError>> + Send + use<F, Fut, T>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.shared.data[worker % self.len()].call(make)
    }

    /// Stop: drop every task, finish the I/O that the kernel already has, and join the threads. Blocks.
    /// Called on a worker it does not wait for that worker.
    pub fn shut_down(self) {
        for worker in self.shared.data.iter().chain([&self.shared.background]) {
            // A worker that is gone already needs no telling.
            let _ = worker.inbox.send(Message::Stop);
        }
        let threads =
            std::mem::take(&mut *self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let here = std::thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != here) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

impl Worker {
    fn start(name: &str, engine: Engine) -> Result<(Self, JoinHandle<()>), RuntimeError> {
        let (inbox, messages) = mpsc::unbounded_channel();
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let failed = |source| RuntimeError::Start { worker: name.into(), source: Arc::new(source) };
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || match LocalRuntime::new(engine) {
                Ok(runtime) => {
                    // Whoever started us waits for this.
                    let _ = ready.send(Ok(()));
                    runtime.block_on(serve(messages));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })
            .map_err(failed)?;
        match started.recv() {
            Ok(Ok(())) => Ok((Self { inbox }, thread)),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(std::io::Error::other("the thread ended at once"))),
        }
    }

    fn spawn<F, Fut>(&self, make: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let job: Job = Box::new(move || {
            // The future is made inside its task, so that a panic in `make` ends only that task.
            spawn_local(async move { make().await });
        });
        if self.inbox.send(Message::Run(job)).is_err() {
            tracing::debug!("work for a worker that has stopped is dropped");
        }
    }

    fn call<F, Fut, T>(
        &self,
        make: F,
    ) -> impl Future<Output = Result<T, RuntimeError>> + Send + use<F, Fut, T>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (done, result) = oneshot::channel();
        self.spawn(move || async move {
            // A caller that is gone does not need the result.
            let _ = done.send(make().await);
        });
        async move { result.await.map_err(|_| RuntimeError::Stopped) }
    }
}

async fn serve(mut messages: mpsc::UnboundedReceiver<Message>) {
    while let Some(Message::Run(job)) = messages.recv().await {
        job();
    }
}
