//! How long does a LUN's number mean nothing else after it was freed? Pure; times are arguments.
//!
//! A node that was not asked may remember the disk it knew under that number, and write to whatever is there now. So the
//! number rests for a while. Clocks are set, also backwards: within one start of the machine the time since then counts,
//! which nobody can set; else the time of day, and a time that lies ahead of it is taken for now.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::document::FreedRecord;

/// A time, by both clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// Seconds since 1970.
    pub(crate) at_unix: u64,
    /// Which start of the machine, if that can be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<Uuid>,
    /// Seconds since then.
    #[serde(default)]
    pub(crate) boot_seconds: u64,
}

impl Moment {
    fn is_of_boot_of(&self, other: &Self) -> bool {
        self.boot.is_some() && self.boot == other.boot
    }

    /// Seconds from `self` to `now`.
    fn age(&self, now: &Self) -> u64 {
        match self.is_of_boot_of(now) {
            true => now.boot_seconds.saturating_sub(self.boot_seconds),
            false => now.at_unix.saturating_sub(self.at_unix),
        }
    }

    /// A time of day that has not been yet is now.
    pub(crate) fn settle(&mut self, now: &Self) {
        if !self.is_of_boot_of(now) && self.at_unix > now.at_unix {
            *self = now.clone();
        }
    }
}

/// What the time is, and how long a number rests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    /// The time.
    pub(crate) now: Moment,
    /// How long.
    pub(crate) seconds: u64,
}

impl Hold {
    /// Seconds that a number still rests; 0: no more.
    pub(crate) fn left(&self, freed: &FreedRecord) -> u64 {
        self.seconds.saturating_sub(freed.at.age(&self.now))
    }

    /// How long this number still rests to whoever sees the map, if it is to mean this volume. What it meant it may mean
    /// again at any time.
    pub(crate) fn on(
        &self,
        freed: &[FreedRecord],
        concerns: impl Fn(&FreedRecord) -> bool,
        lun: u16,
        volume: Uuid,
    ) -> u64 {
        let others =
            freed.iter().filter(|freed| freed.lun == lun && freed.volume_uuid != volume && concerns(freed));
        others.map(|freed| self.left(freed)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at_unix: u64, boot: u128, boot_seconds: u64) -> Moment {
        Moment { at_unix, boot: Some(Uuid::from_u128(boot)), boot_seconds }
    }

    fn freed(at: Moment) -> FreedRecord {
        FreedRecord { lun: 1, volume_uuid: Uuid::nil(), initiator: None, at, other: <_>::default() }
    }

    fn left(at: &Moment, now: Moment) -> u64 {
        Hold { now, seconds: 3600 }.left(&freed(at.clone()))
    }

    #[test]
    fn a_number_rests_for_its_time_and_no_longer() {
        let at = moment(1000, 1, 50);
        assert_eq!(left(&at, moment(1000, 1, 50)), 3600);
        assert_eq!(left(&at, moment(4599, 1, 3649)), 1);
        assert_eq!(left(&at, moment(4600, 1, 3650)), 0);
        assert_eq!(Hold { now: at.clone(), seconds: 0 }.left(&freed(at)), 0, "turned off");
    }

    #[test]
    fn a_clock_that_is_set_neither_shortens_nor_prolongs_it() {
        let at = moment(1_000_000, 1, 50);
        assert_eq!(left(&at, moment(9_000_000, 1, 60)), 3590, "set forward");
        assert_eq!(left(&at, moment(0, 1, 60)), 3590, "set back");
        // After another start of the machine there is only the time of day.
        assert_eq!(left(&at, moment(1_000_600, 2, 5)), 3000);
        assert_eq!(left(&at, moment(5, 2, 5)), 3600, "never longer than from now");
        let mut settled = at.clone();
        settled.settle(&moment(5, 2, 5));
        assert_eq!(left(&settled, moment(3605, 2, 3605)), 0, "and it does end");
        let mut untouched = at.clone();
        untouched.settle(&moment(5, 1, 60));
        untouched.settle(&moment(1_000_001, 2, 60));
        assert_eq!(untouched, at);
        // Where the start of the machine cannot be known.
        let bare = Moment { at_unix: 1000, ..Moment::default() };
        assert_eq!(left(&bare, Moment { at_unix: 1600, ..Moment::default() }), 3000);
    }
}
