//! WRITE ATOMIC(16) (SBC-4): all of the data or none of it, for every other command and over a crash.
//!
//! Nobody sees a part because the command has the unit alone; nothing is left of a part after a crash because the device
//! says so (`BlockDevice::write_atomic`). A device that cannot say so has no such command.

use block_io::BlockDevice;

use super::cdb::{Cdb, Extent};
use super::medium::{check_length, span};
use super::{Failure, LogicalUnit, ScsiCommand, ScsiResponse, Sense};

/// VPD page B0, ATOMIC ALIGNMENT and ATOMIC TRANSFER LENGTH GRANULARITY: what every device keeps.
const GRAIN_BYTES: u32 = 4096;

/// What VPD page B0 says of atomic writes, in blocks. All 0 where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AtomicLimits {
    pub(crate) longest: u32,
    pub(crate) grain: u32,
}

/// The limits of a device.
pub(crate) fn limits(device: &dyn BlockDevice) -> AtomicLimits {
    let (longest, block) = (device.atomic_limit_bytes(), device.info().logical_block_bytes.max(1));
    if longest == 0 {
        return AtomicLimits::default();
    }
    AtomicLimits { longest: longest / block, grain: GRAIN_BYTES.div_ceil(block) }
}

impl LogicalUnit {
    pub(crate) async fn write_atomic(&self, command: &ScsiCommand) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        let limits = limits(&**self.device());
        if limits.longest == 0 {
            return Err(Sense::INVALID_OPCODE.into());
        }
        Self::check_protection(cdb)?;
        let extent = Extent { block: cdb.u64(2), blocks: cdb.u16(12).into() };
        let span = span(extent, &self.device().info(), u64::MAX)?;
        // ATOMIC BOUNDARY: MAXIMUM ATOMIC BOUNDARY SIZE is 0, so there are none.
        let aligned = extent.block.is_multiple_of(limits.grain.into())
            && extent.blocks.is_multiple_of(limits.grain)
            && cdb.u16(10) == 0;
        if !aligned || extent.blocks > limits.longest {
            return Err(Sense::INVALID_FIELD.into());
        }
        check_length(command, span.length)?;
        if span.length > 0 {
            let result = self.device().write_atomic(span.offset, command.data_out.clone()).await;
            result.map_err(|error| Sense::from_io(&error, span.block))?;
        }
        Ok(ScsiResponse { data_out_wanted: span.length, ..ScsiResponse::good() })
    }
}
