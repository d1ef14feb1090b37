//! What happens when a member fails?
//!
//! Its failure is made durable in the superblocks of all the others, and only then is the new table
//! published and anything acknowledged that lacks it. So a member that lacks an acknowledged write is never
//! taken for current at the next start.
//!
//! The last members that still hold the data are never failed: then the array takes no more writes, serves
//! what it can, and its superblocks stay as they are.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block_io::{IoError, IoErrorKind, IoOperation};
use futures_util::future::join_all;

use super::core::Core;
use super::member::{Counters, Member};
use super::status::ArrayEvent;
use super::table::{MemberTable, Slot};
use crate::geometry::{Level, MemberIndex};
use crate::limits;

impl Core {
    /// Take a member out that lacks a write. When this returns `Ok` the failure is durable; whatever the others
    /// hold may be acknowledged. Fails with `ArrayFailed`, and ends all writes, if the array cannot do without it.
    pub(crate) async fn fail_member(
        &self,
        number: u16,
        reason: &str,
        operation: IoOperation,
    ) -> Result<(), IoError> {
        let outcome = self.try_fail_member(number, reason, operation).await;
        if outcome.as_ref().is_err_and(|error| error.kind == IoErrorKind::ArrayFailed) {
            self.give_up_for_loss(reason);
        }
        outcome
    }

    /// The same for a member that lacks nothing: if the array cannot do without it, it stays in. Who asks is told
    /// so under the lock: two members may be asked for at once that can be done without one at a time.
    pub(crate) async fn try_fail_member(
        &self,
        number: u16,
        reason: &str,
        operation: IoOperation,
    ) -> Result<(), IoError> {
        let mut control = self.control.lock().await;
        let table = self.table();
        let Some(slot) = table.slot_of(number) else {
            if let Some(without) = table.with_failed(number, reason) {
                self.commit_roles(&mut control, without).await?;
            }
            return Ok(());
        };
        if !self.can_do_without(&table, slot) {
            return Err(self.error(IoErrorKind::ArrayFailed, operation, 0, 0));
        }
        let Some(without) = table.with_failed(number, reason) else { return Ok(()) };
        let path = table.slots[usize::from(slot)].member().map(|member| member.path.clone());
        self.commit_roles(&mut control, without).await?;
        drop(control);
        if let Some(path) = path {
            self.emit(ArrayEvent::Fail { path, reason: reason.to_owned() });
        }
        self.keeper.notify_one();
        Ok(())
    }

    /// True if the data survives without this slot too. A slot being rebuilt is not needed yet.
    pub(crate) fn can_do_without(&self, table: &MemberTable, slot: u16) -> bool {
        if matches!(table.slots[usize::from(slot)], Slot::Rebuilding(..)) {
            return true;
        }
        let mut missing = table.not_in_sync();
        missing.insert(MemberIndex(slot));
        self.geometry.tolerates(&missing)
    }

    pub(crate) fn give_up_for_loss(&self, reason: &str) {
        self.give_up(&format!("more members are lost than the array tolerates: {reason}"));
    }

    /// Take no more writes.
    pub(crate) fn give_up(&self, reason: &str) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            self.note(format!("writes are refused: {reason}"));
            self.emit(ArrayEvent::ArrayFailed { reason: reason.to_owned() });
            if let Some(journal) = &self.journal {
                journal.wake_waiting();
            }
        }
    }

    /// A write to a member failed. `Ok` if the array goes on without it, and its loss is durable.
    pub(crate) async fn write_failed(&self, member: &Member, error: &IoError) -> Result<(), IoError> {
        // Not so of a flush: what the member had taken before may be lost, and its next flush would not say so.
        if error.kind == IoErrorKind::NoSpace && error.operation != IoOperation::Flush {
            return Err(error.clone());
        }
        Counters::count(&member.counters.write_errors);
        self.fail_member(member.number, &error.to_string(), IoOperation::Write).await
    }

    /// Fail every member whose write failed; the first reason why that cannot be is the outcome.
    pub(crate) async fn settle_writes(
        &self,
        results: Vec<(Arc<Member>, Result<(), IoError>)>,
    ) -> Result<(), IoError> {
        let mut outcome = Ok(());
        for (member, result) in results {
            if let Err(error) = result {
                let settled = self.write_failed(&member, &error).await;
                outcome = outcome.and(settled);
            }
        }
        outcome
    }

    /// The same for writes in these units, which are held. Where it ends in an error some of it is in place and some
    /// is not, and from then on such units are not what their members say.
    pub(crate) async fn settle_unit_writes(
        &self,
        units: Range<u64>,
        results: Vec<(Arc<Member>, Result<(), IoError>)>,
    ) -> Result<(), IoError> {
        if self.geometry.level() == Level::Raid0 {
            // Nothing can take a striped member's place: its error is the client's.
            return results.into_iter().try_for_each(|(_, result)| result);
        }
        let settled = self.settle_writes(results).await;
        let half_done = match &settled {
            Ok(()) => false,
            // Who writes a stripe directly under the journal settles it before he lets it go.
            Err(error) if self.journal.is_some() => error.kind == IoErrorKind::ArrayFailed,
            // Parity that fits its data no more would give garbage for a row that nobody wrote.
            Err(_) if self.geometry.level().has_parity() => true,
            // Copies are made equal before anyone reads; where a member was lost there is nobody to do that with.
            Err(error) => error.kind == IoErrorKind::NoSpace,
        };
        if half_done {
            self.distrust(units);
            self.keeper.notify_one();
        }
        settled
    }

    /// A read of a member failed for good: count it, and fail the member when it is gone or fails too often.
    /// A member the array cannot do without stays in.
    pub(crate) async fn read_failed(&self, member: &Member, error: &IoError) {
        let errors = Counters::count(&member.counters.read_errors);
        tracing::warn!(array = %self.name, member = %member.label(), %error, errors, "read error");
        // While parity is not to be believed nobody else knows what it holds.
        let irreplaceable = self.geometry.level().has_parity() && self.dirty.unsynced_count() > 0;
        let worn = errors > limits::MAX_READ_ERRORS && !irreplaceable;
        let hopeless = error.kind == IoErrorKind::Gone || worn;
        let table = self.table();
        let dispensable = table.slot_of(member.number).is_some_and(|slot| self.can_do_without(&table, slot));
        let reason = error.to_string();
        if hopeless
            && dispensable
            && self.try_fail_member(member.number, &reason, IoOperation::Read).await.is_ok()
        {
            return;
        }
        if error.kind == IoErrorKind::Gone && self.table().slot_of(member.number).is_some() {
            self.give_up_for_loss(&reason);
        }
    }

    /// Make everything completed so far durable on every active member.
    pub(crate) async fn flush_members(&self) -> Result<(), IoError> {
        let members = self.active_members();
        let results = join_all(members.iter().map(|member| async move {
            let result = member.flush().await;
            (Arc::clone(member), result)
        }))
        .await;
        self.settle_writes(results).await
    }

    /// The member that was opened by this path.
    pub(crate) fn member_at(&self, path: &Path) -> Option<Arc<Member>> {
        self.table().find(path).cloned()
    }
}
