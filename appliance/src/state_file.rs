//! Where does the host keep its own copy of the SAN's configuration? In `san.json` in the state directory.
//!
//! It is one copy among those on the arrays ([`crate::san::merge`]) and the only one while there is no array. It is
//! replaced whole and durably: written beside, synced, renamed, directory synced. It holds CHAP secrets: mode 0600 from
//! the moment that it is there.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::san::SanDocument;
use crate::san::document::DocumentError;

const NAME: &str = "san.json";

/// Why the host's copy cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateFileError {
    /// The system said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no document.
    #[error("{}: {source}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: DocumentError,
    },
}

impl StateFileError {
    /// Whoever wrote it did not come back.
    pub(crate) fn lost(directory: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Io { doing: "write", path: directory.join(NAME), source: io::Error::other(why) }
    }
}

/// Read the host's copy; none if there is none yet.
pub(crate) fn load(directory: &Path) -> Result<Option<SanDocument>, StateFileError> {
    let path = directory.join(NAME);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateFileError::Io { doing: "read", path, source }),
    };
    let document =
        serde_json::from_slice(&bytes).map_err(DocumentError::from).and_then(SanDocument::from_json);
    document.map_err(|source| StateFileError::Document { path, source })
}

/// Can others than its owner read the host's copy, or write to it?
pub(crate) fn is_open_to_others(directory: &Path) -> bool {
    std::fs::metadata(directory.join(NAME)).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}

/// Replace the host's copy, durably.
pub(crate) fn store(directory: &Path, document: &SanDocument) -> Result<(), StateFileError> {
    let path = directory.join(NAME);
    let write = || {
        let bytes = serde_json::to_vec_pretty(document)?;
        let beside = directory.join(".san.json.new");
        // What a crash, or somebody else, left there may be open to others, also to those who hold it open already.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| StateFileError::Io { doing: "write", path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_stored_is_loaded_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        let document = SanDocument::empty(uuid::Uuid::from_u128(5));
        store(dir.path(), &document).unwrap();
        store(dir.path(), &document).unwrap();
        assert_eq!(load(dir.path()).unwrap(), Some(document));
        let mode = std::fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_lies_in_the_way_does_not_open_the_copy_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let beside = dir.path().join(".san.json.new");
        std::fs::write(&beside, b"left by a crash").unwrap();
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o666)).unwrap();
        let held_open = File::open(&beside).unwrap();
        store(dir.path(), &SanDocument::empty(uuid::Uuid::from_u128(5))).unwrap();
        assert!(!is_open_to_others(dir.path()));
        assert_eq!(held_open.metadata().unwrap().nlink(), 0, "nor is it the file that somebody holds open");
        for (mode, is_open) in [(0o640, true), (0o604, true), (0o602, true), (0o600, false), (0o400, false)] {
            let path = dir.path().join(NAME);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_others(dir.path()), is_open, "{mode:o}");
        }
    }

    #[test]
    fn a_damaged_copy_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), b"{").unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("san.json"));
        assert!(matches!(
            store(Path::new("/no/such"), &SanDocument::empty(uuid::Uuid::nil())),
            Err(StateFileError::Io { .. })
        ));
    }
}
