//! How does a change of the SAN's configuration come into force? Durable first, then live, or not at all.
//!
//! 1. The new document is written to every running array that can be written, and to the host's copy.
//! 2. The live targets follow.
//! 3. It is the document in force.
//!
//! If 1 fails somewhere, the copies already written get the old document back; if 2 fails, the targets and all copies
//! do. A crash in 1 leaves copies of two generations, whole each, and the next start believes the newer: the change
//! then happened although nobody was told; it never happened by half.

use labsan_api::array::ArrayState;
use raid_core::array::Array;

use crate::error::Failure;
use crate::san::SanDocument;
use crate::san::plan::{self, Step};
use crate::state::Daemon;
use crate::{engine, state_file};

/// Bring `next` into force. The caller has the turn.
pub(crate) async fn commit(daemon: &Daemon, next: SanDocument) -> Result<(), Failure> {
    let old = daemon.document();
    let replicas = writable(daemon).await;
    if let Err((error, written)) = write_everywhere(daemon, &replicas, &next).await {
        take_back(daemon, &replicas[..written], &old).await;
        return Err(error);
    }
    if let Err(error) = follow(daemon, &plan::plan(Some(&old), &next)).await {
        if let Err(second) = follow(daemon, &plan::plan(Some(&next), &old)).await {
            tracing::error!("the targets could not be put back as they were: {second}");
        }
        take_back(daemon, &replicas, &old).await;
        return Err(error);
    }
    daemon.state().document = next;
    Ok(())
}

/// Carry out steps on the live targets. LUNs of arrays that are not here wait for them.
pub(crate) async fn follow(daemon: &Daemon, steps: &[Step]) -> Result<(), Failure> {
    for step in steps {
        let volume = match step {
            Step::MapLun { lun, .. } => daemon.volume_of(lun).map(|(_, volume)| volume),
            _ => None,
        };
        daemon.targets.apply(step, volume).await?;
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
