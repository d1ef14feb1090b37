//! Which disks are meant by these paths? Identity by what the system says, not by name; opened alone; made on demand.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_io::file::{Allocation, DeviceIdentity, FileDevice, OpenOptions};
use block_io::{IoError, IoErrorKind, IoOperation};
use raid_core::array::MemberDevice;

use crate::error::Failure;
use crate::limits::{BUSY_ATTEMPTS, BUSY_PAUSE};

/// A file member that does not exist yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewFile {
    /// Its size.
    pub(crate) size_bytes: u64,
    /// All its space at once, or as it is written.
    pub(crate) allocation: Allocation,
}

/// A path, and what stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Disk(DeviceIdentity),
    /// Nothing yet; the directory's real path and the name in it.
    Missing(PathBuf),
}

/// Disks in use by the arrays that run here.
#[derive(Clone, Debug, Default)]
pub(crate) struct InUse(pub(crate) Vec<(DeviceIdentity, String)>);

impl InUse {
    /// The array that has this disk.
    pub(crate) fn array_of(&self, identity: DeviceIdentity) -> Option<&str> {
        self.0.iter().find(|(used, _)| *used == identity).map(|(_, array)| array.as_str())
    }
}

/// Which disk is behind a path, by whatever name or link.
pub(crate) fn identity(path: &Path) -> io::Result<DeviceIdentity> {
    std::fs::metadata(path).map(|metadata| identity_of(&metadata))
}

fn identity_of(metadata: &Metadata) -> DeviceIdentity {
    match metadata.file_type().is_block_device() {
        true => DeviceIdentity::Block { device: metadata.rdev() },
        false => DeviceIdentity::File { device: metadata.dev(), inode: metadata.ino() },
    }
}

/// Refuse relative paths, the same disk twice, disks of running arrays, and missing ones unless they are to be made.
pub(crate) fn check(paths: &[PathBuf], in_use: &InUse, may_be_made: bool) -> Result<(), Failure> {
    let mut seen: Vec<(Place, &PathBuf)> = Vec::new();
    for path in paths {
        if !path.is_absolute() {
            return Err(Failure::RelativePath(path.clone()));
        }
        let place = place(path)?;
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == place) {
            return Err(Failure::SameDisk { first: (*first).clone(), second: path.clone() });
        }
        match &place {
            Place::Disk(identity) => {
                if let Some(array) = in_use.array_of(*identity) {
                    return Err(Failure::DiskOfArray { disk: path.clone(), array: array.to_owned() });
                }
            }
            Place::Missing(_) if !may_be_made => return Err(Failure::NoDisk(path.clone())),
            Place::Missing(_) => {}
        }
        seen.push((place, path));
    }
    Ok(())
}

fn place(path: &Path) -> Result<Place, Failure> {
    match identity(path) {
        Ok(identity) => Ok(Place::Disk(identity)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            let name = path.file_name().unwrap_or_default();
            let real = directory.canonicalize().map_err(|error| open_error(path, &error))?;
            Ok(Place::Missing(real.join(name)))
        }
        Err(error) => Err(open_error(path, &error)),
    }
}

/// The error for a path at which there is nothing and nothing is to be made.
pub(crate) fn missing(path: &Path) -> Failure {
    open_error(path, &io::Error::from_raw_os_error(nix::libc::ENOENT))
}

fn open_error(path: &Path, error: &io::Error) -> Failure {
    let name: Arc<str> = path.to_string_lossy().into();
    match error.raw_os_error() {
        Some(errno) => IoError::from_errno(errno, IoOperation::Open, &name, 0, 0),
        None => IoError::new(IoErrorKind::Other, IoOperation::Open, &name, 0, 0),
    }
    .into()
}

/// Opened disks, and the files among them that were made for it.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// In the order of the paths.
    pub(crate) members: Vec<MemberDevice>,
    made: Vec<PathBuf>,
}

impl Opened {
    /// Remove the files that were made: what they were made for failed.
    pub(crate) fn undo(self) {
        drop(self.members);
        for path in self.made {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!("cannot remove the unfinished {}: {error}", path.display());
            }
        }
    }
}

/// Open every path for an array, making files where there is nothing and `new_file` says so. If one fails, the files
/// made are removed again.
pub(crate) async fn open(paths: &[PathBuf], new_file: Option<NewFile>) -> Result<Opened, Failure> {
    if let Some(new_file) = new_file {
        check_space(paths, new_file)?;
    }
    let mut opened = Opened::default();
    // What exists is opened first: if that fails no file need be made and removed.
    let (there, missing): (Vec<_>, Vec<_>) = paths.iter().partition(|path| path.exists());
    for path in there.into_iter().chain(missing) {
        match open_one(path.clone(), new_file).await {
            Ok((member, made)) => {
                opened.members.push(member);
                opened.made.extend(made.then(|| path.clone()));
            }
            Err(error) => {
                opened.undo();
                return Err(error.into());
            }
        }
    }
    let position = |member: &MemberDevice| paths.iter().position(|path| *path == member.path);
    opened.members.sort_by_key(position);
    Ok(opened)
}

/// Opening probes and may allocate, which blocks: not on a worker.
async fn open_one(path: PathBuf, new_file: Option<NewFile>) -> Result<(MemberDevice, bool), IoError> {
    let name: Arc<str> = path.to_string_lossy().into();
    let work = move || {
        let (device, made) = match open_patiently(&path) {
            Err(error) if error.kind == IoErrorKind::NotFound && new_file.is_some() => {
                let NewFile { size_bytes, allocation } =
                    new_file.unwrap_or(NewFile { size_bytes: 0, allocation: Allocation::Full });
                (FileDevice::create(&path, size_bytes, allocation)?, true)
            }
            result => (result?, false),
        };
        Ok((MemberDevice { path, device: Arc::new(device) }, made))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(IoError::new(IoErrorKind::Other, IoOperation::Open, &name, 0, 0)),
    }
}

/// udev looks at a disk whenever a writer has closed it, and an array that was just stopped lets go of its disks a
/// moment later: being busy for an instant means nothing.
fn open_patiently(path: &Path) -> Result<FileDevice, IoError> {
    let mut attempts = 0;
    loop {
        match FileDevice::open(path, OpenOptions::default()) {
            Err(error) if error.kind == IoErrorKind::Busy && attempts < BUSY_ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            result => return result,
        }
    }
}

/// Say how much is missing before anything is made. Only an early word: allocation itself has the last.
fn check_space(paths: &[PathBuf], new_file: NewFile) -> Result<(), Failure> {
    let each_bytes = new_file.size_bytes;
    if each_bytes == 0 || !each_bytes.is_multiple_of(4096) {
        return Err(Failure::CreateSize(each_bytes));
    }
    if new_file.allocation == Allocation::Sparse {
        return Ok(());
    }
    let mut needed: Vec<(u64, PathBuf, u64)> = Vec::new();
    for path in paths.iter().filter(|path| !path.exists()) {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let device = std::fs::metadata(directory).map_err(|error| open_error(directory, &error))?.dev();
        match needed.iter_mut().find(|(other, ..)| *other == device) {
            Some((_, _, count)) => *count += 1,
            None => needed.push((device, directory.to_owned(), 1)),
        }
    }
    for (_, directory, count) in needed {
        let free_bytes = free_space(&directory).unwrap_or(u64::MAX);
        if count.checked_mul(each_bytes).is_none_or(|bytes| bytes > free_bytes) {
            return Err(Failure::NoSpace { count, each_bytes, free_bytes, directory });
        }
    }
    Ok(())
}

/// Bytes that a user may still take on this file system.
pub(crate) fn free_space(directory: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(directory).ok()?;
    stat.blocks_available().checked_mul(stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use labsan_api::ErrorCode;
    use std::os::unix::fs::symlink;

    fn code(result: Result<(), Failure>) -> ErrorCode {
        result.unwrap_err().code()
    }

    #[test]
    fn the_same_disk_is_known_by_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let (a, link, hard) = (dir.path().join("a"), dir.path().join("link"), dir.path().join("hard"));
        std::fs::write(&a, b"x").unwrap();
        symlink(&a, &link).unwrap();
        std::fs::hard_link(&a, &hard).unwrap();
        let free = InUse::default();
        for other in [&a, &link, &hard, &dir.path().join("./a")] {
            let error = check(&[a.clone(), other.clone()], &free, false).unwrap_err();
            assert!(matches!(error, Failure::SameDisk { .. }), "{error}");
        }
        let used = InUse(vec![(identity(&a).unwrap(), "demo".into())]);
        assert_eq!(code(check(&[link], &used, false)), ErrorCode::Taken);
    }

    #[test]
    fn missing_paths_are_errors_unless_they_are_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("m");
        let free = InUse::default();
        assert_eq!(code(check(std::slice::from_ref(&missing), &free, false)), ErrorCode::NotFound);
        check(std::slice::from_ref(&missing), &free, true).unwrap();
        symlink(dir.path(), dir.path().join("here")).unwrap();
        let twice = [missing, dir.path().join("here/m")];
        assert!(matches!(check(&twice, &free, true), Err(Failure::SameDisk { .. })));
        assert_eq!(code(check(&[dir.path().join("no/such/m")], &free, true)), ErrorCode::NotFound);
        assert_eq!(code(check(&["relative".into()], &free, true)), ErrorCode::Invalid);
    }

    #[tokio::test]
    async fn files_made_for_nothing_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("a"), dir.path().join("b")];
        let new_file = NewFile { size_bytes: 1 << 20, allocation: Allocation::Full };
        let opened = open(&paths, Some(new_file)).await.unwrap();
        assert_eq!(opened.members[1].path, paths[1]);
        opened.undo();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let with_directory = [paths[0].clone(), dir.path().to_owned()];
        open(&with_directory, Some(new_file)).await.unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn files_that_cannot_fit_are_refused_before_any_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let new_file = NewFile { size_bytes: 1 << 60, allocation: Allocation::Full };
        let error = open(&[dir.path().join("a")], Some(new_file)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NoSpace);
        let odd = NewFile { size_bytes: 1000, ..new_file };
        assert!(matches!(open(&[dir.path().join("a")], Some(odd)).await, Err(Failure::CreateSize(1000))));
    }
}
