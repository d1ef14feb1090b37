//! What do hostile bytes do? One function for each fuzz target: it takes any bytes, and panics if a promise is broken.
//!
//! `fuzz/` runs them under libFuzzer, `tests/corpus.rs` replays the corpora of `fixtures/fuzz` in every test run.
//! `docs/testing.md` tells how. Each input is small, so whatever allocates much more than it was given is found by
//! libFuzzer's limit on memory.

#![allow(clippy::unwrap_used)]

mod area;
mod cdb;
mod extended_copy;
mod input;
mod journal;
mod login;
mod pdu;
mod reserve_out;
mod seeds;
mod superblock;
mod units;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of `fuzz/fuzz_targets/NAME.rs` and of `fixtures/fuzz/NAME`.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "pdu", run: pdu::run, seeds: seeds::pdu },
    Target { name: "login", run: login::run, seeds: seeds::login },
    Target { name: "cdb", run: cdb::run, seeds: seeds::cdb },
    Target { name: "reserve_out", run: reserve_out::run, seeds: seeds::reserve_out },
    Target { name: "extended_copy", run: extended_copy::run, seeds: seeds::extended_copy },
    Target { name: "superblock", run: superblock::run, seeds: seeds::superblock },
    Target { name: "area", run: area::run, seeds: seeds::area },
    Target { name: "journal_record", run: journal::record, seeds: seeds::journal_record },
    Target { name: "journal_ring", run: journal::ring, seeds: seeds::journal_ring },
];

/// The target of this name. Panics if there is none.
#[must_use]
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no fuzz target {name}"))
}
