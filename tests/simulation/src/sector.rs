//! What may one sector hold? Everything that was written to it and is not hidden yet.
//!
//! | a write | a read may give it | a power cut may leave it |
//! |---|---|---|
//! | under way, or failed | until a later acknowledged write hides it | until a later durable write hides it |
//! | acknowledged | until a later acknowledged write hides it, or a read gave another one | the same |
//! | durable (FUA, or a flush that began after its end) | the same | the same; and it hides what ended before it began |

use smallvec::SmallVec;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    UnderWay,
    Acknowledged,
    Failed,
}

/// A write, zero or discard.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// What its sectors hold; 0 for zeros.
    pub(crate) value: u64,
    pub(crate) step: usize,
    pub(crate) life: u32,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) fate: Fate,
    pub(crate) durable: bool,
    pub(crate) fua: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) write: u32,
    /// When a read ended that gave another write, before which this one must have come. Reads that begin later do
    /// not give it any more.
    pub(crate) hidden: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Sector {
    /// What the last power cut (or the beginning) may have left.
    pub(crate) left: SmallVec<[u64; 2]>,
    pub(crate) writes: SmallVec<[Candidate; 2]>,
}

/// Does an acknowledged write that ended before `began` hide this one?
fn is_hidden(sector: &Sector, writes: &[Write], began: u64, ended: u64) -> bool {
    sector.writes.iter().any(|candidate| {
        let other = &writes[candidate.write as usize];
        other.fate == Fate::Acknowledged && other.ended < began && ended < other.began
    })
}

pub(crate) fn allowed(sector: &Sector, writes: &[Write], began: u64) -> Vec<u64> {
    let mut values: Vec<u64> = sector
        .writes
        .iter()
        .filter(|c| c.hidden > began && !is_hidden(sector, writes, began, writes[c.write as usize].ended))
        .map(|candidate| writes[candidate.write as usize].value)
        .collect();
    if !is_hidden(sector, writes, began, 0) {
        values.extend(&sector.left);
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// A read that began at `began` gave `value`. False if it must not; else remember what follows from it.
pub(crate) fn settle(sector: &mut Sector, writes: &[Write], (began, now): (u64, u64), value: u64) -> bool {
    if sector.writes.is_empty() {
        // The usual case: nothing since the last power cut.
        let known = sector.left.contains(&value);
        if known && sector.left.len() > 1 {
            sector.left = SmallVec::from_slice(&[value]);
        }
        return known;
    }
    let mut from_write = false;
    let mut from_ended = false;
    for candidate in &sector.writes {
        let write = &writes[candidate.write as usize];
        if write.value == value && candidate.hidden > began && !is_hidden(sector, writes, began, write.ended)
        {
            from_write = true;
            from_ended |= write.fate == Fate::Acknowledged && write.ended < began;
        }
    }
    if from_write {
        // Of writes that all had ended, this one came last. While a write is under way its copies may still differ: then a
        // read decides nothing.
        for candidate in &mut sector.writes {
            let write = &writes[candidate.write as usize];
            let ended = write.fate == Fate::Acknowledged && write.ended < began;
            if from_ended && ended && write.value != value {
                candidate.hidden = candidate.hidden.min(now);
            }
        }
        return true;
    }
    let left = sector.left.contains(&value) && !is_hidden(sector, writes, began, 0);
    if left {
        sector.left = SmallVec::from_slice(&[value]);
    }
    left
}

/// Forget what a durable write hides for reads (the oldest under way began at `reader`) and power cuts alike.
pub(crate) fn prune(sector: &mut Sector, writes: &[Write], reader: u64) {
    let latest = sector
        .writes
        .iter()
        .map(|candidate| &writes[candidate.write as usize])
        .filter(|write| write.durable && write.ended < reader)
        .map(|write| write.began)
        .max();
    let Some(latest) = latest else { return };
    sector.left.clear();
    sector.writes.retain(|candidate| writes[candidate.write as usize].ended >= latest);
}
