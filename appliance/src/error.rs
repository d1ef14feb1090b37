//! Why was a request not carried out? One type for everything that can go wrong behind the API, and what it means to
//! the person who asked: a kind, a sentence, what to type next.

use std::path::PathBuf;

use block_io::runtime::RuntimeError;
use block_io::{IoError, IoErrorKind};
use labsan_api::{ErrorBody, ErrorCode, NameError, VolumePath};
use raid_core::array::{
    AssembleError, CreateError, DocumentError, JournalError, MemberError, StopError, VolumeError,
};
use raid_core::geometry::GeometryError;

use crate::san::document::DocumentError as SanDocumentError;
use crate::san::edit::SanError;
use crate::san::records::NoRoom;
use crate::state_file::StateFileError;
use crate::targets::TargetsError;

/// A request that was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The SAN's configuration cannot be changed so.
    #[error(transparent)]
    San(#[from] SanError),
    /// The live targets could not follow.
    #[error(transparent)]
    Targets(#[from] TargetsError),
    /// A copy of the SAN's configuration.
    #[error(transparent)]
    SanDocument(#[from] SanDocumentError),
    /// The host's copy.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
    /// An impossible array.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The array could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The array could not be started.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// Its members could not be changed.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// It did not stop cleanly.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A volume could not be made or changed.
    #[error("{volume}: {source}")]
    Volume {
        /// Which.
        volume: VolumePath,
        /// Why.
        source: VolumeError,
    },
    /// The configuration could not be written to an array.
    #[error("the configuration could not be written to array {array}: {source}; nothing was changed")]
    Replica {
        /// Which.
        array: String,
        /// Why.
        source: DocumentError,
    },
    /// A disk failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The workers are gone.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// No such level.
    #[error("there is no RAID level {0}: use 0, 1, 5, 6 or 10")]
    Level(u32),
    /// No such array.
    #[error("there is no running array {0}")]
    NoArray(String),
    /// It failed, or is being stopped.
    #[error("array {0} takes no writes")]
    NotWritable(String),
    /// A volume's record that was not written, and may be there all the same.
    #[error("{0}; whether it was written is not known")]
    InDoubt(Box<Self>),
    /// No such volume.
    #[error("there is no volume {0}")]
    NoVolume(VolumePath),
    /// No such session.
    #[error("there is no session {0}")]
    NoSession(String),
    /// Somebody still used it when it was deleted.
    #[error("volume {0} is no more")]
    VolumeGone(uuid::Uuid),
    /// Not a reservation key.
    #[error("{0:?} is no reservation key: give up to 16 hexadecimal digits, not all 0")]
    BadKey(String),
    /// Nobody is registered with it.
    #[error("nobody is registered with key {key} at {volume}")]
    NoKey {
        /// The volume.
        volume: VolumePath,
        /// The key.
        key: String,
    },
    /// Initiators have registered too much.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// What was kept makes no sense.
    #[error("{volume}: {why}")]
    Unreadable {
        /// The volume.
        volume: VolumePath,
        /// What is wrong with it.
        why: String,
    },
    /// The disks did not take it.
    #[error("the reservations of {0} could not be written; nothing was changed; labsand's log says why")]
    NotKept(VolumePath),
    /// One disk under two names.
    #[error("{} and {} are the same disk", first.display(), second.display())]
    SameDisk {
        /// One name.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A disk of a running array.
    #[error("{} is part of array {array}, which is running", disk.display())]
    DiskOfArray {
        /// The disk.
        disk: PathBuf,
        /// The array.
        array: String,
    },
    /// A disk that its running array does without.
    #[error("{} is an old disk of array {array}, which is running without it", disk.display())]
    OldDisk {
        /// The disk.
        disk: PathBuf,
        /// The array.
        array: String,
    },
    /// A path that would have to be made.
    #[error("{}: there is no such disk or file", .0.display())]
    NoDisk(PathBuf),
    /// A relative path reached the daemon, whose working directory is not the user's.
    #[error("{}: the daemon needs an absolute path", .0.display())]
    RelativePath(PathBuf),
    /// A spare for a level that cannot use one.
    #[error("RAID 0 cannot use a spare: it has nothing to rebuild from")]
    UselessSpare,
    /// A size that no member file can have.
    #[error("members cannot be made with {0} bytes: use a multiple of 4 KiB")]
    CreateSize(u64),
    /// Member files that do not fit.
    #[error(
        "no space: {} files of {each_bytes} bytes need more than the {free_bytes} bytes free in {}", count, directory.display()
    )]
    NoSpace {
        /// How many.
        count: u64,
        /// How large each.
        each_bytes: u64,
        /// What is there.
        free_bytes: u64,
        /// Where.
        directory: PathBuf,
    },
    /// The name is another array's.
    #[error("there is an array {0} already, with other disks or another shape")]
    ArrayTaken(String),
    /// It cannot be deleted yet.
    #[error("array {array} still has {count} volume(s), {first} among them")]
    HasVolumes {
        /// The array.
        array: String,
        /// How many.
        count: usize,
        /// One of them.
        first: VolumePath,
    },
    /// It cannot be deleted yet.
    #[error("volume {volume} is LUN {lun} of {target}{}", option(" for ", initiator.as_deref()))]
    IsMapped {
        /// The volume.
        volume: VolumePath,
        /// One target.
        target: String,
        /// Whose own LUN it is there.
        initiator: Option<String>,
        /// Its number there.
        lun: u16,
    },
    /// Nothing is free.
    #[error("array {0} has no free space left")]
    Full(String),
    /// Disks of several arrays were given as one.
    #[error("these disks are of different arrays: {0}")]
    MixedArrays(String),
    /// None of the disks given is a member.
    #[error("no array can be read from {0}")]
    NoMembers(String),
    /// A body or query that makes no sense.
    #[error("the request makes no sense: {0}")]
    Request(String),
    /// labsand is on its way out.
    #[error("labsand is stopping")]
    Stopping,
}

fn option(before: &str, value: Option<&str>) -> String {
    value.map_or_else(String::new, |value| format!("{before}{value}"))
}

impl Failure {
    /// What kind of no it is.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Name(_) | Self::Geometry(_) | Self::Level(_) | Self::UselessSpare | Self::CreateSize(_) => {
                ErrorCode::Invalid
            }
            Self::SameDisk { .. } | Self::RelativePath(_) | Self::MixedArrays(_) => ErrorCode::Invalid,
            Self::San(error) => error.code(),
            Self::Targets(error) => error.code(),
            Self::SanDocument(_) | Self::StateFile(_) => ErrorCode::Io,
            Self::Create(error) => create_code(error),
            Self::Assemble(error) => assemble_code(error),
            Self::Member(error) => member_code(error),
            Self::Stop(StopError::Already { .. }) => ErrorCode::State,
            Self::Stop(StopError::Unclean { .. }) => ErrorCode::Io,
            Self::Volume { source, .. } => volume_code(source),
            Self::Replica { source, .. } => document_code(source),
            Self::Io(error) => io_code(error),
            Self::Runtime(_) | Self::Stopping | Self::NotWritable(_) => ErrorCode::State,
            Self::NoArray(_) | Self::NoVolume(_) | Self::NoSession(_) | Self::NoDisk(_) => {
                ErrorCode::NotFound
            }
            Self::DiskOfArray { .. } | Self::OldDisk { .. } => ErrorCode::Taken,
            Self::ArrayTaken(_) => ErrorCode::Different,
            Self::NoSpace { .. } | Self::Full(_) => ErrorCode::NoSpace,
            Self::HasVolumes { .. } | Self::IsMapped { .. } => ErrorCode::InUse,
            Self::NoMembers(_) | Self::NoKey { .. } | Self::VolumeGone(_) => ErrorCode::NotFound,
            Self::NotKept(_) | Self::InDoubt(_) => ErrorCode::Io,
            Self::NoRoom(_) => ErrorCode::NoSpace,
            Self::Unreadable { .. } => ErrorCode::State,
            Self::Request(_) | Self::BadKey(_) => ErrorCode::Invalid,
        }
    }

    /// What to type next.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoArray(_) => "see which there are: raidctl array list".into(),
            Self::NotWritable(array) => format!("see why: raidctl array show {array}"),
            Self::NoVolume(_) => "see which there are: raidctl volume list".into(),
            Self::Unreadable { volume, .. } => {
                format!("clear all of it, and with that let everybody write: raidctl pr purge {volume} --all")
            }
            Self::NoKey { volume, .. } => format!("see which there are: raidctl pr list {volume}"),
            Self::NoSession(_) => "see which there are: raidctl session list".into(),
            Self::San(error) => return error.hint(),
            Self::NoDisk(_) => "to make files there, say how large: --create-size SIZE".into(),
            Self::DiskOfArray { array, .. } => format!("see it: raidctl array show {array}"),
            Self::OldDisk { disk, array } => {
                format!("give it back, to be rebuilt: raidctl array add {array} {}", disk.display())
            }
            Self::ArrayTaken(name) => format!("use another name, or see it: raidctl array show {name}"),
            Self::HasVolumes { first, .. } => format!("delete them first: raidctl volume delete {first}"),
            Self::IsMapped { lun, target, initiator, .. } => {
                let whose = option(" --initiator ", initiator.as_deref());
                format!("unmap it first: raidctl lun unmap {target} {lun}{whose}")
            }
            Self::NoSpace { .. } => "use smaller members, or --sparse and watch the space".into(),
            Self::MixedArrays(_) => "start one at a time, or all with: raidctl array start --scan".into(),
            Self::NoMembers(_) => "look at them: raidctl disk examine PATH".into(),
            Self::Volume { source: VolumeError::NoRoom { .. }, .. } => {
                "see what is free: raidctl array list".into()
            }
            Self::Volume { source: VolumeError::Exists(_), .. } => {
                "resize it with raidctl volume resize, or use another name".into()
            }
            Self::Create(CreateError::Io(error)) | Self::Io(error) => match error.kind {
                IoErrorKind::Permission => "run labsand as a user that may open it".into(),
                IoErrorKind::Busy => "find out who uses it: fuser -v PATH, or lsblk".into(),
                _ => return None,
            },
            _ => return None,
        })
    }

    /// As the API says it.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody::new(self.code(), self.to_string(), self.hint())
    }
}

fn io_code(error: &IoError) -> ErrorCode {
    match error.kind {
        IoErrorKind::Permission => ErrorCode::Permission,
        IoErrorKind::NotFound => ErrorCode::NotFound,
        IoErrorKind::NoSpace => ErrorCode::NoSpace,
        IoErrorKind::Busy => ErrorCode::InUse,
        IoErrorKind::ArrayFailed | IoErrorKind::Stopped => ErrorCode::State,
        _ => ErrorCode::Io,
    }
}

fn create_code(error: &CreateError) -> ErrorCode {
    match error {
        CreateError::MemberOfArray { .. } => ErrorCode::Taken,
        CreateError::Foreign { .. } => ErrorCode::Foreign,
        CreateError::Document(error) => document_code(error),
        CreateError::Io(error) => io_code(error),
        _ => ErrorCode::Invalid,
    }
}

fn member_code(error: &MemberError) -> ErrorCode {
    match error {
        MemberError::Unknown { .. } => ErrorCode::NotFound,
        MemberError::Indispensable { .. } | MemberError::Resyncing { .. } => ErrorCode::Unsafe,
        MemberError::InUse { .. } | MemberError::Hangs { .. } => ErrorCode::InUse,
        MemberError::AlreadyThere { .. } => ErrorCode::Taken,
        MemberError::TooSmall { .. } => ErrorCode::Invalid,
        MemberError::Unsuitable(error) => create_code(error),
        MemberError::Io(error) => io_code(error),
        _ => ErrorCode::State,
    }
}

fn volume_code(error: &VolumeError) -> ErrorCode {
    match error {
        VolumeError::Exists(_) => ErrorCode::Different,
        VolumeError::Unknown(_) => ErrorCode::NotFound,
        VolumeError::BadSize(_)
        | VolumeError::BadPhysicalBlock(_)
        | VolumeError::BadName(_)
        | VolumeError::TooMany(_) => ErrorCode::Invalid,
        VolumeError::NoRoom { .. } => ErrorCode::NoSpace,
        VolumeError::Shrinks { .. } => ErrorCode::Unsafe,
        VolumeError::Document(error) => document_code(error),
        VolumeError::Io(error) => io_code(error),
    }
}

/// Unsafe is what was refused before anything was written.
fn assemble_code(error: &AssembleError) -> ErrorCode {
    match error {
        AssembleError::Io(error)
        | AssembleError::Journal(
            JournalError::Io(error)
            | JournalError::NoSpace { error, .. }
            | JournalError::NotErased { error, .. }
            | JournalError::NotVoid { error, .. },
        ) => io_code(error),
        AssembleError::Config(error) => document_code(error),
        _ => ErrorCode::Unsafe,
    }
}

fn document_code(error: &DocumentError) -> ErrorCode {
    match error {
        DocumentError::Io(error) => io_code(error),
        DocumentError::Format(_) => ErrorCode::NoSpace,
        DocumentError::Unwritten => ErrorCode::Io,
    }
}

#[cfg(test)]
mod tests {
    use block_io::IoOperation;

    use super::*;

    /// Exit code 3 says so, and people go by it.
    #[test]
    fn a_start_that_had_begun_to_recover_is_not_called_one_that_changed_nothing() {
        let array = || "tank".to_owned();
        let error = |kind| IoError::new(kind, IoOperation::Write, &"/dev/x".into(), 0, 4096);
        let code = |refusal: JournalError| Failure::Assemble(AssembleError::Journal(refusal)).code();
        let full = || error(IoErrorKind::NoSpace);
        for refusal in [
            JournalError::NoSpace { array: array(), error: full() },
            JournalError::NotErased { array: array(), error: full() },
            JournalError::NotVoid {
                array: array(),
                erased: Box::new(error(IoErrorKind::Medium)),
                error: full(),
            },
            JournalError::Io(full()),
        ] {
            assert_eq!(code(refusal), ErrorCode::NoSpace);
        }
        let unwritten = Failure::Assemble(AssembleError::Config(DocumentError::Unwritten));
        assert_eq!(unwritten.code(), ErrorCode::Io);
        assert_eq!(code(JournalError::Unread { array: array() }), ErrorCode::Unsafe);
    }
}
