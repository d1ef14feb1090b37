//! Every limit of raid-core: its name, its number, its reason.

/// Members of one array. A v1.2 superblock of 1 KiB (as md keeps it) has room for 384 roles.
pub const MAX_MEMBERS: u16 = 384;

/// Smallest chunk: one page, so that a chunk is never smaller than what a disk writes atomically.
pub const MIN_CHUNK_BYTES: u32 = 4 << 10;

/// Largest chunk: a stripe of many members still fits in memory many times over.
pub const MAX_CHUNK_BYTES: u32 = 1 << 20;

/// The unit of RAID 1, which has no chunk: small enough to lock, large enough to rebuild fast.
pub const MIRROR_UNIT_BYTES: u32 = 64 << 10;

/// Data area of a member: 2^54 bytes (16 PiB) times 384 members stays inside 64 bits.
pub const MAX_MEMBER_BYTES: u64 = 1 << 54;

/// Read errors after which a member is failed though each was repaired: md's `max_corr_read_errors`.
pub const MAX_READ_ERRORS: u64 = 20;

/// Plans tried for one stripe before giving up: each retry has mended a block or lost a member.
pub const MAX_WRITE_ATTEMPTS: usize = 8;

/// Bytes of each member zeroed under one set of unit locks.
pub const ZERO_RUN_BYTES: u64 = 16 << 20;

/// Units zeroed under one set of locks: their intents fit a journal record.
pub const ZERO_RUN_UNITS: u64 = 1024;

/// How often the bitmap is swept: md's default `daemon_sleep`.
pub const SWEEP_INTERVAL_MS: u64 = 5_000;

/// Longest pause background work makes for clients after each window: keeps rebuilds moving under any load.
pub const MAX_BACKGROUND_PAUSE_MS: u64 = 50;

/// How often a rebuild makes its position durable: at most this much is done again after a crash.
pub const CHECKPOINT_INTERVAL_MS: u64 = 2_000;

/// Bytes of each member that background work holds and moves at once.
pub const BACKGROUND_WINDOW_BYTES: u64 = 1 << 20;

/// Memory of an array for parity and old data.
pub const SCRATCH_BYTES: u64 = 32 << 20;

/// The widest stripes that must fit into it at once, so that background work and clients both move.
pub const SCRATCH_STRIPES: u64 = 8;

/// Events kept for a listener that lags behind.
pub const EVENT_BACKLOG: usize = 256;

/// Volumes of one array: their records must fit a config slot beside the SAN's own part.
pub const MAX_VOLUMES: usize = 256;

/// Sizes of volumes are multiples of this: the largest logical block there is.
pub const VOLUME_GRAIN_BYTES: u64 = 4096;

/// Bytes of each member's journal ring that are used: with more, a start would look through it for too long.
pub const MAX_RING_BYTES: u64 = 128 << 20;

/// The longest journal record: what one commit makes its writers wait for.
pub const MAX_RECORD_BYTES: u64 = 1 << 20;

/// Header of a journal record that holds a few items.
pub const RECORD_HEAD_BYTES: u64 = 4096;

/// The longest piece of data in one item of the journal.
pub const MAX_PIECE_BYTES: usize = 256 << 10;

/// The longest write that is atomic over crashes: a database's largest block, several times over.
pub const MAX_ATOMIC_BYTES: u64 = 256 << 10;

/// Bytes of a mirror's rings that are used, for one record: its payload, and as much again for what names many pieces.
pub const REDO_RING_BYTES: u64 = 2 * MAX_ATOMIC_BYTES;

/// Memory of an array for journalled data that is not in place yet.
pub const JOURNAL_MEMORY_BYTES: usize = 64 << 20;

/// Stripes destaged at once: enough that they share a commit and a flush.
pub const DESTAGE_ROUND: usize = 256;

/// Rounds of destaging under way at once, where room is short: while one waits for its commit or flush, others read and write.
pub const DESTAGE_ROUNDS: usize = 3;

/// Stripes looked at to find those of a round.
pub const DESTAGE_CANDIDATES: usize = 2 * DESTAGE_ROUND;

/// Times that a block is read before it is given up as lost.
pub const LAST_READ_ATTEMPTS: usize = 3;

/// Times in a row that destaging may fail before the array takes no more writes.
pub const DESTAGE_ATTEMPTS: usize = 50;

/// How long the last requests of a device that was taken out are waited for when it is removed or added again.
pub const HANGING_REQUEST_MS: u64 = 5_000;

/// How long clients must be quiet before destaging begins without need.
pub const DESTAGE_LINGER_MS: u64 = 200;

/// Pause of a drain that waits for somebody else's whole-stripe write.
pub const DRAIN_PAUSE_MS: u64 = 5;
