//! Who may touch a unit (a stripe, or a mirrored chunk) right now?
//!
//! One holder a unit. Writers that find a unit held queue their [`Fragment`]s; when it comes free, the
//! first of them leads and takes all that is queued as one batch, so that neighbouring writes merge into
//! one parity update and often into a whole stripe. Rebuild, resync, degraded reads and repairs take the
//! unit alone ([`UnitLocks::exclusive`]).
//!
//! | the unit is | a writer arrives | `exclusive` arrives | its holder leaves |
//! |---|---|---|---|
//! | free | leads, alone | holds | - |
//! | held, nobody waits | queues | queues | free |
//! | held, somebody waits | queues | queues | the first in the queue holds; if a writer, with every queued fragment |
//!
//! Units are taken in ascending order by whoever takes several, so nobody waits in a circle.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block_io::{Durability, IoError};
use bytes::Bytes;
use tokio::sync::oneshot;

/// Lock table shards: enough that two workers seldom meet in one, few enough to stay in cache.
const SHARDS: usize = 64;

/// One piece of new data for a unit: `data` goes to `start` bytes into the unit's user data.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    pub(crate) start: u32,
    pub(crate) data: Bytes,
    pub(crate) durability: Durability,
}

impl Fragment {
    pub(crate) fn range(&self) -> std::ops::Range<u32> {
        self.start..self.start + self.data.len() as u32
    }
}

type Outcome = Result<(), IoError>;

/// The fragments a leader carries out, in the order they came, and who waits to hear of it.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) fragments: Vec<Fragment>,
    followers: Vec<oneshot::Sender<Turn>>,
}

impl Batch {
    /// Tell everyone whose fragment this batch carried what became of it.
    pub(crate) fn finish(self, outcome: &Outcome) {
        for follower in self.followers {
            // A follower that went away has nobody left to tell.
            let _ = follower.send(Turn::Done(outcome.clone()));
        }
    }
}

/// What a writer gets to do once it is its turn.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Carry out this batch, then `finish` it, then drop the guard.
    Lead(UnitGuard, Batch),
    /// Somebody else carried the fragment out.
    Done(Outcome),
}

#[derive(Debug)]
enum Waiter {
    Exclusive(oneshot::Sender<UnitGuard>),
    Writer(Fragment, oneshot::Sender<Turn>),
}

type Shard = HashMap<u64, VecDeque<Waiter>>;

/// The lock table of one array. A unit that is in the map is held; its queue says who waits.
#[derive(Debug)]
pub(crate) struct UnitLocks {
    shards: Box<[Mutex<Shard>]>,
}

impl UnitLocks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() })
    }

    fn shard(&self, unit: u64) -> MutexGuard<'_, Shard> {
        let index = (unit % SHARDS as u64) as usize;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hold the unit alone.
    pub(crate) async fn exclusive(self: &Arc<Self>, unit: u64) -> UnitGuard {
        loop {
            let turn = {
                let mut shard = self.shard(unit);
                match shard.get_mut(&unit) {
                    None => {
                        shard.insert(unit, VecDeque::new());
                        return UnitGuard::new(self, unit);
                    }
                    Some(queue) => {
                        let (sender, receiver) = oneshot::channel();
                        queue.push_back(Waiter::Exclusive(sender));
                        receiver
                    }
                }
            };
            // The sender is only ever dropped unused when the whole table goes; then try afresh.
            if let Ok(guard) = turn.await {
                return guard;
            }
        }
    }

    /// Hold several neighbouring units, in ascending order.
    pub(crate) async fn exclusive_range(self: &Arc<Self>, units: std::ops::Range<u64>) -> Vec<UnitGuard> {
        let mut guards = Vec::with_capacity((units.end - units.start) as usize);
        for unit in units {
            guards.push(self.exclusive(unit).await);
        }
        guards
    }

    /// Have a fragment written: either by leading a batch that holds it, or by somebody else's.
    pub(crate) async fn write(self: &Arc<Self>, unit: u64, fragment: Fragment) -> Turn {
        let turn = {
            let mut shard = self.shard(unit);
            match shard.get_mut(&unit) {
                None => {
                    shard.insert(unit, VecDeque::new());
                    let batch = Batch { fragments: vec![fragment], followers: Vec::new() };
                    return Turn::Lead(UnitGuard::new(self, unit), batch);
                }
                Some(queue) => {
                    let (sender, receiver) = oneshot::channel();
                    queue.push_back(Waiter::Writer(fragment.clone(), sender));
                    receiver
                }
            }
        };
        match turn.await {
            Ok(turn) => turn,
            // The leader vanished without an outcome (its worker was torn down): lead it ourselves.
            Err(_) => {
                let guard = self.exclusive(unit).await;
                Turn::Lead(guard, Batch { fragments: vec![fragment], followers: Vec::new() })
            }
        }
    }

    /// Pass a unit on to whoever is next, or free it.
    fn release(self: &Arc<Self>, unit: u64) {
        loop {
            let next = {
                let mut shard = self.shard(unit);
                let Some(queue) = shard.get_mut(&unit) else { return };
                match queue.pop_front() {
                    None => {
                        shard.remove(&unit);
                        return;
                    }
                    Some(Waiter::Exclusive(sender)) => Next::Exclusive(sender),
                    Some(Waiter::Writer(fragment, sender)) => {
                        let mut batch = Batch { fragments: vec![fragment], followers: Vec::new() };
                        queue.retain_mut(|waiter| take_writer(waiter, &mut batch));
                        Next::Writer(batch, sender)
                    }
                }
            };
            if self.hand_over(unit, next) {
                return;
            }
        }
    }

    /// True if somebody took the unit. A receiver that went away leaves it to the next.
    fn hand_over(self: &Arc<Self>, unit: u64, next: Next) -> bool {
        match next {
            Next::Exclusive(sender) => match sender.send(UnitGuard::new(self, unit)) {
                Ok(()) => true,
                Err(guard) => {
                    guard.forget();
                    false
                }
            },
            Next::Writer(batch, sender) => match sender.send(Turn::Lead(UnitGuard::new(self, unit), batch)) {
                Ok(()) => true,
                Err(Turn::Lead(guard, batch)) => {
                    guard.forget();
                    self.requeue(unit, batch);
                    false
                }
                Err(Turn::Done(_)) => true,
            },
        }
    }

    /// The would-be leader is gone with its own fragment; its followers go back to the head of the queue.
    fn requeue(&self, unit: u64, batch: Batch) {
        let mut shard = self.shard(unit);
        let queue = shard.entry(unit).or_default();
        let followers = batch.fragments.into_iter().skip(1).zip(batch.followers);
        for (fragment, sender) in followers.collect::<Vec<_>>().into_iter().rev() {
            queue.push_front(Waiter::Writer(fragment, sender));
        }
    }
}

enum Next {
    Exclusive(oneshot::Sender<UnitGuard>),
    Writer(Batch, oneshot::Sender<Turn>),
}

/// Move a queued writer into the batch; false (drop it from the queue) if it was one.
fn take_writer(waiter: &mut Waiter, batch: &mut Batch) -> bool {
    match waiter {
        Waiter::Exclusive(_) => true,
        Waiter::Writer(fragment, sender) => {
            batch.fragments.push(fragment.clone());
            // The queue's entry is dropped next; leave it a sender that nobody listens to.
            batch.followers.push(std::mem::replace(sender, oneshot::channel().0));
            false
        }
    }
}

/// Proof that its holder alone may touch the unit. Dropping it passes the unit on.
#[derive(Debug)]
pub(crate) struct UnitGuard {
    locks: Option<Arc<UnitLocks>>,
    unit: u64,
}

impl UnitGuard {
    fn new(locks: &Arc<UnitLocks>, unit: u64) -> Self {
        Self { locks: Some(Arc::clone(locks)), unit }
    }

    /// Give up the guard without releasing: the unit is being handed to somebody else.
    fn forget(mut self) {
        self.locks = None;
    }
}

impl Drop for UnitGuard {
    fn drop(&mut self) {
        if let Some(locks) = self.locks.take() {
            locks.release(self.unit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn fragment(start: u32) -> Fragment {
        Fragment { start, data: Bytes::from_static(&[0; 512]), durability: Durability::Cached }
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn held(locks: &Arc<UnitLocks>) -> usize {
        locks.shards.iter().map(|s| s.lock().unwrap().len()).sum()
    }

    #[test]
    fn queued_writers_become_one_batch_in_order() {
        let locks = UnitLocks::new();
        let Poll::Ready(Turn::Lead(guard, first)) = poll(pin!(locks.write(7, fragment(0)))) else {
            panic!("a free unit is led at once")
        };
        let mut second = Box::pin(locks.write(7, fragment(512)));
        let mut third = Box::pin(locks.write(7, fragment(1024)));
        assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
        first.finish(&Ok(()));
        drop(guard);
        let Poll::Ready(Turn::Lead(guard, batch)) = poll(second.as_mut()) else { panic!("second leads") };
        assert_eq!(batch.fragments.iter().map(|f| f.start).collect::<Vec<_>>(), [512, 1024]);
        assert!(poll(third.as_mut()).is_pending());
        batch.finish(&Ok(()));
        assert!(matches!(poll(third.as_mut()), Poll::Ready(Turn::Done(Ok(())))));
        drop(guard);
        assert_eq!(held(&locks), 0);
    }

    #[test]
    fn exclusive_waits_its_turn_and_a_gone_waiter_is_skipped() {
        let locks = UnitLocks::new();
        let Poll::Ready(guard) = poll(pin!(locks.exclusive(3))) else { panic!("free") };
        let mut gone = Box::pin(locks.exclusive(3));
        let mut next = Box::pin(locks.exclusive(3));
        assert!(poll(gone.as_mut()).is_pending() && poll(next.as_mut()).is_pending());
        drop(gone);
        drop(guard);
        let Poll::Ready(guard) = poll(next.as_mut()) else { panic!("the gone waiter blocks the queue") };
        drop(guard);
        assert_eq!(held(&locks), 0);
    }

    #[test]
    fn a_gone_leader_leaves_its_followers_their_turn() {
        let locks = UnitLocks::new();
        let Poll::Ready(guard) = poll(pin!(locks.exclusive(3))) else { panic!("free") };
        let mut gone = Box::pin(locks.write(3, fragment(0)));
        let mut follower = Box::pin(locks.write(3, fragment(512)));
        assert!(poll(gone.as_mut()).is_pending() && poll(follower.as_mut()).is_pending());
        drop(gone);
        drop(guard);
        let Poll::Ready(Turn::Lead(guard, batch)) = poll(follower.as_mut()) else { panic!("follower leads") };
        assert_eq!(batch.fragments.len(), 1);
        assert_eq!(batch.fragments[0].start, 512);
        drop(guard);
        assert_eq!(held(&locks), 0);
    }
}
