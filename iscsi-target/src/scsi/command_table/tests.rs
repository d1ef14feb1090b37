use super::*;

#[test]
fn entries_are_unique_and_their_maps_fit_their_codes() {
    let commands: Vec<_> = all().collect();
    for (index, command) in commands.iter().enumerate() {
        let length = match command.opcode >> 5 {
            0 => 6,
            1 | 2 => 10,
            4 => 16,
            _ => 12,
        };
        assert_eq!(command.usage.len(), length, "{}", command.name);
        assert_eq!(command.usage[0], command.opcode, "{}", command.name);
        let twin = commands[..index]
            .iter()
            .any(|c| (c.opcode, c.service_action) == (command.opcode, command.service_action));
        assert!(!twin, "{}", command.name);
    }
}

#[test]
fn the_document_lists_every_command() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/scsi-conformance.md");
    let document = std::fs::read_to_string(path).unwrap();
    for command in all() {
        let action = command.service_action.map_or(String::new(), |action| format!("/{action:02X}h"));
        let row = format!("| {:02X}h{action} | {} | {} |", command.opcode, command.name, command.standard);
        assert!(document.contains(&row), "docs/scsi-conformance.md lacks the row {row}");
    }
}

#[test]
fn every_command_has_its_class_under_reservations() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/scsi-conformance.md");
    let document = std::fs::read_to_string(path).unwrap();
    for command in all() {
        let word = command.class.word();
        let prefix = format!("| {word} | ");
        let rows = document.lines().filter_map(|line| line.strip_prefix(&prefix)?.strip_suffix(" |"));
        let listed = rows.flat_map(|row| row.split(", ")).any(|name| name == command.name);
        assert!(listed, "docs/scsi-conformance.md does not list {} as {word}", command.name);
        let harmless = !command.writes || command.class == Class::Restricted;
        assert!(harmless, "{} changes the medium: every reservation keeps it out", command.name);
    }
    let of = |cdb: &[u8]| find(cdb).unwrap().class;
    for always in [0x00, 0x03, 0x12, 0x25, 0x4d, 0xa0] {
        assert_eq!(of(&[always]), Class::Always, "{always:02x}");
    }
    for reading in [0x08, 0x1a, 0x28, 0x2f, 0x34, 0x37, 0x5a, 0x88, 0x8f, 0x90, 0xa8, 0xaf, 0xb7] {
        assert_eq!(of(&[reading]), Class::Reading, "{reading:02x}");
    }
    for restricted in [0x0a, 0x15, 0x1d, 0x2a, 0x35, 0x41, 0x42, 0x89, 0x91, 0x9c] {
        assert_eq!(of(&[restricted]), Class::Restricted, "{restricted:02x}");
    }
    for (reading, action) in [(0x9e, 0x12), (0xa3, 0x0c), (0xa3, 0x0d)] {
        assert_eq!(of(&[reading, action]), Class::Reading, "{reading:02x}/{action:02x}");
    }
    assert_eq!(
        (of(&[0x84, 0x00]), of(&[0x83, 0x00]), of(&[0x48, 0x01])),
        (Class::Always, Class::Restricted, Class::Restricted)
    );
    assert_eq!((of(&[0xa3, 0x0a]), of(&[0xa4, 0x0a])), (Class::Always, Class::Restricted));
    assert_eq!((of(&[0x1b]), of(&[0x1e])), (Class::Starting, Class::Preventing));
    assert_eq!((of(&[0x16]), of(&[0x57])), (Class::Legacy, Class::Legacy));
    assert_eq!((of(&[0x5e, 0]), of(&[0x5f, 7])), (Class::Persistent, Class::Persistent));
}
