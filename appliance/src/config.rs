//! What does `labsan.toml` say? Only what is about this host: addresses, paths, limits.
//!
//! What the SAN is (volumes, targets, accounts) travels with the disks and is not here. An unknown key, or a value that
//! cannot be, is an error that names the line.

pub(crate) mod redirect;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use block_io::runtime::EngineChoice;
use iscsi_target::chap::Algorithm;
use labsan_api::{DEFAULT_SOCKET, Size};
use serde::Deserialize;

use crate::limits::{
    DEFAULT_LUN_HOLD_SECONDS, DEFAULT_MEMORY_BYTES, DEFAULT_THIN_WARNING_PERCENT, MAX_REDIRECT_WEIGHT,
    MAX_SOCKET_PATH, MAX_WORKERS, MIN_MEMORY_BYTES,
};
use redirect::{Redirect, RedirectError};

/// iSCSI's port (RFC 7143 section 14).
pub(crate) const ISCSI_PORT: u16 = 3260;

/// The host's settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Addresses that serve iSCSI.
    pub(crate) portals: Vec<Portal>,
    /// Files, directories and patterns (`*`, `?`) of disks to look at.
    pub(crate) scan: Vec<PathBuf>,
    /// Where raidctl finds the daemon.
    pub(crate) socket: PathBuf,
    /// Permissions of the socket, in octal.
    pub(crate) socket_mode: Mode,
    /// Group that the socket belongs to.
    pub(crate) socket_group: Option<String>,
    /// Where the daemon keeps its lock and its copy of the SAN's configuration.
    pub(crate) state_dir: PathBuf,
    /// Data workers; 0 is one per core.
    pub(crate) workers: usize,
    /// CHAP algorithms that initiators may log in with.
    pub(crate) chap_algorithms: Vec<ChapAlgorithm>,
    /// What carries disk I/O.
    pub(crate) engine: EngineName,
    /// Cap on buffer memory.
    pub(crate) memory: Memory,
    /// How much a second SANITIZE overwrites of a volume at most.
    pub(crate) sanitize_rate: Option<Rate>,
    /// How long a LUN's number rests after it was freed before it means another disk.
    pub(crate) lun_hold: Seconds,
    /// Portals that send initiators to other addresses.
    pub(crate) redirect: Vec<Redirect>,
    /// When it is told that the space of thin members runs short: so much of a volume or array can still be written.
    pub(crate) thin_warning: Percent,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter of tracing's.
    pub(crate) log: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            portals: vec![Portal::at(SocketAddr::from(([0, 0, 0, 0], ISCSI_PORT)))],
            scan: Vec::new(),
            socket: DEFAULT_SOCKET.into(),
            socket_mode: Mode(0o660),
            socket_group: None,
            state_dir: "/var/lib/labsan".into(),
            workers: 0,
            chap_algorithms: ChapAlgorithm::all(),
            engine: EngineName::Auto,
            memory: Memory(DEFAULT_MEMORY_BYTES),
            sanitize_rate: None,
            lun_hold: Seconds::default(),
            redirect: Vec::new(),
            thin_warning: Percent::default(),
            log: "info".into(),
        }
    }
}

/// An address, with iSCSI's port unless another is given, and perhaps the tag of its portal group after a comma.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Portal {
    /// Where to listen.
    pub(crate) address: SocketAddr,
    /// TargetPortalGroupTag.
    pub(crate) group: u16,
}

impl Portal {
    /// In the first group.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address, group: 1 }
    }
}

/// A CHAP algorithm by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ChapAlgorithm(pub(crate) Algorithm);

impl ChapAlgorithm {
    fn all() -> Vec<Self> {
        Algorithm::ALL.map(Self).to_vec()
    }
}

/// A size within the limits of a memory cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Memory(pub(crate) u64);

/// Bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Rate(pub(crate) NonZeroU64);

/// A time, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Seconds(pub(crate) u64);

impl Default for Seconds {
    fn default() -> Self {
        Self(DEFAULT_LUN_HOLD_SECONDS)
    }
}

/// A share in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Percent(pub(crate) u8);

impl Default for Percent {
    fn default() -> Self {
        Self(DEFAULT_THIN_WARNING_PERCENT)
    }
}

/// Permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Mode(pub(crate) u32);

/// The engines' names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum EngineName {
    /// io_uring if the kernel lets us, else threads.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// pread and pwrite on threads.
    Threads,
}

impl From<EngineName> for EngineChoice {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Auto => Self::Auto,
            EngineName::IoUring => Self::IoUring,
            EngineName::Threads => Self::Threads,
        }
    }
}

/// Why a value cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ValueError {
    /// Not an address.
    #[error("\"{0}\" is no address: write it as \"192.0.2.1\", \"192.0.2.1:3260\" or \"[2001:db8::1]:3260\"")]
    Address(String),
    /// Not the tag of a portal group.
    #[error("\"{0}\": after the comma comes the portal group, a number from 1 to 65535")]
    Group(String),
    /// Not an algorithm.
    #[error("\"{0}\" is no CHAP algorithm: there are \"md5\", \"sha1\", \"sha256\" and \"sha3-256\"")]
    Algorithm(String),
    /// Not a size.
    #[error(transparent)]
    Size(#[from] labsan_api::SizeError),
    /// Too little to work.
    #[error("memory = \"{0}\" is too little: at least {least}", least = Size(MIN_MEMORY_BYTES))]
    TooLittle(Size),
    /// Nothing would ever get done.
    #[error("\"{0}\" a second is no rate: leave it out if there is to be no limit")]
    NoRate(String),
    /// Not a time.
    #[error("\"{0}\" is no time: write it as \"90s\", \"15min\", \"1h\" or \"7d\", at most a year")]
    Time(String),
    /// A portal group where none belongs.
    #[error(
        "\"{0}\": no portal group belongs to an address that initiators are sent to: leave the comma out"
    )]
    Tagged(String),
    /// Not a weight.
    #[error(
        "\"{0}\": a weight is a number from 1 to {MAX_REDIRECT_WEIGHT}; leave out the address that is to get nobody"
    )]
    Weight(String),
    /// Not a health check.
    #[error(
        "\"{0}\" is no health check: write it as \"tcp\", or as \"http:8080/health\" for GET /health on port 8080"
    )]
    Check(String),
    /// Not a share.
    #[error("\"{0}\" is no share: write it as \"20%\", from \"0%\" (never) to \"100%\"")]
    Percent(String),
    /// Not octal permissions.
    #[error("\"{0}\" are no permissions: write them in octal, as in \"0660\"")]
    Mode(String),
}

impl TryFrom<String> for Portal {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl std::str::FromStr for Portal {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (place, group) = match text.split_once(',') {
            Some((place, group)) => (place, group.parse().ok().filter(|group| *group > 0)),
            None => (text, Some(1)),
        };
        let group = group.ok_or_else(|| ValueError::Group(text.to_owned()))?;
        let bare = place.trim_start_matches('[').trim_end_matches(']');
        let address = place.parse().or_else(|_| bare.parse().map(|ip| SocketAddr::new(ip, ISCSI_PORT)));
        address.map(|address| Self { address, group }).map_err(|_| ValueError::Address(text.to_owned()))
    }
}

impl TryFrom<String> for ChapAlgorithm {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == text);
        known.map(Self).ok_or(ValueError::Algorithm(text))
    }
}

impl TryFrom<String> for Memory {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        let size: Size = text.parse()?;
        if size.0 < MIN_MEMORY_BYTES {
            return Err(ValueError::TooLittle(size));
        }
        Ok(Self(size.0))
    }
}

impl TryFrom<String> for Rate {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        let size: Size = text.parse()?;
        NonZeroU64::new(size.0).map(Self).ok_or(ValueError::NoRate(text))
    }
}

impl TryFrom<String> for Seconds {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let seconds = [("s", 1), ("min", 60), ("h", 3600), ("d", 86_400)]
            .into_iter()
            .find(|(name, _)| *name == unit.trim_start())
            .and_then(|(_, seconds)| number.parse::<u64>().ok()?.checked_mul(seconds));
        seconds.filter(|seconds| *seconds <= 365 * 86_400).map(Self).ok_or(ValueError::Time(text))
    }
}

impl TryFrom<String> for Percent {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse::<u8>().ok());
        number.filter(|number| *number <= 100).map(Self).ok_or(ValueError::Percent(text))
    }
}

impl TryFrom<String> for Mode {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        let bits = u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|bits| *bits <= 0o777);
        bits.map(Self).ok_or(ValueError::Mode(text))
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It says something that cannot be.
    #[error("{path}, line {line}: {message}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A setting that does not fit the others or this host.
    #[error("{path}: {setting}: {why}")]
    Setting {
        /// The file.
        path: PathBuf,
        /// The key.
        setting: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A portal that cannot redirect as it is to.
    #[error("{path}: {error}")]
    Redirect {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: Box<RedirectError>,
    },
}

impl Config {
    /// Read the file. Relative paths in it are relative to its directory.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let absolute = std::path::absolute(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path, absolute.parent().unwrap_or(Path::new("/")))
    }

    fn parse(text: &str, path: &Path, directory: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError::Line { path: path.to_owned(), line, message: error.message().to_owned() }
        })?;
        for path in config.scan.iter_mut().chain([&mut config.socket, &mut config.state_dir]) {
            *path = directory.join(&path);
        }
        config.check().map_err(|(setting, why)| ConfigError::Setting {
            path: path.to_owned(),
            setting,
            why,
        })?;
        redirect::check(&config.redirect, &config.portals)
            .map_err(|error| ConfigError::Redirect { path: path.to_owned(), error: Box::new(error) })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.portals.is_empty() {
            return Err(("portals", "no address at all; leave the line out for 0.0.0.0:3260"));
        }
        if self.chap_algorithms.is_empty() {
            return Err(("chap_algorithms", "none at all; leave the line out to allow all"));
        }
        if self.workers > MAX_WORKERS {
            return Err(("workers", "more than 256; 0 is one per core"));
        }
        if self.socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(("socket", "longer than the 107 bytes a Unix socket's path may have"));
        }
        Ok(())
    }

    /// The number of data workers, with 0 resolved.
    pub(crate) fn data_workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            workers => workers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("labsan.toml"), Path::new("/etc/labsan"))
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn everything_can_be_set() {
        let config = parse(
            "portals = ['10.0.0.1', '[::1]:3261,2', '2001:db8::1,3']\nscan = ['disks/*.img', '/dev/disk/by-id/x']\nsocket = 's'\n\
             socket_mode = '0600'\nsocket_group = 'disk'\nstate_dir = '/s'\nworkers = 3\nengine = 'io_uring'\n\
             memory = '1GiB'\nsanitize_rate = '100MiB'\nchap_algorithms = ['sha3-256', 'sha256']\nlog = 'debug'\n\
             lun_hold = '15min'\nthin_warning = '5%'\n",
        )
        .unwrap();
        let shown = |portal: &Portal| format!("{},{}", portal.address, portal.group);
        let portals: Vec<String> = config.portals.iter().map(shown).collect();
        assert_eq!(portals, ["10.0.0.1:3260,1", "[::1]:3261,2", "[2001:db8::1]:3260,3"]);
        let algorithms: Vec<u8> = config.chap_algorithms.iter().map(|known| known.0 as u8).collect();
        assert_eq!(algorithms, [8, 7]);
        assert_eq!(config.scan, [Path::new("/etc/labsan/disks/*.img"), Path::new("/dev/disk/by-id/x")]);
        assert_eq!(config.socket, Path::new("/etc/labsan/s"));
        assert_eq!((config.socket_mode.0, config.data_workers(), config.memory.0), (0o600, 3, 1 << 30));
        assert_eq!(config.sanitize_rate, NonZeroU64::new(100 << 20).map(Rate));
        assert_eq!((config.engine, config.lun_hold), (EngineName::IoUring, Seconds(900)));
        assert_eq!(config.thin_warning, Percent(5));
        for (text, percent) in [("0%", 0), ("100 %", 100)] {
            assert_eq!(parse(&format!("thin_warning = '{text}'")).unwrap().thin_warning, Percent(percent));
        }
        for (text, seconds) in [("0s", 0), ("1 h", 3600), ("7d", 604_800)] {
            assert_eq!(parse(&format!("lun_hold = '{text}'")).unwrap().lun_hold, Seconds(seconds));
        }
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong() {
        let cases = [
            ("workers = 1\n\nworker = 2\n", "labsan.toml, line 3: unknown field `worker`"),
            ("memory = '1MB'", "labsan.toml, line 1: \"1MB\" could mean two sizes"),
            ("\nmemory = '1MiB'", "line 2: memory = \"1 MiB\" is too little: at least 64 MiB"),
            ("sanitize_rate = '0'", "line 1: \"0\" a second is no rate"),
            ("portals = ['x']", "line 1: \"x\" is no address"),
            ("portals = []", "portals: no address"),
            ("portals = ['10.0.0.1,0']", "line 1: \"10.0.0.1,0\": after the comma comes the portal group"),
            ("portals = ['10.0.0.1,x']", "a number from 1 to 65535"),
            ("chap_algorithms = ['md4']", "line 1: \"md4\" is no CHAP algorithm"),
            ("chap_algorithms = []", "chap_algorithms: none at all"),
            ("engine = 'fast'", "unknown variant `fast`"),
            ("socket_mode = '999'", "no permissions"),
            ("workers = 'many'", "invalid type"),
            ("lun_hold = '1 year'", "is no time"),
            ("lun_hold = '366d'", "is no time"),
            ("lun_hold = 'h'", "is no time"),
            ("lun_hold = '99999999999999999999s'", "is no time"),
            ("thin_warning = '20'", "line 1: \"20\" is no share: write it as \"20%\""),
            ("thin_warning = '101%'", "is no share"),
            ("thin_warning = '-1%'", "is no share"),
            ("thin_warning = 20", "invalid type"),
            ("workers = 1000", "workers: more than 256"),
            ("workers = 1\nworkers = 2", "line 2"),
            ("= broken", "line 1"),
        ];
        for (text, part) in cases {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text:?} gave {message:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = Config::load(Path::new("/no/such/labsan.toml")).unwrap_err().to_string();
        assert!(message.starts_with("cannot read /no/such/labsan.toml: "), "{message}");
    }
}
