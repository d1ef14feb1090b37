//! READ CAPACITY and GET LBA STATUS (SBC-3).

use block_io::DeviceInfo;

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

/// Everything is mapped as far as anyone can tell: one descriptor to the end.
pub(crate) fn get_lba_status(cdb: Cdb<'_>, info: &DeviceInfo) -> Result<ScsiResponse, Sense> {
    let (start, all) = (cdb.u64(2), blocks(info));
    if start >= all {
        return Err(Sense::OUT_OF_RANGE);
    }
    let mut data = vec![0; 24];
    data[..4].copy_from_slice(&20u32.to_be_bytes());
    data[8..16].copy_from_slice(&start.to_be_bytes());
    let length = u32::try_from(all - start).unwrap_or(u32::MAX);
    data[16..20].copy_from_slice(&length.to_be_bytes());
    Ok(ScsiResponse::parameters(data, cdb.u32(10) as usize))
}
