//! How does a change of the SAN's configuration come into force? Durable first, then live, or not at all.
//!
//! 1. The new configuration is written to every running array that can be written, and to the host's copy.
//! 2. It is the one in force.
//! 3. The live targets follow.
//!
//! If 1 fails somewhere, the copies already written get the old configuration back; if 3 fails, the targets and all copies
//! do. It has a generation above the refused one's, so that a copy that could not be put back never counts. A crash in 1
//! leaves copies of two generations, whole each, and the next start believes the newer: the change then happened although
//! nobody was told; it never happened by half.
//!
//! Persistent reservations are no part of this: nodes change them, each on its own array ([`crate::replica`]), whoever has
//! the turn, for a node that has to be fenced cannot wait until an array was made.

use raid_core::array::Array;

use crate::error::Failure;
use crate::limits::SPACE_PATIENCE;
use crate::san::SanDocument;
use crate::san::plan::{self, Step};
use crate::state::Daemon;
use crate::{host_copy, replica, reservations, space};

/// Bring `next` into force, but for its reservations. The caller has the turn.
pub(crate) async fn commit(daemon: &Daemon, mut next: SanDocument) -> Result<(), Failure> {
    let old = daemon.document();
    next.generation = old.generation.saturating_add(1);
    write(daemon, &old, &next).await?;
    if let Err(error) = follow(daemon, &plan::plan(Some(&old), &next)).await {
        if let Err(second) = follow(daemon, &plan::plan(Some(&next), &old)).await {
            tracing::error!("the targets could not be put back as they were: {second}");
        }
        take_back(daemon, &writable(daemon).await, &next, &old).await;
        return Err(error);
    }
    Ok(())
}

/// Make `next` durable, then the configuration in force.
async fn write(daemon: &Daemon, old: &SanDocument, next: &SanDocument) -> Result<(), Failure> {
    let replicas = writable(daemon).await;
    let mut tried = 0;
    let failed = loop {
        let Some(array) = replicas.get(tried) else {
            match host_copy::bring_into_force(daemon, next.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => break error.into(),
            }
        };
        tried += 1;
        if let Err(error) = replica::set_configuration(daemon, array, next).await {
            break error;
        }
    };
    take_back(daemon, &replicas[..tried], next, old).await;
    Err(failed)
}

/// Put the old configuration back into force, above the refused one, which may stay behind on a disk that does not come back
/// before the next start.
async fn take_back(daemon: &Daemon, written: &[Array], refused: &SanDocument, old: &SanDocument) {
    let again = SanDocument { generation: refused.generation.saturating_add(1), ..old.clone() };
    let mut notes = refresh(daemon, written, &again).await;
    notes.extend(host_copy::bring_into_force_anyway(daemon, again).await.map(|error| error.to_string()));
    for note in notes {
        tracing::error!("a change was refused, and could not be taken back everywhere: {note}");
    }
}

/// Carry out steps on the live targets. LUNs of arrays that are not here wait for them.
pub(crate) async fn follow(daemon: &Daemon, steps: &[Step]) -> Result<(), Failure> {
    if steps.iter().any(|step| matches!(step, Step::MapLun { .. })) {
        // New units are to know from the first how their space fares; but a file system that hangs holds up nobody else's.
        let _ = tokio::time::timeout(SPACE_PATIENCE, space::measure(daemon)).await;
    }
    for step in steps {
        let backing = match step {
            Step::MapLun { lun, .. } => reservations::backing(daemon, lun),
            _ => None,
        };
        daemon.targets.apply(step, backing).await?;
    }
    Ok(())
}

/// Write a configuration to arrays that have an older one. For starts: what cannot be written is a note, for the newest copy
/// counts anyway.
pub(crate) async fn refresh(daemon: &Daemon, behind: &[Array], document: &SanDocument) -> Vec<String> {
    let mut notes = Vec::new();
    for array in behind {
        if let Err(error) = replica::set_configuration(daemon, array, document).await {
            notes.push(error.to_string());
        }
    }
    notes
}

/// Arrays that take writes. A failed one does not hold up the others; it is behind when it comes back.
async fn writable(daemon: &Daemon) -> Vec<Array> {
    let mut writable = Vec::new();
    for (_, array) in daemon.arrays() {
        if replica::is_writable(&array).await {
            writable.push(array);
        }
    }
    writable
}
