//! Is there only one of us? A locked file beside the state and one beside the socket, held while the daemon lives.
//!
//! The kernel drops the locks with the process, so a crash leaves nothing to clean up; the files stay.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// A lock, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<std::fs::File>,
}

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another labsand has it.
    #[error("another labsand (process {holder}) is using {path}")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What it wrote there: its process id.
        holder: String,
    },
    /// The lock file cannot be made.
    #[error("cannot make the lock file {path}: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Lock {
    /// Take the lock, or say who has it.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let sign = |file: &mut std::fs::File| {
                    file.set_len(0)?;
                    file.rewind()?;
                    writeln!(file, "{}", std::process::id())
                };
                sign(&mut file).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                // The process id is a courtesy; without it the refusal still stands.
                let _ = file.read_to_string(&mut holder);
                Err(LockError::Held { path: path.to_owned(), holder: holder.trim().to_owned() })
            }
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take(&path).unwrap();
        let message = Lock::take(&path).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(first);
        Lock::take(&path).unwrap();
        assert!(matches!(Lock::take(&dir.path().join("no/dir")), Err(LockError::Io { .. })));
    }
}
