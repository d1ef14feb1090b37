//! WRITE SAME and UNMAP (SBC-3): many blocks at once. Unmapped blocks read as zeros.

use block_io::{BufferPool, DeviceInfo, Durability};
use bytes::Bytes;

use super::cdb::{Cdb, Extent};
use super::command_table::Command;
use super::medium::{Span, check_length, span, take_at_once};
use super::{Failure, LogicalUnit, Nexus, ScsiCommand, ScsiResponse, Sense, Status};

/// VPD page B0, MAXIMUM WRITE SAME LENGTH: a pattern is written out block by block.
pub(crate) const MAX_WRITE_SAME_BYTES: u64 = 16 << 20;

/// VPD page B0, MAXIMUM UNMAP LBA COUNT: long enough to be worth it, short enough to end soon.
pub(crate) const MAX_UNMAP_BYTES: u64 = 256 << 20;

/// VPD page B0, MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
pub(crate) const MAX_UNMAP_DESCRIPTORS: u32 = 256;

/// Bytes unmapped at once, at least.
const UNMAP_PIECE_BYTES: u64 = 16 << 20;

/// Bytes of a pattern written at once.
const PATTERN_BYTES: u64 = 1 << 20;

impl LogicalUnit {
    pub(crate) async fn write_same(
        &self,
        command: &ScsiCommand,
        pool: &BufferPool,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        let flags = cdb.byte(1);
        let no_data = cdb.opcode() == 0x93 && flags & 0x01 != 0;
        // WRPROTECT, ANCHOR, and the obsolete PBDATA and LBDATA.
        if flags & 0xf6 != 0 {
            return Err(Sense::INVALID_FIELD.into());
        }
        let info = self.device().info();
        let mut extent = cdb.extent();
        if extent.blocks == 0 {
            // None means to the end (WSNZ is 0).
            let rest = super::capacity::blocks(&info).checked_sub(extent.block).ok_or(Sense::OUT_OF_RANGE)?;
            extent.blocks = u32::try_from(rest).map_err(|_| Sense::INVALID_FIELD)?;
        }
        let span = span(extent, &info, MAX_WRITE_SAME_BYTES)?;
        let block_bytes = info.logical_block_bytes as usize;
        let data_out_wanted = if no_data { 0 } else { block_bytes as u64 };
        check_length(command, data_out_wanted)?;
        let pattern = &command.data_out;
        let unmap = flags & 0x08 != 0;
        if unmap && !info.discard {
            return Err(Sense::INVALID_FIELD.into());
        }
        // Unmapping does not look at the pattern, as initiators expect of it (LIO does the same): zeros come back.
        if unmap || pattern.iter().all(|byte| *byte == 0) {
            self.zero(span, unmap).await?;
        } else {
            self.repeat(span, &repeated(pattern, span.length, pool)?).await?;
        }
        Ok(ScsiResponse { data_out_wanted, ..ScsiResponse::good() })
    }

    async fn zero(&self, span: Span, unmap: bool) -> Result<(), Failure> {
        let durability = self.durability(false);
        let failed = |error| Sense::from_io(&error, span.block);
        if !unmap {
            return Ok(self.device().zero(span.offset, span.length, durability).await.map_err(failed)?);
        }
        self.device().discard(span.offset, span.length).await.map_err(failed)?;
        if durability == Durability::Durable {
            self.device().flush().await.map_err(failed)?;
        }
        Ok(())
    }

    async fn repeat(&self, span: Span, piece: &Bytes) -> Result<(), Failure> {
        let mut done = 0;
        while done < span.length {
            let length = (span.length - done).min(piece.len() as u64);
            let data = piece.slice(..length as usize);
            let result = self.device().write(span.offset + done, data, self.durability(false)).await;
            result.map_err(|error| Sense::from_io(&error, span.block))?;
            done += length;
        }
        Ok(())
    }

    pub(crate) async fn unmap(
        &self,
        nexus: &Nexus,
        known: &Command,
        command: &ScsiCommand,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        let info = self.device().info();
        // ANCHOR is not supported, and without LBPU neither is UNMAP.
        if cdb.byte(1) & 1 != 0 || !info.discard {
            return Err(Sense::INVALID_FIELD.into());
        }
        let asked = usize::from(cdb.u16(7));
        let good = ScsiResponse { data_out_wanted: asked as u64, ..ScsiResponse::good() };
        if asked == 0 {
            return Ok(good);
        }
        let list = command.data_out.get(..asked).ok_or(Sense::PARAMETER_LENGTH)?;
        let mut spans = Vec::new();
        for extent in descriptors(list)? {
            if extent.blocks > 0 {
                spans.push(span(extent, &info, MAX_UNMAP_BYTES).map_err(as_parameter)?);
            }
        }
        if spans.iter().map(|span| span.length).sum::<u64>() > MAX_UNMAP_BYTES {
            return Err(Sense::INVALID_PARAMETER.into());
        }
        for piece in spans.iter().flat_map(|span| pieces(*span, &info)) {
            if command.is_aborted() {
                return Err(Failure::Status(Status::TaskAborted));
            }
            // A piece at a time, so that it keeps no COMPARE AND WRITE or reservation (and all that waits behind) out. What has come
            // since may be that one must not any more.
            let _shared = self.share().await?;
            self.admits(nexus, known)?;
            self.zero(piece, true).await?;
        }
        Ok(good)
    }
}

/// What is unmapped at once: whole runs, or their space would not come free.
fn pieces(span: Span, info: &DeviceInfo) -> impl Iterator<Item = Span> + use<> {
    let block_bytes = u64::from(info.logical_block_bytes);
    let longest = UNMAP_PIECE_BYTES.next_multiple_of(info.discard_grain_bytes.max(1));
    let (mut at, end) = (span.offset, span.offset + span.length);
    std::iter::from_fn(move || {
        let next = ((at / longest + 1) * longest).min(end);
        let block = span.block + (at - span.offset) / block_bytes;
        let piece = Span { offset: at, block, length: next - at };
        at = next;
        (piece.length > 0).then_some(piece)
    })
}

/// As much of the pattern as is written at once, in memory of the pool: many may be at it.
fn repeated(pattern: &[u8], length: u64, pool: &BufferPool) -> Result<Bytes, Failure> {
    let mut piece = take_at_once(pool, PATTERN_BYTES.min(length) as usize)?;
    for block in piece.chunks_mut(pattern.len()) {
        block.copy_from_slice(&pattern[..block.len()]);
    }
    Ok(piece.freeze())
}

/// A field that is wrong in a parameter list, not in the CDB.
fn as_parameter(sense: Sense) -> Sense {
    if sense == Sense::INVALID_FIELD { Sense::INVALID_PARAMETER } else { sense }
}

/// The block descriptors of an UNMAP parameter list (SBC-3 table 79). A short list has none.
fn descriptors(list: &[u8]) -> Result<Vec<Extent>, Sense> {
    if list.len() < 8 {
        return Err(Sense::PARAMETER_LENGTH);
    }
    let bytes = usize::from(u16::from_be_bytes([list[2], list[3]]));
    let found: Vec<Extent> = list[8..]
        .chunks_exact(16)
        .take(bytes / 16)
        .map(|descriptor| {
            let cdb = Cdb(descriptor);
            Extent { block: cdb.u64(0), blocks: cdb.u32(8) }
        })
        .collect();
    if found.len() > MAX_UNMAP_DESCRIPTORS as usize {
        return Err(Sense::INVALID_PARAMETER);
    }
    Ok(found)
}
