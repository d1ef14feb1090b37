//! Faults that the simulator plants on purpose, to show that it would find them. Without the `sabotage` feature, which only the
//! simulator's crate asks for, every question here is answered `false` at compile time.

/// A rule of `docs/crash-consistency.md` left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// J3: data goes in place before its parity is in the journal.
    ParityNotJournalled,
    /// J1: writes are acknowledged before their commit is durable.
    AckBeforeCommit,
    /// The tail passes records that are not in place yet.
    TailAdvancedEarly,
    /// J4: a whole stripe goes in place though records of it are live.
    BypassWithLiveRecord,
    /// J4: a whole stripe goes in place without an intent.
    BypassWithoutIntent,
    /// J1: commits have one copy too few.
    FewerCopies,
    /// J5.3: recovery does not copy the last commit again.
    NoRecopyAtRecovery,
    /// J5.4: recovery replays groups that are not their stripe's newest.
    OlderGroupReplayed,
    /// Ring space is used again before the tail that frees it is durable.
    RingReusedEarly,
    /// J5.2: records of an earlier life are taken for this one's.
    StaleEpochReplayed,
    /// J5.6: clients are served while the ring holds an intent.
    ServedWithIntent,
    /// J2: what is journalled is forgotten before its whole group is in place.
    OverlayDroppedEarly,
    /// A bit of the bitmap is cleared before its region is flushed.
    BitmapBitClearedEarly,
    /// A member that missed updates is taken for current.
    StaleMemberTrusted,
    /// A spare is called in sync, or its checkpoint moved, before what fills it is flushed.
    SpareInSyncEarly,
    /// A region is written in place before it is durably marked as written.
    WrittenBitLate,
    /// A rebuild passes over what was never written, without making it zeros on the spare.
    UnwrittenNotZeroed,
    /// The record of a mirror's atomic write is erased before all of it is in place.
    RecordErasedEarly,
    /// The record of a mirror's atomic write is there until the next one: its units are let go and the client is told before.
    RecordErasedLate,
    /// The record of a mirror's atomic write is on one member only.
    RecordOnOneMember,
}

impl Sabotage {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 20] = [
        Self::ParityNotJournalled,
        Self::AckBeforeCommit,
        Self::TailAdvancedEarly,
        Self::BypassWithLiveRecord,
        Self::BypassWithoutIntent,
        Self::FewerCopies,
        Self::NoRecopyAtRecovery,
        Self::OlderGroupReplayed,
        Self::RingReusedEarly,
        Self::StaleEpochReplayed,
        Self::ServedWithIntent,
        Self::OverlayDroppedEarly,
        Self::BitmapBitClearedEarly,
        Self::StaleMemberTrusted,
        Self::SpareInSyncEarly,
        Self::WrittenBitLate,
        Self::UnwrittenNotZeroed,
        Self::RecordErasedEarly,
        Self::RecordErasedLate,
        Self::RecordOnOneMember,
    ];

    /// The name by which people ask for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ParityNotJournalled => "parity-not-journalled",
            Self::AckBeforeCommit => "ack-before-commit",
            Self::TailAdvancedEarly => "tail-advanced-early",
            Self::BypassWithLiveRecord => "bypass-with-live-record",
            Self::BypassWithoutIntent => "bypass-without-intent",
            Self::FewerCopies => "fewer-copies",
            Self::NoRecopyAtRecovery => "no-recopy-at-recovery",
            Self::OlderGroupReplayed => "older-group-replayed",
            Self::RingReusedEarly => "ring-reused-early",
            Self::StaleEpochReplayed => "stale-epoch-replayed",
            Self::ServedWithIntent => "served-with-intent",
            Self::OverlayDroppedEarly => "overlay-dropped-early",
            Self::BitmapBitClearedEarly => "bitmap-bit-cleared-early",
            Self::StaleMemberTrusted => "stale-member-trusted",
            Self::SpareInSyncEarly => "spare-in-sync-early",
            Self::WrittenBitLate => "written-bit-late",
            Self::UnwrittenNotZeroed => "unwritten-not-zeroed",
            Self::RecordErasedEarly => "record-erased-early",
            Self::RecordErasedLate => "record-erased-late",
            Self::RecordOnOneMember => "record-on-one-member",
        }
    }

    /// The mistake of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sabotage| sabotage.name() == name)
    }

    /// The rule it breaks is the journal's.
    #[must_use]
    pub fn is_of_the_journal(self) -> bool {
        !matches!(
            self,
            Self::BitmapBitClearedEarly
                | Self::StaleMemberTrusted
                | Self::SpareInSyncEarly
                | Self::WrittenBitLate
                | Self::UnwrittenNotZeroed
                | Self::RecordErasedEarly
                | Self::RecordErasedLate
                | Self::RecordOnOneMember
        )
    }
}

#[cfg(feature = "sabotage")]
mod planted {
    use super::Sabotage;
    use std::cell::Cell;

    std::thread_local! {
        static PLANTED: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// Plant a fault on this thread, or take it away.
    pub fn plant(fault: Option<Sabotage>) {
        PLANTED.set(fault);
    }

    pub(crate) fn planted(fault: Sabotage) -> bool {
        PLANTED.get() == Some(fault)
    }
}

#[cfg(feature = "sabotage")]
pub use planted::plant;
#[cfg(feature = "sabotage")]
pub(crate) use planted::planted;

/// Whether this fault is planted: never.
#[cfg(not(feature = "sabotage"))]
pub(crate) const fn planted(_fault: Sabotage) -> bool {
    false
}
