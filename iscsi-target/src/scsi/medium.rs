//! Commands that read and write blocks (SBC-3).
//!
//! COMPARE AND WRITE, ORWRITE and WRITE ATOMIC are atomic against every other command of the logical unit, by whatever
//! path it comes: they take it alone, everything else shares it (`LogicalUnit::place` and `share`).

use block_io::{Buffer, BufferPool, DeviceInfo, Durability};
use bytes::Bytes;

use super::capacity::blocks;
use super::cdb::{Cdb, Extent};
use super::{Failure, LogicalUnit, ScsiCommand, ScsiResponse, Sense, Status};

/// Longest transfer of one command: VPD page B0, MAXIMUM TRANSFER LENGTH.
pub(crate) const MAX_TRANSFER_BYTES: u64 = 8 << 20;

/// VPD page B0, MAXIMUM COMPARE AND WRITE LENGTH.
pub(crate) const MAX_COMPARE_BLOCKS: u8 = 128;

pub(crate) const FUA: u8 = 0x08;

/// A checked run of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) block: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Check an extent against the medium and the longest transfer.
pub(crate) fn span(extent: Extent, info: &DeviceInfo, longest: u64) -> Result<Span, Sense> {
    let block_bytes = u64::from(info.logical_block_bytes);
    let end = extent.block.checked_add(extent.blocks.into()).ok_or(Sense::OUT_OF_RANGE)?;
    if end > blocks(info) || extent.block >= blocks(info) {
        return Err(Sense::OUT_OF_RANGE);
    }
    let length = u64::from(extent.blocks) * block_bytes;
    if length > longest {
        return Err(Sense::INVALID_FIELD);
    }
    Ok(Span { block: extent.block, offset: extent.block * block_bytes, length })
}

impl LogicalUnit {
    /// RDPROTECT, WRPROTECT and VRPROTECT ask for protection information, which there is none of.
    pub(crate) fn check_protection(cdb: Cdb<'_>) -> Result<(), Sense> {
        let six = cdb.opcode() < 0x20;
        if !six && cdb.byte(1) & 0xe0 != 0 { Err(Sense::INVALID_FIELD) } else { Ok(()) }
    }

    fn span_of(&self, cdb: Cdb<'_>) -> Result<Span, Sense> {
        Self::check_protection(cdb)?;
        span(cdb.extent(), &self.device().info(), MAX_TRANSFER_BYTES)
    }

    /// Whether a write has to be durable when it is acknowledged.
    pub(crate) fn durability(&self, fua: bool) -> Durability {
        if fua || !self.options().write_cache { Durability::Durable } else { Durability::Cached }
    }

    pub(crate) async fn read(
        &self,
        command: &ScsiCommand,
        pool: &BufferPool,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        let span = self.span_of(cdb)?;
        let block_bytes = u64::from(self.device().info().logical_block_bytes);
        let taken = u64::from(command.expected_data_in).next_multiple_of(block_bytes);
        let length = span.length.min(taken);
        let buffer = match length {
            0 => None,
            _ => Some(take_in_turn(pool, length as usize, command).await?),
        };
        let _shared = self.share().await?;
        if self.options().write_cache && cdb.opcode() >= 0x20 && cdb.byte(1) & FUA != 0 {
            // What is read with FUA must be on the medium (SBC-3); without a cache it always is.
            self.device().flush().await.map_err(|error| Sense::from_io(&error, span.block))?;
        }
        let data_in = match buffer {
            Some(buffer) => self.fetch(span, buffer).await?.freeze(),
            None => Bytes::new(),
        };
        Ok(ScsiResponse { data_in, data_in_wanted: span.length, ..ScsiResponse::good() })
    }

    /// Fill a buffer from the start of a span.
    pub(crate) async fn fetch(&self, span: Span, buffer: Buffer) -> Result<Buffer, Failure> {
        let (buffer, result) = self.device().read(span.offset, buffer).await;
        result.map_err(|error| Sense::from_io(&error, span.block))?;
        Ok(buffer)
    }

    /// As many whole blocks as the initiator sent.
    fn sent(span: Span, data: &Bytes, block_bytes: u64) -> Bytes {
        let whole = data.len() as u64 / block_bytes * block_bytes;
        data.slice(..whole.min(span.length) as usize)
    }

    pub(crate) async fn write(&self, command: &ScsiCommand) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        let span = self.span_of(cdb)?;
        let data = Self::sent(span, &command.data_out, self.device().info().logical_block_bytes.into());
        let fua = cdb.opcode() >= 0x20 && cdb.byte(1) & FUA != 0;
        self.store(span, data, self.durability(fua)).await?;
        Ok(ScsiResponse { data_out_wanted: span.length, ..ScsiResponse::good() })
    }

    pub(crate) async fn store(&self, span: Span, data: Bytes, durability: Durability) -> Result<(), Failure> {
        if data.is_empty() {
            return Ok(());
        }
        let result = self.device().write(span.offset, data, durability).await;
        Ok(result.map_err(|error| Sense::from_io(&error, span.block))?)
    }

    /// WRITE AND VERIFY: written durably, then read back and compared.
    pub(crate) async fn write_and_verify(
        &self,
        command: &ScsiCommand,
        pool: &BufferPool,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        let span = self.span_of(cdb)?;
        if cdb.byte(1) & 0x04 != 0 {
            return Err(Sense::INVALID_FIELD.into());
        }
        let data = Self::sent(span, &command.data_out, self.device().info().logical_block_bytes.into());
        let buffer = take_at_once(pool, data.len())?;
        self.store(span, data.clone(), Durability::Durable).await?;
        if !data.is_empty() {
            compare(&self.fetch(span, buffer).await?, &data)?;
        }
        Ok(ScsiResponse { data_out_wanted: span.length, ..ScsiResponse::good() })
    }

    /// VERIFY: BYTCHK 00b reads, 01b compares with as much data, 11b compares every block with one.
    pub(crate) async fn verify(
        &self,
        command: &ScsiCommand,
        pool: &BufferPool,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        Self::check_protection(cdb)?;
        let info = self.device().info();
        let block_bytes = u64::from(info.logical_block_bytes);
        let byte_check = cdb.byte(1) >> 1 & 3;
        let longest = if byte_check == 1 { MAX_TRANSFER_BYTES } else { u64::MAX };
        let span = span(cdb.extent(), &info, longest)?;
        let wanted = match byte_check {
            0 => 0,
            1 => span.length,
            3 => block_bytes.min(span.length),
            _ => return Err(Sense::INVALID_FIELD.into()),
        };
        if (command.data_out.len() as u64) < wanted {
            return Err(Sense::INVALID_FIELD.into());
        }
        let mut buffer = take_at_once(pool, span.length.min(VERIFY_PIECE_BYTES) as usize)?;
        let mut done = 0;
        while done < span.length {
            if command.is_aborted() {
                return Err(Failure::Status(Status::TaskAborted));
            }
            let length = (span.length - done).min(VERIFY_PIECE_BYTES);
            let piece = Span { offset: span.offset + done, block: span.block + done / block_bytes, length };
            // A piece at a time, so that a long verify keeps no COMPARE AND WRITE (and all that waits behind) out.
            let _shared = self.share().await?;
            buffer.truncate(length as usize);
            let found = self.fetch(piece, buffer).await?;
            let (step, expected) = match byte_check {
                1 => (length, Some(&command.data_out[done as usize..(done + length) as usize])),
                3 => (block_bytes, Some(&command.data_out[..block_bytes as usize])),
                _ => (length, None),
            };
            if let Some(expected) = expected {
                for (part, at) in found.chunks(step as usize).zip((done..).step_by(step as usize)) {
                    compare(part, expected).map_err(|sense| {
                        let information = sense.information.map(|offset| offset + at);
                        Sense { information, ..sense }
                    })?;
                }
            }
            done += length;
            buffer = found;
        }
        Ok(ScsiResponse { data_out_wanted: wanted, ..ScsiResponse::good() })
    }

    /// SYNCHRONIZE CACHE: all of it, whatever range was named; durable before it is acknowledged even if IMMED is set.
    pub(crate) async fn synchronize(&self, cdb: Cdb<'_>) -> Result<ScsiResponse, Failure> {
        let extent = cdb.extent();
        let all = blocks(&self.device().info());
        let end = extent.block.checked_add(extent.blocks.into()).ok_or(Sense::OUT_OF_RANGE)?;
        if end > all || extent.block >= all {
            return Err(Sense::OUT_OF_RANGE.into());
        }
        self.device().flush().await.map_err(|error| Sense::from_io(&error, extent.block))?;
        Ok(ScsiResponse::good())
    }

    /// PRE-FETCH: there is no cache to fill, so CONDITION MET is never the answer (SBC-3).
    pub(crate) fn prefetch(&self, cdb: Cdb<'_>) -> Result<ScsiResponse, Failure> {
        span(cdb.extent(), &self.device().info(), u64::MAX)?;
        Ok(ScsiResponse::good())
    }

    /// COMPARE AND WRITE: all or nothing, and nothing in between for anyone else.
    pub(crate) async fn compare_and_write(
        &self,
        command: &ScsiCommand,
        pool: &BufferPool,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        Self::check_protection(cdb)?;
        if cdb.byte(13) > MAX_COMPARE_BLOCKS {
            return Err(Sense::INVALID_FIELD.into());
        }
        let blocks = u32::from(cdb.byte(13));
        let span = span(Extent { block: cdb.u64(2), blocks }, &self.device().info(), MAX_TRANSFER_BYTES)?;
        let wanted = 2 * span.length;
        check_length(command, wanted)?;
        let (expected, new) = (
            command.data_out.slice(..span.length as usize),
            command.data_out.slice(span.length as usize..wanted as usize),
        );
        if span.length > 0 {
            let buffer = take_at_once(pool, span.length as usize)?;
            compare(&self.fetch(span, buffer).await?, &expected)?;
            self.store(span, new, self.durability(cdb.byte(1) & FUA != 0)).await?;
        }
        Ok(ScsiResponse { data_out_wanted: wanted, ..ScsiResponse::good() })
    }

    /// ORWRITE: the medium gets the OR of what it holds and what is sent.
    pub(crate) async fn or_write(
        &self,
        command: &ScsiCommand,
        pool: &BufferPool,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        let span = self.span_of(cdb)?;
        let data = Self::sent(span, &command.data_out, self.device().info().logical_block_bytes.into());
        if !data.is_empty() {
            let buffer = take_at_once(pool, data.len())?;
            let mut merged = self.fetch(span, buffer).await?;
            for (byte, bits) in merged.iter_mut().zip(&data) {
                *byte |= bits;
            }
            self.store(span, merged.freeze(), self.durability(cdb.byte(1) & FUA != 0)).await?;
        }
        Ok(ScsiResponse { data_out_wanted: span.length, ..ScsiResponse::good() })
    }
}

/// Bytes verified at once.
const VERIFY_PIECE_BYTES: u64 = 1 << 20;

/// Memory for a command that holds none yet, unless it is aborted meanwhile. One that nobody could tell of an abort does not
/// wait: the initiator sends it again (SAM-5: TASK SET FULL).
pub(crate) async fn take_in_turn(
    pool: &BufferPool,
    length: usize,
    command: &ScsiCommand,
) -> Result<Buffer, Failure> {
    const FULL: Failure = Failure::Status(Status::TaskSetFull);
    if let Some(buffer) = pool.try_take(length) {
        return Ok(buffer);
    }
    if command.abort.is_none() {
        return Err(FULL);
    }
    tokio::select! {
        biased;
        () = command.aborted() => Err(Failure::Status(Status::TaskAborted)),
        buffer = pool.take(length) => buffer.map_err(|_| FULL),
    }
}

/// Memory for a command that holds its own data already: it must not wait for more, or commands that all hold some
/// would wait for each other. The initiator sends it again.
pub(crate) fn take_at_once(pool: &BufferPool, length: usize) -> Result<Buffer, Failure> {
    pool.try_take(length).ok_or(Failure::Status(Status::TaskSetFull))
}

/// Some commands mean something only with exactly the data they want.
pub(crate) fn check_length(command: &ScsiCommand, wanted: u64) -> Result<(), Sense> {
    let exact = u64::from(command.expected_data_out) == wanted && command.data_out.len() as u64 == wanted;
    if exact { Ok(()) } else { Err(Sense::INVALID_FIELD) }
}

/// MISCOMPARE at the first byte that differs.
fn compare(found: &[u8], expected: &[u8]) -> Result<(), Sense> {
    if found == expected {
        return Ok(());
    }
    let at = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
    Err(Sense::miscompare(at as u64))
}
