//! EXTENDED COPY(LID1) and RECEIVE COPY RESULTS (SPC-4): blocks are copied between the logical units of one target without
//! a way over the network.
//!
//! A copy holds neither unit while it waits for the other: each piece is read beside the commands of the source, and
//! written beside those of the destination.

pub(in crate::scsi) mod parameters;
mod results;

use std::sync::Arc;

use block_io::BufferPool;

pub(crate) use results::{CopyResults, third_party_page};

use super::cdb::{Cdb, Extent};
use super::command_table::{self, Command, Operation};
use super::medium::{Span, span, take_in_turn};
use super::{Failure, LogicalUnit, LunMap, Nexus, ScsiCommand, ScsiResponse, Sense, Status, vpd};
use parameters::{CopyList, Keep, Segment, Target};
use results::{Ended, MAX_SEGMENT_BYTES};

/// Bytes copied at once.
const PIECE_BYTES: u64 = 1 << 20;

const READ_16: u8 = 0x88;
const WRITE_16: u8 = 0x8a;

/// The command concerns other units than its own.
pub(crate) fn is_third_party(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::ExtendedCopy | Operation::CopyStatus | Operation::CopyParameters | Operation::CopyFailure
    )
}

/// A segment whose units and blocks are known to be there.
struct Plan {
    source: Arc<LogicalUnit>,
    destination: Arc<LogicalUnit>,
    from: Span,
    to: Span,
}

/// What a copy works with.
struct Copier<'a> {
    luns: &'a LunMap,
    nexus: &'a Nexus,
    command: &'a ScsiCommand,
    pool: &'a BufferPool,
    keep: Keep,
}

impl LunMap {
    /// Carry out a command about copies. `unit` is the one it was sent to.
    pub(super) async fn third_party(
        &self,
        nexus: &Nexus,
        known: &Command,
        command: &ScsiCommand,
        unit: &Arc<LogicalUnit>,
        pool: &BufferPool,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        unit.passes(nexus, known, cdb)?;
        if known.operation == Operation::ExtendedCopy {
            return self.extended_copy(nexus, command, pool).await;
        }
        let progress = self.copies.get(nexus, cdb.byte(2));
        let data = results::of_list(known.operation, progress)?;
        Ok(ScsiResponse::parameters(data, cdb.u32(10) as usize))
    }

    async fn extended_copy(
        &self,
        nexus: &Nexus,
        command: &ScsiCommand,
        pool: &BufferPool,
    ) -> Result<ScsiResponse, Failure> {
        let asked = Cdb(&command.cdb).u32(10);
        let good = ScsiResponse { data_out_wanted: asked.into(), ..ScsiResponse::good() };
        if asked == 0 {
            return Ok(good);
        }
        // A copy waits for memory while it holds its list: only short lists may.
        if asked > parameters::MAX_PARAMETER_BYTES {
            return Err(Sense::PARAMETER_LENGTH.into());
        }
        let bytes = command.data_out.get(..asked as usize).ok_or(Sense::PARAMETER_LENGTH)?;
        let list = parameters::parse(bytes)?;
        let _one_of_few = self.copies.try_start().ok_or(Failure::Status(Status::TaskSetFull))?;
        let copier = Copier { luns: self, nexus, command, pool, keep: list.keep };
        if let Keep::Under(id) = list.keep
            && !self.copies.begin(nexus, id)
        {
            return Err(Sense::IN_PROGRESS.into());
        }
        let outcome = copier.copy(&list).await;
        copier.note_end(&outcome);
        outcome.map(|()| good)
    }

    /// The unit that a designator names, of those that the nexus sees: by its NAA designator, which is what fits a target descriptor.
    fn named(&self, nexus: &Nexus, target: &Target) -> Option<Arc<LogicalUnit>> {
        let names = |unit: &Arc<LogicalUnit>| {
            (target.code_set, target.kind) == (1, 3) && target.designator == vpd::naa(unit.identity())
        };
        self.meant(nexus, None).into_iter().find(names)
    }
}

impl Copier<'_> {
    /// Everything is checked before anything is copied.
    async fn copy(&self, list: &CopyList) -> Result<(), Failure> {
        let plans: Vec<Plan> =
            list.segments.iter().map(|segment| self.plan(list, segment)).collect::<Result<_, _>>()?;
        for plan in plans {
            if plan.from.length > 0 {
                self.copy_segment(&plan).await?;
            }
            self.note(|progress| progress.segments_done += 1);
        }
        Ok(())
    }

    fn unit(&self, list: &CopyList, index: u16) -> Result<Arc<LogicalUnit>, Sense> {
        let target = list.targets.get(usize::from(index)).ok_or(Sense::UNREACHABLE)?;
        let unit = self.luns.named(self.nexus, target).ok_or(Sense::UNREACHABLE)?;
        let same_blocks = unit.device().info().logical_block_bytes == target.block_bytes;
        if same_blocks { Ok(unit) } else { Err(Sense::INVALID_PARAMETER) }
    }

    fn plan(&self, list: &CopyList, segment: &Segment) -> Result<Plan, Failure> {
        let (source, destination) = (self.unit(list, segment.source)?, self.unit(list, segment.destination)?);
        admitted(&source, self.nexus, READ_16)?;
        admitted(&destination, self.nexus, WRITE_16)?;
        let (from, to) = (source.device().info(), destination.device().info());
        let counted = if segment.by_destination { &to } else { &from };
        let bytes = u64::from(segment.blocks) * u64::from(counted.logical_block_bytes);
        if bytes > MAX_SEGMENT_BYTES {
            return Err(Sense::INVALID_PARAMETER.into());
        }
        let place = |block, info: &block_io::DeviceInfo| {
            let block_bytes = u64::from(info.logical_block_bytes);
            if !bytes.is_multiple_of(block_bytes) {
                return Err(Sense::INEXACT_SEGMENT);
            }
            let extent = Extent { block, blocks: (bytes / block_bytes) as u32 };
            span(extent, info, MAX_SEGMENT_BYTES).map_err(|_| Sense::COPY_ABORTED)
        };
        let from = place(segment.source_block, &from)?;
        let to = place(segment.destination_block, &to)?;
        Ok(Plan { source, destination, from, to })
    }

    async fn copy_segment(&self, plan: &Plan) -> Result<(), Failure> {
        let length = plan.from.length;
        let pieces = length.div_ceil(PIECE_BYTES);
        // Towards the end of the same unit, the last piece goes first: a source that overlaps is read before it is written.
        let backwards = plan.to.offset > plan.from.offset;
        for piece in 0..pieces {
            if self.command.is_aborted() {
                return Err(Failure::Status(Status::TaskAborted));
            }
            let number = if backwards { pieces - 1 - piece } else { piece };
            let at = number * PIECE_BYTES;
            let bytes = PIECE_BYTES.min(length - at);
            self.copy_piece(plan, at, bytes).await?;
            self.note(|progress| progress.bytes_done += bytes);
        }
        Ok(())
    }

    async fn copy_piece(&self, plan: &Plan, at: u64, bytes: u64) -> Result<(), Failure> {
        // Copies may wait for memory though each holds its list: there are few of them, and lists are short.
        let buffer = take_in_turn(self.pool, bytes as usize, self.command).await?;
        let from = Span { offset: plan.from.offset + at, length: bytes, ..plan.from };
        let to = Span { offset: plan.to.offset + at, length: bytes, ..plan.to };
        let data = {
            let _shared = plan.source.share().await?;
            admitted(&plan.source, self.nexus, READ_16)?;
            plan.source.fetch(from, buffer).await.map_err(third_party)?.freeze()
        };
        let durability = plan.destination.durability(false);
        let _shared = plan.destination.share().await?;
        // Somebody may have reserved it since the copy began, and then counts on this (`LogicalUnit::writes_over`).
        admitted(&plan.destination, self.nexus, WRITE_16)?;
        plan.destination.store(to, data, durability).await.map_err(third_party)
    }

    fn note(&self, change: impl FnOnce(&mut results::Progress)) {
        if let Keep::Under(id) = self.keep {
            self.luns.copies.update(self.nexus, id, change);
        }
    }

    fn note_end(&self, outcome: &Result<(), Failure>) {
        let ended = match outcome {
            Ok(()) => Ended { status: Status::Good as u8, sense: Vec::new() },
            Err(Failure::Status(status)) => Ended { status: *status as u8, sense: Vec::new() },
            Err(Failure::Check(sense)) => {
                Ended { status: Status::CheckCondition as u8, sense: sense.encode(false) }
            }
        };
        self.note(|progress| progress.ended = Some(ended));
    }
}

/// A unit lets this nexus have its blocks read or written.
fn admitted(unit: &LogicalUnit, nexus: &Nexus, opcode: u8) -> Result<(), Failure> {
    match command_table::of_opcode(opcode).next() {
        Some(command) => unit.admits(nexus, command),
        None => Err(Sense::INVALID_OPCODE.into()),
    }
}

/// What failed in one of the units failed the copy.
fn third_party(failure: Failure) -> Failure {
    match failure {
        Failure::Check(_) => Sense::THIRD_PARTY.into(),
        status @ Failure::Status(_) => status,
    }
}
