//! What can go wrong with one I/O: a small kind to match on, and the context a person needs.

use std::fmt;
use std::sync::Arc;

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOperation {
    /// Opening or probing the device.
    Open,
    /// [`BlockDevice::read`](crate::BlockDevice::read).
    Read,
    /// [`BlockDevice::write`](crate::BlockDevice::write).
    Write,
    /// [`BlockDevice::flush`](crate::BlockDevice::flush).
    Flush,
    /// [`BlockDevice::zero`](crate::BlockDevice::zero).
    Zero,
    /// [`BlockDevice::discard`](crate::BlockDevice::discard).
    Discard,
    /// [`BlockDevice::provision`](crate::BlockDevice::provision).
    Provision,
}

impl fmt::Display for IoOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Zero => "zero",
            Self::Discard => "discard",
            Self::Provision => "allocate",
        })
    }
}

/// What kind of failure it was. Callers match on this and on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IoErrorKind {
    /// The range lies wholly or partly beyond the end of the device.
    #[error("the range is beyond the end of the device")]
    OutOfRange,
    /// Offset or length is no multiple of the logical block size.
    #[error("offset or length is not a multiple of the logical block size")]
    Misaligned,
    /// The medium could not give back, or take, these blocks (EIO, EILSEQ, a known bad block).
    #[error("the medium has an unrecoverable error there")]
    Medium,
    /// The backing file system is full; nothing of the range is known to be written (ENOSPC, EDQUOT).
    #[error("no space is left on the backing store")]
    NoSpace,
    /// The device went away (ENODEV, ENXIO, ESHUTDOWN, or it shrank).
    #[error("the device is gone")]
    Gone,
    /// The device, or the way it was opened, does not permit writes.
    #[error("the device is read-only")]
    ReadOnly,
    /// The device cannot do this at all (for instance cheap zeroing).
    #[error("the device does not support this operation")]
    Unsupported,
    /// More members are lost than the array tolerates: it no longer takes writes.
    #[error("the array has lost more members than it tolerates")]
    ArrayFailed,
    /// The device was stopped while the operation waited.
    #[error("the device has been stopped")]
    Stopped,
    /// No permission to open it.
    #[error("permission denied")]
    Permission,
    /// There is nothing at the path.
    #[error("no such file or device")]
    NotFound,
    /// Somebody else has it open exclusively.
    #[error("the device is in use")]
    Busy,
    /// Anything else; the errno tells.
    #[error("input/output error")]
    Other,
}

impl IoErrorKind {
    /// What an errno of a file or block device means. The block layer's statuses are in
    /// `block/blk-core.c`, `blk_errors`.
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::EIO | libc::EILSEQ | libc::ENODATA | libc::EREMOTEIO | libc::EBADMSG | libc::EUCLEAN => {
                Self::Medium
            }
            libc::ENOSPC | libc::EDQUOT => Self::NoSpace,
            libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::ENOMEDIUM | libc::ENOLINK | libc::ESTALE => {
                Self::Gone
            }
            libc::EROFS | libc::EBADF => Self::ReadOnly,
            libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EISDIR | libc::ENOTBLK => {
                Self::Unsupported
            }
            libc::EACCES | libc::EPERM => Self::Permission,
            libc::ENOENT | libc::ENOTDIR => Self::NotFound,
            libc::EBUSY | libc::ETXTBSY => Self::Busy,
            _ => Self::Other,
        }
    }
}

/// One failed I/O with its context. Cheap to clone: one failure may be told to many waiters.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {operation} {}{device}: {kind}{}", range_text(*operation, *offset, *length), errno_text(*errno))]
pub struct IoError {
    /// What callers match on.
    pub kind: IoErrorKind,
    /// What was attempted.
    pub operation: IoOperation,
    /// The device's name as the user knows it.
    pub device: Arc<str>,
    /// Byte offset of the attempt.
    pub offset: u64,
    /// Bytes attempted.
    pub length: u64,
    /// The operating system's error number, where there was one.
    pub errno: Option<i32>,
}

fn range_text(operation: IoOperation, offset: u64, length: u64) -> String {
    match operation {
        IoOperation::Open | IoOperation::Flush => String::new(),
        _ => format!("{length} bytes at {offset} of "),
    }
}

fn errno_text(errno: Option<i32>) -> String {
    errno.map(|n| format!(" ({})", std::io::Error::from_raw_os_error(n))).unwrap_or_default()
}

impl IoError {
    /// An error without an errno.
    pub fn new(
        kind: IoErrorKind,
        operation: IoOperation,
        device: &Arc<str>,
        offset: u64,
        length: u64,
    ) -> Self {
        Self { kind, operation, device: Arc::clone(device), offset, length, errno: None }
    }

    /// An error of the operating system; its kind follows from its number.
    pub fn from_errno(
        errno: i32,
        operation: IoOperation,
        device: &Arc<str>,
        offset: u64,
        length: u64,
    ) -> Self {
        let kind = IoErrorKind::from_errno(errno);
        Self { errno: Some(errno), ..Self::new(kind, operation, device, offset, length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_where_and_why() {
        let device: Arc<str> = "/dev/sdx".into();
        let read = IoError::from_errno(libc::EIO, IoOperation::Read, &device, 4096, 512);
        assert_eq!(
            read.to_string(),
            "cannot read 512 bytes at 4096 of /dev/sdx: the medium has an unrecoverable error there \
             (Input/output error (os error 5))"
        );
        let open = IoError::new(IoErrorKind::Busy, IoOperation::Open, &device, 0, 0);
        assert_eq!(open.to_string(), "cannot open /dev/sdx: the device is in use");
    }

    #[test]
    fn the_numbers_of_the_block_layer_have_kinds() {
        for (errno, kind) in [
            (libc::EIO, IoErrorKind::Medium),
            (libc::ENODATA, IoErrorKind::Medium),
            (libc::EILSEQ, IoErrorKind::Medium),
            (libc::ENOSPC, IoErrorKind::NoSpace),
            (libc::EDQUOT, IoErrorKind::NoSpace),
            (libc::ENXIO, IoErrorKind::Gone),
            (libc::ENODEV, IoErrorKind::Gone),
            (libc::EROFS, IoErrorKind::ReadOnly),
            (libc::EOPNOTSUPP, IoErrorKind::Unsupported),
            (libc::EACCES, IoErrorKind::Permission),
            (libc::ENOENT, IoErrorKind::NotFound),
            (libc::EBUSY, IoErrorKind::Busy),
            (libc::EINVAL, IoErrorKind::Other),
            (0, IoErrorKind::Other),
        ] {
            assert_eq!(IoErrorKind::from_errno(errno), kind, "errno {errno}");
        }
    }
}
