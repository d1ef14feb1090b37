//! Do labsan's arrays lie on the disks as md would have written them, whatever happened while they ran?
//!
//! No daemon and no iSCSI: two workers write to the same stripes of a real array on files. In one kind of life a member
//! is failed meanwhile and the spare is rebuilt under load; in the other the workers are stopped dead in the middle,
//! again and again, and the array is assembled from what they left. Then it is stopped cleanly, and code that shares
//! nothing with labsan's (`system_tests::md`) checks every stripe, and every byte in md's order against what was written.

mod load;

use anyhow::{Result, anyhow, ensure};
use block_io::BlockDevice;
use block_io::file::{Allocation, FileDevice, OpenOptions};
use block_io::runtime::{EngineChoice, WorkerPool, detect};
use load::{BLOCK, Contents, Load, WORKERS};
use raid_core::array::{
    ArrayState, AssembleOptions, CreateSpec, Environment, MemberDevice, Policy, assemble, create,
};
use raid_core::geometry::Level;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use system_tests::{Seed, md};

const DISK_BYTES: u64 = 24 << 20;
const CHUNK_BYTES: u64 = 16 << 10;
const OPTIMAL_LIMIT: Duration = Duration::from_secs(60);
const CRASHES: usize = 4;

#[test]
fn raid1_rebuilt_under_load() -> Result<()> {
    lose_a_member(Level::Raid1, 3, EngineChoice::Auto)
}

#[test]
fn raid5_rebuilt_under_load() -> Result<()> {
    lose_a_member(Level::Raid5, 4, EngineChoice::Auto)
}

#[test]
fn raid6_rebuilt_under_load() -> Result<()> {
    lose_a_member(Level::Raid6, 5, EngineChoice::Auto)
}

#[test]
fn raid10_rebuilt_under_load() -> Result<()> {
    lose_a_member(Level::Raid10, 4, EngineChoice::Auto)
}

#[test]
fn raid10_with_an_odd_member_rebuilt_under_load() -> Result<()> {
    lose_a_member(Level::Raid10, 5, EngineChoice::Auto)
}

#[test]
fn raid5_rebuilt_under_load_on_threads() -> Result<()> {
    lose_a_member(Level::Raid5, 3, EngineChoice::Threads)
}

#[test]
fn raid6_rebuilt_under_load_on_threads() -> Result<()> {
    lose_a_member(Level::Raid6, 4, EngineChoice::Threads)
}

#[test]
fn raid1_stopped_dead() -> Result<()> {
    crash_again_and_again(Level::Raid1, 2)
}

#[test]
fn raid5_stopped_dead() -> Result<()> {
    crash_again_and_again(Level::Raid5, 4)
}

#[test]
fn raid6_stopped_dead() -> Result<()> {
    crash_again_and_again(Level::Raid6, 5)
}

#[test]
fn raid10_stopped_dead() -> Result<()> {
    crash_again_and_again(Level::Raid10, 4)
}

/// One process's life: workers, and a runtime to wait for them.
fn live<T>(choice: EngineChoice, life: impl AsyncFnOnce(&WorkerPool) -> Result<T>) -> Result<T> {
    let pool = WorkerPool::start(detect(choice)?, WORKERS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(life(&pool));
    pool.shut_down();
    done
}

fn lose_a_member(level: Level, members: usize, choice: EngineChoice) -> Result<()> {
    let mut seed = Seed::from_env(900 + members as u64);
    let dir = tempfile::tempdir()?;
    let paths = paths(dir.path(), members + 1);
    let contents = live(choice, async |pool| {
        let load = begin(pool, level, &paths, 1, &mut seed).await?;
        // Member 1 goes while both workers write.
        let (array, lost) = (load.array.clone(), paths[1].clone());
        let fail = async || {
            Ok(pool.call_background(move || async move { array.fail(&lost, false).await }).await??)
        };
        load.run(&mut seed, fail).await?;
        wait_optimal_under_load(&load, &mut seed).await?;
        end(load).await
    })?;
    let left: Vec<PathBuf> = paths.iter().filter(|path| **path != paths[1]).cloned().collect();
    check_at_rest(&left, &contents)
}

fn crash_again_and_again(level: Level, members: usize) -> Result<()> {
    let mut seed = Seed::from_env(700 + members as u64);
    let dir = tempfile::tempdir()?;
    let paths = paths(dir.path(), members);
    let mut contents = live(EngineChoice::Auto, async |pool| {
        let load = begin(pool, level, &paths, 0, &mut seed).await?;
        die_while_writing(load, &mut seed).await
    })?;
    for _ in 1..CRASHES {
        contents = live(EngineChoice::Auto, async |pool| {
            let load = again(pool, &paths, contents).await?;
            die_while_writing(load, &mut seed).await
        })?;
    }
    let contents = live(EngineChoice::Auto, async |pool| {
        let load = again(pool, &paths, contents).await?;
        wait_optimal_under_load(&load, &mut seed).await?;
        end(load).await
    })?;
    check_at_rest(&paths, &contents)
}

fn paths(dir: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|n| dir.join(format!("disk{n}.img"))).collect()
}

/// A new array, written full.
async fn begin(
    pool: &WorkerPool,
    level: Level,
    paths: &[PathBuf],
    spares: usize,
    seed: &mut Seed,
) -> Result<Load> {
    let paths = paths.to_vec();
    let made = pool.call_background(move || async move {
        let device = |path: &PathBuf| -> Result<MemberDevice> {
            let device = FileDevice::create(path, DISK_BYTES, Allocation::Sparse)?;
            Ok(MemberDevice { path: path.clone(), device: Arc::new(device) })
        };
        let mut members = paths.iter().map(device).collect::<Result<Vec<_>>>()?;
        let spares = members.split_off(members.len() - spares);
        let (name, policy) = ("rest".to_owned(), Policy::Bitmap);
        let spec =
            CreateSpec { name, level, chunk_bytes: CHUNK_BYTES, policy, members, spares, force: false };
        create(spec, &environment()).await.map_err(|error| anyhow!(error))
    });
    let array = made.await??;
    let acknowledged = vec![0; usize::try_from(array.info().size_bytes)?];
    let load = Load::new(pool, &array, Contents { acknowledged, ..Contents::default() });
    load.fill(seed).await?;
    load.run(seed, async || Ok(())).await?;
    Ok(load)
}

/// The array as the last process left it. What it reads first is what it must read ever after.
async fn again(pool: &WorkerPool, paths: &[PathBuf], contents: Contents) -> Result<Load> {
    let paths = paths.to_vec();
    let started = pool.call_background(move || async move {
        let device = |path: &PathBuf| -> Result<MemberDevice> {
            let device = FileDevice::open(path, OpenOptions::default())?;
            Ok(MemberDevice { path: path.clone(), device: Arc::new(device) })
        };
        let members = paths.iter().map(device).collect::<Result<Vec<_>>>()?;
        assemble(members, AssembleOptions { force: false }, &environment())
            .await
            .map_err(|error| anyhow!(error))
    });
    let load = Load::new(pool, &started.await??, contents);
    load.check_reads().await?;
    load.contents().in_flight.clear();
    Ok(load)
}

fn environment() -> Environment {
    Environment { hostname: "test".to_owned() }
}

/// Stops the workers in the middle of their writes; what the kernel already has, it finishes.
async fn die_while_writing(load: Load, seed: &mut Seed) -> Result<Contents> {
    let alive = Duration::from_millis(2 + seed.below(25));
    let pool = load.pool.clone();
    let stopped = load.run(seed, async || {
        tokio::time::sleep(alive).await;
        tokio::task::spawn_blocking(move || pool.shut_down()).await?;
        Ok(())
    });
    // The workers are gone before their work is done: that is the point.
    let outcome = stopped.await;
    eprintln!(
        "stopped dead after {alive:?}: {} writes in flight ({outcome:?})",
        load.contents().in_flight.len()
    );
    Ok(load.into_contents())
}

async fn wait_optimal_under_load(load: &Load, seed: &mut Seed) -> Result<()> {
    let deadline = Instant::now() + OPTIMAL_LIMIT;
    loop {
        load.run(seed, async || Ok(())).await?;
        let array = load.array.clone();
        let status = load.pool.call_background(move || async move { array.status().await }).await?;
        if status.state == ArrayState::Optimal {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not optimal after {OPTIMAL_LIMIT:?}: {status:?}");
    }
}

/// Reads everything, and stops the array cleanly.
async fn end(load: Load) -> Result<Contents> {
    load.check_reads().await?;
    let array = load.array.clone();
    load.pool.call_background(move || async move { array.stop().await }).await??;
    Ok(load.into_contents())
}

fn check_at_rest(paths: &[PathBuf], contents: &Contents) -> Result<()> {
    let at_rest = md::Array::open(paths)?;
    at_rest.check_clean()?;
    at_rest.check_redundancy()?;
    let bytes = at_rest.read_all()?;
    let expected = &contents.acknowledged;
    let wrong = expected.chunks(BLOCK).zip(bytes.chunks(BLOCK)).position(|(a, b)| a != b);
    ensure!(wrong.is_none() && bytes.len() >= expected.len(), "block {wrong:?} is not what was written");
    Ok(())
}
