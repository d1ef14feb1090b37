//! What is this disk, and what can it do? Asked of the file system, by ioctl, and of sysfs.
//!
//! Where the answer is not to be had, the safe one is assumed: a volatile cache, no discard, slow zeroing.

#![allow(unsafe_code)]

use std::fs::{File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use super::Alignment;
use crate::buffer::ALIGNMENT;
use crate::{Buffer, DeviceInfo, Zeroing};

/// What tells one disk of this machine from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceIdentity {
    /// A regular file: st_dev and st_ino.
    File {
        /// The file system.
        device: u64,
        /// The file in it.
        inode: u64,
    },
    /// A block device: st_rdev.
    Block {
        /// Major and minor number.
        device: u64,
    },
}

impl DeviceIdentity {
    /// The disk that a path leads to, without opening it. None if it is no regular file or block device.
    pub fn of(path: impl AsRef<Path>) -> io::Result<Option<Self>> {
        Ok(Self::from_metadata(&std::fs::metadata(path)?))
    }

    pub(super) fn from_metadata(metadata: &Metadata) -> Option<Self> {
        if metadata.is_file() {
            Some(Self::File { device: metadata.dev(), inode: metadata.ino() })
        } else if metadata.file_type().is_block_device() {
            Some(Self::Block { device: metadata.rdev() })
        } else {
            None
        }
    }
}

pub(super) struct Probed {
    pub(super) info: DeviceInfo,
    pub(super) identity: DeviceIdentity,
    /// [`Alignment::NONE`] although `direct` was asked for: direct I/O cannot be used.
    pub(super) alignment: Alignment,
}

pub(super) fn probe(file: &File, direct: bool, read_only: bool) -> io::Result<Probed> {
    let metadata = file.metadata()?;
    match DeviceIdentity::from_metadata(&metadata) {
        Some(identity @ DeviceIdentity::Block { device }) => {
            let (info, alignment) = probe_block_device(file, device, direct, read_only)?;
            Ok(Probed { info, identity, alignment })
        }
        Some(identity @ DeviceIdentity::File { .. }) => {
            let (info, alignment) = probe_file(file, &metadata, direct, read_only);
            Ok(Probed { info, identity, alignment })
        }
        None => Err(io::Error::from_raw_os_error(libc::ENOTBLK)),
    }
}

fn probe_file(file: &File, metadata: &Metadata, direct: bool, read_only: bool) -> (DeviceInfo, Alignment) {
    let alignment = if direct { file_alignment(file) } else { Alignment::NONE };
    let logical = alignment.granule_bytes.max(512) as u64;
    let size_bytes = metadata.len() - metadata.len() % logical;
    let punches = !read_only && can_punch(file, metadata.len());
    let info = DeviceInfo {
        size_bytes,
        logical_block_bytes: logical as u32,
        physical_block_bytes: metadata.blksize().clamp(logical, 1 << 20) as u32,
        optimal_write_bytes: 0,
        // Even on a disk without a cache, the file system's own metadata is written later.
        volatile_write_cache: true,
        discard: punches,
        discard_grain_bytes: 0,
        zeroing: if punches { Zeroing::Cheap } else { Zeroing::Slow },
        thin: metadata.blocks().saturating_mul(512) < size_bytes,
        read_only,
    };
    (info, alignment)
}

/// Beyond the end there is nothing to lose: only whether the call is known is learnt.
fn can_punch(file: &File, size_bytes: u64) -> bool {
    let beyond = size_bytes.next_multiple_of(ALIGNMENT as u64);
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    i64::try_from(beyond).is_ok_and(|beyond| fallocate(file, mode, beyond, ALIGNMENT as i64).is_ok())
}

fn file_alignment(file: &File) -> Alignment {
    let alignment = statx_alignment(file).or_else(|| tried_alignment(file)).unwrap_or(Alignment::NONE);
    let fits = |bytes: usize| bytes.is_power_of_two() && bytes <= ALIGNMENT;
    if fits(alignment.memory_bytes) && fits(alignment.granule_bytes) { alignment } else { Alignment::NONE }
}

/// STATX_DIOALIGN (Linux 6.1). Granule 0 there means that direct I/O does not work on this file.
fn statx_alignment(file: &File) -> Option<Alignment> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH asks about the open descriptor itself; the kernel writes
    // at most one statx.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    // SAFETY: all zeros is a valid statx, and so is what the kernel made of it.
    let answer = unsafe { answer.assume_init() };
    if result != 0 || answer.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    Some(Alignment {
        memory_bytes: (answer.stx_dio_mem_align as usize).max(1),
        granule_bytes: (answer.stx_dio_offset_align as usize).max(1),
    })
}

/// The smallest read that the file takes.
fn tried_alignment(file: &File) -> Option<Alignment> {
    let mut buffer = Buffer::zeroed(ALIGNMENT);
    let bytes = [512, ALIGNMENT].into_iter().find(|&len| file.read_at(&mut buffer[..len], 0).is_ok())?;
    Some(Alignment { memory_bytes: bytes, granule_bytes: bytes })
}

mod ioctl {
    nix::ioctl_read_bad!(read_only, 0x125e, libc::c_int); // BLKROGET
    nix::ioctl_read_bad!(logical_block, 0x1268, libc::c_int); // BLKSSZGET
    nix::ioctl_read_bad!(optimal_io, 0x1279, libc::c_uint); // BLKIOOPT
    nix::ioctl_read!(size_bytes, 0x12, 114, u64); // BLKGETSIZE64
    nix::ioctl_read_bad!(physical_block, 0x127b, libc::c_uint); // BLKPBSZGET
}

fn probe_block_device(
    file: &File,
    device: u64,
    direct: bool,
    read_only: bool,
) -> io::Result<(DeviceInfo, Alignment)> {
    let fd = file.as_raw_fd();
    let (mut logical, mut physical, mut optimal, mut write_protected) = (0, 0, 0, 0);
    // SAFETY: each of these ioctls writes one int, to which the reference points.
    unsafe {
        ioctl::logical_block(fd, &raw mut logical)?;
        ioctl::physical_block(fd, &raw mut physical)?;
        ioctl::optimal_io(fd, &raw mut optimal)?;
        ioctl::read_only(fd, &raw mut write_protected)?;
    }
    let logical = u32::try_from(logical).ok().filter(|bytes| bytes.is_power_of_two() && *bytes >= 512);
    let logical = logical.ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
    let alignment = block_alignment(file, logical, direct);
    let size = block_device_size(file)?;
    let queue = QueueLimits::read(Path::new("/sys"), device);
    let info = DeviceInfo {
        size_bytes: size - size % u64::from(logical),
        logical_block_bytes: logical,
        physical_block_bytes: physical.max(logical),
        optimal_write_bytes: optimal,
        // The page cache is a volatile cache too.
        volatile_write_cache: queue.volatile_write_cache || alignment.granule_bytes == 1,
        discard: queue.discard && queue.write_zeroes && !read_only,
        discard_grain_bytes: 0,
        zeroing: if queue.write_zeroes { Zeroing::Cheap } else { Zeroing::Slow },
        thin: false,
        read_only: read_only || write_protected != 0,
    };
    Ok((info, alignment))
}

/// How large it is now. Takes no lock of the device's, so a worker may ask while others zero ranges.
pub(super) fn current_size(file: &File, identity: DeviceIdentity) -> io::Result<u64> {
    match identity {
        DeviceIdentity::File { .. } => Ok(file.metadata()?.len()),
        DeviceIdentity::Block { .. } => block_device_size(file),
    }
}

fn block_device_size(file: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the ioctl writes one u64, to which the pointer points.
    unsafe { ioctl::size_bytes(file.as_raw_fd(), &raw mut size)? };
    Ok(size)
}

fn block_alignment(file: &File, logical: u32, direct: bool) -> Alignment {
    let granule_bytes = logical as usize;
    if !direct || granule_bytes > ALIGNMENT {
        return Alignment::NONE;
    }
    let memory_bytes = statx_alignment(file)
        .map(|alignment| alignment.memory_bytes)
        .filter(|bytes| bytes.is_power_of_two() && *bytes <= ALIGNMENT)
        .unwrap_or(granule_bytes);
    Alignment { memory_bytes, granule_bytes }
}

/// What the block layer says in `/sys/dev/block/MAJOR:MINOR/queue` (Documentation/ABI/stable/sysfs-block).
#[derive(Debug, PartialEq, Eq)]
struct QueueLimits {
    volatile_write_cache: bool,
    discard: bool,
    write_zeroes: bool,
}

impl QueueLimits {
    fn read(sys: &Path, device: u64) -> Self {
        let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let mut directory: PathBuf = sys.join("dev/block").join(device);
        if directory.join("partition").exists()
            && let Ok(real) = directory.canonicalize()
            && let Some(disk) = real.parent()
        {
            directory = disk.to_owned();
        }
        let attribute = |name: &str| std::fs::read_to_string(directory.join("queue").join(name)).ok();
        let positive =
            |name| attribute(name).and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) > 0;
        Self {
            volatile_write_cache: attribute("write_cache").is_none_or(|text| text.trim() != "write through"),
            discard: positive("discard_max_bytes"),
            write_zeroes: positive("write_zeroes_max_bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_partition_has_the_queue_of_its_disk() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/nvme0n1");
        write(&disk.join("queue/write_cache"), "write through\n");
        write(&disk.join("queue/discard_max_bytes"), "2199023255040\n");
        write(&disk.join("queue/write_zeroes_max_bytes"), "0\n");
        write(&disk.join("nvme0n1p1/partition"), "1\n");
        std::fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        std::os::unix::fs::symlink(disk.join("nvme0n1p1"), sys.path().join("dev/block/259:1")).unwrap();
        let limits = QueueLimits::read(sys.path(), nix::sys::stat::makedev(259, 1));
        assert_eq!(limits, QueueLimits { volatile_write_cache: false, discard: true, write_zeroes: false });
    }

    #[test]
    fn what_is_not_known_is_assumed_the_safe_way() {
        let sys = tempfile::tempdir().unwrap();
        let limits = QueueLimits::read(sys.path(), nix::sys::stat::makedev(8, 0));
        assert_eq!(limits, QueueLimits { volatile_write_cache: true, discard: false, write_zeroes: false });
    }
}
