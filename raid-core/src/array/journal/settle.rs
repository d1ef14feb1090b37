//! Settling stripes (`array/settle.rs`) while the journal is in use.

use block_io::IoError;

use super::Journal;
use super::commit::What;
use crate::array::core::{Core, lock};
use crate::array::settle::Trust;

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
}
