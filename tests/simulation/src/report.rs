//! What happened in a run, and in all of them.

use std::collections::BTreeMap;
use std::fmt;

use raid_core::array::Policy;
use raid_core::geometry::Level;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of what happened.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Add another run's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

stats! {
    /// Requests of clients begun.
    operations,
    /// Requests that read everything back after a start.
    read_backs,
    /// Sectors compared with the model.
    sectors_checked,
    /// Steps of disks.
    disk_steps,
    /// Virtual time.
    virtual_ms,
    /// Machines that were started.
    lives,
    /// Power cuts.
    cuts,
    /// While the array was being started.
    cuts_in_start,
    /// While it was being stopped.
    cuts_in_stop,
    /// While a spare was being filled.
    cuts_in_rebuild,
    /// While it resynced.
    cuts_in_resync,
    /// While a member was failed, removed or added by command.
    cuts_in_command,
    /// While a member was missing, with nothing to rebuild it on.
    cuts_degraded,
    /// Clean stops.
    stops,
    /// Parity and copies compared at rest.
    rest_checks,
    /// Members that did not come back after a power cut.
    lost_at_cut,
    /// Power cuts that left a commit on fewer members than an acknowledged one has.
    lone_commits,
    /// Those whose only copy could not be read at the next start.
    lone_hidden,
    /// Power cuts in the middle of writes straight to their places.
    half_written,
    /// Power cuts as soon as what the one before had left in doubt was read.
    cuts_when_seen,
    /// Members that could not read at the next start what they were writing.
    weak_at_cut,
    /// Members that went away while the array ran.
    vanished,
    /// Disks that came back.
    returned,
    /// Ranges made unreadable.
    spoilt,
    /// Reads made to fail that would not later.
    read_faults,
    /// Writes and flushes made to fail.
    write_faults,
    /// Members failed by command.
    failed,
    /// Devices removed.
    removed,
    /// Devices added.
    added,
    /// Starts tried with too few members.
    starved_starts,
    /// Starts refused, rightly.
    refusals,
    /// Starts refused because of a member that left before all others were replaced.
    split_refusals,
    /// Runs that ended there.
    refused_ends,
    /// Errors that clients got beyond what the level bears.
    errors_seen,
    /// Reads of blocks that were rightly given up.
    lost_blocks_read,
}

/// Of many runs, by level and policy.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    by_kind: BTreeMap<(u32, &'static str), (u64, Stats)>,
}

impl Totals {
    /// Count one run.
    pub fn add(&mut self, (level, policy): (Level, Policy), stats: &Stats) {
        let (runs, sum) = self.by_kind.entry((level.number(), policy_name(policy))).or_default();
        *runs += 1;
        sum.add(stats);
    }

    /// Everything together.
    #[must_use]
    pub fn sum(&self) -> (u64, Stats) {
        let mut total = (0, Stats::default());
        for (runs, stats) in self.by_kind.values() {
            total.0 += runs;
            total.1.add(stats);
        }
        total
    }
}

/// How people write it.
#[must_use]
pub fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::None => "none",
        Policy::Bitmap => "bitmap",
        Policy::Journal => "journal",
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.sum();
        write!(f, "{:<18}", "")?;
        for (level, policy) in self.by_kind.keys() {
            write!(f, "{:>12}", format!("{level} {policy}"))?;
        }
        writeln!(f, "{:>13}", "all")?;
        let columns: Vec<&(u64, Stats)> = self.by_kind.values().chain([&total]).collect();
        write!(f, "{:<18}", "runs")?;
        for (runs, _) in &columns {
            write!(f, "{runs:>12}")?;
        }
        writeln!(f)?;
        for (row, (name, _)) in Stats::default().list().iter().enumerate() {
            write!(f, "{name:<18}")?;
            for (_, stats) in &columns {
                write!(f, "{:>12}", stats.list()[row].1)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
