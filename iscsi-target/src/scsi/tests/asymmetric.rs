//! Asymmetric access: what is told of it, what it lets through, and who is told of changes.

use super::*;

const REPORT: [u8; 12] = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];

fn set(bench: &Bench, list: &[u8]) -> ScsiResponse {
    bench.send("a", 0, &[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0], list)
}

#[test]
fn the_groups_of_a_unit_are_the_targets_that_lead_to_it() {
    let bench = open();
    let (_, unit) = bench.luns.units().remove(0);
    let second = LunMap::behind("iqn.2026-11.org.labsan:u", 7);
    second.insert(5, Arc::clone(&unit)).unwrap();
    second.insert(6, unit.view(LuOptions { read_only: true, ..LuOptions::default() })).unwrap();
    second.port().set(AccessState::Standby, None);
    while bench.send("a", 0, &[0x00], &[]).status != Status::Good {}
    let plain = bench.data(&REPORT);
    let groups = [0x00, 0xcf, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0x02, 0xcf, 0, 7, 0, 2, 0, 1, 0, 0, 0, 7];
    assert_eq!((&plain[..4], &plain[4..]), (&[0, 0, 0, 24][..], &groups[..]));
    let extended = bench.data(&[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]);
    assert_eq!((&extended[..8], &extended[8..]), (&[0, 0, 0, 28, 0x10, 0, 0, 0][..], &groups[..]));
    assert_eq!(bench.codes(&[0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]), (5, 0x24, 0));
    assert_eq!(bench.data(&[0x12, 0, 0, 0, 36, 0])[5] & 0x30, 0x30, "TPGS");
    second.remove(5);
    assert_eq!(bench.data(&REPORT).len(), 28, "still LUN 6");
    second.remove(6);
    while bench.send("a", 0, &[0x00], &[]).status != Status::Good {}
    assert_eq!(bench.data(&REPORT).len(), 16);
}

#[test]
fn a_state_lets_through_what_the_table_says() {
    let bench = open();
    let states = [
        (AccessState::Optimized, None),
        (AccessState::NonOptimized, None),
        (AccessState::Standby, Some(0x0b)),
        (AccessState::Unavailable, Some(0x0c)),
        (AccessState::Offline, Some(0x12)),
        (AccessState::Transitioning, Some(0x0a)),
    ];
    for (state, refusal) in states {
        bench.luns.port().set(state, None);
        for from in ["a", "b"] {
            let told = bench.send(from, 0, &[0x00], &[]);
            if state != AccessState::Optimized {
                assert_eq!(codes(&told), (6, 0x2a, 6), "{state:?} is told first");
            }
        }
        for command in command_table::all() {
            let mut cdb = vec![0; 16];
            (cdb[0], cdb[1]) = (command.opcode, command.service_action.unwrap_or(0));
            let response = bench.send("a", 0, &cdb, &[]);
            let passes = match command.access {
                command_table::Access::Any => true,
                command_table::Access::Settable => {
                    !matches!(state, AccessState::Offline | AccessState::Transitioning)
                }
                command_table::Access::Standby => state == AccessState::Standby || refusal.is_none(),
                command_table::Access::Active => refusal.is_none(),
            };
            let refused = response.status == Status::CheckCondition
                && codes(&response).0 == 2
                && Some(response.sense[13]) == refusal;
            assert_eq!(refused, !passes, "{} in {state:?}: {response:?}", command.name);
        }
    }
}

#[test]
fn an_initiator_changes_states_and_the_others_are_told() {
    let bench = open();
    assert_eq!(set(&bench, &[0, 0, 0, 0, 0x02, 0, 0, 1]).status, Status::Good);
    assert_eq!(bench.codes(&[0x00], &[]), (2, 0x04, 0x0b), "who asked is told nothing");
    assert_eq!(codes(&bench.send("b", 0, &[0x00], &[])), (6, 0x2a, 6));
    assert_eq!(bench.data(&REPORT)[4..10], [0x02, 0xcf, 0, 1, 0, 1]);
    for (list, code) in [
        (&[0, 0, 0, 0, 0x00, 0, 0, 9][..], 0x26),
        (&[0, 0, 0, 0, 0x0e, 0, 0, 1], 0x26),
        (&[0, 0, 0, 0, 0x0f, 0, 0, 1], 0x26),
        (&[0, 0, 0, 0, 0x05, 0, 0, 1], 0x26),
        (&[0, 0, 0, 0, 0x00, 0], 0x1a),
        (&[0, 0], 0x1a),
    ] {
        assert_eq!(codes(&set(&bench, list)), (5, code, 0), "{list:?}");
    }
    assert_eq!(set(&bench, &[]).status, Status::Good);
    assert_eq!(bench.codes(&[0x00], &[]), (2, 0x04, 0x0b), "nothing was changed by what was refused");
    assert_eq!(set(&bench, &[0, 0, 0, 0, 0x00, 0, 0, 1]).status, Status::Good);
    assert_eq!(bench.send("a", 0, &[0x00], &[]).status, Status::Good);
}

#[test]
fn an_initiator_changes_no_port_but_its_own() {
    let bench = open();
    let (_, unit) = bench.luns.units().remove(0);
    let second = LunMap::behind("iqn.2026-11.org.labsan:u", 7);
    second.insert(0, unit).unwrap();
    while bench.send("a", 0, &[0x00], &[]).status != Status::Good {}
    for list in [&[0, 0, 0, 0, 0x03, 0, 0, 7][..], &[0, 0, 0, 0, 0x00, 0, 0, 1, 0x03, 0, 0, 7]] {
        assert_eq!(codes(&set(&bench, list)), (5, 0x26, 0), "others have units behind it");
    }
    assert_eq!(second.port().access(), AccessState::Optimized);
    for (state, refusal) in [(AccessState::Offline, 0x12), (AccessState::Transitioning, 0x0a)] {
        bench.luns.port().set(state, None);
        while codes(&bench.send("a", 0, &[0x00], &[])).0 == 6 {}
        let refused = codes(&set(&bench, &[0, 0, 0, 0, 0x00, 0, 0, 1]));
        assert_eq!(refused, (2, 0x04, refusal), "not its to end");
        assert_eq!(bench.luns.port().access(), state);
    }
}
