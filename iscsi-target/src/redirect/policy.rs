//! Which of several addresses is an initiator sent to? Pure: the same questions in the same order get the same answers.
//!
//! | policy | the address chosen |
//! |---|---|
//! | fixed | the first in the order written |
//! | round robin | the next in that order after the one chosen last |
//! | weighted | smooth weighted round robin: each gains its weight, the richest is chosen and pays what all gained |
//! | initiator hash | rendezvous hashing: the one with the highest [`score`] for this initiator |
//! | least sessions | the one with the fewest sessions; of several, the first in the order written |
//!
//! Candidates are those that can be used now, in the order written. One that is left out takes no turn and loses none of what
//! it has gained.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use sha2::{Digest, Sha256};

/// How an address is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The first that there is.
    Fixed,
    /// One after the other.
    RoundRobin,
    /// Each by its weight, evenly spread.
    Weighted,
    /// By the initiator's name: it stays where it was as long as that is there.
    InitiatorHash,
    /// Where the fewest are.
    LeastSessions,
}

/// An address that can be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the order written.
    pub index: usize,
    /// As initiators are told it.
    pub address: SocketAddr,
    /// Its share, beside those of the others; counts for [`Policy::Weighted`].
    pub weight: u16,
    /// Sessions there; counts for [`Policy::LeastSessions`].
    pub sessions: u64,
}

/// What earlier choices leave for the next one.
#[derive(Debug, Default)]
pub struct Chooser {
    last: Option<usize>,
    gained: BTreeMap<usize, i64>,
}

impl Chooser {
    /// The index of the candidate to send this initiator to; `None` if there is none.
    pub fn choose(&mut self, policy: Policy, initiator: &str, candidates: &[Candidate]) -> Option<usize> {
        match policy {
            Policy::Fixed => candidates.first().map(|candidate| candidate.index),
            Policy::RoundRobin => self.next(candidates),
            Policy::Weighted => self.richest(candidates),
            Policy::InitiatorHash => {
                let rank =
                    |one: &&Candidate| (score(initiator, one.address), Reverse(one.address.to_string()));
                candidates.iter().max_by_key(rank).map(|candidate| candidate.index)
            }
            Policy::LeastSessions => {
                let rank = |one: &&Candidate| (one.sessions, one.index);
                candidates.iter().min_by_key(rank).map(|candidate| candidate.index)
            }
        }
    }

    fn next(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let after = |one: &&Candidate| self.last.is_none_or(|last| one.index > last);
        let chosen = candidates.iter().find(after).or(candidates.first())?.index;
        self.last = Some(chosen);
        Some(chosen)
    }

    fn richest(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let mut total = 0;
        for candidate in candidates {
            let weight = i64::from(candidate.weight);
            *self.gained.entry(candidate.index).or_default() += weight;
            total += weight;
        }
        let gained = |index| self.gained.get(&index).copied().unwrap_or_default();
        let rank = |one: &&Candidate| (gained(one.index), Reverse(one.index));
        let chosen = candidates.iter().max_by_key(rank)?.index;
        self.gained.entry(chosen).and_modify(|gained| *gained -= total);
        Some(chosen)
    }
}

/// How strongly an initiator is drawn to an address: the first eight bytes, the highest first, of the SHA-256 of the initiator's name
/// in lower case, a zero byte, and the address as it is told (`192.0.2.1:3260`, `[2001:db8::1]:3260`). It depends on nothing else,
/// so every labsan with the same list sends an initiator to the same place, after any restart.
pub fn score(initiator: &str, address: SocketAddr) -> u64 {
    let mut hash = Sha256::new();
    hash.update(initiator.to_ascii_lowercase());
    hash.update([0]);
    hash.update(address.to_string());
    hash.finalize().iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
