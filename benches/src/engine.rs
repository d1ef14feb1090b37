//! What do the policies cost without a network, and with writes that are random indeed? The array runs in this process;
//! as many tasks as the depth says write where a seeded generator sends them, each when its last write is durable.

use crate::Options;
use crate::table::{self, Cell};
use crate::targets;
use anyhow::{Context, Result, bail};
use block_io::file::{Allocation, FileDevice};
use block_io::runtime::{EngineChoice, WorkerPool, detect};
use block_io::{BlockDevice, Buffer, Durability, IoError};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use raid_core::array::{Array, CreateSpec, Environment, MemberDevice, Policy, create};
use raid_core::geometry::Level;
use raid_core::volume::{Volume, VolumeSpec};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use system_tests::seed::Seed;

const MEMBERS: usize = 5;
const CHUNK_BYTES: u64 = 64 << 10;
const BLOCK_BYTES: u64 = 4 << 10;
const FILL_BYTES: u64 = 1 << 20;
const DEPTH: usize = 32;
const DATA_WORKERS: usize = 2;
const SEED: u64 = 32;
/// What the journal aims at, beside the bitmap: each of these writes is a read-modify-write with flushes there.
const GOAL: f64 = 2.0;

/// What the line is called.
pub(crate) const NAME: &str = "engine: 4 KiB random durable write, depth 32";

/// As long as a journal's memory takes writes without waiting for their stripes.
const BURST: Duration = Duration::from_millis(300);

/// Both policies in turn, the middle of some rounds each: a burst, and for as long as the options say.
pub(crate) fn compare(parent: &Path, options: &Options) -> Result<String> {
    eprintln!("{NAME}");
    let volume_bytes = options.lun_mib << 20;
    let member_bytes = (volume_bytes / (MEMBERS as u64 - 1) + targets::MEMBER_OVERHEAD_BYTES)
        .max(targets::POLICY_DISK_BYTES);
    let mut engines = [Policy::Bitmap, Policy::Journal]
        .into_iter()
        .map(|policy| Engine::start(parent, policy, member_bytes, volume_bytes))
        .collect::<Result<Vec<_>>>()?;
    let mut lines = Vec::new();
    for (kind, duration) in [("a burst", BURST.min(options.duration())), ("sustained", options.duration())] {
        let mut cells = vec![Vec::new(); engines.len()];
        for _ in 0..options.rounds.max(1) {
            for index in 0..engines.len() {
                // What one left to do would be done at the other's cost.
                engines.iter().for_each(Engine::rest);
                cells[index].push(engines[index].measure(duration)?);
            }
        }
        lines.push(compared(kind, cells)?);
    }
    Ok(format!("{NAME}\n{}", lines.join("\n")))
}

fn compared(kind: &str, cells: Vec<Vec<Cell>>) -> Result<String> {
    let mut middle = cells.into_iter().map(table::middle);
    let (Some(bitmap), Some(journal)) = (middle.next(), middle.next()) else { bail!("nothing was measured") };
    let ratio = journal.per_second / bitmap.per_second;
    let verdict = if ratio >= GOAL { "met" } else { "not met" };
    let shown = |cell: Cell| format!("{:.0} I/O/s, CPU {:.1} us each", cell.per_second, cell.cpu_us);
    let (bitmap, journal) = (shown(bitmap), shown(journal));
    Ok(format!("  {kind}: bitmap {bitmap}; journal {journal}; goal {verdict}: {ratio:.2} of at least {GOAL}"))
}

/// User and system time of this process, all threads.
fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    Ok(Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time())))
}

/// An array in this process, with one volume that was written all over.
struct Engine {
    workers: WorkerPool,
    array: Array,
    volume: Arc<Volume>,
    rounds: u64,
    _dir: tempfile::TempDir,
}

impl Engine {
    fn start(parent: &Path, policy: Policy, member_bytes: u64, volume_bytes: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("labsan-bench-").tempdir_in(parent)?;
        let member = |number: usize| {
            let path = dir.path().join(format!("d{number}.img"));
            let device = FileDevice::create(&path, member_bytes, Allocation::Full)?;
            Ok(MemberDevice { path, device: Arc::new(device) })
        };
        let spec = CreateSpec {
            name: "lab".to_owned(),
            level: Level::Raid5,
            chunk_bytes: CHUNK_BYTES,
            policy,
            members: (0..MEMBERS).map(member).collect::<Result<_, IoError>>()?,
            spares: Vec::new(),
            force: false,
        };
        let workers = WorkerPool::start(detect(EngineChoice::IoUring)?, DATA_WORKERS)?;
        let (array, volume) = wait_for(&workers, 0, move || async move {
            let array = create(spec, &Environment { hostname: "bench".to_owned() }).await?;
            let volume = VolumeSpec {
                name: "v".to_owned(),
                size_bytes: volume_bytes,
                write_cache: false,
                physical_block_bytes: None,
            };
            let volume = array.create_volume(volume).await?;
            for offset in (0..volume_bytes).step_by(FILL_BYTES as usize) {
                let length = FILL_BYTES.min(volume_bytes - offset);
                let data = Buffer::zeroed(length as usize).freeze();
                volume.write(offset, data, Durability::Durable).await?;
            }
            anyhow::Ok((array, volume))
        })??;
        Ok(Self { workers, array, volume, rounds: 0, _dir: dir })
    }

    /// Wait until everything that was written is in its place.
    fn rest(&self) {
        while self.array.journal_used_bytes() > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Durable random writes a second.
    fn measure(&mut self, duration: Duration) -> Result<Cell> {
        self.rounds += 1;
        let count = Arc::new(Mutex::new(Ok(0)));
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let before = cpu_time()?;
        let began = Instant::now();
        for task in 0..DEPTH {
            let (volume, count, ended) = (Arc::clone(&self.volume), Arc::clone(&count), ended.clone());
            let mut seed = Seed::new(SEED + self.rounds * DEPTH as u64 + task as u64);
            self.workers.spawn_on(task, move || async move {
                let written = write_until(&volume, &mut seed, began + duration).await;
                let mut count = count.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *count = match (&*count, written) {
                    (Ok(sum), Ok(written)) => Ok(sum + written),
                    (Err(_), _) => return,
                    (_, Err(error)) => Err(error),
                };
                drop(ended);
            });
        }
        drop(ended);
        let _ = end.recv();
        let count = count.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()?;
        let cpu = cpu_time()?.saturating_sub(before);
        Ok(Cell {
            per_second: count as f64 / began.elapsed().as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / count as f64,
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Tasks of the array end before their runtime does.
        let array = self.array.clone();
        let _ = wait_for(&self.workers, 0, move || async move { array.stop().await });
    }
}

async fn write_until(volume: &Volume, seed: &mut Seed, end: Instant) -> Result<u64, IoError> {
    let blocks = volume.info().size_bytes / BLOCK_BYTES;
    let mut written = 0;
    while Instant::now() < end {
        let mut data = Buffer::zeroed(BLOCK_BYTES as usize);
        data[..8].copy_from_slice(&seed.next_u64().to_le_bytes());
        volume.write(seed.below(blocks) * BLOCK_BYTES, data.freeze(), Durability::Durable).await?;
        written += 1;
    }
    Ok(written)
}

/// Run it on a worker, where device I/O is possible, and wait.
fn wait_for<T, F, Fut>(workers: &WorkerPool, worker: usize, make: F) -> Result<T>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (sender, receiver) = std::sync::mpsc::channel();
    workers.spawn_on(worker, move || async move {
        // Nobody listens if the program is ending.
        let _ = sender.send(make().await);
    });
    receiver.recv().context("the worker ended")
}
