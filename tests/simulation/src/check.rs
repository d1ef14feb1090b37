//! Are the members of an array at rest what Linux md defines?
//!
//! Nothing of labsan is used here: the v1.2 superblock is read as `include/uapi/linux/raid/md_p.h` has it, parity and copies
//! are checked as `drivers/md/raid5.c` and `raid10.c` place them. Pages that are zero everywhere need no look.

use std::sync::Arc;

use crate::disk::Disk;
use crate::pages::{PAGE, Page};

const MAGIC: u32 = 0xa92b_4efc;
/// Set while labsan runs an array.
const IN_USE: u32 = 1 << 31;

struct Head {
    slot: Option<usize>,
    in_use: bool,
    level: u32,
    component_bytes: u64,
    chunk_bytes: u64,
    raid_disks: usize,
    data_page: usize,
    events: u64,
    resync_offset: u64,
}

fn head(disk: &Disk) -> Option<Head> {
    disk.with_page(1, |page| {
        let page = page?;
        let u16_at = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC {
            return None;
        }
        let role = u16_at(256 + 2 * u32_at(160) as usize);
        Some(Head {
            slot: (role < 0xfffe).then_some(usize::from(role)),
            in_use: u32_at(8) & IN_USE != 0,
            level: u32_at(72),
            component_bytes: u64_at(80) * 512,
            chunk_bytes: u64::from(u32_at(88)) * 512,
            raid_disks: u32_at(92) as usize,
            data_page: (u64_at(128) * 512) as usize / PAGE,
            events: u64_at(200),
            resync_offset: u64_at(208),
        })
    })
}

/// Check all; the error says what is wrong, and where.
pub(crate) fn at_rest(disks: &[Arc<Disk>]) -> Result<(), String> {
    let mut all: Vec<(Head, &Arc<Disk>)> =
        disks.iter().filter_map(|disk| Some((head(disk)?, disk))).collect();
    let newest = all.iter().map(|(head, _)| head.events).max().unwrap_or(0);
    all.retain(|(head, _)| head.events == newest && head.slot.is_some());
    all.sort_by_key(|(head, _)| head.slot);
    let Some((first, _)) = all.first() else { return Err("no superblock can be read".to_owned()) };
    let slots: Vec<usize> = all.iter().filter_map(|(head, _)| head.slot).collect();
    if slots != (0..first.raid_disks).collect::<Vec<_>>() {
        return Err(format!("slots {slots:?} are filled of {}", first.raid_disks));
    }
    for (head, _) in &all {
        if head.in_use || (head.level != 0 && head.resync_offset != u64::MAX) {
            return Err(format!(
                "slot {:?} is not clean: in use {}, resync_offset {}",
                head.slot, head.in_use, head.resync_offset
            ));
        }
    }
    let members: Vec<Member> =
        all.iter().map(|(head, disk)| Member { disk: disk.as_ref(), data_page: head.data_page }).collect();
    let rows = (first.component_bytes as usize) / PAGE;
    match first.level {
        1 => (0..rows).try_for_each(|row| same(&members, row, (0..members.len()).map(|slot| (slot, row)))),
        5 | 6 => {
            let chunk_pages = first.chunk_bytes as usize / PAGE;
            let parities = if first.level == 5 { 1 } else { 2 };
            (0..rows).try_for_each(|row| parity(&members, row, chunk_pages, parities))
        }
        10 => near_2(&members, rows, first.chunk_bytes as usize / PAGE),
        _ => Ok(()),
    }
}

struct Member<'a> {
    disk: &'a Disk,
    data_page: usize,
}

impl Member<'_> {
    fn look<T>(&self, row: usize, look: impl FnOnce(Option<&Page>) -> T) -> T {
        self.disk.with_page(self.data_page + row, look)
    }

    fn add_to(&self, row: usize, sum: &mut Page) {
        self.look(row, |page| {
            if let Some(page) = page {
                for (byte, value) in sum.iter_mut().zip(page) {
                    *byte ^= value;
                }
            }
        });
    }
}

fn same(members: &[Member], row: usize, copies: impl Iterator<Item = (usize, usize)>) -> Result<(), String> {
    let mut first: Option<(usize, Option<Page>)> = None;
    for (slot, page) in copies {
        let copy = members[slot].look(page, |page| Some(*page?));
        match &first {
            None => first = Some((slot, copy)),
            Some((_, known)) if *known == copy || is_zero(known) && is_zero(&copy) => {}
            Some((other, _)) => {
                return Err(format!("copies of page {row} on slots {other} and {slot} differ"));
            }
        }
    }
    Ok(())
}

fn is_zero(page: &Option<Page>) -> bool {
    page.is_none_or(|page| page.iter().all(|&byte| byte == 0))
}

/// A copy of each chunk lies in the next slot, round and round.
fn near_2(members: &[Member], rows: usize, chunk_pages: usize) -> Result<(), String> {
    let slots = members.len();
    let chunks = rows / chunk_pages * slots / 2;
    for chunk in 0..chunks {
        for page in 0..chunk_pages {
            let place = |copy: usize| (copy % slots, copy / slots * chunk_pages + page);
            same(members, chunk * chunk_pages + page, [place(2 * chunk), place(2 * chunk + 1)].into_iter())?;
        }
    }
    Ok(())
}

/// Left-symmetric: P moves down one slot a stripe, Q and the data follow it.
fn parity(members: &[Member], row: usize, chunk_pages: usize, parities: usize) -> Result<(), String> {
    if members.iter().all(|member| member.look(row, |page| page.is_none())) {
        return Ok(());
    }
    let slots = members.len();
    let stripe = row / chunk_pages;
    let p = slots - 1 - stripe % slots;
    let data = |index: usize| (p + parities + index) % slots;
    let mut sum = [0; PAGE];
    for index in 0..slots - parities {
        members[data(index)].add_to(row, &mut sum);
    }
    members[p].add_to(row, &mut sum);
    if let Some(at) = sum.iter().position(|&byte| byte != 0) {
        return Err(format!("P of stripe {stripe} is wrong at byte {at} of page {row} (slot {p})"));
    }
    if parities == 2 {
        let q = (p + 1) % slots;
        let mut sum = [0; PAGE];
        // Horner's rule from the highest power of the generator down.
        for index in (0..slots - 2).rev() {
            for byte in &mut sum {
                *byte = *byte << 1 ^ if *byte & 0x80 == 0 { 0 } else { 0x1d };
            }
            members[data(index)].add_to(row, &mut sum);
        }
        members[q].add_to(row, &mut sum);
        if let Some(at) = sum.iter().position(|&byte| byte != 0) {
            return Err(format!("Q of stripe {stripe} is wrong at byte {at} of page {row} (slot {q})"));
        }
    }
    Ok(())
}
