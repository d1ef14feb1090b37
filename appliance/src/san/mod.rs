//! The SAN's configuration: what it is, how it changes, which copy counts, what the live targets must do.
//!
//! All of it is pure; [`crate::change`] writes it to the disks and carries out the plan.

pub(crate) mod access;
pub(crate) mod allow;
pub(crate) mod document;
pub(crate) mod edit;
pub(crate) mod hold;
pub(crate) mod luns;
pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod records;
pub(crate) mod refusal;

pub(crate) use document::{Account, Chap, LunRecord, SanDocument, TargetRecord};

#[cfg(test)]
mod tests;

#[cfg(test)]
mod access_tests;
#[cfg(test)]
mod lun_tests;
