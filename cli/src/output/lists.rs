//! How do the lists look? One line per thing.

use labsan_api::Size;
use labsan_api::array::Arrays;
use labsan_api::disk::{Disk, DiskUse};
use labsan_api::event::Event;
use labsan_api::target::{Lun, Session, Target};
use labsan_api::volume::Volume;

use super::columns::Columns;
use super::{progress, timestamp};

/// `array list`.
pub(crate) fn arrays(arrays: &Arrays) -> String {
    let mut table = Columns::new(&["NAME", "LEVEL", "STATE", ">SIZE", ">FREE", "DISKS", "RUNNING"]);
    for array in &arrays.arrays {
        let disks =
            array.members.iter().filter(|m| m.state == labsan_api::array::MemberState::InSync).count();
        let slots = array.slots();
        table.row([
            array.name.clone(),
            array.level.to_string(),
            array.state.to_string(),
            Size(array.size_bytes).to_string(),
            Size(array.size_bytes.saturating_sub(array.used_bytes)).to_string(),
            format!("{disks}/{slots}"),
            array.activity.as_ref().map(progress::line).unwrap_or_default(),
        ]);
    }
    for refused in &arrays.refused {
        let name = refused.name.clone().unwrap_or_else(|| refused.uuid.to_string());
        let dash = || "-".to_owned();
        table.row([
            name,
            dash(),
            "not started".into(),
            dash(),
            dash(),
            refused.disks.len().to_string(),
            refused.reason.clone(),
        ]);
    }
    table.render(0)
}

/// `volume list`.
pub(crate) fn volumes(volumes: &[Volume]) -> String {
    let mut table = Columns::new(&["NAME", ">SIZE", "CACHE", "LUNS", "UUID"]);
    for volume in volumes {
        let places: Vec<String> = volume.mapped.iter().map(super::place).collect();
        table.row([
            volume.name.to_string(),
            Size(volume.size_bytes).to_string(),
            if volume.write_cache { "on" } else { "off" }.into(),
            if places.is_empty() { "-".into() } else { places.join(" ") },
            volume.uuid.to_string(),
        ]);
    }
    table.render(0)
}

/// `target list`.
pub(crate) fn targets(targets: &[Target]) -> String {
    let mut table = Columns::new(&["TARGET", "ALIAS", "STATE", ">LUNS", "CHAP", "LETS IN"]);
    for target in targets {
        let rules = target.access.rules.iter().map(ToString::to_string);
        let whom: Vec<String> = target.access.initiators.iter().cloned().chain(rules).collect();
        let mut access = if whom.is_empty() { "nobody".to_owned() } else { whom.join(", ") };
        if target.access.loopback_only {
            access.push_str(" (from this machine only)");
        }
        let chap = match (&target.chap_users[..], &target.mutual_chap_user) {
            ([], _) => "-".to_owned(),
            (users, None) => users.join(" "),
            (users, Some(mutual)) => format!("{} (mutual: {mutual})", users.join(" ")),
        };
        let (alias, state) = (target.alias.clone(), target.state.to_string());
        table.row([target.iqn.clone(), alias, state, target.luns.len().to_string(), chap, access]);
    }
    table.render(0)
}

/// `lun list`.
pub(crate) fn luns(luns: &[Lun]) -> String {
    // A column that says the same of every LUN in most SANs is left out of them.
    let masks = luns.iter().any(|lun| lun.initiator.is_some());
    let headings = ["TARGET", "FOR", ">LUN", "VOLUME", ">SIZE", "RIGHTS", "STATE"];
    let headings: Vec<&str> = headings.into_iter().filter(|heading| masks || *heading != "FOR").collect();
    let mut table = Columns::new(&headings);
    for lun in luns {
        let whom = masks.then(|| lun.initiator.clone().unwrap_or_else(|| "all others".into()));
        let rest = [
            lun.lun.to_string(),
            lun.volume.as_ref().map_or_else(|| lun.volume_uuid.to_string(), ToString::to_string),
            lun.size_bytes.map_or("-".into(), |bytes| Size(bytes).to_string()),
            if lun.read_only { "read-only" } else { "read-write" }.into(),
            lun.unavailable.as_ref().map_or("served".into(), |why| format!("not served: {why}")),
        ];
        table.row([lun.target.clone()].into_iter().chain(whom).chain(rest));
    }
    table.render(0)
}

/// `session list`.
pub(crate) fn session_rows(sessions: &[Session], indent: usize) -> String {
    let mut table = Columns::new(&["ID", "INITIATOR", "ACCOUNT", "FROM", "TARGET", "DIGESTS"]);
    for session in sessions {
        table.row([
            session.id.clone(),
            session.initiator.clone(),
            session.account.clone().unwrap_or_else(|| "-".into()),
            session.addresses.join(" "),
            if session.target.is_empty() { "(discovery)".into() } else { session.target.clone() },
            digests(session).into(),
        ]);
    }
    table.render(indent)
}

fn digests(session: &Session) -> &'static str {
    match (session.header_digest, session.data_digest) {
        (true, true) => "header, data",
        (true, false) => "header",
        (false, true) => "data",
        (false, false) => "-",
    }
}

/// `disk list`.
pub(crate) fn disks(disks: &[Disk]) -> String {
    let mut table = Columns::new(&["DISK", ">SIZE", "USE"]);
    for disk in disks {
        let size = disk.size_bytes.map_or("-".into(), |bytes| Size(bytes).to_string());
        table.row([disk.path.display().to_string(), size, usage(&disk.usage)]);
    }
    table.render(0)
}

fn usage(usage: &DiskUse) -> String {
    match usage {
        DiskUse::Member { array, slot: Some(slot), state } => format!("array {array}, slot {slot}, {state}"),
        DiskUse::Member { array, slot: None, state } => format!("array {array}, {state}"),
        DiskUse::Idle { array, .. } => format!("array {array}, not started"),
        DiskUse::Foreign { what } => what.clone(),
        DiskUse::Blank => "blank".into(),
        DiskUse::Unreadable { why } => format!("cannot be read: {why}"),
    }
}

/// One line of `events`.
pub(crate) fn event(event: &Event) -> String {
    let array = event.array.as_deref().unwrap_or("-");
    format!(
        "{} {:<6} {:<16} {array}: {}",
        timestamp(event.time_unix),
        event.number,
        event.event,
        event.message
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use labsan_api::array::MemberState;
    use labsan_api::target::{Access, PathState, Rule};

    #[test]
    fn disks_say_what_they_are_used_for() {
        let disk = |path: &str, usage| Disk { path: path.into(), size_bytes: Some(1 << 30), usage };
        let text = disks(&[
            disk("/a", DiskUse::Member { array: "demo".into(), slot: Some(0), state: MemberState::InSync }),
            disk("/b", DiskUse::Blank),
            disk("/c", DiskUse::Foreign { what: "an ext4 file system".into() }),
        ]);
        assert_eq!(
            text,
            "DISK   SIZE  USE\n/a    1 GiB  array demo, slot 0, in sync\n/b    1 GiB  blank\n/c    1 GiB  an ext4 file system\n"
        );
    }

    #[test]
    fn a_target_says_whom_it_lets_in() {
        let mut target = Target {
            iqn: "iqn.2026-11.org.labsan:t".into(),
            alias: String::new(),
            access: Access::default(),
            chap_users: Vec::new(),
            mutual_chap_user: None,
            state: PathState::Standby,
            luns: Vec::new(),
            masks: Vec::new(),
        };
        assert!(targets(std::slice::from_ref(&target)).contains("standby"));
        assert!(targets(std::slice::from_ref(&target)).contains("nobody"));
        target.access = Access { initiators: vec!["*".into()], loopback_only: true, rules: Vec::new() };
        let rule = Rule { account: Some("node1".into()), ..Rule::default() };
        target.access.rules.push(rule);
        target.chap_users = vec!["node1".into()];
        let text = targets(&[target]);
        assert!(text.contains("node1  *, * as node1 (from this machine only)"), "{text}");
    }

    #[test]
    fn luns_say_whose_they_are_where_it_differs() {
        let lun = |initiator: Option<&str>| Lun {
            target: "iqn.t".into(),
            initiator: initiator.map(str::to_owned),
            lun: 3,
            volume: Some("a/v".parse().unwrap()),
            volume_uuid: <_>::default(),
            read_only: false,
            size_bytes: None,
            unavailable: None,
        };
        let common = luns(&[lun(None)]);
        assert!(common.starts_with("TARGET  LUN") && common.contains("iqn.t     3"), "{common}");
        let both = luns(&[lun(None), lun(Some("iqn.node"))]);
        assert!(both.contains("all others    3") && both.contains("iqn.node      3"), "{both}");
    }

    #[test]
    fn an_event_is_one_line() {
        let line = event(&Event {
            number: 3,
            time_unix: 0,
            event: "Fail".into(),
            array: Some("demo".into()),
            disk: Some("/a".into()),
            message: "/a failed".into(),
        });
        assert_eq!(line, "1970-01-01 00:00:00 3      Fail             demo: /a failed");
    }
}
