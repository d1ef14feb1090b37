//! Settling stripes (`array/settle.rs`) while the journal is in use.

use std::ops::Range;
use std::time::Duration;

use block_io::{IoError, IoErrorKind, IoOperation};

use super::Journal;
use super::commit::What;
use crate::array::core::{Core, lock};
use crate::array::settle::Trust;
use crate::limits;

impl Core {
    /// Make a stripe whole of which something is lost. It is held, and nothing in its place is half-written.
    ///
    /// The tail trails: a group of the stripe that is in place may still be in the ring. Its parity goes with blocks for which
    /// zeros stand from now on, so it must never be replayed: that is durable first.
    pub(in crate::array) async fn settle_lost(&self, stripe: u64, trust: Trust<'_>) -> Result<(), IoError> {
        if let Some(journal) = self.has_journal() {
            self.bury_what_is_in_place(journal, stripe).await?;
        }
        self.settle_stripe(stripe, trust).await
    }

    async fn bury_what_is_in_place(&self, journal: &Journal, stripe: u64) -> Result<(), IoError> {
        // The ledger first: what is accounted for after this look is no older than what it says.
        let accounted = lock(&journal.ledger).accounted_before();
        let before = journal.overlay.oldest(stripe).map_or(accounted, |oldest| oldest.min(accounted));
        let room = Journal::record_room(1, 0);
        // Who holds a stripe waits for no room: this comes out of what is kept free.
        lock(&journal.ledger).promise(room);
        let done = journal.enqueue(What::Dead { stripe, before }, room);
        self.committed(journal, done).await.map(|_| ())
    }

    /// Some of these stripes is in place and some is not, and an intent names them: they have to agree before that may go.
    /// They are held. If it cannot be done the intent stays, for the next start.
    pub(super) async fn settle_half_written(
        &self,
        stripes: Range<u64>,
        trust: Trust<'_>,
    ) -> Result<(), IoError> {
        for stripe in stripes {
            let mut failures = 0;
            while let Err(error) = self.settle_stripe(stripe, trust).await {
                failures += 1;
                if failures >= limits::DESTAGE_ATTEMPTS {
                    self.give_up(&format!("a stripe is half-written and cannot be settled: {error}"));
                }
                if self.has_failed() {
                    self.distrust(stripe..stripe + 1);
                    return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, 0, 0));
                }
                tokio::time::sleep(Duration::from_millis(limits::DESTAGE_LINGER_MS)).await;
            }
        }
        Ok(())
    }
}
