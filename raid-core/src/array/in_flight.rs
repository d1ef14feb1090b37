//! Is anybody still at work? Counts client operations, so that a stop can wait for them to end and
//! background work can step aside for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// The gate every client operation passes.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    count: AtomicU64,
    started: AtomicU64,
    closed: AtomicBool,
    idle: Notify,
}

/// One operation under way; dropping it ends it.
#[derive(Debug)]
pub(crate) struct InFlightGuard(Arc<InFlight>);

impl InFlight {
    /// Begin an operation; `None` once the gate is closed.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<InFlightGuard> {
        // Count first, then look: `close` looks in the other order, so one of the two sees the other.
        self.count.fetch_add(1, Ordering::SeqCst);
        let guard = InFlightGuard(Arc::clone(self));
        if self.closed.load(Ordering::SeqCst) {
            return None;
        }
        self.started.fetch_add(1, Ordering::Relaxed);
        Some(guard)
    }

    /// Let nobody in any more and wait until the last one has left.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        loop {
            let idle = self.idle.notified();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Operations under way now.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Operations begun since the start: whoever sees it move knows that clients are busy.
    pub(crate) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            // `notify_one` keeps a permit, so a closer between its check and its wait still wakes.
            self.0.idle.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn close_waits_for_the_last_and_lets_nobody_in() {
        let gate = Arc::new(InFlight::default());
        let guard = gate.enter().unwrap();
        let closing = gate.close();
        tokio::pin!(closing);
        assert!(futures_util::poll!(&mut closing).is_pending());
        assert!(gate.enter().is_none());
        assert!(futures_util::poll!(&mut closing).is_pending());
        drop(guard);
        closing.await;
        assert_eq!((gate.count(), gate.started()), (0, 1));
    }
}
