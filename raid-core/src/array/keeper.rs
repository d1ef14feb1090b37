//! What happens by itself: spares take over, rebuild and resync go on, the bitmap is swept.
//!
//! One task per array, on the thread that started it. It is woken by failures, additions and stops, and looks
//! around every few seconds besides.
//!
//! | there is | so it |
//! |---|---|
//! | a region out of sync, all its data there | resyncs |
//! | a missing slot and a spare | makes the spare's new role durable and rebuilds |
//! | a slot being rebuilt | goes on from its checkpoint |
//! | none of these | sweeps the bitmap |

use std::sync::Arc;
use std::time::Duration;

use block_io::IoOperation;

use super::core::Core;
use super::status::{ActivityKind, ArrayEvent};
use super::table::{MemberTable, RebuildPosition, Slot};
use crate::limits;

/// How a piece of background work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All of it is done.
    Completed,
    /// Something changed; look again what is to be done.
    Interrupted,
    /// It cannot be done as things are.
    Blocked,
}

/// Run until the array stops.
pub(crate) async fn run(core: Arc<Core>) {
    let _turn = core.keeper_turn.lock().await;
    let pause = Duration::from_millis(limits::SWEEP_INTERVAL_MS);
    while !core.is_stopping() {
        let again = core.work_once().await;
        if again && !core.is_stopping() {
            continue;
        }
        // A timeout and a wake-up mean the same: look around.
        let _ = tokio::time::timeout(pause, core.keeper.notified()).await;
    }
}

impl Core {
    /// True if there may be more to do at once.
    async fn work_once(&self) -> bool {
        if self.has_failed() {
            return false;
        }
        if self.dirty.unsynced_count() > 0 && self.can_resync() {
            match self.run_activity(ActivityKind::Resync).await {
                Ended::Interrupted => return true,
                Ended::Completed => return false,
                // What cannot be read there holds up nothing else.
                Ended::Blocked => {}
            }
        }
        let table = self.table();
        let wanting = table.rebuilding().is_none() && table.first_missing().is_some();
        if wanting && !table.spares.is_empty() && self.take_spare().await {
            return true;
        }
        if table.rebuilding().is_some() && self.run_activity(ActivityKind::Rebuild).await != Ended::Blocked {
            return true;
        }
        // Also while a rebuild cannot go on: what a crash may leave half-written is a matter of the bitmap alone.
        self.sweep_bitmap().await;
        false
    }

    async fn run_activity(&self, kind: ActivityKind) -> Ended {
        self.emit(ArrayEvent::RebuildStarted { kind });
        let ended = match kind {
            ActivityKind::Rebuild => self.rebuild().await,
            ActivityKind::Resync | ActivityKind::InitialSync => self.resync().await,
        };
        self.set_activity(None);
        if kind != ActivityKind::Rebuild && ended == Ended::Completed && self.journal.is_some() {
            // There is no bitmap to say it: the superblocks do.
            let mut control = self.control.lock().await;
            // On failure the array has failed, and says so itself.
            let _ = self.commit_roles(&mut control, MemberTable::clone(&self.table())).await;
        }
        self.emit(ArrayEvent::RebuildFinished { kind, completed: ended == Ended::Completed });
        ended
    }

    /// Give the first missing slot to a spare, durably. True if there is a rebuild to run.
    async fn take_spare(&self) -> bool {
        let mut control = self.control.lock().await;
        let mut table = MemberTable::clone(&self.table());
        let Some(slot) = table.first_missing() else { return false };
        let size = self.geometry.member_bytes();
        let Some(at) = table.spares.iter().position(|spare| spare.layout.data_size >= size) else {
            self.note(format!("no spare is large enough to take slot {slot}"));
            return false;
        };
        let spare = table.spares.remove(at);
        tracing::info!(array = %self.name, slot, spare = %spare.label(), "a spare takes over");
        // Until its role is published no commit of the map may pass it by.
        let _turn = self.written_turn.lock().await;
        if let Err(error) = self.give_written_map(&spare).await {
            let without = self.table().with_failed(spare.number, &error.to_string());
            // On failure the array has failed, and says so itself.
            return match without {
                Some(without) => self.commit_roles(&mut control, without).await.is_ok(),
                None => false,
            };
        }
        table.slots[usize::from(slot)] = Slot::Rebuilding(spare, RebuildPosition::new(0));
        // On failure the array has failed or the spare is out; the next look finds what is left.
        self.commit_roles(&mut control, table).await.is_ok()
    }

    /// Let clients go first: pause as long as the last piece of work took, if any client was there meanwhile.
    pub(crate) async fn yield_to_clients(&self, seen: &mut u64, took: Duration) {
        let started = self.gate.started();
        let busy = started != *seen || self.gate.count() > 0;
        *seen = started;
        if busy {
            let pause = took.min(Duration::from_millis(limits::MAX_BACKGROUND_PAUSE_MS));
            tokio::time::sleep(pause).await;
        } else {
            tokio::task::yield_now().await;
        }
    }

    /// A member that background work wrote to failed.
    pub(crate) async fn background_write_failed(&self, number: u16, error: &block_io::IoError) {
        // If the array cannot do without it, it has failed as a whole and says so itself.
        let _ = self.fail_member(number, &error.to_string(), IoOperation::Write).await;
    }
}
