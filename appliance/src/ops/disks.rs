//! Which disks does the daemon see? Those of running arrays, and what the configuration's `scan` finds beside them.

use labsan_api::disk::{Disk, DiskUse, Disks};
use raid_core::array::Examination;

use super::assembly::{self, Looked};
use crate::state::Daemon;
use crate::{engine, scan};

/// All of them.
pub(crate) async fn list(daemon: &Daemon) -> Disks {
    let mut disks = Vec::new();
    for (name, array) in daemon.arrays() {
        for member in engine::array(&name, &array.status().await, None).members {
            let Some(path) = member.path else { continue };
            let size_bytes = size_of(&path);
            let usage = DiskUse::Member { array: name.clone(), slot: member.slot, state: member.state };
            disks.push(Disk { path, size_bytes, usage });
        }
    }
    let found = scan::expand(&daemon.config.scan);
    let looked = assembly::look(&found.paths, &assembly::in_use(daemon).await).await;
    disks.extend(looked.into_iter().map(shown));
    disks.sort_by(|a, b| a.path.cmp(&b.path));
    Disks { disks }
}

fn size_of(path: &std::path::Path) -> Option<u64> {
    let mut file = std::fs::File::open(path).ok()?;
    // The end of a block device is its size, which its metadata does not tell.
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).ok()
}

fn shown(looked: Looked) -> Disk {
    let usage = match looked.found {
        Ok(Examination::Blank) => DiskUse::Blank,
        Ok(Examination::Foreign(signatures)) => {
            let what: Vec<String> = signatures.iter().map(ToString::to_string).collect();
            DiskUse::Foreign { what: what.join(", ") }
        }
        Ok(Examination::Member(member)) => {
            DiskUse::Idle { array: member.superblock.name.bare(), array_uuid: member.superblock.array_uuid }
        }
        Err(error) => DiskUse::Unreadable { why: error.to_string() },
    };
    Disk { path: looked.path, size_bytes: looked.size_bytes, usage }
}
