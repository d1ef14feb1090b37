//! What do the bytes on a member mean? Pure: bytes in, values out, and back. No I/O, no clock.
//!
//! A member is a Linux md v1.2 member; what is labsan's own lives in the gap that md leaves before
//! `data_offset` (`docs/on-disk-format.md` has every byte and the test that guards it).
//!
//! - [`superblock`], [`bitmap`], [`badblocks`]: md's structures, as the kernel and mdadm write them.
//! - [`layout`]: where everything lies on a member of a given size.
//! - [`labsan`]: header, config slots, written map, list of lost blocks.
//! - [`foreign`]: whose data is on a disk that somebody offers us?
//! - [`assembly`]: which of the members offered may be trusted, and for what?
//!
//! Invariant of all parsers: bytes that were not checked (magic, version, checksum, owner, ranges) live
//! only in the private `Raw*` structs; a public value exists only if every check passed. Hostile bytes give
//! an error, never a panic, and no field needs checking twice.

pub mod assembly;
pub mod badblocks;
pub mod bitmap;
pub mod foreign;
pub mod labsan;
pub mod layout;
pub mod superblock;

/// Bytes in one md sector, whatever the device's own block is.
pub const SECTOR_BYTES: u64 = 512;

/// The unit in which metadata is written: a page of this size is encoded whole.
pub const PAGE_BYTES: usize = 4096;

/// One page of metadata, ready to be written.
pub type Page = [u8; PAGE_BYTES];
