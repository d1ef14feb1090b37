//! Do labsan's arrays lie on the disks as md would have written them, whatever happened while they ran?
//!
//! No daemon and no iSCSI: two workers write to the same stripes of a real array on files, a member is failed meanwhile,
//! the spare is rebuilt under load. Then the array is stopped, and code that shares nothing with labsan's
//! (`system_tests::md`) checks every stripe, and every byte of the array in md's order against what was written.

use anyhow::{Context, Result, anyhow, ensure};
use block_io::file::{Allocation, FileDevice};
use block_io::runtime::{Engine, EngineChoice, WorkerPool, detect};
use block_io::{BlockDevice, Buffer, Durability};
use raid_core::array::{Array, ArrayState, CreateSpec, Environment, MemberDevice, Policy, create};
use raid_core::geometry::Level;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use system_tests::{Seed, md};

const DISK_BYTES: u64 = 24 << 20;
const CHUNK_BYTES: u64 = 16 << 10;
const BLOCK: usize = 4096;
const WORKERS: usize = 2;
const BATCH: usize = 12;
const BATCHES: usize = 25;
const REBUILD_LIMIT: Duration = Duration::from_secs(60);

/// What the array must hold.
type Model = Arc<Mutex<Vec<u8>>>;

#[test]
fn raid1_on_the_default_engine() -> Result<()> {
    run(Level::Raid1, 3, EngineChoice::Auto)
}

#[test]
fn raid5_on_the_default_engine() -> Result<()> {
    run(Level::Raid5, 4, EngineChoice::Auto)
}

#[test]
fn raid6_on_the_default_engine() -> Result<()> {
    run(Level::Raid6, 5, EngineChoice::Auto)
}

#[test]
fn raid10_on_the_default_engine() -> Result<()> {
    run(Level::Raid10, 4, EngineChoice::Auto)
}

#[test]
fn raid10_with_an_odd_member() -> Result<()> {
    run(Level::Raid10, 5, EngineChoice::Auto)
}

#[test]
fn raid5_on_threads() -> Result<()> {
    run(Level::Raid5, 3, EngineChoice::Threads)
}

#[test]
fn raid6_on_threads() -> Result<()> {
    run(Level::Raid6, 4, EngineChoice::Threads)
}

fn run(level: Level, members: usize, choice: EngineChoice) -> Result<()> {
    let engine: Engine = detect(choice)?;
    let seed = Seed::from_env(900 + members as u64);
    let dir = tempfile::tempdir()?;
    let pool = WorkerPool::start(engine, WORKERS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(life(&pool, dir.path(), level, members, seed));
    pool.shut_down();
    let (paths, model) = done?;
    let at_rest = md::Array::open(&paths)?;
    at_rest.check_clean()?;
    at_rest.check_redundancy()?;
    let bytes = at_rest.read_all()?;
    let expected = model.lock().unwrap_or_else(PoisonError::into_inner);
    let wrong = expected.chunks(BLOCK).zip(bytes.chunks(BLOCK)).position(|(a, b)| a != b);
    ensure!(wrong.is_none() && bytes.len() >= expected.len(), "block {wrong:?} is not what was written");
    Ok(())
}

/// From creation to a clean stop; gives the members that are in the array then, and what it must hold.
async fn life(
    pool: &WorkerPool,
    dir: &Path,
    level: Level,
    members: usize,
    mut seed: Seed,
) -> Result<(Vec<PathBuf>, Model)> {
    let paths: Vec<PathBuf> = (0..=members).map(|n| dir.join(format!("disk{n}.img"))).collect();
    let array = make(pool, level, &paths).await?;
    let size = usize::try_from(array.info().size_bytes)?;
    let model: Model = Arc::new(Mutex::new(vec![0; size]));
    fill(pool, &array, &model, &mut seed).await?;
    let load = Load { pool: pool.clone(), array: array.clone(), model: Arc::clone(&model) };
    load.run(&mut seed, async || Ok(())).await?;
    // Member 1 goes while both workers write.
    let lost = paths[1].clone();
    load.run(&mut seed, async || {
        let (array, lost) = (array.clone(), lost.clone());
        pool.call_background(move || async move { array.fail(&lost, false).await }).await??;
        Ok(())
    })
    .await?;
    wait_optimal(pool, &array, &load, &mut seed).await?;
    check_reads(pool, &array, &model).await?;
    pool.call_background(move || async move { array.stop().await }).await??;
    Ok((paths.into_iter().filter(|path| *path != lost).collect(), model))
}

async fn make(pool: &WorkerPool, level: Level, paths: &[PathBuf]) -> Result<Array> {
    let paths = paths.to_vec();
    let made = pool.call_background(move || async move {
        let device = |path: &PathBuf| -> Result<MemberDevice> {
            let device = FileDevice::create(path, DISK_BYTES, Allocation::Sparse)?;
            Ok(MemberDevice { path: path.clone(), device: Arc::new(device) })
        };
        let mut members = paths.iter().map(device).collect::<Result<Vec<_>>>()?;
        let spares = members.split_off(members.len() - 1);
        let (name, policy) = ("rest".to_owned(), Policy::Bitmap);
        let spec =
            CreateSpec { name, level, chunk_bytes: CHUNK_BYTES, policy, members, spares, force: false };
        create(spec, &Environment { hostname: "test".to_owned() }).await.map_err(|error| anyhow!(error))
    });
    made.await?
}

/// Large writes: whole stripes.
async fn fill(pool: &WorkerPool, array: &Array, model: &Model, seed: &mut Seed) -> Result<()> {
    let (array, model) = (array.clone(), Arc::clone(model));
    let mut seed = seed.clone();
    pool.call_on(0, move || async move {
        let size = usize::try_from(array.info().size_bytes)?;
        let step = 500 << 10;
        for at in (0..size).step_by(step) {
            let bytes = seed.bytes(step.min(size - at));
            array.write(at as u64, Buffer::copy_of(&bytes).freeze(), Durability::Cached).await?;
            model.lock().unwrap_or_else(PoisonError::into_inner)[at..at + bytes.len()]
                .copy_from_slice(&bytes);
        }
        Ok(())
    })
    .await?
}

/// Small writes from both workers; each writes every second block, so they meet in every stripe and never overlap.
struct Load {
    pool: WorkerPool,
    array: Array,
    model: Model,
}

impl Load {
    async fn run(&self, seed: &mut Seed, meanwhile: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let start = |worker: usize, seed: Seed| {
            let (array, model) = (self.array.clone(), Arc::clone(&self.model));
            self.pool.call_on(worker, move || write_blocks(array, model, worker, seed))
        };
        let first = start(0, Seed::new(seed.next_u64()));
        let second = start(1, Seed::new(seed.next_u64()));
        let (first, second, other) = tokio::join!(first, second, meanwhile());
        first??;
        second??;
        other
    }
}

async fn write_blocks(array: Array, model: Model, worker: usize, mut seed: Seed) -> Result<()> {
    let pairs = array.info().size_bytes / (BLOCK * WORKERS) as u64;
    for _ in 0..BATCHES {
        let mut tasks = tokio::task::JoinSet::new();
        let mut blocks = std::collections::BTreeSet::new();
        // Half of them close together: several writes to one stripe at once.
        let near = seed.below(pairs - 8);
        while blocks.len() < BATCH {
            let pair = if seed.below(2) == 0 { seed.below(pairs) } else { near + seed.below(8) };
            blocks.insert(usize::try_from(pair)? * WORKERS + worker);
        }
        for block in blocks {
            let (array, model, bytes) = (array.clone(), Arc::clone(&model), seed.bytes(BLOCK));
            tasks.spawn_local(async move {
                let at = block * BLOCK;
                array.write(at as u64, Buffer::copy_of(&bytes).freeze(), Durability::Durable).await?;
                model.lock().unwrap_or_else(PoisonError::into_inner)[at..at + BLOCK].copy_from_slice(&bytes);
                anyhow::Ok(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
    }
    Ok(())
}

async fn wait_optimal(pool: &WorkerPool, array: &Array, load: &Load, seed: &mut Seed) -> Result<()> {
    let deadline = std::time::Instant::now() + REBUILD_LIMIT;
    loop {
        load.run(seed, async || Ok(())).await?;
        let asked = array.clone();
        let status = pool.call_background(move || async move { asked.status().await }).await?;
        if status.state == ArrayState::Optimal {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < deadline, "not optimal after {REBUILD_LIMIT:?}: {status:?}");
    }
}

async fn check_reads(pool: &WorkerPool, array: &Array, model: &Model) -> Result<()> {
    let (array, model) = (array.clone(), Arc::clone(model));
    pool.call_on(1, move || async move {
        let size = usize::try_from(array.info().size_bytes)?;
        let step = 300 << 10;
        for at in (0..size).step_by(step) {
            let len = step.min(size - at);
            let (buffer, result) = array.read(at as u64, Buffer::zeroed(len)).await;
            result.with_context(|| format!("read at {at}"))?;
            let expected = model.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(buffer[..] == expected[at..at + len], "what is read at {at} is not what was written");
        }
        Ok(())
    })
    .await?
}
