//! How does the daemon say no? A code for programs, a sentence for people, what to type, and raidctl's exit code.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done, or all is well |
//! | 1 | `status` and other reads: works, but redundancy is not whole |
//! | 2 | `status` and other reads: something is unusable |
//! | 3 | refused by a safety rule; nothing was changed |
//! | 4 | could not be done |
//! | 64 | the command line makes no sense |

use serde::{Deserialize, Serialize};

/// What a command ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, or all is well.
    Ok = 0,
    /// It works, but redundancy is not whole.
    Degraded = 1,
    /// Something cannot be used.
    Unusable = 2,
    /// Refused by a safety rule; nothing was changed.
    Refused = 3,
    /// Could not be done.
    Failed = 4,
    /// The command line makes no sense.
    Usage = 64,
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> Self {
        code as Self
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(u8::from(code))
    }
}

/// What kind of no it is. Programs match on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// A name, size or other value that cannot be.
    Invalid,
    /// The name, the LUN or the disk belongs to something else.
    Taken,
    /// It exists already, but not as asked for.
    Different,
    /// Something still uses it.
    InUse,
    /// A disk holds data that is not to be overwritten unasked.
    Foreign,
    /// It would destroy data or redundancy and was not confirmed.
    Unsafe,
    /// The thing named does not exist.
    NotFound,
    /// The operating system does not permit it.
    Permission,
    /// No space is left.
    NoSpace,
    /// A disk or the operating system failed.
    Io,
    /// Not in the state that the command needs (an array that has failed, a daemon that is stopping).
    State,
    /// The daemon does not run, or does not answer.
    Unreachable,
    /// It took longer than the time allowed.
    Timeout,
    /// A fault of labsan itself.
    Internal,
    /// A code this version does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// Refusals by a rule are 3, whatever else went wrong is 4.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Invalid | Self::Taken | Self::Different | Self::InUse | Self::Foreign | Self::Unsafe => {
                ExitCode::Refused
            }
            _ => ExitCode::Failed,
        }
    }

    /// The HTTP status that goes with it.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 422,
            Self::Taken | Self::Different | Self::InUse | Self::Foreign | Self::Unsafe | Self::State => 409,
            Self::NotFound => 404,
            Self::Permission => 403,
            Self::NoSpace => 507,
            Self::Timeout => 504,
            Self::Io | Self::Unreachable | Self::Internal | Self::Unknown => 500,
        }
    }
}

/// The body of every reply that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What kind of no it is.
    pub code: ErrorCode,
    /// What was refused or failed, and why. One sentence, without a full stop.
    pub message: String,
    /// What to do or type next, where there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What raidctl exits with.
    pub exit_code: u8,
}

impl ErrorBody {
    /// An error whose exit code follows from its kind.
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { code, message: message.into(), hint, exit_code: code.exit_code().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_a_newer_daemon_are_understood_as_unknown() {
        let body: ErrorBody =
            serde_json::from_str(r#"{"code":"on_fire","message":"m","exit_code":3}"#).unwrap();
        assert_eq!((body.code, body.exit_code), (ErrorCode::Unknown, 3));
    }

    #[test]
    fn refusals_are_told_from_failures() {
        assert_eq!(ErrorBody::new(ErrorCode::Foreign, "m", None).exit_code, 3);
        assert_eq!(ErrorBody::new(ErrorCode::NotFound, "m", None).exit_code, 4);
    }
}
