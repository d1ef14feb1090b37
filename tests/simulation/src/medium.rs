//! What is on a disk, and what of it a power cut takes away.
//!
//! `view` is what reads see. What is in the view but not yet durable is listed in `cached` (ended writes, in order) and
//! `in_flight` (begun, not ended); `base` holds what is durable of the pages that those touched. At a power cut the
//! pages of `base` come back, and each listed write is kept, dropped, or torn at sectors over them.
//!
//! Assumptions about the medium: a sector of 512 bytes is written wholly or not at all; what a flush or a durable
//! write covered stays.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::SECTOR;
use crate::pages::{PAGE, Page, Pages, pieces};
use crate::rng::Rng;

/// A write that is not durable yet; no data means zeros.
#[derive(Clone)]
pub(crate) struct Pending {
    token: u64,
    pub(crate) offset: u64,
    length: u64,
    data: Option<Bytes>,
    /// It is to be durable when it ends.
    durable: bool,
    /// At which step of all disks it began.
    began: u64,
    /// When it began (in flight) or ended (cached), in the disk's own count.
    order: u64,
}

/// Everything about a disk that has to do with bytes.
pub(crate) struct Medium {
    view: Pages,
    base: HashMap<usize, Option<Arc<Page>>>,
    cached: Vec<Pending>,
    in_flight: Vec<Pending>,
    /// The last durable writes that ended.
    recent: VecDeque<Recent>,
    order: u64,
}

/// A durable write that had just ended, or was under way, when the power went.
#[derive(Clone)]
pub(crate) struct Recent {
    pub(crate) range: Range<u64>,
    /// At which step of all disks it began.
    pub(crate) began: u64,
    /// All of it is there.
    pub(crate) kept: bool,
}

/// So many durable writes that ended are remembered.
const RECENT: usize = 4;

impl Pending {
    fn apply_part(&self, to: &mut Pages, start: u64, length: u64) {
        match &self.data {
            Some(data) => to.write(self.offset + start, &data[start as usize..(start + length) as usize]),
            None => to.zero(self.offset + start, length),
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// What is left of it outside of `range`.
    fn without(&self, range: &Range<u64>) -> smallvec::SmallVec<[Self; 2]> {
        [(self.offset, self.end().min(range.start)), (self.offset.max(range.end), self.end())]
            .into_iter()
            .filter(|(from, to)| from < to)
            .map(|(from, to)| Self {
                token: self.token,
                offset: from,
                length: to - from,
                data: self
                    .data
                    .as_ref()
                    .map(|data| data.slice((from - self.offset) as usize..(to - self.offset) as usize)),
                durable: self.durable,
                began: self.began,
                order: self.order,
            })
            .collect()
    }
}

impl Medium {
    /// Zeros everywhere.
    pub(crate) fn new(size_bytes: u64) -> Self {
        Self {
            view: Pages::new(size_bytes),
            base: HashMap::new(),
            cached: Vec::new(),
            in_flight: Vec::new(),
            recent: VecDeque::new(),
            order: 0,
        }
    }

    /// What reads see now.
    pub(crate) fn view(&self) -> &Pages {
        &self.view
    }

    /// Change bytes behind everyone's back, durably or not.
    pub(crate) fn overwrite(&mut self, offset: u64, data: &[u8]) {
        self.view.write(offset, data);
    }

    /// Everything that ended until now, for a flush that begins.
    pub(crate) fn mark(&self) -> u64 {
        self.order
    }

    /// A write begins. From now on a power cut may leave it.
    pub(crate) fn begin_write(
        &mut self,
        range: Range<u64>,
        data: Option<Bytes>,
        durable: bool,
        began: u64,
    ) -> u64 {
        let order = self.next_order();
        let (offset, length) = (range.start, range.end - range.start);
        self.in_flight.push(Pending { token: order, offset, length, data, durable, began, order });
        order
    }

    /// The write of this token ends: what becomes of it is for the caller to say. `None` if a power cut was before.
    pub(crate) fn take_write(&mut self, token: u64) -> Option<Pending> {
        let at = self.in_flight.iter().position(|write| write.token == token)?;
        Some(self.in_flight.swap_remove(at))
    }

    /// The write fails: nothing of it was done, or every other sector, or all; nobody may count on any of them.
    pub(crate) fn fail_write(&mut self, write: &Pending) {
        let sectors = write.length / SECTOR;
        let step = match write.token % 3 {
            0 => return,
            1 => 2,
            _ => 1,
        };
        for sector in (0..sectors).step_by(step) {
            let offset = write.offset + sector * SECTOR;
            let start = (sector * SECTOR) as usize;
            let data = write.data.as_ref().map(|data| data.slice(start..start + SECTOR as usize));
            self.apply(Pending { offset, length: SECTOR, data, durable: false, ..write.clone() });
        }
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Lay the write over durable pages, where those are kept apart from the view.
    fn apply_to_base(&mut self, write: &Pending) {
        for (index, start, range) in pieces(write.offset, write.length as usize) {
            let Some(slot) = self.base.get_mut(&index) else { continue };
            let page = Arc::make_mut(slot.get_or_insert_with(|| Arc::new([0; PAGE])));
            let target = &mut page[start..start + range.len()];
            match &write.data {
                Some(data) => target.copy_from_slice(&data[range]),
                None => target.fill(0),
            }
        }
    }

    /// A write has ended: reads see it; it is durable now or waits in the cache.
    pub(crate) fn apply(&mut self, mut write: Pending) {
        write.order = self.next_order();
        if write.durable {
            let range = write.offset..write.end();
            self.recent.truncate(RECENT - 1);
            self.recent.push_front(Recent { range: range.clone(), began: write.began, kept: true });
            if !self.base.is_empty() {
                self.apply_to_base(&write);
                self.cached = std::mem::take(&mut self.cached)
                    .into_iter()
                    .flat_map(|cached| cached.without(&range))
                    .collect();
            }
            write.apply_part(&mut self.view, 0, write.length);
            return;
        }
        for (index, ..) in pieces(write.offset, write.length as usize) {
            let view = &self.view;
            self.base.entry(index).or_insert_with(|| view.get(index));
        }
        write.apply_part(&mut self.view, 0, write.length);
        // The buffer is the engine's, from a bounded pool: an ended write must not keep it.
        write.data = write.data.map(|data| Bytes::copy_from_slice(&data));
        self.cached.push(write);
    }

    /// A flush that began at `mark` ends.
    pub(crate) fn end_flush(&mut self, mark: u64) {
        let (durable, cached): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cached).into_iter().partition(|write| write.order <= mark);
        self.cached = cached;
        if self.cached.is_empty() {
            self.base.clear();
            return;
        }
        for write in durable {
            self.apply_to_base(&write);
        }
    }

    /// The power goes: of what was not durable each write is kept, dropped or torn. Tells what became of the latest
    /// that were, or were to be, durable.
    pub(crate) fn power_cut(&mut self, rng: &mut Rng) -> Vec<Recent> {
        for (index, page) in self.base.drain() {
            self.view.set(index, page);
        }
        let mut left: Vec<Recent> = self.recent.drain(..).collect();
        let under_way: Vec<u64> = self.in_flight.iter().map(|write| write.token).collect();
        let mut pending = std::mem::take(&mut self.cached);
        for late in self.in_flight.drain(..) {
            // Not before what had ended when it began; anywhere after that.
            let first = pending.partition_point(|ended| ended.order < late.order);
            let at = first + rng.below((pending.len() - first) as u64 + 1) as usize;
            // Those behind it may themselves be late ones: any order among them will do.
            let order = if at == 0 { late.order } else { pending[at - 1].order.max(late.order) };
            let order = pending.get(at).map_or(order, |next| order.min(next.order));
            pending.insert(at, Pending { order, ..late });
        }
        let kept_percent = rng.pick(&[0, 15, 50, 85, 100]);
        for write in pending {
            let torn = rng.chance(20);
            let kept = torn || rng.chance(kept_percent);
            if torn {
                for sector in 0..write.length / SECTOR {
                    if rng.chance(50) {
                        write.apply_part(&mut self.view, sector * SECTOR, SECTOR);
                    }
                }
            } else if kept {
                write.apply_part(&mut self.view, 0, write.length);
            }
            if write.durable && under_way.contains(&write.token) {
                let range = write.offset..write.end();
                left.push(Recent { range, began: write.began, kept: kept && !torn });
            }
        }
        left
    }
}
