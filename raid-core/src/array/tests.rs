//! The engine over devices in memory that can be made to fail: bytes against a model, failures, rebuilds,
//! stops and starts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use block_io::{IoErrorKind, IoOperation, MemoryDevice, Zeroing};

use super::*;
use crate::array::ArrayState;
use crate::geometry::Level;
use crate::volume::VolumeSpec;

mod failing;
mod faulty;
mod half_written;
mod hanging;
mod joining;
mod late_reads;
mod md_says;
mod mirrors_full;
mod rebuilding;
mod replayed;
mod serving;
mod space;
mod stalls;
mod starting;
mod unreadable;
mod world;
mod written;

use faulty::Faulty;
use world::{
    BLOCK, Model, Random, World, block, change_superblock, device, environment, path, place_of, run,
};

const MEMBER_BYTES: usize = 20 << 20;

const SHAPES: [(Level, usize); 7] = [
    (Level::Raid1, 2),
    (Level::Raid1, 3),
    (Level::Raid5, 3),
    (Level::Raid5, 5),
    (Level::Raid6, 6),
    (Level::Raid10, 4),
    (Level::Raid10, 5),
];
