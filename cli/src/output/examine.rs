//! What does `disk examine` say of a disk? Everything that tells a person what it is and whether it is well.

use std::path::{Path, PathBuf};

use block_io::IoError;
use labsan_api::Size;
use raid_core::array::{Examination, ExaminedMember};
use raid_core::format::SECTOR_BYTES;
use raid_core::format::superblock::Role;
use serde::Serialize;
use uuid::Uuid;

use super::timestamp;

/// One disk.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    path: PathBuf,
    size_bytes: Option<u64>,
    #[serde(flatten)]
    found: Found,
}

#[derive(Debug, Serialize)]
#[serde(tag = "found", rename_all = "snake_case")]
enum Found {
    Blank,
    Foreign { what: Vec<String> },
    Member(Box<Member>),
    Unreadable { why: String },
}

#[derive(Debug, Serialize)]
struct Member {
    array: String,
    made_on_host: Option<String>,
    array_uuid: Uuid,
    device_uuid: Uuid,
    level: i32,
    raid_disks: u32,
    chunk_bytes: u64,
    role: String,
    slot: Option<u16>,
    data_offset_bytes: u64,
    data_size_bytes: u64,
    created_unix: u64,
    updated_unix: u64,
    events: u64,
    /// In md's sense: nothing was being written.
    clean: bool,
    /// A labsand runs it now, or was killed while it did.
    in_use_by_labsan: bool,
    rebuilt_up_to_bytes: Option<u64>,
    labsan_policy: Option<&'static str>,
    /// Why there is no labsan area to be used, if there is none.
    no_labsan_area: Option<String>,
    bitmap_region_bytes: Option<u32>,
}

impl Report {
    /// It could not be looked at.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self.found, Found::Unreadable { .. })
    }
}

/// What was found, as data.
pub(crate) fn report(path: &Path, looked: Result<(u64, Examination), IoError>) -> Report {
    let path = path.to_owned();
    match looked {
        Ok((size_bytes, found)) => Report { path, size_bytes: Some(size_bytes), found: found_on(&found) },
        Err(error) => Report { path, size_bytes: None, found: Found::Unreadable { why: error.to_string() } },
    }
}

fn found_on(examination: &Examination) -> Found {
    match examination {
        Examination::Blank => Found::Blank,
        Examination::Foreign(signatures) => {
            Found::Foreign { what: signatures.iter().map(ToString::to_string).collect() }
        }
        Examination::Member(member) => Found::Member(Box::new(member_of(member))),
    }
}

fn member_of(examined: &ExaminedMember) -> Member {
    let superblock = &examined.superblock;
    let (role, slot) = match superblock.own_role() {
        Role::Active(slot) => (format!("slot {slot}"), Some(slot)),
        Role::Spare => ("spare".to_owned(), None),
        Role::Faulty => ("failed".to_owned(), None),
        Role::Journal => ("journal device".to_owned(), None),
        Role::Reserved(number) => (format!("unknown role {number:#06x}"), None),
    };
    let (labsan_policy, no_labsan_area) = match &examined.header {
        Ok(header) => (Some(policy(header.policy)), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Member {
        array: superblock.name.bare(),
        made_on_host: superblock.name.host(),
        array_uuid: superblock.array_uuid,
        device_uuid: superblock.device_uuid,
        level: superblock.level,
        raid_disks: superblock.raid_disks,
        chunk_bytes: u64::from(superblock.chunk_sectors) * SECTOR_BYTES,
        role,
        slot,
        data_offset_bytes: superblock.data_offset_bytes(),
        data_size_bytes: superblock.data_size.saturating_mul(SECTOR_BYTES),
        created_unix: superblock.ctime.seconds,
        updated_unix: superblock.utime.seconds,
        events: superblock.events,
        clean: superblock.is_clean(),
        in_use_by_labsan: superblock.labsan_running(),
        rebuilt_up_to_bytes: superblock.recovery_offset.map(|sectors| sectors.saturating_mul(SECTOR_BYTES)),
        labsan_policy,
        no_labsan_area,
        bitmap_region_bytes: examined.bitmap.as_ref().map(|bitmap| bitmap.chunk_bytes),
    }
}

fn policy(policy: raid_core::array::Policy) -> &'static str {
    match policy {
        raid_core::array::Policy::None => "none",
        raid_core::array::Policy::Bitmap => "bitmap",
        raid_core::array::Policy::Journal => "journal",
    }
}

/// What was found, for a person.
pub(crate) fn text(report: &Report) -> String {
    let size = report.size_bytes.map_or(String::new(), |bytes| format!(" ({})", Size(bytes)));
    let head = format!("{}{size}: ", report.path.display());
    match &report.found {
        Found::Blank => format!("{head}blank\n"),
        Found::Foreign { what } => format!("{head}{}\n", what.join(", ")),
        Found::Unreadable { why } => format!("{head}{why}\n"),
        Found::Member(member) => {
            let lines = member_lines(member);
            let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
            let body: String =
                lines.iter().map(|(label, value)| format!("  {label:>width$}: {value}\n")).collect();
            format!("{head}member of array {}\n{body}", member.array)
        }
    }
}

fn member_lines(member: &Member) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("array uuid", member.array_uuid.to_string()),
        ("device uuid", member.device_uuid.to_string()),
        (
            "level",
            format!("{} with {} disks, chunk {}", member.level, member.raid_disks, Size(member.chunk_bytes)),
        ),
        ("role", member.role.clone()),
        ("data", format!("{} from byte {}", Size(member.data_size_bytes), member.data_offset_bytes)),
        (
            "created",
            format!("{} UTC{}", timestamp(member.created_unix), on_host(member.made_on_host.as_deref())),
        ),
        ("updated", format!("{} UTC, event {}", timestamp(member.updated_unix), member.events)),
        ("state", state(member)),
    ];
    if let Some(bytes) = member.rebuilt_up_to_bytes {
        lines.push(("rebuilt", format!("up to {}", Size(bytes))));
    }
    if let Some(bytes) = member.bitmap_region_bytes {
        lines.push(("bitmap", format!("a bit per {}", Size(bytes.into()))));
    }
    lines.push(match (member.labsan_policy, &member.no_labsan_area) {
        (Some(policy), _) => ("labsan area", format!("policy {policy}")),
        (None, why) => ("labsan area", format!("none: {}", why.as_deref().unwrap_or("made by md"))),
    });
    lines
}

fn on_host(host: Option<&str>) -> String {
    host.map_or(String::new(), |host| format!(" on host {host}"))
}

fn state(member: &Member) -> String {
    match (member.clean, member.in_use_by_labsan) {
        (true, false) => "clean: labsan or md may start it".to_owned(),
        (false, false) => "not clean: it will be resynced when it is started".to_owned(),
        (_, true) => "in use by labsan, or labsan was killed; md will not start it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(bytes: usize, put: impl FnOnce(&mut [u8])) -> Report {
        let device = block_io::MemoryDevice::new("/d", bytes);
        device.tamper(put);
        let found = block_io::runtime::run_local(
            block_io::runtime::Engine::Threads,
            raid_core::array::examine(&device),
        );
        report(Path::new("/d"), found.map(|found| (bytes as u64, found)))
    }

    #[test]
    fn blank_and_foreign_disks_are_one_line() {
        assert_eq!(text(&look(32 << 20, |_| {})), "/d (32 MiB): blank\n");
        let swap = look(32 << 20, |bytes| bytes[4086..4096].copy_from_slice(b"SWAPSPACE2"));
        assert!(text(&swap).starts_with("/d (32 MiB): Linux swap space"), "{}", text(&swap));
        let json = serde_json::to_value(&swap).unwrap();
        assert_eq!(json["found"], "foreign");
    }
}
