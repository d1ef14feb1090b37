//! How much memory may be in use, and where does a freed buffer go? Into its pool, for the next taker.
//!
//! - Every page that exists holds one permit of the pool's semaphore, whether it is handed out or kept for
//!   reuse, so both together never exceed the cap.
//! - What is kept counts as free: a taker who finds no permits lets go of kept memory of other lengths.
//! - Takers that find the pool full wait in order; a large one is not starved by small ones. While anyone
//!   waits nothing is kept, so permits go to the waiters.
//! - Kept memory is not zeroed again. It is sorted by exact length in pages, and by thread, because a
//!   worker mostly frees what it took: the usual take and return touch nothing that workers share but
//!   the pool's reference count.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::sync::Semaphore;

use crate::Buffer;
use crate::buffer::ALIGNMENT;

/// Longer blocks (4 MiB) go back to the system at once: mapping them costs little beside filling them.
const MAX_KEPT_PAGES: usize = 1024;
/// Threads are spread over this many sets of free lists.
const SHARDS: usize = 8;

/// Why the pool cannot give a buffer, now or ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Longer than the pool's whole capacity.
    #[error("a buffer of {asked} bytes is larger than the whole pool of {capacity} bytes")]
    TooLarge {
        /// Bytes asked for.
        asked: usize,
        /// The pool's cap in bytes.
        capacity: usize,
    },
}

/// A bounded source of aligned buffers. Cloning gives another handle to the same pool.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

impl BufferPool {
    /// A pool that never has more than `capacity_bytes` handed out.
    pub fn new(capacity_bytes: usize) -> Self {
        let capacity_pages = capacity_bytes.div_ceil(ALIGNMENT).min(Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(Shared {
                free_pages: Semaphore::new(capacity_pages),
                capacity_pages,
                waiting: AtomicUsize::new(0),
                shards: std::array::from_fn(|_| Shard::default()),
            }),
        }
    }

    /// A buffer of exactly `len` bytes, as soon as the pool has room. Callers are served in order.
    /// Its contents are initialised but arbitrary: whoever shows them to anyone overwrites all of them.
    pub async fn take(&self, len: usize) -> Result<Buffer, PoolError> {
        let pages = self.pages_for(len)?;
        let memory = match self.shared.memory_now(pages) {
            Some(memory) => memory,
            None => self.shared.memory_later(pages).await,
        };
        Ok(self.buffer(memory, len))
    }

    /// A buffer if there is room right now and nobody waits before us.
    pub fn try_take(&self, len: usize) -> Option<Buffer> {
        let pages = self.pages_for(len).ok()?;
        let memory = self.shared.memory_now(pages).or_else(|| {
            self.shared.let_go(pages);
            self.shared.new_memory(pages)
        })?;
        Some(self.buffer(memory, len))
    }

    /// The cap in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.shared.capacity_pages * ALIGNMENT
    }

    /// Bytes handed out now.
    pub fn used_bytes(&self) -> usize {
        self.shared.used_pages() * ALIGNMENT
    }

    /// Bytes kept for reuse now. Together with [`Self::used_bytes`] never more than the cap.
    pub fn kept_bytes(&self) -> usize {
        self.shared.kept_pages() * ALIGNMENT
    }

    fn buffer(&self, memory: Memory, len: usize) -> Buffer {
        Buffer::over(Block::new(memory, Some(Arc::clone(&self.shared))), len)
    }

    fn pages_for(&self, len: usize) -> Result<u32, PoolError> {
        let too_large = PoolError::TooLarge { asked: len, capacity: self.capacity_bytes() };
        let pages = len.div_ceil(ALIGNMENT).max(1);
        if pages > self.shared.capacity_pages {
            return Err(too_large);
        }
        u32::try_from(pages).map_err(|_| too_large)
    }
}

/// Pages from the allocator, not yet or no longer anybody's.
#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: a Memory is the only handle to its pages.
unsafe impl Send for Memory {}

impl Memory {
    fn allocate(pages: usize) -> Self {
        let layout = Self::layout(pages);
        // SAFETY: the layout's size is never zero.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self { base, pages }
    }

    fn layout(pages: usize) -> Layout {
        let size = pages.max(1).saturating_mul(ALIGNMENT);
        Layout::from_size_align(size, ALIGNMENT)
            // As a Vec of that length would.
            .unwrap_or_else(|_| panic!("{pages} pages are more than there is address space"))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this very layout, and freed once, here.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.pages)) }
    }
}

/// One aligned allocation under the buffers that share it; goes home when its last part is dropped.
pub(crate) struct Block {
    base: NonNull<u8>,
    pages: usize,
    home: Option<Arc<Shared>>,
}

// SAFETY: a Block owns its pages; they may be used and freed on any thread.
unsafe impl Send for Block {}
// SAFETY: nothing is reachable through `&Block` but its address; who may touch which part is decided by
// the Buffers over it, which are disjoint and each owned by one thread at a time.
unsafe impl Sync for Block {}

impl Block {
    /// Memory of no pool, zeroed.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self::new(Memory::allocate(len.div_ceil(ALIGNMENT).max(1)), None)
    }

    fn new(memory: Memory, home: Option<Arc<Shared>>) -> Self {
        let memory = ManuallyDrop::new(memory);
        Self { base: memory.base, pages: memory.pages, home }
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Usable bytes from the base.
    pub(crate) fn capacity_bytes(&self) -> usize {
        self.pages * ALIGNMENT
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // The block's own pages, which nobody can reach any more.
        let memory = Memory { base: self.base, pages: self.pages };
        match &self.home {
            Some(home) => home.take_back(memory),
            None => drop(memory),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    /// A permit for each page that might still be allocated.
    free_pages: Semaphore,
    capacity_pages: usize,
    /// Takers in [`Self::memory_later`].
    waiting: AtomicUsize,
    shards: [Shard; SHARDS],
}

/// Free lists of some threads, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    lists: Mutex<FreeLists>,
    /// Pages in these lists, changed under their lock; without it a hint.
    kept_pages: AtomicUsize,
}

impl Shared {
    fn used_pages(&self) -> usize {
        self.capacity_pages
            .saturating_sub(self.free_pages.available_permits())
            .saturating_sub(self.kept_pages())
    }

    /// Kept memory unless somebody has been waiting for it, else new memory if there are permits.
    fn memory_now(&self, pages: u32) -> Option<Memory> {
        let kept = if self.waiting.load(Ordering::SeqCst) == 0 { self.reuse(pages as usize) } else { None };
        kept.or_else(|| self.new_memory(pages))
    }

    fn new_memory(&self, pages: u32) -> Option<Memory> {
        // The semaphore hands what is returned to its waiters first, so this overtakes nobody.
        self.free_pages.try_acquire_many(pages).ok()?.forget();
        Some(Memory::allocate(pages as usize))
    }

    async fn memory_later(&self, pages: u32) -> Memory {
        let _waiting = Waiting::new(&self.waiting);
        // Whoever returns memory from here on sees that we wait: either we find it in its list now, or
        // it finds us counted (both happen under the list's lock). So nothing stays kept while we sleep.
        while self.kept_pages() > 0 {
            self.let_go(pages);
            if let Some(memory) = self.new_memory(pages) {
                return memory;
            }
        }
        // The semaphore is never closed.
        if let Ok(permits) = self.free_pages.acquire_many(pages).await {
            permits.forget();
        }
        Memory::allocate(pages as usize)
    }

    fn kept_pages(&self) -> usize {
        self.shards.iter().map(|shard| shard.kept_pages.load(Ordering::SeqCst)).sum()
    }

    /// This thread's shard and then the others.
    fn shards_from_here(&self) -> impl Iterator<Item = &Shard> {
        let (before, own_and_after) = self.shards.split_at(shard_of_this_thread());
        own_and_after.iter().chain(before)
    }

    /// From this thread's shard, else from another where nobody is busy.
    fn reuse(&self, pages: usize) -> Option<Memory> {
        if pages > MAX_KEPT_PAGES {
            return None;
        }
        let mut shards = self.shards_from_here();
        let own = shards.next().and_then(|own| own.remove(&mut own.lock(), pages));
        own.or_else(|| {
            let filled = shards.filter(|shard| shard.kept_pages.load(Ordering::SeqCst) >= pages);
            filled
                .filter_map(|shard| Some((shard, shard.try_lock()?)))
                .find_map(|(shard, mut lists)| shard.remove(&mut lists, pages))
        })
    }

    /// Turn kept memory back into permits until there are enough for `pages`, or none is left.
    fn let_go(&self, pages: u32) {
        let mut missing = (pages as usize).saturating_sub(self.free_pages.available_permits());
        for shard in self.shards_from_here() {
            while missing > 0
                && let Some(memory) = shard.remove_largest()
            {
                missing = missing.saturating_sub(memory.pages);
                self.free(memory);
            }
        }
    }

    fn take_back(&self, memory: Memory) {
        let pages = memory.pages;
        if pages > MAX_KEPT_PAGES || self.waiting.load(Ordering::SeqCst) > 0 {
            return self.free(memory);
        }
        let shard = &self.shards[shard_of_this_thread()];
        shard.insert(memory);
        // Somebody may have begun to wait since, and have looked into this list too early.
        if self.waiting.load(Ordering::SeqCst) > 0
            && let Some(memory) = shard.remove(&mut shard.lock(), pages)
        {
            self.free(memory);
        }
    }

    fn free(&self, memory: Memory) {
        let pages = memory.pages;
        drop(memory);
        self.free_pages.add_permits(pages);
    }
}

/// Counts a waiter for as long as it waits, even if it gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shard {
    fn insert(&self, memory: Memory) {
        let mut lists = self.lock();
        self.kept_pages.fetch_add(memory.pages, Ordering::SeqCst);
        lists.insert(memory);
    }

    fn remove_largest(&self) -> Option<Memory> {
        let memory = self.lock().remove_largest()?;
        self.kept_pages.fetch_sub(memory.pages, Ordering::SeqCst);
        Some(memory)
    }

    fn remove(&self, lists: &mut FreeLists, pages: usize) -> Option<Memory> {
        let memory = lists.remove(pages)?;
        self.kept_pages.fetch_sub(pages, Ordering::SeqCst);
        Some(memory)
    }

    fn lock(&self) -> MutexGuard<'_, FreeLists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, FreeLists>> {
        match self.lists.try_lock() {
            Ok(lists) => Some(lists),
            Err(TryLockError::Poisoned(lists)) => Some(lists.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

fn shard_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    // A thread that is ending frees into the first.
    SHARD.try_with(|shard| *shard).unwrap_or(0)
}

/// Kept memory by exact length: list `n` holds blocks of `n` pages.
#[derive(Debug, Default)]
struct FreeLists {
    lists: Vec<Vec<Memory>>,
    /// A bit for each list that is not empty, so that the largest is found without looking at all.
    filled: [u64; MAX_KEPT_PAGES / 64 + 1],
}

impl FreeLists {
    fn insert(&mut self, memory: Memory) {
        let pages = memory.pages;
        if self.lists.len() <= pages {
            self.lists.resize_with(pages + 1, Vec::new);
        }
        self.lists[pages].push(memory);
        self.filled[pages / 64] |= 1 << (pages % 64);
    }

    fn remove(&mut self, pages: usize) -> Option<Memory> {
        let list = self.lists.get_mut(pages)?;
        let memory = list.pop()?;
        if list.is_empty() {
            self.filled[pages / 64] &= !(1 << (pages % 64));
        }
        Some(memory)
    }

    fn remove_largest(&mut self) -> Option<Memory> {
        let word = self.filled.iter().rposition(|&word| word != 0)?;
        self.remove(word * 64 + self.filled[word].ilog2() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const PAGE: usize = ALIGNMENT;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn memory_is_used_again_and_not_zeroed_for_it() {
        let pool = BufferPool::new(16 * PAGE);
        let mut buffer = pool.try_take(3 * PAGE).unwrap();
        assert!(buffer.iter().all(|&byte| byte == 0));
        buffer.fill(0xa5);
        let address = buffer.as_ptr();
        drop(buffer);
        assert_eq!((pool.used_bytes(), pool.kept_bytes()), (0, 3 * PAGE));
        let buffer = pool.try_take(3 * PAGE - 100).unwrap();
        assert_eq!(buffer.as_ptr(), address);
        assert_eq!(buffer.len(), 3 * PAGE - 100);
        assert!(buffer.iter().all(|&byte| byte == 0xa5));
        assert_eq!((pool.used_bytes(), pool.kept_bytes()), (3 * PAGE, 0));
    }

    #[test]
    fn kept_memory_gives_way_to_other_sizes() {
        let pool = BufferPool::new(16 * PAGE);
        let buffers: Vec<_> = (0..16).map(|_| pool.try_take(1).unwrap()).collect();
        assert!(pool.try_take(1).is_none());
        drop(buffers);
        assert_eq!(pool.kept_bytes(), 16 * PAGE);
        let large = pool.try_take(13 * PAGE).unwrap();
        assert_eq!((pool.used_bytes(), pool.kept_bytes()), (13 * PAGE, 3 * PAGE));
        drop(large);
        assert!(pool.try_take(16 * PAGE).is_some());
    }

    #[test]
    fn a_buffer_longer_than_the_pool_is_an_error() {
        let pool = BufferPool::new(16 * PAGE);
        let error = block_on(pool.take(16 * PAGE + 1)).unwrap_err();
        assert_eq!(error, PoolError::TooLarge { asked: 16 * PAGE + 1, capacity: 16 * PAGE });
        assert!(pool.try_take(usize::MAX).is_none());
        assert!(BufferPool::new(0).try_take(0).is_none());
    }

    #[test]
    fn a_full_pool_waits_in_order_and_wakes() {
        block_on(async {
            let pool = BufferPool::new(4 * PAGE);
            let held = pool.take(4 * PAGE).await.unwrap();
            let mut large = Box::pin(pool.take(3 * PAGE));
            let mut small = Box::pin(pool.take(PAGE));
            assert!(futures_util::poll!(&mut large).is_pending());
            assert!(futures_util::poll!(&mut small).is_pending());
            assert!(pool.try_take(1).is_none());
            let mut first = held.freeze();
            let clone = first.clone();
            let _ = first.split_to(PAGE);
            drop(first);
            assert!(futures_util::poll!(&mut large).is_pending(), "a clone still holds the memory");
            drop(clone);
            let large = tokio::time::timeout(Duration::from_secs(5), large).await.unwrap().unwrap();
            let small = tokio::time::timeout(Duration::from_secs(5), small).await.unwrap().unwrap();
            assert_eq!((large.len(), small.len()), (3 * PAGE, PAGE));
            // A waiter that gives up takes nothing with it.
            let mut waiting = Box::pin(pool.take(PAGE));
            assert!(futures_util::poll!(&mut waiting).is_pending());
            drop((waiting, large, small));
            assert_eq!(pool.used_bytes(), 0);
            let all = tokio::time::timeout(Duration::from_secs(5), pool.take(4 * PAGE)).await;
            assert!(all.unwrap().is_ok());
        });
    }

    #[test]
    fn waiters_of_all_sizes_get_through_a_small_pool() {
        block_on(async {
            let pool = BufferPool::new(8 * PAGE);
            for round in 0..50 {
                let takers = (0..40usize).map(|taker| {
                    let pool = pool.clone();
                    async move {
                        let buffer = pool.take((taker * 5 + round) % 8 * PAGE).await.unwrap();
                        tokio::task::yield_now().await;
                        drop(buffer);
                    }
                });
                let all = futures_util::future::join_all(takers);
                tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
            }
            assert_eq!(pool.used_bytes(), 0);
        });
    }

    #[test]
    fn many_threads_never_exceed_the_cap() {
        let pool = BufferPool::new(64 * PAGE);
        std::thread::scope(|scope| {
            for thread in 0..8usize {
                let pool = pool.clone();
                scope.spawn(move || {
                    for round in 0..500 {
                        let len = (thread * 7 + round * 13) % (20 * PAGE);
                        let mut buffer = block_on(pool.take(len)).unwrap();
                        buffer.fill(thread as u8);
                        std::thread::yield_now();
                        assert!(buffer.iter().all(|&byte| byte == thread as u8));
                    }
                });
            }
        });
        assert_eq!(pool.used_bytes(), 0);
        assert!(pool.kept_bytes() <= pool.capacity_bytes());
    }

    proptest! {
        #[test]
        fn used_and_kept_stay_under_the_cap(steps in prop::collection::vec((any::<bool>(), 0usize..70_000), 1..200)) {
            let pool = BufferPool::new(64 * PAGE);
            let mut held: Vec<Buffer> = Vec::new();
            for (take, number) in steps {
                if take {
                    let used: usize = held.iter().map(|buffer| buffer.len().div_ceil(PAGE).max(1) * PAGE).sum();
                    let fits = used + number.div_ceil(PAGE).max(1) * PAGE <= pool.capacity_bytes();
                    let buffer = pool.try_take(number);
                    prop_assert_eq!(buffer.is_some(), fits);
                    held.extend(buffer);
                } else if !held.is_empty() {
                    held.swap_remove(number % held.len());
                }
                prop_assert!(pool.used_bytes() + pool.kept_bytes() <= pool.capacity_bytes());
            }
            drop(held);
            prop_assert_eq!(pool.used_bytes(), 0);
        }
    }
}
