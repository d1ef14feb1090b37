//! Which journal does a start go on with?

use std::sync::Arc;

use uuid::Uuid;

use super::recovery::JournalError;
use super::scan::{FoundJournal, find_journal};
use super::{ChunkTooLarge, Journal, nonce, shape_for};
use crate::array::member::Member;
use crate::array::{AssembleError, Policy};
use crate::format::assembly::AssemblyPlan;
use crate::format::labsan::journal_head::MAX_EPOCHS;
use crate::geometry::Geometry;

/// The journal this start goes on with, and what the last life left in it.
pub(in crate::array) async fn open_journal(
    plan: &AssemblyPlan,
    geometry: &Geometry,
    current: &[Arc<Member>],
    uuid: Uuid,
    array: &str,
    force: bool,
) -> Result<(Option<Journal>, Option<FoundJournal>), AssembleError> {
    if plan.policy != Policy::Journal || !geometry.level().has_parity() {
        return Ok((None, None));
    }
    let numbers = || current.iter().map(|member| member.number);
    // After a clean stop, and after md, nothing in the rings counts; the numbers go on all the same.
    let dead = !plan.needs.replay_journal;
    let found = find_journal(current, uuid, array, force || dead).await?;
    let unsupported = |error: ChunkTooLarge| AssembleError::Unsupported {
        array: array.to_owned(),
        reason: error.to_string(),
    };
    match found {
        Some(mut found) => {
            if dead {
                found.forget_records();
            }
            if !dead && !force && found.next_head(0).epochs.len() > MAX_EPOCHS {
                return Err(JournalError::TooManyStarts { array: array.to_owned() }.into());
            }
            let shape = shape_for(geometry, found.ring_bytes()).map_err(unsupported)?;
            let journal = found.journal(shape, nonce(), numbers());
            Ok((Some(journal), Some(found)))
        }
        None if dead || force => {
            let ring_bytes = current.iter().map(|member| member.layout.journal.len).min().unwrap_or(0);
            let shape = shape_for(geometry, ring_bytes).map_err(unsupported)?;
            let head = Journal::first_head(&shape);
            Ok((Some(Journal::new(shape, head, 1, numbers())), None))
        }
        None => Err(JournalError::Missing { array: array.to_owned() }.into()),
    }
}
