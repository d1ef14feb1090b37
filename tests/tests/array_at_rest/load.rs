//! Two workers that write small blocks into the same stripes, and what the array must hold then.

use anyhow::{Context, Result, ensure};
use block_io::runtime::WorkerPool;
use block_io::{BlockDevice, Buffer, Durability};
use raid_core::array::Array;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use system_tests::Seed;

pub(crate) const BLOCK: usize = 4096;
pub(crate) const WORKERS: usize = 2;
const BATCH: usize = 12;
const BATCHES: usize = 25;

/// What was acknowledged, and what was sent and not acknowledged yet.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) acknowledged: Vec<u8>,
    pub(crate) in_flight: BTreeMap<usize, Vec<u8>>,
}

/// An array, its workers, and the model of it.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) pool: WorkerPool,
    pub(crate) array: Array,
    model: Arc<Mutex<Contents>>,
}

impl Load {
    pub(crate) fn new(pool: &WorkerPool, array: &Array, contents: Contents) -> Self {
        Self { pool: pool.clone(), array: array.clone(), model: Arc::new(Mutex::new(contents)) }
    }

    pub(crate) fn contents(&self) -> MutexGuard<'_, Contents> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the model out, for what comes after this array.
    pub(crate) fn into_contents(self) -> Contents {
        std::mem::take(&mut *self.contents())
    }

    /// Writes the whole array once, in large pieces: whole stripes.
    pub(crate) async fn fill(&self, seed: &mut Seed) -> Result<()> {
        let (load, mut seed) = (self.clone(), Seed::new(seed.next_u64()));
        let filled = self.pool.call_on(0, move || async move {
            let size = usize::try_from(load.array.info().size_bytes)?;
            let step = 500 << 10;
            for at in (0..size).step_by(step) {
                let bytes = seed.bytes(step.min(size - at));
                load.array.write(at as u64, Buffer::copy_of(&bytes).freeze(), Durability::Cached).await?;
                load.contents().acknowledged[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            load.array.flush().await?;
            Ok(())
        });
        filled.await?
    }

    /// Both workers write, each every second block, so that they meet in every stripe and never overlap.
    pub(crate) async fn run(
        &self,
        seed: &mut Seed,
        meanwhile: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<()> {
        let start = |worker: usize, seed: Seed| {
            let load = self.clone();
            self.pool.call_on(worker, move || load.write_blocks(worker, seed))
        };
        let first = start(0, Seed::new(seed.next_u64()));
        let second = start(1, Seed::new(seed.next_u64()));
        let (first, second, other) = tokio::join!(first, second, meanwhile());
        first??;
        second??;
        other
    }

    async fn write_blocks(self, worker: usize, mut seed: Seed) -> Result<()> {
        let pairs = self.array.info().size_bytes / (BLOCK * WORKERS) as u64;
        for _ in 0..BATCHES {
            let mut tasks = tokio::task::JoinSet::new();
            for block in choose_blocks(pairs, worker, &mut seed)? {
                tasks.spawn_local(self.clone().write_block(block, seed.bytes(BLOCK)));
            }
            while let Some(task) = tasks.join_next().await {
                task??;
            }
        }
        Ok(())
    }

    async fn write_block(self, block: usize, bytes: Vec<u8>) -> Result<()> {
        let at = block * BLOCK;
        self.contents().in_flight.insert(block, bytes.clone());
        self.array.write(at as u64, Buffer::copy_of(&bytes).freeze(), Durability::Durable).await?;
        let mut contents = self.contents();
        contents.in_flight.remove(&block);
        contents.acknowledged[at..at + BLOCK].copy_from_slice(&bytes);
        Ok(())
    }

    /// Reads the whole array; what was in flight at a crash is settled: old or new, from now on that.
    pub(crate) async fn check_reads(&self) -> Result<()> {
        let load = self.clone();
        let checked = self.pool.call_on(1, move || async move {
            let size = usize::try_from(load.array.info().size_bytes)?;
            let step = 300 << 10;
            for at in (0..size).step_by(step) {
                let len = step.min(size - at);
                let (buffer, result) = load.array.read(at as u64, Buffer::zeroed(len)).await;
                result.with_context(|| format!("read at {at}"))?;
                for (number, bytes) in buffer.chunks(BLOCK).enumerate() {
                    load.contents().settle(at / BLOCK + number, bytes)?;
                }
            }
            Ok(())
        });
        checked.await?
    }
}

impl Contents {
    fn settle(&mut self, block: usize, bytes: &[u8]) -> Result<()> {
        let at = block * BLOCK;
        let old = &mut self.acknowledged[at..at + bytes.len()];
        if bytes == old {
            return Ok(());
        }
        let new = self.in_flight.get(&block);
        ensure!(
            new.is_some_and(|new| new == bytes),
            "block {block} is neither what it was nor what was being written"
        );
        old.copy_from_slice(bytes);
        Ok(())
    }
}

/// Half of them close together: several writes to one stripe at once.
fn choose_blocks(pairs: u64, worker: usize, seed: &mut Seed) -> Result<BTreeSet<usize>> {
    let near = seed.below(pairs - 8);
    let mut blocks = BTreeSet::new();
    while blocks.len() < BATCH {
        let pair = if seed.below(2) == 0 { seed.below(pairs) } else { near + seed.below(8) };
        blocks.insert(usize::try_from(pair)? * WORKERS + worker);
    }
    Ok(blocks)
}
