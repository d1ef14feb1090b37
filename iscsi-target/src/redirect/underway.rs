//! Who was sent somewhere and is not known to be there yet? They count as if they were, so that a burst of logins does not all go
//! to the address that had the fewest sessions when it began.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::limits;
use crate::scsi::reservations::ItNexus;

/// What is known of an address's sessions.
#[derive(Debug)]
pub(super) enum Load<'a> {
    /// It is ours: whose they are.
    Here(HashSet<&'a ItNexus>),
    /// It told a check how many there are.
    Told { sessions: u64, asked: Instant },
}

impl Load<'_> {
    pub(super) fn sessions(&self) -> u64 {
        match self {
            Self::Here(nexuses) => nexuses.len() as u64,
            Self::Told { sessions, .. } => *sessions,
        }
    }
}

#[derive(Debug)]
struct Sent {
    nexus: ItNexus,
    to: usize,
    at: Instant,
}

/// Those on their way, the latest last; each nexus once.
#[derive(Debug, Default)]
pub(super) struct Underway {
    sent: VecDeque<Sent>,
}

impl Underway {
    /// Somebody is sent to the address of this index.
    pub(super) fn note(&mut self, nexus: ItNexus, to: usize, at: Instant) {
        self.sent.retain(|sent| sent.nexus != nexus);
        if self.sent.len() >= limits::MAX_UNDERWAY {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { nexus, to, at });
    }

    /// How many are on their way to an address beside those who are there; `but` does not count.
    pub(super) fn beside(&self, load: &Load<'_>, to: usize, but: &ItNexus, now: Instant) -> u64 {
        let counts = |sent: &&Sent| sent.to == to && sent.nexus != *but && is_missing(sent, load, now);
        self.sent.iter().filter(counts).count() as u64
    }
}

/// Is it on its way and in no count yet?
fn is_missing(sent: &Sent, load: &Load<'_>, now: Instant) -> bool {
    let later = |by_ms| sent.at + Duration::from_millis(by_ms);
    match load {
        // Who has not come by then will not come.
        Load::Here(nexuses) => !nexuses.contains(&sent.nexus) && now < later(limits::ARRIVAL_MS),
        // Whether it is in a count that was taken sooner nobody knows.
        Load::Told { asked, .. } => *asked < later(limits::SETTLING_MS),
    }
}
