//! How does `raidctl status` look? As `zpool status` does: per array what is, what happened, what to type.

use labsan_api::Size;
use labsan_api::array::{Array, MemberState, RefusedArray};
use labsan_api::status::Status;
use labsan_api::target::Session;
use labsan_api::volume::Volume;

use super::columns::Columns;
use super::{Naming, duration, progress};

/// The whole screen.
pub(crate) fn screen(status: &Status, naming: &Naming) -> String {
    let mut text = String::new();
    for each in &status.refused {
        text.push_str(&refused(each, naming));
        text.push('\n');
    }
    for each in &status.arrays {
        let volumes: Vec<&Volume> = status.volumes.iter().filter(|v| v.name.array == each.name).collect();
        text.push_str(&array(each, &volumes, naming));
        text.push('\n');
    }
    if status.arrays.is_empty() && status.refused.is_empty() {
        text.push_str("no arrays. Make one:\n    ");
        text.push_str(&naming.command("raidctl array create NAME --level 5 DISK DISK DISK"));
        text.push_str("\n\n");
    }
    text.push_str(&sessions(&status.sessions));
    for note in &status.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text.push_str(&format!(
        "portals: {}\nlabsand {}, up {}, engine {}, buffers {} of {}\n",
        status.portals.join(", "),
        status.version,
        duration(status.uptime_seconds),
        status.engine,
        Size(status.memory_used_bytes),
        Size(status.memory_limit_bytes)
    ));
    text
}

/// One array with its volumes.
pub(crate) fn array(array: &Array, volumes: &[&Volume], naming: &Naming) -> String {
    let mut text = format!("  array: {}\n  state: {}\n", array.name, array.state);
    text.push_str(&format!("  level: {}\n", shape(array)));
    text.push_str(&format!("   size: {}, {} in volumes\n", Size(array.size_bytes), Size(array.used_bytes)));
    for sentence in &array.what_happened {
        text.push_str(&format!(" status: {sentence}\n"));
    }
    text.push_str(&naming.steps(&array.next));
    if let Some(activity) = &array.activity {
        text.push_str(&format!("running: {}\n", progress::line(activity)));
    }
    text.push_str("  disks:\n");
    text.push_str(&members(array));
    if !volumes.is_empty() {
        text.push_str("volumes:\n");
        text.push_str(&volume_rows(volumes));
    }
    text
}

fn shape(array: &Array) -> String {
    let disks = array.slots();
    let chunk = if array.chunk_bytes == 0 {
        String::new()
    } else {
        format!(", chunk {}", Size(array.chunk_bytes.into()))
    };
    format!("RAID {}, {disks} disks{chunk}, policy {}", array.level, array.policy)
}

fn members(array: &Array) -> String {
    let mut table = Columns::new(&["SLOT", "STATE", ">READ", ">WRITE", ">FIXED", "DISK"]);
    for member in &array.members {
        let path = member.path.as_deref().map_or("-".into(), |path| path.display().to_string());
        let disk = match &member.reason {
            Some(reason) => format!("{path}  ({reason})"),
            None => path,
        };
        table.row([
            match member.slot {
                Some(slot) if member.state == MemberState::Failed => format!("({slot})"),
                Some(slot) => slot.to_string(),
                None => "-".into(),
            },
            member.state.to_string(),
            member.read_errors.to_string(),
            member.write_errors.to_string(),
            member.corrected_errors.to_string(),
            disk,
        ]);
    }
    table.render(4)
}

fn volume_rows(volumes: &[&Volume]) -> String {
    let mut table = Columns::new(&["NAME", ">SIZE", "LUN"]);
    for volume in volumes {
        let rights = |read_only| if read_only { " (read-only)" } else { "" };
        let places: Vec<String> = volume
            .mapped
            .iter()
            .map(|place| format!("{} of {}{}", place.lun, place.target, rights(place.read_only)))
            .collect();
        let places = if places.is_empty() { "not mapped".to_owned() } else { places.join(", ") };
        table.row([volume.name.to_string(), Size(volume.size_bytes).to_string(), places]);
    }
    table.render(4)
}

fn refused(array: &RefusedArray, naming: &Naming) -> String {
    let name = array.name.as_deref().unwrap_or("(no name)");
    let mut text = format!(
        "  array: {name}\n  state: not started\n   uuid: {}\n status: {}\n",
        array.uuid, array.reason
    );
    text.push_str(&naming.steps(&array.next));
    text.push_str("  disks:\n");
    for disk in &array.disks {
        text.push_str(&format!("    {}\n", disk.display()));
    }
    text
}

fn sessions(sessions: &[Session]) -> String {
    if sessions.is_empty() {
        return "sessions: none\n".into();
    }
    format!("sessions:\n{}", super::lists::session_rows(sessions, 4))
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
