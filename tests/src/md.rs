//! Is an array at rest what Linux md says it should be?
//!
//! Reads member images with nothing but md's own definition of the v1.2 superblock (`include/uapi/linux/raid/md_p.h`)
//! and of its layouts (`drivers/md/raid5.c`, `raid10.c`), sharing no code with labsan: every stripe's parity, every
//! mirror, and the array's bytes in order.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR: u64 = 512;
const SUPERBLOCK_AT: u64 = 4096;
const MAGIC: u32 = 0xa92b_4efc;
const LEFT_SYMMETRIC: u32 = 2;
const NEAR_2: u32 = 0x102;
/// Set in `feature_map` while labsan runs an array, so that the kernel keeps off.
pub const FEATURE_IN_USE: u32 = 1 << 31;
const ROLE_SPARE: u16 = 0xffff;
const ROLE_FAULTY: u16 = 0xfffe;
const NO_RESYNC_LEFT: u64 = u64::MAX;

/// What one member's superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The array's identity.
    pub set_uuid: [u8; 16],
    /// `feature_map`.
    pub feature_map: u32,
    /// 1, 5, 6, 10.
    pub level: i32,
    /// md's layout number.
    pub layout: u32,
    /// Bytes of each member that hold data.
    pub component_bytes: u64,
    /// Chunk, in bytes.
    pub chunk_bytes: u64,
    /// How many slots the array has.
    pub raid_disks: usize,
    /// Where data begins on this member, in bytes.
    pub data_offset: u64,
    /// Event count.
    pub events: u64,
    /// How far the array is known to be in sync; `u64::MAX` when it is.
    pub resync_offset: u64,
    /// This member's slot; `None` for a spare or a failed one.
    pub slot: Option<usize>,
}

impl Superblock {
    /// Reads and checks the superblock of one member.
    pub fn read(member: &File) -> Result<Self> {
        let mut raw = [0; 4096];
        member.read_exact_at(&mut raw, SUPERBLOCK_AT)?;
        let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        ensure!(u32_at(0) == MAGIC && u32_at(4) == 1, "no md v1 superblock");
        ensure!(u64_at(144) == SUPERBLOCK_AT / SECTOR, "super_offset is {}", u64_at(144));
        ensure!(u32_at(216) == checksum(&raw)?, "sb_csum is wrong");
        let dev_number = usize::try_from(u32_at(160))?;
        ensure!(dev_number < usize::try_from(u32_at(220))?, "dev_number beyond max_dev");
        let role = u16_at(256 + 2 * dev_number);
        Ok(Self {
            set_uuid: raw[16..32].try_into()?,
            feature_map: u32_at(8),
            level: u32_at(72).cast_signed(),
            layout: u32_at(76),
            component_bytes: u64_at(80) * SECTOR,
            chunk_bytes: u64::from(u32_at(88)) * SECTOR,
            raid_disks: usize::try_from(u32_at(92))?,
            data_offset: u64_at(128) * SECTOR,
            events: u64_at(200),
            resync_offset: u64_at(208),
            slot: (role != ROLE_SPARE && role != ROLE_FAULTY).then_some(usize::from(role)),
        })
    }
}

/// `calc_sb_1_csum` of drivers/md/md.c: the sum of all words, `sb_csum` taken as 0, folded once.
fn checksum(raw: &[u8; 4096]) -> Result<u32> {
    let max_dev = usize::from(u16::from_le_bytes([raw[220], raw[221]]));
    let len = 256 + 2 * max_dev;
    ensure!(len <= raw.len(), "max_dev is {max_dev}");
    let mut bytes = raw[..len].to_vec();
    bytes[216..220].fill(0);
    bytes.resize(len.next_multiple_of(4), 0);
    let sum: u64 =
        bytes.chunks_exact(4).map(|w| u64::from(u32::from_le_bytes([w[0], w[1], w[2], w[3]]))).sum();
    Ok(u32::try_from(((sum & 0xffff_ffff) + (sum >> 32)) & 0xffff_ffff)?)
}

/// An array at rest: all its members, in slot order.
#[derive(Debug)]
pub struct Array {
    members: Vec<File>,
    offsets: Vec<u64>,
    head: Superblock,
}

impl Array {
    /// Opens member images, finds their slots.
    ///
    /// # Errors
    /// When a superblock is bad, a slot is empty or held twice, or members disagree on the array.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self> {
        let mut slots: Vec<Option<(File, Superblock)>> = Vec::new();
        for path in paths {
            let path = path.as_ref();
            let file = File::open(path).with_context(|| path.display().to_string())?;
            let superblock = Superblock::read(&file).with_context(|| path.display().to_string())?;
            let Some(slot) = superblock.slot else { continue };
            slots.resize_with(slots.len().max(superblock.raid_disks), || None);
            let place = slots.get_mut(slot).context("slot beyond raid_disks")?;
            ensure!(place.is_none(), "two members say they are slot {slot}");
            *place = Some((file, superblock));
        }
        let mut all = Vec::new();
        for (slot, member) in slots.into_iter().enumerate() {
            all.push(member.with_context(|| format!("nobody is slot {slot}"))?);
        }
        let head = all.first().context("no members")?.1.clone();
        for (_, superblock) in &all {
            ensure!(
                superblock.set_uuid == head.set_uuid && superblock.events == head.events,
                "members disagree: {superblock:?} and {head:?}"
            );
        }
        let offsets = all.iter().map(|(_, s)| s.data_offset).collect();
        Ok(Self { members: all.into_iter().map(|(file, _)| file).collect(), offsets, head })
    }

    /// What the superblock of slot 0 says.
    pub fn superblock(&self) -> &Superblock {
        &self.head
    }

    /// After a clean stop: the kernel may have it, and nothing is left to resync.
    pub fn check_clean(&self) -> Result<()> {
        ensure!(self.head.feature_map & FEATURE_IN_USE == 0, "bit 31 of feature_map is still set");
        ensure!(self.head.resync_offset == NO_RESYNC_LEFT, "resync_offset is {}", self.head.resync_offset);
        Ok(())
    }

    /// Checks the redundancy of every stripe of the array.
    ///
    /// # Errors
    /// Names the first chunk row and member offset where it is wrong.
    pub fn check_redundancy(&self) -> Result<()> {
        let chunk = self.chunk()?;
        let rows = self.head.component_bytes / chunk as u64;
        let mut blocks = vec![vec![0_u8; chunk]; self.members.len()];
        for row in 0..rows {
            for (slot, block) in blocks.iter_mut().enumerate() {
                self.members[slot].read_exact_at(block, self.offsets[slot] + row * chunk as u64)?;
            }
            let wrong = match self.head.level {
                1 => blocks[1..].iter().find_map(|copy| first_difference(&blocks[0], copy)),
                5 => first_difference(&xor(blocks.iter(), chunk), &vec![0; chunk]),
                6 => self.check_pq(row, &blocks, chunk),
                10 => self.check_near_2(row, rows, &blocks, chunk)?,
                level => bail!("level {level} has no redundancy to check"),
            };
            if let Some(byte) = wrong {
                bail!("chunk row {row} of {rows} is not consistent, first at byte {byte} of its chunks");
            }
        }
        Ok(())
    }

    fn chunk(&self) -> Result<usize> {
        // md keeps no chunk for mirrors.
        let bytes = if self.head.level == 1 { 64 << 10 } else { self.head.chunk_bytes };
        ensure!(bytes > 0, "chunk is 0");
        Ok(usize::try_from(bytes)?)
    }

    fn check_pq(&self, row: u64, blocks: &[Vec<u8>], chunk: usize) -> Option<usize> {
        let (p, data) = self.row_layout(row, 2);
        let q = (p + 1) % blocks.len();
        let all = data.iter().map(|&slot| &blocks[slot]);
        first_difference(&xor(all, chunk), &blocks[p]).or_else(|| {
            // Horner's rule from the highest power of the generator down.
            let mut sum = vec![0; chunk];
            for &slot in data.iter().rev() {
                for (byte, &value) in sum.iter_mut().zip(&blocks[slot]) {
                    *byte = times_generator(*byte) ^ value;
                }
            }
            first_difference(&sum, &blocks[q])
        })
    }

    /// Mirrors of near-2 lie in neighbouring slots; with an odd count a pair may span two rows.
    fn check_near_2(&self, row: u64, rows: u64, blocks: &[Vec<u8>], chunk: usize) -> Result<Option<usize>> {
        ensure!(self.head.layout == NEAR_2, "layout {:#x}", self.head.layout);
        let n = blocks.len() as u64;
        let mut other = vec![0; chunk];
        for slot in 0..n {
            let copy = row * n + slot;
            if !copy.is_multiple_of(2) {
                continue;
            }
            let (twin_row, twin_slot) = ((copy + 1) / n, usize::try_from((copy + 1) % n)?);
            if twin_row >= rows {
                continue;
            }
            self.members[twin_slot]
                .read_exact_at(&mut other, self.offsets[twin_slot] + twin_row * chunk as u64)?;
            if let Some(byte) = first_difference(&blocks[usize::try_from(slot)?], &other) {
                return Ok(Some(byte));
            }
        }
        Ok(None)
    }

    /// Left-symmetric: the slot of P in a row, and the slots of its data in order.
    fn row_layout(&self, row: u64, parities: usize) -> (usize, Vec<usize>) {
        let n = self.members.len();
        let turn = usize::try_from(row % n as u64).unwrap_or_default();
        let p = n - 1 - turn;
        (p, (0..n - parities).map(|d| (p + parities + d) % n).collect())
    }

    /// The array's own bytes, in order, each read from where md puts it.
    ///
    /// # Errors
    /// When a layout is none that labsan writes, or a member cannot be read.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        let chunk = self.chunk()?;
        let rows = self.head.component_bytes / chunk as u64;
        let n = self.members.len() as u64;
        let mut bytes = Vec::new();
        let mut block = vec![0; chunk];
        let mut take = |slot: usize, row: u64| -> Result<()> {
            self.members[slot].read_exact_at(&mut block, self.offsets[slot] + row * chunk as u64)?;
            bytes.extend_from_slice(&block);
            Ok(())
        };
        match self.head.level {
            1 => (0..rows).try_for_each(|row| take(0, row))?,
            5 | 6 => {
                ensure!(self.head.layout == LEFT_SYMMETRIC, "layout {}", self.head.layout);
                let parities = if self.head.level == 5 { 1 } else { 2 };
                for row in 0..rows {
                    self.row_layout(row, parities).1.into_iter().try_for_each(|slot| take(slot, row))?;
                }
            }
            10 => {
                ensure!(self.head.layout == NEAR_2, "layout {:#x}", self.head.layout);
                (0..rows * n / 2).try_for_each(|c| take(usize::try_from(c * 2 % n)?, c * 2 / n))?;
            }
            level => bail!("level {level} is not read here"),
        }
        Ok(bytes)
    }
}

fn xor<'a>(blocks: impl Iterator<Item = &'a Vec<u8>>, len: usize) -> Vec<u8> {
    let mut sum = vec![0; len];
    for block in blocks {
        for (byte, value) in sum.iter_mut().zip(block) {
            *byte ^= value;
        }
    }
    sum
}

/// Times 2 in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1.
fn times_generator(byte: u8) -> u8 {
    (byte << 1) ^ if byte & 0x80 == 0 { 0 } else { 0x1d }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    (a != b).then(|| a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::process::run;
    use std::path::PathBuf;
    use std::process::Command;
    use std::time::Duration;

    const CHUNK: usize = 4096;
    const ROWS: u64 = 10;
    const DATA_OFFSET: u64 = 1 << 20;

    /// A superblock by hand, as md_p.h has it.
    fn superblock(level: u32, layout: u32, disks: usize, slot: usize) -> Vec<u8> {
        let mut raw = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(4, &1_u32.to_le_bytes());
        put(72, &level.to_le_bytes());
        put(76, &layout.to_le_bytes());
        put(80, &(ROWS * CHUNK as u64 / SECTOR).to_le_bytes());
        put(88, &u32::try_from(CHUNK as u64 / SECTOR).unwrap().to_le_bytes());
        put(92, &u32::try_from(disks).unwrap().to_le_bytes());
        put(128, &(DATA_OFFSET / SECTOR).to_le_bytes());
        put(144, &8_u64.to_le_bytes());
        put(160, &u32::try_from(slot).unwrap().to_le_bytes());
        put(208, &u64::MAX.to_le_bytes());
        put(220, &u32::try_from(disks).unwrap().to_le_bytes());
        for role in 0..disks {
            put(256 + 2 * role, &u16::try_from(role).unwrap().to_le_bytes());
        }
        let sum = checksum(&raw[..].try_into().unwrap()).unwrap();
        raw[216..220].copy_from_slice(&sum.to_le_bytes());
        raw
    }

    fn write_members(dir: &Path, level: u32, layout: u32, columns: &[Vec<u8>]) -> Vec<PathBuf> {
        let write = |(slot, column): (usize, &Vec<u8>)| {
            let path = dir.join(format!("member{slot}"));
            let file = File::create(&path).unwrap();
            file.write_all_at(&superblock(level, layout, columns.len(), slot), SUPERBLOCK_AT).unwrap();
            file.write_all_at(column, DATA_OFFSET).unwrap();
            path
        };
        columns.iter().enumerate().map(write).collect()
    }

    /// RAID 6 over five members, its rows written out by the definition: P at n-1-row, then Q, then the data.
    fn raid6(seed: u64) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut seed, n) = (Seed::new(seed), 5_usize);
        let (mut columns, mut logical) = (vec![Vec::new(); n], Vec::new());
        for row in 0..ROWS {
            let data: Vec<Vec<u8>> = (0..n - 2).map(|_| seed.bytes(CHUNK)).collect();
            logical.extend(data.concat());
            let p_slot = n - 1 - usize::try_from(row).unwrap() % n;
            let p: Vec<u8> = (0..CHUNK).map(|i| data[0][i] ^ data[1][i] ^ data[2][i]).collect();
            let two = times_generator;
            let q: Vec<u8> =
                (0..CHUNK).map(|i| data[0][i] ^ two(data[1][i]) ^ two(two(data[2][i]))).collect();
            columns[p_slot].extend(p);
            columns[(p_slot + 1) % n].extend(q);
            for (d, block) in data.into_iter().enumerate() {
                columns[(p_slot + 2 + d) % n].extend(block);
            }
        }
        (columns, logical)
    }

    #[test]
    fn raid6_is_accepted_and_any_flipped_bit_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (columns, logical) = raid6(3);
        let paths = write_members(dir.path(), 6, LEFT_SYMMETRIC, &columns);
        let array = Array::open(&paths).unwrap();
        array.check_clean().unwrap();
        array.check_redundancy().unwrap();
        assert_eq!(array.read_all().unwrap(), logical);
        for path in &paths {
            let file = File::options().write(true).read(true).open(path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, DATA_OFFSET + 7 * CHUNK as u64 + 99).unwrap();
            file.write_all_at(&[byte[0] ^ 4], DATA_OFFSET + 7 * CHUNK as u64 + 99).unwrap();
            let error = Array::open(&paths).unwrap().check_redundancy().unwrap_err().to_string();
            assert!(error.contains("row 7") && error.contains("byte 99"), "{error}");
            file.write_all_at(&byte, DATA_OFFSET + 7 * CHUNK as u64 + 99).unwrap();
        }
    }

    #[test]
    fn raid5_and_raid10_are_checked_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut seed = Seed::new(5);
        let (a, b) = (seed.bytes(CHUNK * 10), seed.bytes(CHUNK * 10));
        let p: Vec<u8> = a.iter().zip(&b).map(|(x, y)| x ^ y).collect();
        let array =
            Array::open(&write_members(dir.path(), 5, LEFT_SYMMETRIC, &[a.clone(), b.clone(), p])).unwrap();
        array.check_redundancy().unwrap();
        // Row 0 of three: P in slot 2, data in slots 0 and 1; row 1: P in slot 1, data in 2 and 0.
        assert_eq!(array.read_all().unwrap()[..CHUNK], a[..CHUNK]);
        assert_eq!(array.read_all().unwrap()[3 * CHUNK..4 * CHUNK], a[CHUNK..2 * CHUNK]);
        let mirrored = write_members(dir.path(), 10, NEAR_2, &[a.clone(), a.clone(), b.clone(), b.clone()]);
        Array::open(&mirrored).unwrap().check_redundancy().unwrap();
        let broken = write_members(dir.path(), 10, NEAR_2, &[a.clone(), b.clone(), a, b]);
        assert!(Array::open(&broken).unwrap().check_redundancy().is_err());
    }

    /// What mdadm and the kernel wrote is read as what it is.
    #[test]
    fn superblocks_of_real_arrays_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, fixtures::md::image(name)).unwrap();
            Superblock::read(&File::open(path).unwrap()).unwrap()
        };
        let member = read("raid5-member2");
        assert_eq!((member.level, member.layout, member.raid_disks), (5, LEFT_SYMMETRIC, 3));
        assert_eq!(
            (member.chunk_bytes, member.slot, member.resync_offset),
            (128 << 10, Some(2), NO_RESYNC_LEFT)
        );
        assert_eq!(read("raid5-rebuilt-spare").slot, Some(1));
        assert_eq!(read("raid10-degraded").layout, NEAR_2);
        assert_ne!(read("raid6-unclean").resync_offset, NO_RESYNC_LEFT);
    }

    /// mdadm itself agrees with the superblocks written here.
    #[test]
    fn mdadm_reads_the_superblock_of_these_tests() {
        let Some(mdadm) = crate::tools::find("mdadm") else {
            return crate::report::skipped("superblock against mdadm", "no mdadm");
        };
        let dir = tempfile::tempdir().unwrap();
        let paths = write_members(dir.path(), 6, LEFT_SYMMETRIC, &raid6(1).0);
        let limit = Duration::from_secs(10);
        let said = run(Command::new(mdadm).arg("--examine").arg(&paths[3]), limit).unwrap();
        said.expect_said("correct")
            .unwrap()
            .expect_said("Active device 3")
            .unwrap()
            .expect_said("clean")
            .unwrap();
    }
}
