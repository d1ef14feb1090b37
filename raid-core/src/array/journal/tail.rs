//! Freeing ring space. The tail is one sequence number, written to all current members; what it frees is used again only
//! when it is durable on all of them, because the highest tail on any member decides at the next start, and the lowest
//! decides what an absent one would have seen.

use std::sync::Arc;

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation};
use futures_util::future::join_all;

use super::Journal;
use super::redo::erase_record;
use crate::array::core::{Core, lock};
use crate::array::member::Member;
use crate::format::PAGE_BYTES;
use crate::format::labsan::journal_head::JournalHead;
use crate::sabotage::{self, Sabotage};

impl Core {
    /// Move the tail up to the oldest commit that is still needed.
    pub(super) async fn move_tail(&self, journal: &Journal) -> Result<(), IoError> {
        let _turn = journal.tail_turn.lock().await;
        let head = {
            let ledger = lock(&journal.ledger);
            if !ledger.could_free() {
                return Ok(());
            }
            ledger.moved_head()
        };
        if sabotage::planted(Sabotage::RingReusedEarly) {
            // Rings are far longer than what is written while one head is: only a tail that trails by several moves shows.
            lock(&journal.ledger).moved(head.clone());
            journal.wake_waiting();
            if !head.generation.is_multiple_of(8) {
                return Ok(());
            }
        }
        self.write_heads(journal, &head).await?;
        lock(&journal.ledger).moved(head);
        journal.wake_waiting();
        Ok(())
    }

    /// Make a head durable on all current members.
    pub(super) async fn write_heads(&self, journal: &Journal, head: &JournalHead) -> Result<(), IoError> {
        if self.has_failed() {
            return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, 0, 0));
        }
        let mut members = self.members_in_sync();
        members.extend(lock(&journal.joining).clone());
        let page = Buffer::copy_of(&head.encode(self.uuid)).freeze();
        let results = join_all(members.iter().map(|member| {
            let page = page.clone();
            async move { (Arc::clone(member), write_head(member, head, page).await) }
        }))
        .await;
        self.settle_member_failures(results).await
    }

    /// A member is about to be in sync: from now on it gets a copy of every commit, beside those that count without it.
    /// When this returns, every commit that counts has as many copies as a whole array wants. Of a mirror it has no record: no
    /// atomic write is under way (`Redo::pause`).
    pub(in crate::array) async fn join_journal(&self, member: &Arc<Member>) -> Result<(), IoError> {
        if self.redo.is_some() {
            return erase_record(member).await;
        }
        let Some(journal) = self.has_journal() else { return Ok(()) };
        let first = {
            let _no_commit = journal.commit_turn.lock().await;
            let _tail = journal.tail_turn.lock().await;
            let head = lock(&journal.ledger).same_head();
            let page = Buffer::copy_of(&head.encode(self.uuid)).freeze();
            write_head(member, &head, page).await?;
            *lock(&journal.joining) = Some(Arc::clone(member));
            let mut ledger = lock(&journal.ledger);
            ledger.open_ring(member.number);
            ledger.next_sequence()
        };
        self.drain_up_to(journal, first).await
    }

    /// It is in sync now, or will never be.
    pub(in crate::array) fn end_joining(&self) {
        if let Some(journal) = self.has_journal() {
            *lock(&journal.joining) = None;
            let table = self.table();
            lock(&journal.ledger).retain_rings(|number| table.slot_of(number).is_some());
        }
    }
}

/// Write a head into the copy that its generation chooses.
pub(in crate::array) async fn write_head(
    member: &Member,
    head: &JournalHead,
    page: bytes::Bytes,
) -> Result<(), IoError> {
    let at = member.layout.journal_head.offset + (head.side().index() * PAGE_BYTES) as u64;
    member.device.write(at, page, Durability::Durable).await
}
