//! How is a disk opened or made? Alone, directly, and never at the cost of what is there already.

#![allow(unsafe_code)]

use std::fs::{File, FileType, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl, posix_fallocate};
use nix::sys::statvfs::fstatvfs;

use super::probe::{self, DeviceIdentity, Probed};
use super::space::{Backing, Space};
use super::{Alignment, FileDevice};
use crate::{IoError, IoErrorKind, IoOperation};

/// The unit in which files are made: what every kind of disk has.
const SIZE_UNIT_BYTES: u64 = 4096;

/// How to open. The default: for reading and writing, locked, with direct I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Writes will be refused.
    pub read_only: bool,
    /// Do not lock, and do not mind who else has it open. For looking only.
    pub shared: bool,
    /// Go through the page cache.
    pub buffered: bool,
}

impl OpenOptions {
    /// For looking at a disk that somebody else may be using.
    pub const EXAMINE: Self = Self { read_only: true, shared: true, buffered: false };
}

/// Whether a new file gets all its blocks at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// All blocks now: writes can never end in `NoSpace`.
    Full,
    /// Blocks when they are first written.
    Sparse,
}

impl FileDevice {
    /// Open a regular file or block device and find out what it can do. Blocks briefly.
    ///
    /// Errors: `NotFound`, `Permission`, `ReadOnly`, `Busy` if anybody else has it locked (flock on files,
    /// O_EXCL on block devices), `Unsupported` if it is a directory or anything else that is not a disk.
    pub fn open(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, IoError> {
        let path = path.as_ref();
        let name = name_of(path);
        open(path, &name, options).map_err(|error| open_error(&error, &name))
    }

    /// Make a new file of `size_bytes` (a multiple of 4096) and open it. A path that exists is refused
    /// (EEXIST). If there is not enough space the file is removed again: `NoSpace`.
    pub fn create(path: impl AsRef<Path>, size_bytes: u64, allocation: Allocation) -> Result<Self, IoError> {
        let path = path.as_ref();
        let name = name_of(path);
        if size_bytes == 0 || !size_bytes.is_multiple_of(SIZE_UNIT_BYTES) {
            return Err(IoError::new(IoErrorKind::Misaligned, IoOperation::Open, &name, 0, size_bytes));
        }
        create(path, &name, size_bytes, allocation).map_err(|error| open_error(&error, &name))
    }

    /// Open the file or block device if the path exists, as it is, whatever its size; else make a new file.
    pub fn open_or_create(
        path: impl AsRef<Path>,
        size_bytes: u64,
        allocation: Allocation,
    ) -> Result<Self, IoError> {
        match Self::open(&path, OpenOptions::default()) {
            Err(error) if error.kind == IoErrorKind::NotFound => Self::create(path, size_bytes, allocation),
            result => result,
        }
    }
}

fn name_of(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

fn open_error(error: &io::Error, name: &Arc<str>) -> IoError {
    match error.raw_os_error() {
        Some(errno) => IoError::from_errno(errno, IoOperation::Open, name, 0, 0),
        None => IoError::new(IoErrorKind::Other, IoOperation::Open, name, 0, 0),
    }
}

fn errno(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn open(path: &Path, name: &Arc<str>, options: OpenOptions) -> io::Result<FileDevice> {
    // Looked at before it is opened: opening a FIFO would wait, opening a tape would rewind it.
    let kind = require_disk(&std::fs::metadata(path)?)?;
    let exclusive = kind.is_block_device() && !options.shared;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .custom_flags(if exclusive { libc::O_EXCL } else { 0 })
        .open(path)?;
    if require_disk(&file.metadata()?)? != kind {
        return Err(errno(libc::ESTALE));
    }
    if kind.is_file() && !options.shared {
        lock(&file)?;
    }
    assemble(file, name, options)
}

fn create(path: &Path, name: &Arc<str>, size_bytes: u64, allocation: Allocation) -> io::Result<FileDevice> {
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    let made = lock(&file)
        .and_then(|()| allocate(&file, size_bytes, allocation))
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_directory_of(path))
        .and_then(|()| assemble(file, name, OpenOptions::default()));
    if made.is_err() {
        // Nobody else can have put anything into it: it was ours and locked since it was made.
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!("cannot remove the unfinished {name}: {error}");
        }
    }
    made
}

fn require_disk(metadata: &Metadata) -> io::Result<FileType> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        Ok(kind)
    } else if kind.is_dir() {
        Err(errno(libc::EISDIR))
    } else {
        Err(errno(libc::ENOTBLK))
    }
}

fn lock(file: &File) -> io::Result<()> {
    // SAFETY: a system call on a descriptor that is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EWOULDBLOCK) => Err(errno(libc::EBUSY)),
        _ => Err(error),
    }
}

fn allocate(file: &File, size_bytes: u64, allocation: Allocation) -> io::Result<()> {
    let size = i64::try_from(size_bytes).map_err(|_| errno(libc::EFBIG))?;
    if allocation == Allocation::Full {
        // Asked first: finding out by filling the file system would make its other users fail meanwhile.
        if size_bytes > available_bytes(file)? {
            return Err(errno(libc::ENOSPC));
        }
        loop {
            match posix_fallocate(file, 0, size) {
                Err(nix::errno::Errno::EINTR) => {}
                result => break result?,
            }
        }
    }
    file.set_len(size_bytes)
}

/// What an ordinary user may still allocate where the file lies.
pub(super) fn available_bytes(file: &File) -> io::Result<u64> {
    let space = fstatvfs(file)?;
    // Memory file systems without a limit report no blocks at all.
    if space.blocks() == 0 {
        return Ok(u64::MAX);
    }
    Ok(space.blocks_available().saturating_mul(space.fragment_size()))
}

/// A new name survives a power cut once its directory is synced.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn assemble(file: File, name: &Arc<str>, options: OpenOptions) -> io::Result<FileDevice> {
    let direct = !options.buffered && set_direct(&file, true, name);
    let mut probed = probe::probe(&file, direct, options.read_only)?;
    if direct && probed.alignment.granule_bytes == 1 {
        set_direct(&file, false, name);
        tracing::warn!("{name}: direct I/O has demands we do not meet; going through the page cache");
        probed = probe::probe(&file, false, options.read_only)?;
    }
    let Probed { info, identity, alignment } = probed;
    if info.read_only && !options.read_only {
        return Err(errno(libc::EROFS));
    }
    let file = Arc::new(file);
    let backing = match identity {
        DeviceIdentity::Block { .. } => Backing::Device,
        DeviceIdentity::File { .. } if info.thin => Backing::Sparse,
        DeviceIdentity::File { .. } => Backing::Full,
    };
    let space = Arc::new(Space::new(Arc::clone(&file), info.size_bytes, backing));
    Ok(FileDevice { name: Arc::clone(name), file, info, identity, alignment, space })
}

/// Switch O_DIRECT; false if the file system will not have it.
fn set_direct(file: &File, on: bool, name: &Arc<str>) -> bool {
    let set = fcntl(file, FcntlArg::F_GETFL).and_then(|flags| {
        let mut flags = OFlag::from_bits_retain(flags);
        flags.set(OFlag::O_DIRECT, on);
        fcntl(file, FcntlArg::F_SETFL(flags))
    });
    if let Err(error) = set {
        tracing::warn!("{name}: no direct I/O here ({error}); going through the page cache");
    }
    set.is_ok()
}

impl Alignment {
    /// Through the page cache everything is allowed.
    pub(super) const NONE: Self = Self { memory_bytes: 1, granule_bytes: 1 };
}
