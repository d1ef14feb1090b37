//! Which sets of members can run an array? By md's level and layout numbers, as `enough()` of md's RAID 10
//! and the levels' `max_degraded` say.

/// Copies of each block at RAID 10: near copies times far copies.
#[must_use]
pub fn copies(layout: u32) -> u32 {
    (layout & 0xff).max(1) * (layout >> 8 & 0xff).max(1)
}

/// Whether an array with these slots in sync holds all its data. `None` for a level that labsan does not run.
#[must_use]
pub fn survives(level: i32, layout: u32, in_sync: &[bool]) -> Option<bool> {
    let missing = in_sync.iter().filter(|present| !**present).count();
    Some(match level {
        0 => missing == 0,
        1 => missing < in_sync.len(),
        4 | 5 => missing <= 1,
        6 => missing <= 2,
        10 => raid10_survives(layout, in_sync),
        _ => return None,
    })
}

/// `_enough` of md's raid10.c: walk the groups of adjacent slots that hold one block's copies.
fn raid10_survives(layout: u32, in_sync: &[bool]) -> bool {
    let disks = in_sync.len();
    let (copies, step) = (copies(layout) as usize, (layout & 0xff).max(1) as usize);
    if disks == 0 || copies > disks {
        return false;
    }
    let mut first = 0;
    // The walk returns to 0 after at most `disks` steps.
    for _ in 0..disks {
        if !(0..copies).any(|copy| in_sync[(first + copy) % disks]) {
            return false;
        }
        first = (first + step) % disks;
    }
    true
}
