//! How do reservations look? A heading for each LUN, a line for each registration.

use labsan_api::reservation::{Registered, VolumeReservations};

use super::columns::Columns;

/// `pr list`.
pub(crate) fn screen(volumes: &[VolumeReservations]) -> String {
    if volumes.is_empty() {
        return "nobody is registered\n".to_owned();
    }
    let parts: Vec<String> = volumes.iter().map(one).collect();
    parts.join("\n")
}

fn one(volume: &VolumeReservations) -> String {
    let name = volume.volume.as_ref().map_or_else(|| volume.volume_uuid.to_string(), ToString::to_string);
    if let Some(why) = &volume.unreadable {
        return unreadable(&name, volume.volume.is_some(), why);
    }
    let reserved = match &volume.reservation {
        Some(reserved) => format!("reserved: {} (type {})", reserved.type_name, reserved.kind),
        None => "not reserved".to_owned(),
    };
    let fate = if volume.persists { "survives a restart" } else { "gone after a restart" };
    let mut table = Columns::new(&["KEY", "INITIATOR", "ISID", "TARGET", "STATE"]);
    for registered in &volume.registrations {
        table.row([
            registered.key.clone(),
            registered.initiator.clone(),
            registered.isid.clone(),
            registered.target.clone(),
            state(registered),
        ]);
    }
    format!("{name}: {reserved}; {fate}\n{}", table.render(2))
}

fn unreadable(name: &str, is_here: bool, why: &str) -> String {
    let next = match is_here {
        true => format!("  when no node counts on it any more: raidctl pr purge {name} --all\n"),
        false => String::new(),
    };
    format!("{name}: not served, because nobody knows who may write: {why}\n{next}")
}

fn state(registered: &Registered) -> String {
    let session = if registered.logged_in { "logged in" } else { "orphan: no session" };
    if registered.holder { format!("{session}, holder") } else { session.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use labsan_api::reservation::Reserved;

    #[test]
    fn orphans_are_told_from_the_living() {
        let one = |key: &str, holder, logged_in| Registered {
            key: key.into(),
            initiator: "iqn.2026-11.com.example:n".into(),
            isid: "800000000001".into(),
            target: "iqn.2026-11.org.labsan:t".into(),
            holder,
            logged_in,
        };
        let text = screen(&[VolumeReservations {
            volume: Some("a/v".parse().unwrap()),
            volume_uuid: uuid::Uuid::nil(),
            reservation: Some(Reserved { kind: 5, type_name: "Write Exclusive, Registrants Only".into() }),
            persists: true,
            registrations: vec![one("0x01", true, true), one("0x02", false, false)],
            unreadable: None,
        }]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "a/v: reserved: Write Exclusive, Registrants Only (type 5); survives a restart");
        assert!(
            lines[2].ends_with("logged in, holder") && lines[3].ends_with("orphan: no session"),
            "{text}"
        );
        assert_eq!(screen(&[]), "nobody is registered\n");
    }

    #[test]
    fn what_cannot_be_read_is_said_with_what_to_type() {
        let volume = |name: Option<&str>| VolumeReservations {
            volume: name.map(|name| name.parse().unwrap()),
            volume_uuid: uuid::Uuid::nil(),
            reservation: None,
            persists: true,
            registrations: Vec::new(),
            unreadable: Some("a key that is none".into()),
        };
        let text = screen(&[volume(Some("a/v"))]);
        assert!(text.contains("a key that is none") && text.contains("raidctl pr purge a/v --all"), "{text}");
        assert!(!screen(&[volume(None)]).contains("purge"), "its array is not here");
    }
}
