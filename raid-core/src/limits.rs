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
