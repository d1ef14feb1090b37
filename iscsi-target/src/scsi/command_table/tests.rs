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
