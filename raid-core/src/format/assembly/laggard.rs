//! Which superblock brings a member up to the freshest update?
//!
//! What is the array's comes from the freshest, what is the device's from its own. Above all: a spare that was
//! drafted in the update it missed is *rebuilding* from the first byte that says it holds a slot. Were it given the
//! role without a checkpoint, a crash right after would leave an empty disk that looks in sync.

use super::{AssemblyPlan, Candidate, SlotState};
use crate::format::superblock::{Features, Superblock};

/// Feature bits that say something of one device.
pub(crate) const OF_THE_DEVICE: Features =
    Features(Features::BAD_BLOCKS.0 | Features::RECOVERY_BITMAP.0 | Features::REPLACEMENT.0);

impl AssemblyPlan {
    /// What to write to the laggard `index` before the array's first own update. `None` if there is no
    /// such candidate with a superblock.
    #[must_use]
    pub fn superblock_for(&self, candidates: &[Candidate], index: usize) -> Option<Superblock> {
        let freshest = candidates.get(self.freshest)?.superblock.as_ref().ok()?;
        let own = candidates.get(index)?.superblock.as_ref().ok()?;
        let mut features = freshest.features.without(OF_THE_DEVICE);
        if own.features.contains(Features::BAD_BLOCKS) {
            features = features.with(Features::BAD_BLOCKS);
        }
        let mut recovery_offset = None;
        for slot in &self.slots {
            if let SlotState::Rebuilding { candidate, recovery_offset: offset, by_bitmap } = slot
                && *candidate == index
            {
                recovery_offset = Some(*offset);
                if *by_bitmap {
                    features = features.with(Features::RECOVERY_BITMAP);
                }
            }
        }
        Some(Superblock {
            features,
            recovery_offset,
            data_offset: own.data_offset,
            data_size: own.data_size,
            dev_number: own.dev_number,
            device_uuid: own.device_uuid,
            device_flags: own.device_flags,
            corrected_reads: own.corrected_reads,
            bad_block_log: own.bad_block_log,
            bitmap_offset: own.bitmap_offset,
            ..freshest.clone()
        })
    }
}
