//! How much does one small read cost? Random 4 KiB reads of a file or disk, on one worker.
//!
//! `random_read PATH [io_uring|threads] [DEPTH] [SECONDS]`: operations per second and CPU time
//! per operation. PATH is only read.

use std::error::Error;
use std::rc::Rc;
use std::time::{Duration, Instant};

use block_io::file::OpenOptions;
use block_io::runtime::{Engine, run_local};
use block_io::{BlockDevice, BufferPool, FileDevice};

const BLOCK: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: random_read PATH [io_uring|threads] [DEPTH] [SECONDS]")?;
    let engine = match arguments.next().as_deref() {
        None | Some("io_uring") => Engine::IoUring,
        Some("threads") => Engine::Threads,
        Some(other) => return Err(format!("no engine is called {other}").into()),
    };
    let depth: usize = arguments.next().map_or(Ok(32), |text| text.parse())?;
    let seconds: f64 = arguments.next().map_or(Ok(3.0), |text| text.parse())?;
    let device = Rc::new(FileDevice::open(&path, OpenOptions::EXAMINE)?);
    let before = cpu_microseconds()?;
    let started = Instant::now();
    let deadline = started + Duration::from_secs_f64(seconds);
    let done: u64 = run_local(engine, async {
        let pool = BufferPool::new(depth * BLOCK);
        let readers: Vec<_> = (0..depth)
            .map(|reader| {
                tokio::task::spawn_local(read_until(
                    deadline,
                    Rc::clone(&device),
                    pool.clone(),
                    reader as u64,
                ))
            })
            .collect();
        let mut done = 0;
        for reader in readers {
            done += reader.await.unwrap_or(0);
        }
        done
    });
    let elapsed = started.elapsed().as_secs_f64();
    let after = cpu_microseconds()?;
    let (user, system) = (after.0 - before.0, after.1 - before.1);
    let each = |total: f64| total / done.max(1) as f64;
    println!(
        "{engine} depth {depth}: {:.0} reads/s, CPU {:.2} us/read ({:.2} user, {:.2} system)",
        done as f64 / elapsed,
        each(user + system),
        each(user),
        each(system)
    );
    Ok(())
}

/// User and system time of the process: utime and stime of proc(5), in ticks of 10 ms.
fn cpu_microseconds() -> Result<(f64, f64), Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>).take(2);
    let ticks = ticks.collect::<Result<Vec<_>, _>>()?;
    match ticks[..] {
        [user, system] => Ok((user * 10_000.0, system * 10_000.0)),
        _ => Err("/proc/self/stat is not as expected".into()),
    }
}

async fn read_until(deadline: Instant, device: Rc<FileDevice>, pool: BufferPool, seed: u64) -> u64 {
    let blocks = (device.info().size_bytes / BLOCK as u64).max(1);
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut done = 0;
    while done % 64 != 0 || Instant::now() < deadline {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let Ok(buffer) = pool.take(BLOCK).await else { break };
        let (_, result) = device.read(random % blocks * BLOCK as u64, buffer).await;
        if let Err(error) = result {
            eprintln!("{error}");
            break;
        }
        done += 1;
    }
    done
}
