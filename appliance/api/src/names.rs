//! Which names may arrays, volumes, targets and initiators have?
//!
//! Names are typed in shells, stand in URLs and in md superblocks (`set_name`, 32 bytes), so they are short and
//! plain. iSCSI names follow RFC 7143 section 4.2.7.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest array name: md's `set_name` has 32 bytes, the last of which is a NUL.
pub const MAX_ARRAY_NAME: usize = 31;
/// Longest volume name: it is shown in tables beside the array's.
pub const MAX_VOLUME_NAME: usize = 63;
/// Longest iSCSI name (RFC 7143 section 4.2.7.1).
pub const MAX_ISCSI_NAME: usize = 223;
/// CHAP secrets shorter than this (96 bits) are open to guessing (RFC 7143 section 9.2.1).
pub const MIN_CHAP_SECRET: usize = 12;
/// Longest CHAP secret and user name that every initiator takes.
pub const MAX_CHAP_TEXT: usize = 255;
/// Highest LUN that every initiator reaches with peripheral device addressing (SAM-5 4.7.7.2).
pub const MAX_LUN: u16 = 255;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, too long, or with other characters.
    #[error(
        "\"{name}\" cannot be the name of {what}: use 1 to {longest} letters, digits, '.', '_' or '-', beginning with a letter or digit"
    )]
    Plain {
        /// `an array` or `a volume`.
        what: &'static str,
        /// What was given.
        name: String,
        /// Longest name in bytes.
        longest: usize,
    },
    /// Not `ARRAY/VOLUME`.
    #[error("\"{0}\" does not name a volume: write ARRAY/VOLUME, for example demo/lun0")]
    VolumePath(String),
    /// Not an iSCSI name.
    #[error("\"{name}\" is no iSCSI name: {why}")]
    Iscsi {
        /// What was given.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// Neither an iSCSI name nor a pattern of one.
    #[error("\"{0}\" is neither an initiator's name nor a beginning of one followed by '*'")]
    Pattern(String),
    /// A CHAP user name or secret that would not work or would not protect.
    #[error("{what}: {why}")]
    Chap {
        /// `CHAP user` or `CHAP secret`.
        what: &'static str,
        /// The rule it breaks.
        why: &'static str,
    },
}

fn plain(what: &'static str, name: &str, longest: usize) -> Result<(), NameError> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if starts_well && name.len() <= longest && name.chars().all(allowed) {
        return Ok(());
    }
    Err(NameError::Plain { what, name: name.to_owned(), longest })
}

/// Check an array's name.
pub fn check_array(name: &str) -> Result<(), NameError> {
    plain("an array", name, MAX_ARRAY_NAME)
}

/// Check a volume's name.
pub fn check_volume(name: &str) -> Result<(), NameError> {
    plain("a volume", name, MAX_VOLUME_NAME)
}

/// An iSCSI name, or a pattern of some, as they are compared and kept (RFC 3722).
pub fn fold_iscsi(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Check an iSCSI name: `iqn.YYYY-MM.reversed.domain[:anything]`, `eui.` and 16 hex digits, or `naa.` and 16 or 32.
/// It must be in lower case, which is what names are folded to before they are compared (RFC 3722).
pub fn check_iscsi(name: &str) -> Result<(), NameError> {
    let no = |why| Err(NameError::Iscsi { name: name.to_owned(), why });
    if name.len() > MAX_ISCSI_NAME {
        return no("it is longer than 223 bytes");
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return no("write it in lower case");
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':'))
    {
        return no("only letters, digits, '.', '-' and ':' may stand in it");
    }
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    match name.split_once('.') {
        Some(("iqn", rest)) if is_dated_domain(rest) => Ok(()),
        Some(("iqn", _)) => no(
            "after \"iqn.\" comes a year and month and a reversed domain, as in iqn.2026-11.org.example:disk1",
        ),
        Some(("eui", rest)) if rest.len() == 16 && hex(rest) => Ok(()),
        Some(("eui", _)) => no("after \"eui.\" come 16 hex digits"),
        Some(("naa", rest)) if matches!(rest.len(), 16 | 32) && hex(rest) => Ok(()),
        Some(("naa", _)) => no("after \"naa.\" come 16 or 32 hex digits"),
        _ => no("it begins with \"iqn.\", \"eui.\" or \"naa.\", as in iqn.2026-11.org.example:disk1"),
    }
}

/// `YYYY-MM.domain[:anything]`
fn is_dated_domain(rest: &str) -> bool {
    let Some((date, owner)) = rest.split_once('.') else { return false };
    let Some((year, month)) = date.split_once('-') else { return false };
    let number = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    let month_is_real = number(month, 2) && (1..=12).contains(&month.parse().unwrap_or(0));
    let domain = owner.split(':').next().unwrap_or_default();
    let labels_are_whole = domain.split('.').all(|label| !label.is_empty());
    number(year, 4) && month_is_real && labels_are_whole
}

/// Check who may be let in: an iSCSI name, the beginning of one followed by `*`, or `*` for anybody.
pub fn check_initiator_pattern(pattern: &str) -> Result<(), NameError> {
    let Some(start) = pattern.strip_suffix('*') else { return check_iscsi(pattern) };
    let known_start = start.is_empty() || ["iqn.", "eui.", "naa."].iter().any(|p| start.starts_with(p));
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':');
    if known_start && start.len() < MAX_ISCSI_NAME && start.bytes().all(allowed) {
        return Ok(());
    }
    Err(NameError::Pattern(pattern.to_owned()))
}

/// Check a CHAP user name.
pub fn check_chap_user(user: &str) -> Result<(), NameError> {
    let no = |why| Err(NameError::Chap { what: "CHAP user", why });
    if user.is_empty() || user.len() > MAX_CHAP_TEXT {
        return no("it has 1 to 255 characters");
    }
    if !user.bytes().all(|b| b.is_ascii_graphic()) {
        return no("only printable ASCII without spaces works with every initiator");
    }
    Ok(())
}

/// The refusal of a secret that has fewer than [`MIN_CHAP_SECRET`] characters, or bytes where it stands for bytes.
pub fn too_short() -> NameError {
    let why = "it has at least 12 characters, or bytes if it is written in hex or base64, else it can be guessed from one \
               login (RFC 7143 section 9.2.1)";
    NameError::Chap { what: "CHAP secret", why }
}

/// Check a CHAP secret. The error never contains it.
pub fn check_chap_secret(secret: &str) -> Result<(), NameError> {
    let no = |why| Err(NameError::Chap { what: "CHAP secret", why });
    if secret.len() < MIN_CHAP_SECRET {
        return Err(too_short());
    }
    if secret.len() > MAX_CHAP_TEXT {
        return no("it has at most 255 characters");
    }
    if !secret.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return no("only printable ASCII works with every initiator");
    }
    Ok(())
}

/// A volume's full name, `ARRAY/VOLUME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumePath {
    /// The array's name.
    pub array: String,
    /// The volume's name in it.
    pub volume: String,
}

impl VolumePath {
    /// Both names checked.
    pub fn new(array: &str, volume: &str) -> Result<Self, NameError> {
        check_array(array)?;
        check_volume(volume)?;
        Ok(Self { array: array.to_owned(), volume: volume.to_owned() })
    }
}

impl FromStr for VolumePath {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (array, volume) = text.split_once('/').ok_or_else(|| NameError::VolumePath(text.to_owned()))?;
        Self::new(array, volume)
    }
}

impl TryFrom<String> for VolumePath {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<VolumePath> for String {
    fn from(path: VolumePath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for VolumePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.array, self.volume))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names() {
        for name in ["a", "demo", "tank-1", "0", "a.b_c", &"x".repeat(31)] {
            assert_eq!(check_array(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "-a", "a b", "a/b", "ä", "a:b", "a\n", &"x".repeat(32)] {
            assert!(check_array(name).is_err(), "{name}");
        }
    }

    #[test]
    fn iscsi_names() {
        for name in [
            "iqn.2026-11.org.labsan:demo",
            "iqn.1993-08.org.debian:01:abc-def",
            "iqn.2026-11.org",
            "eui.0123456789abcdef",
            "naa.0123456789abcdef",
            "naa.0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(check_iscsi(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "iqn",
            "iqn.",
            "iqn.2026-11",
            "iqn.2026-13.org.labsan:x",
            "iqn.26-11.org.labsan:x",
            "iqn.2026-11..org:x",
            "iqn.2026-11.:x",
            "iqn.2026-11.org.labsan:UP",
            "iqn.2026-11.org.labsan:a b",
            "iqn.2026-11.org.labsan:a/b",
            "eui.0123",
            "naa.0123456789abcdeg",
            "demo",
            &format!("iqn.2026-11.org.labsan:{}", "x".repeat(223)),
        ] {
            assert!(check_iscsi(name).is_err(), "{name}");
        }
    }

    #[test]
    fn patterns() {
        for pattern in ["*", "iqn.*", "iqn.1991-05.com.microsoft:*", "iqn.2026-11.org.labsan:node1"] {
            assert_eq!(check_initiator_pattern(pattern), Ok(()), "{pattern}");
        }
        for pattern in ["", "i*n", "node1", "foo*", "iqn.A*", "**"] {
            assert!(check_initiator_pattern(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_secret_is_never_in_the_message() {
        let error = check_chap_secret("short-one").unwrap_err().to_string();
        assert!(error.contains("12") && !error.contains("short-one"), "{error}");
        assert_eq!(check_chap_secret("twelve chars"), Ok(()));
        assert!(check_chap_secret("twelve chärs").is_err());
        assert!(
            check_chap_user("").is_err()
                && check_chap_user("a b").is_err()
                && check_chap_user("node1").is_ok()
        );
    }

    #[test]
    fn volume_paths() {
        assert_eq!("demo/lun0".parse::<VolumePath>().unwrap().to_string(), "demo/lun0");
        for text in ["demo", "/lun0", "demo/", "a/b/c", ""] {
            assert!(text.parse::<VolumePath>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<VolumePath>("\"demo\"").is_err());
    }
}
