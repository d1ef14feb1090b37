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

/// What a start goes on with.
#[derive(Default)]
pub(in crate::array) struct Opened {
    pub(in crate::array) journal: Option<Journal>,
    /// What the last life left in it.
    pub(in crate::array) found: Option<FoundJournal>,
    /// By force: records that may have been half-way in place are given up, so no stripe is known to be in sync.
    pub(in crate::array) gave_up: bool,
}

/// The journal this start goes on with.
pub(in crate::array) async fn open_journal(
    plan: &AssemblyPlan,
    geometry: &Geometry,
    current: &[Arc<Member>],
    uuid: Uuid,
    array: &str,
    force: bool,
) -> Result<Opened, AssembleError> {
    if plan.policy != Policy::Journal || !geometry.level().has_parity() {
        return Ok(Opened::default());
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
            let gave_up = found.cut_short && !dead;
            Ok(Opened { journal: Some(journal), found: Some(found), gave_up })
        }
        None if dead || force => {
            let ring_bytes = current.iter().map(|member| member.layout.journal.len).min().unwrap_or(0);
            let shape = shape_for(geometry, ring_bytes).map_err(unsupported)?;
            let head = Journal::first_head(&shape);
            let journal = Journal::new(shape, head, 1, numbers());
            Ok(Opened { journal: Some(journal), found: None, gave_up: !dead })
        }
        None => Err(JournalError::Missing { array: array.to_owned() }.into()),
    }
}
