//! Which of several copies of the SAN's configuration counts? Pure.
//!
//! Copies come from every array that was found and from the host's state directory. Their reservations are not merged
//! ([`super::records`]): those of the host's copy stay as they are, and no copy is behind because of them.
//! 1. Of the copies of one SAN the highest generation counts; the others are behind and are written anew.
//! 2. Disks of another SAN may have been moved here. The SAN with the newest host copy (else the highest generation)
//!    stays this host's; targets of the others that have LUNs on arrays which are really here are taken over.
//! 3. A target name that both have is not merged: this host's stays, and a note says so.

use uuid::Uuid;

use super::document::{SanDocument, TargetRecord};

/// A copy and where it was found.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    /// The array that carried it; none for the host's state directory.
    pub(crate) array: Option<Uuid>,
    /// What it says; none if that place has no copy yet.
    pub(crate) document: Option<SanDocument>,
}

/// What is to be believed.
#[derive(Debug, PartialEq)]
pub(crate) struct Merged {
    /// The configuration.
    pub(crate) document: SanDocument,
    /// Places (as in [`Copy::array`]) whose copy is not this document.
    pub(crate) behind: Vec<Option<Uuid>>,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
}

/// Choose. `new_san` names the SAN if there is none yet.
pub(crate) fn merge(copies: &[Copy], new_san: Uuid) -> Merged {
    let mut notes = Vec::new();
    let mut document = match home(copies) {
        Some(home) => newest(copies, home),
        None => None,
    }
    .cloned()
    .unwrap_or_else(|| SanDocument::empty(new_san));
    document.reservations = of_host(copies).map(|host| host.reservations.clone()).unwrap_or_default();
    if document.number_ports() {
        document.generation = document.generation.saturating_add(1);
    }
    for stranger in strangers(copies, document.san_uuid) {
        adopt(&mut document, stranger, copies, &mut notes);
    }
    let same = |copy: &Copy| copy.document.as_ref().is_some_and(|other| document.same_configuration(other));
    let behind = copies.iter().filter(|copy| !same(copy)).map(|copy| copy.array).collect();
    Merged { document, behind, notes }
}

fn of_host(copies: &[Copy]) -> Option<&SanDocument> {
    copies.iter().filter(|copy| copy.array.is_none()).find_map(|copy| copy.document.as_ref())
}

/// Whose host is this? The state directory knows; else the arrays' highest generation, then the lowest UUID.
fn home(copies: &[Copy]) -> Option<Uuid> {
    let documents = || copies.iter().filter_map(|copy| copy.document.as_ref());
    let highest = || documents().max_by_key(|d| (d.generation, std::cmp::Reverse(d.san_uuid)));
    // A host that never had a target has nothing to defend: disks moved to it bring their SAN along.
    of_host(copies)
        .filter(|document| document.generation > 0)
        .or_else(highest)
        .map(|document| document.san_uuid)
}

/// Copies of one generation are the same document, unless one SAN was changed in two places at once; then the copy
/// found first (the state directory's comes first) counts, and which that is does not change from start to start.
fn newest(copies: &[Copy], san: Uuid) -> Option<&SanDocument> {
    let documents = copies.iter().filter_map(|copy| copy.document.as_ref());
    documents.filter(|d| d.san_uuid == san).reduce(|best, next| match next.generation > best.generation {
        true => next,
        false => best,
    })
}

fn strangers(copies: &[Copy], home: Uuid) -> Vec<&SanDocument> {
    let mut sans: Vec<Uuid> = Vec::new();
    for document in copies.iter().filter_map(|copy| copy.document.as_ref()) {
        if document.san_uuid != home && !sans.contains(&document.san_uuid) {
            sans.push(document.san_uuid);
        }
    }
    sans.sort_unstable();
    sans.into_iter().filter_map(|san| newest(copies, san)).collect()
}

fn adopt(document: &mut SanDocument, stranger: &SanDocument, copies: &[Copy], notes: &mut Vec<String>) {
    let here = |array: Uuid| copies.iter().any(|copy| copy.array == Some(array));
    let has_disks = |target: &&TargetRecord| target.all_luns().any(|(_, lun)| here(lun.array_uuid));
    let mut adopted = 0;
    for target in stranger.targets.iter().filter(has_disks) {
        match document.target(&target.iqn) {
            Some(ours) if ours == target => {}
            Some(_) => notes.push(format!(
                "disks of another SAN ({}) are here; its target {} was not taken over, because this SAN has one of that name",
                stranger.san_uuid, target.iqn
            )),
            None => {
                let mut target = target.clone();
                // Two ports of one number would be one path to an initiator that sees a volume through both.
                if document.targets.iter().any(|other| other.port == target.port) {
                    target.port = document.port_for(&target.iqn);
                }
                document.targets.push(target);
                adopted += 1;
            }
        }
    }
    if adopted > 0 {
        document.schema = document.needed_schema().max(document.schema);
        document.generation = document.generation.max(stranger.generation).saturating_add(1);
        document.targets.sort_by(|a, b| a.iqn.cmp(&b.iqn));
        notes.push(format!(
            "{adopted} target(s) of another SAN ({}) came with their disks",
            stranger.san_uuid
        ));
    }
}
