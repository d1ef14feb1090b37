//! READ CAPACITY and GET LBA STATUS (SBC-3).

use std::ops::Range;

use block_io::{BlockDevice, DeviceInfo};

use super::cdb::Cdb;
use super::{ScsiResponse, Sense};

/// Blocks of a device.
pub(crate) fn blocks(info: &DeviceInfo) -> u64 {
    info.size_bytes / u64::from(info.logical_block_bytes.max(1))
}

pub(crate) fn read_capacity_10(cdb: Cdb<'_>, info: &DeviceInfo) -> Result<ScsiResponse, Sense> {
    // An address without PMI makes no sense (SBC-3).
    if cdb.byte(8) & 1 == 0 && cdb.u32(2) != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let last = u32::try_from(blocks(info).saturating_sub(1)).unwrap_or(u32::MAX);
    let data = [last.to_be_bytes(), info.logical_block_bytes.to_be_bytes()].concat();
    Ok(ScsiResponse::parameters(data, 8))
}

pub(crate) fn read_capacity_16(cdb: Cdb<'_>, info: &DeviceInfo) -> Result<ScsiResponse, Sense> {
    if cdb.byte(14) & 1 == 0 && cdb.u64(2) != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; 32];
    data[..8].copy_from_slice(&blocks(info).saturating_sub(1).to_be_bytes());
    data[8..12].copy_from_slice(&info.logical_block_bytes.to_be_bytes());
    // Logical blocks per physical block exponent.
    data[13] = (info.physical_block_bytes / info.logical_block_bytes.max(1)).max(1).ilog2() as u8;
    if info.discard {
        data[14] = 0xc0; // LBPME, LBPRZ
    }
    Ok(ScsiResponse::parameters(data, cdb.u32(10) as usize))
}

/// Descriptors of one answer: longer lists are asked for in parts (SBC-3 clause 5.4).
const MAX_LBA_STATUS_DESCRIPTORS: usize = 1024;

/// Which blocks hold data, as the device knows it. The answer ends where the list or the medium does.
pub(crate) fn get_lba_status(cdb: Cdb<'_>, device: &dyn BlockDevice) -> Result<ScsiResponse, Sense> {
    let info = device.info();
    let (start, all) = (cdb.u64(2), blocks(&info));
    if start >= all {
        return Err(Sense::OUT_OF_RANGE);
    }
    let asked = cdb.u32(10) as usize;
    // At least one, though it is cut.
    let most = (asked.saturating_sub(8) / 16).clamp(1, MAX_LBA_STATUS_DESCRIPTORS);
    let descriptors = lba_status_descriptors(device, start..all, info.logical_block_bytes.into(), most);
    let mut data = vec![0; 8];
    data[..4].copy_from_slice(&(4 + 16 * descriptors.len() as u32).to_be_bytes());
    for (block, blocks, mapped) in descriptors {
        data.extend_from_slice(&block.to_be_bytes());
        data.extend_from_slice(&blocks.to_be_bytes());
        // PROVISIONING STATUS: 0 mapped, 1 deallocated.
        data.extend_from_slice(&[u8::from(!mapped), 0, 0, 0]);
    }
    Ok(ScsiResponse::parameters(data, asked))
}

/// First block, number of blocks, mapped: neighbours differ.
fn lba_status_descriptors(
    device: &dyn BlockDevice,
    blocks: Range<u64>,
    block_bytes: u64,
    most: usize,
) -> Vec<(u64, u32, bool)> {
    let mut descriptors: Vec<(u64, u32, bool)> = Vec::new();
    let mut block = blocks.start;
    while block < blocks.end {
        let run = device.space_run(block * block_bytes, (blocks.end - block) * block_bytes);
        let run_blocks = run.length.div_ceil(block_bytes).clamp(1, blocks.end - block);
        // As far as one descriptor can tell: the initiator asks again from there.
        let length = u32::try_from(run_blocks).unwrap_or(u32::MAX);
        let longer = match descriptors.pop() {
            Some((first, sum, mapped)) if mapped == run.mapped => (first, sum.saturating_add(length), mapped),
            other => {
                descriptors.extend(other);
                if descriptors.len() == most {
                    break;
                }
                (block, length, run.mapped)
            }
        };
        descriptors.push(longer);
        if longer.1 == u32::MAX {
            break;
        }
        block += run_blocks;
    }
    descriptors
}
