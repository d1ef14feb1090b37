//! Every limit of the daemon: its name, its number, its reason.

use std::time::Duration;

/// Targets of one SAN. With all their LUNs mapped the document still fits an array's config slot many times over.
pub(crate) const MAX_TARGETS: usize = 128;

/// Access rules of one target, names alone among them: more than the nodes of any cluster.
pub(crate) const MAX_RULES: usize = 256;

/// Initiators of a target that have LUNs of their own, for the same reason.
pub(crate) const MAX_MASKS: usize = 256;

/// How long a freed LUN number rests if nothing is configured: nodes that lost a disk have noticed by then, or were seen to.
pub(crate) const DEFAULT_LUN_HOLD_SECONDS: u64 = 3600;

/// CHAP accounts of one target, for the same reason.
pub(crate) const MAX_CHAP_ACCOUNTS: usize = 256;

/// Events kept in memory for `raidctl events`: a day of a bad day.
pub(crate) const MAX_EVENTS: usize = 4096;

/// Paths that one `scan` pattern may name: a box full of disks, not a whole file system by mistake.
pub(crate) const MAX_SCANNED: usize = 1024;

/// Least buffer memory that still lets one maximal command per worker through.
pub(crate) const MIN_MEMORY_BYTES: u64 = 64 << 20;

/// Buffer memory if nothing is configured: modest beside any machine that serves disks.
pub(crate) const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;

/// Data workers at most; more than cores help nobody.
pub(crate) const MAX_WORKERS: usize = 256;

/// A Unix socket's path with its NUL must fit `sockaddr_un.sun_path`.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// How long a stop waits for API calls that are under way.
pub(crate) const API_GRACE: Duration = Duration::from_secs(5);

/// Times that a busy disk is tried again. Whoever only looks at it is through by then, and the kernel has ended the last
/// I/O of a daemon that was killed: its ring holds the files, and so their locks, until then. A third of a second was seen
/// not to be enough.
pub(crate) const BUSY_ATTEMPTS: u32 = 100;

/// Pause between two of them.
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(30);

/// What a change waits for such a look.
pub(crate) const SPACE_PATIENCE: Duration = Duration::from_secs(2);

/// Pause between two looks at how much space is left below thin members: one system call for each, and a volume is not filled
/// from the warning to its end in so short a time.
pub(crate) const SPACE_INTERVAL: Duration = Duration::from_secs(2);

/// Per cent of a volume or array that can still be written when it is told that space runs short, if nothing is configured.
pub(crate) const DEFAULT_THIN_WARNING_PERCENT: u8 = 20;

/// Longest body of a request to the control API: the largest that anything sends is a few kilobytes.
pub(crate) const MAX_REQUEST_BYTES: usize = 2 << 20;

/// Pause before the host's copy of the configuration is tried again: whoever frees space sees it follow at once.
pub(crate) const HOST_COPY_PAUSE: Duration = Duration::from_secs(2);

/// Room for the registrations of one volume on its array: 100 with the longest names that there are, twice that with usual
/// ones, and less than half of all that there is, so that one volume does not take it from the others.
pub(crate) const MAX_VOLUME_RECORD_BYTES: usize = 48 << 10;

/// Room for those of all volumes of an array: half of the slot in which it keeps them, so that volumes, targets and access
/// can be changed whatever initiators register.
pub(crate) const MAX_ARRAY_RECORD_BYTES: usize = 128 << 10;

/// What a reservation adds to a record, with the volume's identity: a little more than the longest.
pub(crate) const RESERVATION_BYTES: usize = 96;

/// Addresses that one portal sends initiators to: each is checked by a task and shown on a line.
pub(crate) const MAX_REDIRECT_ADDRESSES: usize = 64;

/// Weight of one of them: shares to a tenth of a percent.
pub(crate) const MAX_REDIRECT_WEIGHT: u16 = 1000;

/// Path of a health check.
pub(crate) const MAX_CHECK_PATH_BYTES: usize = 1024;

/// Headers of the answer to a health check, and its body if that is read: a number of sessions takes a line.
pub(crate) const MAX_CHECK_ANSWER_BYTES: usize = 16 << 10;
