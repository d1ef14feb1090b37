//! One suite, run over both engines: what works with one works with the other.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::join_all;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::runtime::{Engine, run_local};

const MIB: u64 = 1 << 20;

fn pattern(seed: u8, len: usize) -> Bytes {
    let bytes: Vec<u8> = (0..len).map(|i| (i / 512) as u8 ^ (i % 251) as u8 ^ seed).collect();
    Buffer::copy_of(&bytes).freeze()
}

/// A temporary directory on the disk, and one in memory, with their differing direct I/O.
fn directories() -> Vec<TempDir> {
    let mut directories = vec![tempfile::tempdir().unwrap()];
    directories.extend(tempfile::tempdir_in("/dev/shm"));
    directories
}

fn image(dir: &TempDir) -> PathBuf {
    dir.path().join("disk.img")
}

async fn read(device: &FileDevice, offset: u64, len: usize) -> Result<Buffer, IoError> {
    let (buffer, result) = device.read(offset, Buffer::zeroed(len)).await;
    assert_eq!(buffer.len(), len);
    result.map(|()| buffer)
}

fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

async fn what_is_written_is_read() {
    for dir in directories() {
        let device = FileDevice::create(image(&dir), MIB, Allocation::Sparse).unwrap();
        for durability in [Durability::Cached, Durability::Durable] {
            let data = pattern(durability as u8, 12288);
            device.write(8192, data.clone(), durability).await.unwrap();
            device.flush().await.unwrap();
            assert_eq!(read(&device, 8192, 12288).await.unwrap()[..], data[..]);
        }
        assert_eq!(read(&device, 0, 8192).await.unwrap()[..], [0; 8192]);
        device.write(0, Bytes::new(), Durability::Durable).await.unwrap();
        assert_eq!(read(&device, MIB, 0).await.unwrap().len(), 0);
    }
}

async fn bad_ranges_are_refused_before_anything_is_done() {
    for dir in directories() {
        let device = FileDevice::create(image(&dir), MIB, Allocation::Sparse).unwrap();
        let kind = async |offset, len| read(&device, offset, len).await.unwrap_err().kind;
        assert_eq!(kind(1, 512).await, IoErrorKind::Misaligned);
        assert_eq!(kind(0, 513).await, IoErrorKind::Misaligned);
        assert_eq!(kind(MIB, 4096).await, IoErrorKind::OutOfRange);
        assert_eq!(kind(MIB - 4096, 8192).await, IoErrorKind::OutOfRange);
        assert_eq!(kind(u64::MAX - 4095, 4096).await, IoErrorKind::OutOfRange);
        let error = device.write(MIB, pattern(1, 4096), Durability::Cached).await.unwrap_err();
        assert_eq!(
            (error.kind, error.operation, error.offset),
            (IoErrorKind::OutOfRange, IoOperation::Write, MIB)
        );
        assert_eq!(
            device.zero(MIB, 4096, Durability::Cached).await.unwrap_err().kind,
            IoErrorKind::OutOfRange
        );
        assert_eq!(device.discard(1, 4096).await.unwrap_err().kind, IoErrorKind::Misaligned);
        assert_eq!(std::fs::metadata(image(&dir)).unwrap().len(), MIB);
    }
}

async fn memory_at_odd_addresses_is_copied() {
    for dir in directories() {
        let device = FileDevice::create(image(&dir), 8 * MIB, Allocation::Full).unwrap();
        let heap = Bytes::from(pattern(7, 3 * MIB as usize + 1).to_vec());
        for odd in [0, 1, 3] {
            let data = heap.slice(odd..odd + 2 * MIB as usize + 4096);
            device.write(4096, data.clone(), Durability::Durable).await.unwrap();
            let mut whole = Buffer::zeroed(data.len() + odd);
            let part = whole.split_off(odd);
            let (part, result) = device.read(4096, part).await;
            result.unwrap();
            assert!(part[..] == data[..]);
        }
    }
}

async fn a_full_file_stays_full_and_a_sparse_one_sparse() {
    for dir in directories() {
        for allocation in [Allocation::Full, Allocation::Sparse] {
            let path = dir.path().join(format!("{allocation:?}"));
            drop(FileDevice::create(&path, 4 * MIB, allocation).unwrap());
            let device = FileDevice::open(&path, OpenOptions::default()).unwrap();
            let full = allocation == Allocation::Full;
            assert_eq!(device.info().thin, !full);
            assert_eq!(device.info().zeroing, Zeroing::Cheap);
            device.write(0, pattern(1, 2 * MIB as usize), Durability::Cached).await.unwrap();
            device.zero(4096, MIB, Durability::Durable).await.unwrap();
            assert_eq!(read(&device, 0, 4096).await.unwrap()[..], pattern(1, 4096)[..]);
            assert!(read(&device, 4096, MIB as usize).await.unwrap().iter().all(|&byte| byte == 0));
            let after = allocated(&path);
            assert_eq!(after >= 4 * MIB, full, "{after} bytes allocated of a {allocation:?} file");
            assert_eq!(device.info().thin, !full);
            assert_eq!(device.space.is_provisioned(0, 4 * MIB), full);
            device.discard(0, 4 * MIB).await.unwrap();
            // Holes that discarding made must be provisioned like any other.
            assert!(device.info().thin && !device.space.is_provisioned(0, 4096));
            assert!(read(&device, 0, 4 * MIB as usize).await.unwrap().iter().all(|&byte| byte == 0));
            assert!(allocated(&path) < MIB);
            device.provision(0, 2 * MIB).await.unwrap();
            assert!(device.space.is_provisioned(0, 2 * MIB) && allocated(&path) >= 2 * MIB);
        }
    }
}

async fn provisioned_regions_have_blocks() {
    for dir in directories() {
        let path = image(&dir);
        let device = FileDevice::create(&path, 8 * MIB, Allocation::Sparse).unwrap();
        assert!(!device.space.is_provisioned(MIB, 4096));
        device.provision(MIB + 4096, 4096).await.unwrap();
        assert!(device.space.is_provisioned(MIB, MIB));
        assert!(!device.space.is_provisioned(MIB, MIB + 4096));
        assert!(allocated(&path) >= MIB);
        device.provision(7 * MIB, MIB).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8 * MIB);
        device.zero(MIB, 4096, Durability::Cached).await.unwrap();
        assert!(!device.space.is_provisioned(MIB, 4096));
        assert!(device.space.is_provisioned(7 * MIB, MIB));
        let error = device.provision(8 * MIB, 4096).await.unwrap_err();
        assert_eq!(error.kind, IoErrorKind::OutOfRange);
    }
}

async fn one_user_at_a_time() {
    for dir in directories() {
        let path = image(&dir);
        let device = FileDevice::create(&path, MIB, Allocation::Sparse).unwrap();
        let again = FileDevice::open(&path, OpenOptions::default()).unwrap_err();
        assert_eq!(again.kind, IoErrorKind::Busy);
        let looking = FileDevice::open(&path, OpenOptions::EXAMINE).unwrap();
        assert_eq!(looking.identity(), device.identity());
        let error = looking.write(0, pattern(1, 4096), Durability::Cached).await.unwrap_err();
        assert_eq!(error.kind, IoErrorKind::ReadOnly);
        assert_eq!(looking.zero(0, 4096, Durability::Cached).await.unwrap_err().kind, IoErrorKind::ReadOnly);
        looking.flush().await.unwrap();
        drop(device);
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        let device = FileDevice::open(dir.path().join("link"), OpenOptions::default()).unwrap();
        assert_eq!(looking.identity(), device.identity());
    }
}

async fn a_file_that_shrank_is_gone() {
    for dir in directories() {
        let path = image(&dir);
        let device = FileDevice::create(&path, MIB, Allocation::Full).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(MIB / 2 + 700).unwrap();
        assert_eq!(read(&device, MIB - 8192, 8192).await.unwrap_err().kind, IoErrorKind::Gone);
        assert_eq!(read(&device, MIB / 2 - 8192, 16384).await.unwrap_err().kind, IoErrorKind::Gone);
        assert_eq!(device.flush().await.unwrap_err().kind, IoErrorKind::Gone);
    }
}

async fn buffered_access_works_too() {
    let dir = tempfile::tempdir().unwrap();
    FileDevice::create(image(&dir), MIB, Allocation::Full).unwrap();
    let options = OpenOptions { buffered: true, ..OpenOptions::default() };
    let device = FileDevice::open(image(&dir), options).unwrap();
    assert!(!device.is_direct());
    device.write(512, pattern(3, 1024), Durability::Durable).await.unwrap();
    assert_eq!(read(&device, 512, 1024).await.unwrap()[..], pattern(3, 1024)[..]);
}

async fn far_more_operations_than_places_complete() {
    let dir = tempfile::tempdir().unwrap();
    let device = FileDevice::create(image(&dir), 16 * MIB, Allocation::Full).unwrap();
    let writes =
        (0..4096u64).map(|block| device.write(block * 4096, pattern(block as u8, 4096), Durability::Cached));
    assert!(join_all(writes).await.iter().all(Result::is_ok));
    let reads = join_all((0..4096u64).map(|block| read(&device, block * 4096, 4096))).await;
    for (block, buffer) in reads.into_iter().enumerate() {
        assert!(buffer.unwrap()[..] == pattern(block as u8, 4096)[..], "block {block}");
    }
}

async fn dropped_reads_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let device = Rc::new(FileDevice::create(image(&dir), 4 * MIB, Allocation::Full).unwrap());
    let pool = crate::BufferPool::new(4 * MIB as usize);
    for round in 0..50u64 {
        let mut reads = Vec::new();
        for block in 0..32 {
            let buffer = pool.take(65536).await.unwrap();
            let mut read = device.read((block * 65536 + round * 4096) % (3 * MIB), buffer);
            // Started; perhaps even finished.
            if futures_util::poll!(&mut read).is_pending() {
                reads.push(read);
            }
        }
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // All memory comes back, so nothing was lost and nothing is still owned by the kernel.
    drop(pool.take(4 * MIB as usize).await.unwrap());
}

/// Random writes, zeros and discards of many tasks at once, each in a part of its own, against plain bytes.
async fn random_operations_match_a_model(seed: u64) {
    for dir in directories() {
        let path = image(&dir);
        let device = Rc::new(FileDevice::create(&path, 8 * MIB, Allocation::Sparse).unwrap());
        let tasks: Vec<_> = (0..16u64)
            .map(|part| {
                tokio::task::spawn_local(exercise(Rc::clone(&device), part * MIB / 2, seed ^ part << 32))
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }
}

async fn exercise(device: Rc<FileDevice>, base: u64, seed: u64) {
    let mut random = seed | 1;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut model = vec![0u8; MIB as usize / 2];
    for _ in 0..40 {
        let block = u64::from(device.info().logical_block_bytes);
        let blocks = model.len() as u64 / block;
        let first = next(blocks);
        let len = ((1 + next(64)).min(blocks - first) * block) as usize;
        let (start, offset) = ((first * block) as usize, base + first * block);
        match next(6) {
            0 => {
                device.zero(offset, len as u64, Durability::Cached).await.unwrap();
                model[start..start + len].fill(0);
            }
            1 => {
                device.discard(offset, len as u64).await.unwrap();
                model[start..start + len].fill(0);
            }
            2 => device.provision(offset, len as u64).await.unwrap(),
            3 => assert!(read(&device, offset, len).await.unwrap()[..] == model[start..start + len]),
            _ => {
                let data = pattern(next(256) as u8, len);
                let durability = if next(4) == 0 { Durability::Durable } else { Durability::Cached };
                device.write(offset, data.clone(), durability).await.unwrap();
                model[start..start + len].copy_from_slice(&data);
            }
        }
    }
    assert!(read(&device, base, model.len()).await.unwrap()[..] == model[..]);
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod io_uring_engine {
            use super::*;
            const ENGINE: Engine = Engine::IoUring;
            $(#[test] fn $test() { if available(ENGINE) { run_local(ENGINE, super::$test()); } })*
            suite!(@model);
        }
        mod threads_engine {
            use super::*;
            const ENGINE: Engine = Engine::Threads;
            $(#[test] fn $test() { run_local(ENGINE, super::$test()); })*
            suite!(@model);
        }
    };
    (@model) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(4))]
            #[test]
            fn random_operations_match_a_model(seed: u64) {
                if available(ENGINE) { run_local(ENGINE, super::random_operations_match_a_model(seed)); }
            }
        }
    };
}

/// Whether this machine lets us use the engine; if not, says so, because a silent skip hides failures.
fn available(engine: Engine) -> bool {
    use crate::runtime::{EngineChoice, detect};
    let available = engine == Engine::Threads || detect(EngineChoice::IoUring).is_ok();
    if !available {
        println!("skipped: io_uring is refused on this machine");
    }
    available
}

suite! {
    what_is_written_is_read,
    bad_ranges_are_refused_before_anything_is_done,
    memory_at_odd_addresses_is_copied,
    a_full_file_stays_full_and_a_sparse_one_sparse,
    provisioned_regions_have_blocks,
    one_user_at_a_time,
    a_file_that_shrank_is_gone,
    buffered_access_works_too,
    far_more_operations_than_places_complete,
    dropped_reads_do_no_harm,
}

#[test]
fn a_thread_without_an_engine_uses_the_pool() {
    let dir = tempfile::tempdir().unwrap();
    let device = FileDevice::create(image(&dir), MIB, Allocation::Sparse).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        device.write(0, pattern(1, 4096), Durability::Durable).await.unwrap();
        assert_eq!(read(&device, 0, 4096).await.unwrap()[..], pattern(1, 4096)[..]);
    });
}

#[test]
fn what_is_no_disk_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let kind = |path: &Path| FileDevice::open(path, OpenOptions::default()).unwrap_err().kind;
    assert_eq!(kind(dir.path()), IoErrorKind::Unsupported);
    assert_eq!(kind(Path::new("/dev/null")), IoErrorKind::Unsupported);
    assert_eq!(kind(&dir.path().join("missing")), IoErrorKind::NotFound);
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(kind(&fifo), IoErrorKind::Unsupported);
}

#[test]
fn creating_never_touches_what_exists() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(image(&dir), "precious").unwrap();
    let error = FileDevice::create(image(&dir), MIB, Allocation::Full).unwrap_err();
    assert_eq!(error.errno, Some(libc::EEXIST));
    drop(FileDevice::open_or_create(image(&dir), MIB, Allocation::Full).unwrap());
    assert_eq!(std::fs::read(image(&dir)).unwrap(), b"precious");
    for size in [0, 4097] {
        let error = FileDevice::create(dir.path().join("odd"), size, Allocation::Full).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Misaligned);
    }
    assert!(!dir.path().join("odd").exists());
}

#[test]
fn a_file_that_does_not_fit_is_removed_again() {
    for dir in directories() {
        let error = FileDevice::create(image(&dir), 1 << 50, Allocation::Full).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::NoSpace, "{error}");
        assert!(!image(&dir).exists());
        let error = FileDevice::create(image(&dir), 1 << 63, Allocation::Sparse).unwrap_err();
        assert_eq!(error.errno, Some(libc::EFBIG), "{error}");
        assert!(!image(&dir).exists());
    }
}
