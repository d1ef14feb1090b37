//! How does raidctl fail? With one clear line, what to type next, and an exit code.

use std::path::PathBuf;

use labsan_api::{ErrorBody, ErrorCode, ExitCode};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The daemon said no.
    #[error("{}", .0.message)]
    Daemon(ErrorBody),
    /// Nobody listens there.
    #[error("labsand is not running at {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not for this user.
    #[error("no permission to use {}", .0.display())]
    NoPermission(PathBuf),
    /// It listens, but something else went wrong on the way.
    #[error("cannot talk to labsand at {path}: {why}")]
    Transport {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// It listens and does not answer.
    #[error("labsand at {path} did not answer within {seconds} seconds")]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// The patience there was.
        seconds: u64,
    },
    /// A file named on the command line.
    #[error("cannot read {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system, or its contents, said.
        why: String,
    },
    /// A file or directory that raidctl was to write.
    #[error("cannot write {path}: {why}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// It needs a yes, and there is no terminal to ask on.
    #[error("{question}: refused, because there is no terminal to ask on")]
    NeedsYes {
        /// What it would do.
        question: String,
    },
    /// The person said no.
    #[error("not done")]
    Declined,
    /// A wait took too long.
    #[error("array {array} is {state} after {seconds} seconds")]
    WaitTimeout {
        /// The array.
        array: String,
        /// How it is.
        state: String,
        /// How long we waited.
        seconds: u64,
    },
}

impl CliError {
    /// What to do or type next.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Daemon(body) => body.hint.clone(),
            Self::NotRunning(_) => Some(
                "start it with \"labsand serve\" or \"labsand demo\", or name its socket with --socket PATH"
                    .into(),
            ),
            Self::NoPermission(path) => Some(format!("be in the group of {}, or use sudo", path.display())),
            Self::NeedsYes { .. } => Some("add --yes if that is what you want".into()),
            Self::WaitTimeout { array, .. } => Some(format!("see how it is: raidctl array show {array}")),
            _ => None,
        }
    }

    /// The body of an answer in JSON.
    pub(crate) fn body(&self) -> ErrorBody {
        let code = match self {
            Self::Daemon(body) => return body.clone(),
            Self::NotRunning(_) | Self::NoAnswer { .. } | Self::Transport { .. } => ErrorCode::Unreachable,
            Self::NoPermission(_) => ErrorCode::Permission,
            Self::File { .. } | Self::Write { .. } => ErrorCode::Io,
            Self::NeedsYes { .. } | Self::Declined => ErrorCode::Unsafe,
            Self::WaitTimeout { .. } => ErrorCode::Timeout,
        };
        ErrorBody::new(code, self.to_string(), self.hint())
    }

    /// What raidctl exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.body().exit_code {
            0 => ExitCode::Failed.into(),
            code => code,
        }
    }
}
