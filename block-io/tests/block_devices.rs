//! Real block devices (loop devices) and full file systems, where the machine lets us have them.
//!
//! Needs root. What cannot be had is skipped, and says so.

// Clippy knows only #[test] functions as tests, not the helpers beside them.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use block_io::file::{Allocation, DeviceIdentity, OpenOptions};
use block_io::runtime::{Engine, EngineChoice, detect, run_local};
use block_io::{BlockDevice, Buffer, Durability, FileDevice, IoErrorKind, IoOperation, Zeroing};
use bytes::Bytes;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A loop device over a file in a directory of its own; detached at the end whatever happens.
struct Loop {
    dir: TempDir,
    device: PathBuf,
}

impl Loop {
    fn attach(size_bytes: u64, options: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(size_bytes).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).args(options).arg(&image).output();
        match made {
            Ok(made) if made.status.success() => {
                let device = String::from_utf8(made.stdout).unwrap().trim().into();
                Some(Self { dir, device })
            }
            Ok(made) => skip(&String::from_utf8_lossy(&made.stderr)),
            Err(error) => skip(&format!("losetup: {error}")),
        }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn open(&self) -> FileDevice {
        FileDevice::open(&self.device, OpenOptions::default()).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// A small file system in memory, unmounted at the end.
struct Mount(TempDir);

impl Mount {
    fn tmpfs(size_bytes: u64) -> Option<Self> {
        Self::new("tmpfs", &format!("size={size_bytes}"))
    }

    fn new(file_system: &str, options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", file_system, "-o", options, "none"]).arg(dir.path()).output();
        match mounted {
            Ok(mounted) if mounted.status.success() => Some(Self(dir)),
            Ok(mounted) => skip(&String::from_utf8_lossy(&mounted.stderr)),
            Err(error) => skip(&format!("mount: {error}")),
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

fn skip<T>(reason: &str) -> Option<T> {
    println!("skipped: {}", reason.trim());
    None
}

/// Run with every engine that this machine has.
fn with_engines(mut test: impl AsyncFnMut()) {
    run_local(Engine::Threads, test());
    match detect(EngineChoice::IoUring) {
        Ok(engine) => run_local(engine, test()),
        Err(error) => println!("skipped: {error}"),
    }
}

fn pattern(seed: u8, len: usize) -> Bytes {
    (0..len).map(|i| (i / 512 % 256) as u8 ^ (i % 251) as u8 ^ seed).collect::<Vec<u8>>().into()
}

async fn read(device: &FileDevice, offset: u64, len: usize) -> Buffer {
    let (buffer, result) = device.read(offset, Buffer::zeroed(len)).await;
    result.unwrap();
    buffer
}

async fn read_error(device: &FileDevice, offset: u64, len: usize) -> IoErrorKind {
    device.read(offset, Buffer::zeroed(len)).await.1.unwrap_err().kind
}

#[test]
fn a_disk_with_4_kib_blocks() {
    with_engines(async || {
        let Some(disk) = Loop::attach(8 * MIB, &["--sector-size", "4096"]) else { return };
        let device = disk.open();
        let info = device.info();
        assert_eq!((info.size_bytes, info.logical_block_bytes), (8 * MIB, 4096));
        assert!(info.physical_block_bytes >= 4096 && !info.thin && !info.read_only);
        assert!(matches!(device.identity(), DeviceIdentity::Block { .. }));
        assert!(device.is_direct());
        assert_eq!(read_error(&device, 512, 4096).await, IoErrorKind::Misaligned);
        assert_eq!(read_error(&device, 0, 512).await, IoErrorKind::Misaligned);
        assert_eq!(read_error(&device, 8 * MIB, 4096).await, IoErrorKind::OutOfRange);
        // Heap memory, at whatever address.
        let data = pattern(1, 1 << 20);
        for durability in [Durability::Cached, Durability::Durable] {
            device.write(4096, data.clone(), durability).await.unwrap();
        }
        device.flush().await.unwrap();
        assert!(read(&device, 4096, data.len()).await[..] == data[..]);
        device.provision(0, MIB).await.unwrap();
    });
}

#[test]
fn zeroed_and_discarded_blocks_read_as_zeros() {
    with_engines(async || {
        let Some(disk) = Loop::attach(8 * MIB, &[]) else { return };
        let device = disk.open();
        assert_eq!(device.info().logical_block_bytes, 512);
        device.write(0, pattern(2, 4 << 20), Durability::Cached).await.unwrap();
        device.zero(512, MIB, Durability::Durable).await.unwrap();
        assert!(read(&device, 0, 512).await[..] == pattern(2, 512)[..]);
        assert!(read(&device, 512, 1 << 20).await.iter().all(|&byte| byte == 0));
        assert!(read(&device, MIB + 512, 512).await[..] == pattern(2, 4 << 20)[(1 << 20) + 512..][..512]);
        if device.info().discard {
            assert_eq!(device.info().zeroing, Zeroing::Cheap);
            device.discard(2 * MIB, MIB).await.unwrap();
            assert!(read(&device, 2 * MIB, 1 << 20).await.iter().all(|&byte| byte == 0));
            assert!(read(&device, 3 * MIB, 512).await[..] == pattern(2, 4 << 20)[3 << 20..][..512]);
        } else {
            assert_eq!(device.discard(0, MIB).await.unwrap_err().kind, IoErrorKind::Unsupported);
        }
    });
}

#[test]
fn a_block_device_has_one_owner() {
    let Some(disk) = Loop::attach(MIB, &[]) else { return };
    let device = disk.open();
    let again = FileDevice::open(&disk.device, OpenOptions::default()).unwrap_err();
    assert_eq!((again.kind, again.operation), (IoErrorKind::Busy, IoOperation::Open));
    let link = disk.dir.path().join("link");
    std::os::unix::fs::symlink(&disk.device, &link).unwrap();
    let looking = FileDevice::open(&link, OpenOptions::EXAMINE).unwrap();
    assert_eq!(looking.identity(), device.identity());
    drop((device, looking));
    drop(disk.open());
}

#[test]
fn a_write_protected_disk_refuses_writes() {
    with_engines(async || {
        let Some(disk) = Loop::attach(MIB, &["--read-only"]) else { return };
        let refused = FileDevice::open(&disk.device, OpenOptions::default()).unwrap_err();
        assert!(matches!(refused.kind, IoErrorKind::ReadOnly | IoErrorKind::Permission), "{refused}");
        let options = OpenOptions { read_only: true, ..OpenOptions::default() };
        let device = FileDevice::open(&disk.device, options).unwrap();
        assert!(device.info().read_only);
        assert!(read(&device, 0, 4096).await.iter().all(|&byte| byte == 0));
        let error = device.write(0, pattern(0, 512), Durability::Cached).await.unwrap_err();
        assert_eq!(error.kind, IoErrorKind::ReadOnly);
    });
}

#[test]
fn a_disk_that_shrank_is_gone() {
    with_engines(async || {
        let Some(disk) = Loop::attach(8 * MIB, &[]) else { return };
        let device = disk.open();
        let image = std::fs::OpenOptions::new().write(true).open(disk.image()).unwrap();
        image.set_len(4 * MIB).unwrap();
        let resized = Command::new("losetup").arg("--set-capacity").arg(&disk.device).status().unwrap();
        assert!(resized.success());
        assert_eq!(read_error(&device, 6 * MIB, 4096).await, IoErrorKind::Gone);
        let error = device.write(6 * MIB, pattern(0, 4096), Durability::Cached).await.unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Gone, "{error}");
        assert_eq!(device.flush().await.unwrap_err().kind, IoErrorKind::Gone);
        assert_eq!(read_error(&device, 4 * MIB - 4096, 8192).await, IoErrorKind::Gone);
    });
}

#[test]
fn blocks_that_cannot_be_read_are_a_medium_error() {
    with_engines(async || {
        let Some(disk) = Loop::attach(8 * MIB, &[]) else { return };
        let device = disk.open();
        // The image lost its second half, but the loop device does not know.
        let image = std::fs::OpenOptions::new().write(true).open(disk.image()).unwrap();
        image.set_len(4 * MIB).unwrap();
        assert_eq!(read_error(&device, 6 * MIB, 4096).await, IoErrorKind::Medium);
        assert!(read(&device, 0, 4096).await.iter().all(|&byte| byte == 0));
    });
}

#[test]
fn a_full_file_system_is_no_space() {
    with_engines(async || {
        let Some(mount) = Mount::tmpfs(4 * MIB) else { return };
        let path = mount.path().join("disk");
        let error = FileDevice::create(&path, 16 * MIB, Allocation::Full).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::NoSpace, "{error}");
        assert!(!path.exists());

        let device = FileDevice::create(&path, 16 * MIB, Allocation::Sparse).unwrap();
        assert!(device.info().thin);
        device.provision(0, 2 * MIB).await.unwrap();
        let error = device.provision(8 * MIB, 4 * MIB).await.unwrap_err();
        assert_eq!((error.kind, error.operation), (IoErrorKind::NoSpace, IoOperation::Provision));
        let filler = std::fs::File::create(mount.path().join("filler")).unwrap();
        let _ = std::io::copy(&mut std::io::repeat(1), &mut &filler);
        // What was provisioned still takes writes; what was not does not.
        device.write(0, pattern(1, 2 << 20), Durability::Durable).await.unwrap();
        let error = device.write(8 * MIB, pattern(1, 65536), Durability::Cached).await.unwrap_err();
        assert_eq!((error.kind, error.errno), (IoErrorKind::NoSpace, Some(28)));
        assert!(read(&device, 0, 2 << 20).await[..] == pattern(1, 2 << 20)[..]);
        // Giving space back makes room again.
        device.discard(0, 2 * MIB).await.unwrap();
        device.provision(8 * MIB, 65536).await.unwrap();
        device.write(8 * MIB, pattern(1, 65536), Durability::Cached).await.unwrap();
    });
}

#[test]
fn what_is_not_allocated_yet_and_what_is_left_for_it_are_told() {
    with_engines(async || {
        let Some(mount) = Mount::tmpfs(8 * MIB) else { return };
        let sparse =
            |name: &str, size| FileDevice::create(mount.path().join(name), size, Allocation::Sparse).unwrap();
        let (one, other) = (sparse("one", 16 * MIB), sparse("other", 2 * MIB));
        let before = one.thin_space().await.unwrap().unwrap();
        assert_eq!((before.unallocated_bytes, before.free_bytes), (16 * MIB, 8 * MIB));
        let beside = other.thin_space().await.unwrap().unwrap();
        assert_eq!((beside.unallocated_bytes, beside.pool), (2 * MIB, before.pool), "they compete for it");
        one.provision(0, 3 * MIB).await.unwrap();
        let after = one.thin_space().await.unwrap().unwrap();
        assert_eq!((after.unallocated_bytes, after.free_bytes), (13 * MIB, 5 * MIB));
        let full = FileDevice::create(mount.path().join("full"), 2 * MIB, Allocation::Full).unwrap();
        assert_eq!(full.thin_space().await.unwrap(), None, "it has all that it may ask for");
        full.discard(0, MIB).await.unwrap();
        assert_eq!(full.thin_space().await.unwrap().map(|space| space.unallocated_bytes), Some(MIB));
        let Some(elsewhere) = Mount::tmpfs(8 * MIB) else { return };
        let away = FileDevice::create(elsewhere.path().join("away"), MIB, Allocation::Sparse).unwrap();
        assert_ne!(away.thin_space().await.unwrap().unwrap().pool, before.pool);
    });
}

#[test]
fn the_last_region_that_fits_is_provisioned_exactly() {
    with_engines(async || {
        let Some(mount) = Mount::tmpfs(MIB / 2) else { return };
        let device = FileDevice::create(mount.path().join("disk"), 16 * MIB, Allocation::Sparse).unwrap();
        // A whole region of 1 MiB does not fit, but this does.
        device.provision(MIB, 65536).await.unwrap();
        device.write(MIB, pattern(1, 65536), Durability::Durable).await.unwrap();
        device.provision(MIB, 65536).await.unwrap();
        assert_eq!(device.provision(0, MIB).await.unwrap_err().kind, IoErrorKind::NoSpace);
    });
}

/// ramfs has no direct I/O, cannot punch holes and cannot allocate: everything is done the plain way.
#[test]
fn a_file_system_that_can_do_nothing_special() {
    with_engines(async || {
        let Some(mount) = Mount::new("ramfs", "mode=700") else { return };
        let path = mount.path().join("disk");
        drop(FileDevice::create(&path, 4 * MIB, Allocation::Full).unwrap());
        let device = FileDevice::open(&path, OpenOptions::default()).unwrap();
        let info = device.info();
        assert!(!device.is_direct() && !info.discard && info.volatile_write_cache);
        assert_eq!((info.zeroing, info.logical_block_bytes), (Zeroing::Slow, 512));
        device.write(512, pattern(1, 3 << 20), Durability::Durable).await.unwrap();
        device.zero(1024, 2 * MIB + 512, Durability::Durable).await.unwrap();
        assert!(read(&device, 512, 512).await[..] == pattern(1, 512)[..]);
        assert!(read(&device, 1024, (2 << 20) + 512).await.iter().all(|&byte| byte == 0));
        assert!(
            read(&device, 2 * MIB + 1536, 512).await[..] == pattern(1, 3 << 20)[(2 << 20) + 1024..][..512]
        );
        assert_eq!(device.discard(0, MIB).await.unwrap_err().kind, IoErrorKind::Unsupported);
        drop(device);
        let sparse = mount.path().join("sparse");
        let device = FileDevice::create(&sparse, 4 * MIB, Allocation::Sparse).unwrap();
        assert!(device.info().thin);
        assert_eq!(device.provision(0, MIB).await.unwrap_err().kind, IoErrorKind::Unsupported);
    });
}
