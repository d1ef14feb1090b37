//! How does a change of the SAN's configuration come into force? Durable first, then live, or not at all.
//!
//! 1. The new document is written to every running array that can be written, and to the host's copy.
//! 2. It is the document in force.
//! 3. The live targets follow.
//!
//! If 1 fails somewhere, the copies already written get the old document back; if 3 fails, the targets and all copies
//! do. It has a generation above the refused one's, so that a copy that could not be put back never counts. A crash in 1 leaves copies of two generations, whole each, and the next start believes the newer: the change
//! then happened although nobody was told; it never happened by half.
//!
//! Persistent reservations are a part of the document that initiators change, by [`keep_reservations`], whoever has the
//! turn: a node that has to be fenced cannot wait until an array was made. So a change of the rest takes the reservations
//! as they are when it is written.

use labsan_api::array::ArrayState;
use raid_core::array::Array;
use uuid::Uuid;

use crate::error::Failure;
use crate::san::SanDocument;
use crate::san::plan::{self, Step};
use crate::state::Daemon;
use crate::{engine, reservations, state_file};

/// Bring `next` into force, but for its reservations. The caller has the turn.
pub(crate) async fn commit(daemon: &Daemon, mut next: SanDocument) -> Result<(), Failure> {
    let old = {
        let _writing = daemon.writing.lock().await;
        let old = daemon.document();
        next.reservations.clone_from(&old.reservations);
        next.generation = old.generation.saturating_add(1);
        write(daemon, &writable(daemon).await, &old, next.clone()).await?;
        old
    };
    if let Err(error) = follow(daemon, &plan::plan(Some(&old), &next)).await {
        if let Err(second) = follow(daemon, &plan::plan(Some(&next), &old)).await {
            tracing::error!("the targets could not be put back as they were: {second}");
        }
        undo(daemon, &next, old).await;
        return Err(error);
    }
    Ok(())
}

/// Keep a volume's persistent reservations, or that there are none. `array` must be among those written. Needs no turn.
pub(crate) async fn keep_reservations(
    daemon: &Daemon,
    array: Uuid,
    volume: Uuid,
    record: Option<serde_json::Value>,
) -> Result<(), Failure> {
    let _writing = daemon.writing.lock().await;
    let old = daemon.document();
    let mut next = old.clone();
    match record {
        Some(record) => next.reservations.insert(volume, record),
        None => next.reservations.remove(&volume),
    };
    if next.reservations == old.reservations {
        return Ok(());
    }
    next.generation = old.generation.saturating_add(1);
    let replicas = writable(daemon).await;
    let Some(home) = replicas.iter().find(|replica| replica.uuid() == array) else {
        return Err(Failure::NoArray(array.to_string()));
    };
    if next.reservations.contains_key(&volume) && !home.volumes().iter().any(|there| there.uuid() == volume) {
        // The order was under way when the volume was deleted; nobody would ever take its record away.
        return Err(Failure::VolumeGone(volume));
    }
    write(daemon, &replicas, &old, next).await
}

/// Make `next` durable, then the document in force. The caller is the one who is writing.
async fn write(
    daemon: &Daemon,
    replicas: &[Array],
    old: &SanDocument,
    next: SanDocument,
) -> Result<(), Failure> {
    if let Err((error, written)) = write_everywhere(daemon, replicas, &next).await {
        // Above the refused one, which may stay behind on a disk that does not come back before the next start.
        let again = SanDocument { generation: next.generation.saturating_add(1), ..old.clone() };
        take_back(daemon, &replicas[..written], &again).await;
        daemon.state().document = again;
        return Err(error);
    }
    daemon.state().document = next;
    Ok(())
}

/// Put back the document from before `next`, but for reservations that were kept meanwhile.
async fn undo(daemon: &Daemon, next: &SanDocument, mut old: SanDocument) {
    let _writing = daemon.writing.lock().await;
    let now = daemon.document();
    old.generation = now.generation.saturating_add(1);
    if now.generation != next.generation {
        old.reservations = now.reservations;
    }
    take_back(daemon, &writable(daemon).await, &old).await;
    daemon.state().document = old;
}

/// Carry out steps on the live targets. LUNs of arrays that are not here wait for them.
pub(crate) async fn follow(daemon: &Daemon, steps: &[Step]) -> Result<(), Failure> {
    for step in steps {
        let backing = match step {
            Step::MapLun { lun, .. } => reservations::backing(daemon, lun),
            _ => None,
        };
        daemon.targets.apply(step, backing).await?;
    }
    Ok(())
}

/// Write a document to arrays that have an older one, and to the host's copy if `host`. For starts: what cannot be
/// written is a note, for the newest copy counts anyway.
pub(crate) async fn refresh(
    daemon: &Daemon,
    behind: &[Array],
    host: bool,
    document: &SanDocument,
) -> Vec<String> {
    let mut notes = Vec::new();
    for array in behind {
        if let Err(error) = write_to(array, document).await {
            notes.push(error.to_string());
        }
    }
    if host && let Err(error) = state_file::store(&daemon.config.state_dir, document) {
        notes.push(error.to_string());
    }
    notes
}

/// Arrays that take writes. A failed one does not hold up the others; it is behind when it comes back.
async fn writable(daemon: &Daemon) -> Vec<Array> {
    let mut writable = Vec::new();
    for (name, array) in daemon.arrays() {
        let state = engine::array(&name, &array.status().await).state;
        if !matches!(state, ArrayState::Failed | ArrayState::Stopped) {
            writable.push(array);
        }
    }
    writable
}

/// The error, and how many replicas may have been written.
async fn write_everywhere(
    daemon: &Daemon,
    replicas: &[Array],
    document: &SanDocument,
) -> Result<(), (Failure, usize)> {
    for (index, array) in replicas.iter().enumerate() {
        write_to(array, document).await.map_err(|error| (error, index + 1))?;
    }
    state_file::store(&daemon.config.state_dir, document).map_err(|error| (error.into(), replicas.len()))
}

async fn write_to(array: &Array, document: &SanDocument) -> Result<(), Failure> {
    let json = serde_json::to_value(document)
        .map_err(|error| Failure::SanDocument(crate::san::document::DocumentError::Malformed(error)))?;
    array
        .set_attachment(document.generation, json)
        .await
        .map_err(|source| Failure::Replica { array: array.name().to_owned(), source })
}

async fn take_back(daemon: &Daemon, written: &[Array], old: &SanDocument) {
    for note in refresh(daemon, written, true, old).await {
        tracing::error!("a change was refused, and could not be taken back everywhere: {note}");
    }
}
