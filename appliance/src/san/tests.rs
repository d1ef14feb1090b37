//! The SAN document's rules, each by an example that would break if the rule were dropped.

use labsan_api::target::PathState;
use uuid::Uuid;

use super::access::{AccessRecord, RuleRecord};
use super::edit::{self, Edit, SanError};
use super::hold::{Hold, Moment};
use super::luns::{self, Wanted};
use super::merge::{Copy, merge};
use super::plan::{Step, plan};
use super::records::{NoRoom, Records, adopt, check_room, of_volumes};
use super::*;

const IQN: &str = "iqn.2026-11.org.labsan:a";

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn san() -> SanDocument {
    SanDocument::empty(id(1))
}

fn after(edit: Edit) -> SanDocument {
    edit.next.expect("a change")
}

fn with_target(document: &SanDocument, iqn: &str) -> SanDocument {
    after(edit::create_target(document, iqn, None).unwrap())
}

/// An hour, at so many seconds after a beginning.
fn hold(at: u64) -> Hold {
    let now = Moment { at_unix: 1_000_000 + at, ..Moment::default() };
    Hold { now, seconds: 3600 }
}

fn wanted(volume: u128, lun: Option<u16>) -> Wanted {
    Wanted { array_uuid: id(100), volume_uuid: id(volume), lun, ..Wanted::default() }
}

fn with_lun(document: &SanDocument, iqn: &str, volume: u128, lun: Option<u16>) -> (SanDocument, u16) {
    let (edit, lun) = luns::map_lun(document, iqn, &wanted(volume, lun), &hold(0)).unwrap();
    (after(edit), lun)
}

fn by_name(initiator: &str) -> RuleRecord {
    RuleRecord::name(initiator)
}

fn account(user: &str, secret: &str) -> Account {
    Account { user: user.into(), secret: secret.into() }
}

#[test]
fn every_change_counts_one_generation_and_repeats_count_none() {
    let one = with_target(&san(), IQN);
    assert_eq!(one.generation, 1);
    assert_eq!(edit::create_target(&one, IQN, None).unwrap().next, None);
    let two = after(allow::allow(&one, IQN, by_name("*"), Some(true)).unwrap());
    assert_eq!(two.generation, 2);
    assert_eq!(allow::allow(&two, IQN, by_name("*"), None).unwrap().next, None);
    assert_eq!(allow::allow(&two, IQN, by_name("*"), Some(true)).unwrap().next, None);
    assert!(
        !after(allow::allow(&two, IQN, by_name("*"), Some(false)).unwrap()).targets[0].access.loopback_only
    );
    assert_eq!(edit::delete_target(&san(), IQN, &hold(0)).unwrap().next, None);
}

#[test]
fn the_same_name_with_another_alias_is_refused() {
    let one = after(edit::create_target(&san(), IQN, Some("disks")).unwrap());
    assert!(matches!(edit::create_target(&one, IQN, Some("tapes")), Err(SanError::TargetDiffers { .. })));
    assert_eq!(edit::create_target(&one, IQN, None).unwrap().next, None);
}

#[test]
fn denying_a_name_that_a_pattern_lets_in_is_refused_not_ignored() {
    let one = after(allow::allow(&with_target(&san(), IQN), IQN, by_name("iqn.2001-01.*"), None).unwrap());
    let name = "iqn.2001-01.org.example:node1";
    assert!(matches!(allow::deny(&one, IQN, by_name(name)), Err(SanError::LetInByPattern { .. })));
    let two = after(allow::allow(&one, IQN, by_name(name), None).unwrap());
    assert!(matches!(allow::deny(&two, IQN, by_name(name)), Err(SanError::LetInByPattern { .. })));
    let three = after(allow::deny(&two, IQN, by_name("iqn.2001-01.*")).unwrap());
    assert_eq!(three.targets[0].access.initiators, [name]);
    assert_eq!(allow::deny(&three, IQN, by_name("iqn.2001-01.*")).unwrap().next, None);
    assert!(after(allow::deny(&three, IQN, by_name(name)).unwrap()).targets[0].access.initiators.is_empty());
}

#[test]
fn a_removed_number_is_not_given_out_again_soon() {
    let one = with_target(&san(), IQN);
    let (two, first) = with_lun(&one, IQN, 10, None);
    let (three, second) = with_lun(&two, IQN, 11, None);
    assert_eq!((first, second), (0, 1));
    let four = after(luns::unmap_lun(&three, IQN, None, 1, &hold(0)).unwrap());
    let (five, third) = with_lun(&four, IQN, 12, None);
    assert_eq!(third, 2);
    // When the numbers are used up the search begins again at the lowest.
    let (six, last) = with_lun(&five, IQN, 14, Some(255));
    assert_eq!((last, with_lun(&six, IQN, 15, None).1), (255, 3), "1 still rests");
}

#[test]
fn a_volume_is_in_a_target_once_and_a_number_is_one_volume() {
    let (document, _) = with_lun(&with_target(&san(), IQN), IQN, 10, Some(5));
    let map = |wanted: Wanted| luns::map_lun(&document, IQN, &wanted, &hold(0));
    assert_eq!(map(wanted(10, None)).unwrap().1, 5);
    assert_eq!(map(wanted(10, Some(5))).unwrap().0.next, None);
    assert!(matches!(map(wanted(10, Some(6))), Err(SanError::AlreadyMapped { lun: 5, .. })));
    assert!(matches!(
        map(Wanted { read_only: true, ..wanted(10, Some(5)) }),
        Err(SanError::AlreadyMapped { .. })
    ));
    assert!(matches!(map(wanted(11, Some(5))), Err(SanError::LunTaken { lun: 5, .. })));
    assert!(matches!(map(wanted(11, Some(256))), Err(SanError::LunTooHigh { lun: 256 })));
    assert!(matches!(
        luns::map_lun(&document, "iqn.2026-11.org.labsan:b", &wanted(10, None), &hold(0)),
        Err(SanError::NoTarget { .. })
    ));
}

#[test]
fn all_numbers_of_a_target_can_be_used() {
    let mut document = with_target(&san(), IQN);
    for volume in 0..256 {
        document = with_lun(&document, IQN, 1000 + volume, None).0;
    }
    assert!(matches!(
        luns::map_lun(&document, IQN, &wanted(5, None), &hold(0)),
        Err(SanError::NoFreeLun { .. })
    ));
}

#[test]
fn names_are_kept_as_they_are_compared() {
    let document = after(edit::create_target(&san(), "IQN.2026-11.org.Labsan:Folded", None).unwrap());
    let iqn = "iqn.2026-11.org.labsan:folded";
    assert!(document.target(iqn).is_some());
    assert!(edit::create_target(&document, "iqn.2026-11.ORG.labsan:folded", None).unwrap().next.is_none());
    let document =
        after(allow::allow(&document, iqn, RuleRecord::name("EUI.02004567A425678D"), None).unwrap());
    let document =
        after(allow::allow(&document, iqn, RuleRecord::name("iqn.1991-05.com.Microsoft:*"), None).unwrap());
    let names = &document.target(iqn).unwrap().access.initiators;
    assert_eq!(names[..], ["eui.02004567a425678d", "iqn.1991-05.com.microsoft:*"]);
    let document = after(allow::deny(&document, iqn, RuleRecord::name("eui.02004567a425678D")).unwrap());
    assert_eq!(document.target(iqn).unwrap().access.initiators.len(), 1);
    assert!(matches!(
        edit::create_target(&document, "iqn.2026-11.org.labsan:a_b", None),
        Err(SanError::Name(_))
    ));
    assert!(matches!(
        allow::allow(&document, iqn, RuleRecord::name("naa.52004567BA64678"), None),
        Err(SanError::Name(_))
    ));
}

#[test]
fn chap_that_would_not_protect_is_refused() {
    let document = with_target(&san(), IQN);
    let set = |accounts: Vec<Account>, mutual| allow::set_chap(&document, IQN, Chap { accounts, mutual });
    assert!(matches!(set(vec![account("u", "short")], None), Err(SanError::Name(_))));
    let long = "a long enough secret";
    assert!(matches!(
        set(vec![account("u", long), account("u", "another long secret")], None),
        Err(SanError::UserTwice { .. })
    ));
    assert_eq!(set(vec![account("u", long)], Some(account("t", long))), Err(SanError::SameSecret));
    // Hex and base64 stand for bytes: eleven of them are too few, and the same are the same.
    assert!(matches!(set(vec![account("u", "0x00112233445566778899aa")], None), Err(SanError::Name(_))));
    let hex = account("t", "0x00112233445566778899aabb");
    assert!(set(vec![hex.clone()], None).is_ok());
    let base64 = account("u", "0bABEiM0RVZneImaq7");
    assert_eq!(set(vec![base64], Some(hex)), Err(SanError::SameSecret));
    let on = after(set(vec![account("u", long)], Some(account("t", "the target's own"))).unwrap());
    assert!(!format!("{on:?}").contains(long), "secrets stay out of logs");
    let off = allow::set_chap(&on, IQN, Chap::default()).unwrap();
    assert!(off.message.contains("no longer"), "{}", off.message);
}

#[test]
fn a_document_survives_its_json_with_fields_of_a_newer_labsan() {
    let (mut document, _) = with_lun(&with_target(&san(), IQN), IQN, 10, None);
    document.other.insert("colour".into(), "blue".into());
    let json = serde_json::to_value(&document).unwrap();
    assert_eq!(SanDocument::from_json(json.clone()).unwrap(), Some(document));
    assert_eq!(SanDocument::from_json(serde_json::Value::Null).unwrap(), None);
    let mut newer = json;
    newer["schema"] = (document::SCHEMA + 1).into();
    assert!(SanDocument::from_json(newer).unwrap_err().to_string().contains("newer labsan"));
    assert!(SanDocument::from_json(serde_json::json!({"schema": "x"})).is_err());
}

fn copy(array: Option<u128>, document: &SanDocument) -> Copy {
    Copy { array: array.map(id), document: Some(document.clone()) }
}

#[test]
fn the_highest_generation_counts_and_the_others_are_named() {
    let old = with_target(&san(), IQN);
    let new = after(allow::allow(&old, IQN, by_name("*"), None).unwrap());
    let blank = Copy { array: Some(id(102)), document: None };
    let merged = merge(&[copy(None, &old), copy(Some(100), &old), copy(Some(101), &new), blank], id(9));
    assert_eq!(merged.document, new);
    assert_eq!(merged.behind, [None, Some(id(100)), Some(id(102))]);
    assert!(merged.notes.is_empty());
}

#[test]
fn nothing_at_all_makes_a_new_san() {
    let merged = merge(&[Copy { array: None, document: None }], id(9));
    assert_eq!((merged.document, merged.behind), (SanDocument::empty(id(9)), vec![None]));
}

#[test]
fn disks_moved_to_a_new_box_bring_their_san() {
    let (moved, _) = with_lun(&with_target(&SanDocument::empty(id(2)), IQN), IQN, 10, None);
    let merged = merge(&[copy(None, &san()), copy(Some(100), &moved)], id(9));
    assert_eq!(merged.document, moved);
    assert_eq!(merged.behind, [None]);
}

#[test]
fn disks_moved_to_another_san_bring_their_targets_but_never_replace_one() {
    let ours = with_target(&san(), IQN);
    let theirs = with_target(&SanDocument::empty(id(2)), "iqn.2026-11.org.labsan:b");
    let (theirs, _) = with_lun(&theirs, "iqn.2026-11.org.labsan:b", 10, None);
    let theirs = with_target(&theirs, "iqn.2026-11.org.labsan:without-disks-here");
    let merged = merge(&[copy(None, &ours), copy(Some(100), &theirs)], id(9));
    let names: Vec<&str> = merged.document.targets.iter().map(|target| target.iqn.as_str()).collect();
    assert_eq!(names, [IQN, "iqn.2026-11.org.labsan:b"]);
    let ports: Vec<u16> = merged.document.targets.iter().map(|target| target.port).collect();
    assert_eq!(ports, [1, 2], "both were 1 at home");
    assert_eq!(merged.document.san_uuid, id(1));
    assert!(merged.document.generation > ours.generation.max(theirs.generation));
    assert_eq!((merged.behind.len(), merged.notes.len()), (2, 1));

    let (clash, _) = with_lun(&with_target(&SanDocument::empty(id(2)), IQN), IQN, 10, None);
    let merged = merge(&[copy(None, &ours), copy(Some(100), &clash)], id(9));
    assert_eq!(merged.document, ours);
    assert!(merged.notes[0].contains("not taken over"), "{:?}", merged.notes);
}

#[test]
fn an_array_that_was_elsewhere_knows_its_reservations_best() {
    let kept = |key: u32| serde_json::json!({ "registrations": [{ "key": key }] });
    let records = |list: &[(u128, u32)]| -> Records {
        list.iter().map(|(volume, key)| (id(*volume), kept(*key))).collect()
    };
    let mut known = records(&[(5, 1), (6, 1), (7, 1), (8, 1)]);
    // Volumes 6 to 8 are on it. What others carry of volume 5, or said of it once, is nothing to it.
    let changed = adopt(&mut known, &records(&[(5, 2), (6, 2), (7, 1)]), &[id(6), id(7), id(8)]);
    assert!(changed);
    assert_eq!(
        known,
        records(&[(5, 1), (6, 2), (7, 1)]),
        "preempted there is preempted, cleared there is cleared"
    );
    assert!(!adopt(&mut known, &records(&[(6, 2)]), &[id(6)]));
    assert_eq!(of_volumes(known, &[id(6), id(9)]), records(&[(6, 2)]));
}

#[test]
fn reservations_make_no_copy_newer_or_older() {
    let mut ours = with_target(&san(), IQN);
    let theirs = ours.clone();
    ours.reservations.insert(id(7), serde_json::json!({}));
    for copies in
        [[copy(None, &ours), copy(Some(100), &theirs)], [copy(Some(100), &theirs), copy(None, &ours)]]
    {
        let merged = merge(&copies, id(9));
        assert_eq!((&merged.document, merged.behind), (&ours, vec![]));
    }
}

#[test]
fn the_plan_from_nothing_lets_nobody_in_before_the_target_is_whole() {
    let (document, _) = with_lun(&with_target(&san(), IQN), IQN, 10, None);
    let document = after(allow::allow(&document, IQN, by_name("*"), None).unwrap());
    let chap = Chap { accounts: vec![account("u", "a long enough secret")], mutual: None };
    let document = after(allow::set_chap(&document, IQN, chap).unwrap());
    let steps = plan(None, &document);
    assert!(matches!(
        steps[..],
        [Step::CreateTarget { .. }, Step::SetChap { .. }, Step::MapLun { .. }, Step::SetAccess { .. }]
    ));
}

#[test]
fn a_change_touches_only_what_changed_and_can_be_taken_back() {
    let other = with_target(&san(), "iqn.2026-11.org.labsan:b");
    let (old, _) = with_lun(&with_target(&other, IQN), IQN, 10, None);
    let new = after(luns::unmap_lun(&old, IQN, None, 0, &hold(0)).unwrap());
    assert_eq!(plan(Some(&old), &new), [Step::UnmapLun { iqn: IQN.into(), initiator: None, lun: 0 }]);
    assert_eq!(
        plan(Some(&new), &old),
        [Step::MapLun { iqn: IQN.into(), initiator: None, lun: old.targets[0].luns[0].clone() }]
    );
    assert_eq!(plan(Some(&old), &old), []);
}

#[test]
fn a_target_loses_its_access_before_it_goes() {
    let old = after(allow::allow(&with_target(&san(), IQN), IQN, by_name("*"), None).unwrap());
    let new = after(edit::delete_target(&old, IQN, &hold(0)).unwrap());
    assert_eq!(
        plan(Some(&old), &new),
        [
            Step::SetAccess { iqn: IQN.into(), access: AccessRecord::default() },
            Step::RemoveTarget { iqn: IQN.into() }
        ]
    );
}

#[test]
fn a_state_is_kept_and_brought_into_force() {
    let old = with_target(&san(), IQN);
    let new = after(edit::set_state(&old, IQN, PathState::Standby).unwrap());
    assert_eq!(edit::set_state(&new, IQN, PathState::Standby).unwrap().next, None);
    let step = Step::SetState { iqn: IQN.into(), state: PathState::Standby };
    assert_eq!(plan(Some(&old), &new), std::slice::from_ref(&step));
    assert_eq!(plan(None, &new)[1], step, "at a start, before there is any LUN");
    let stored = serde_json::to_value(&new).unwrap();
    assert_eq!(SanDocument::from_json(stored).unwrap(), Some(new));
}

#[test]
fn the_number_of_a_port_is_a_targets_own_for_good() {
    let (b, c) = ("iqn.2026-11.org.labsan:b", "iqn.2026-11.org.labsan:c");
    let ports = |document: &SanDocument| -> Vec<u16> {
        document.targets.iter().map(|target| document.port(target)).collect()
    };
    let document = with_target(&with_target(&san(), b), IQN);
    assert_eq!(ports(&document), [2, 1], "in the order they were made, not of their names");
    let mut document = with_target(&document, c);
    document.targets.retain(|target| target.iqn != b);
    assert_eq!(ports(&document), [2, 3]);
    // Written before there were numbers.
    document.targets[0].port = 0;
    assert_eq!(ports(&document), [0x8000, 3]);
}

#[test]
fn a_number_that_was_given_by_place_is_durable_when_it_is_first_seen() {
    let (b, c) = ("iqn.2026-11.org.labsan:b", "iqn.2026-11.org.labsan:c");
    let mut document = with_target(&with_target(&with_target(&san(), IQN), b), c);
    document.targets.iter_mut().for_each(|target| target.port = 0);
    let merged = merge(&[copy(None, &document), copy(Some(100), &document)], id(9));
    let ports: Vec<u16> = merged.document.targets.iter().map(|target| target.port).collect();
    assert_eq!(ports, [0x8000, 0x8001, 0x8002]);
    assert_eq!(merged.behind, [None, Some(id(100))]);
    assert!(merged.document.generation > document.generation);
    let after = after(edit::delete_target(&merged.document, b, &Hold::default()).unwrap());
    assert_eq!(after.port(&after.targets[1]), 0x8002, "another one went, and it keeps its number");
    let again = merge(&[copy(None, &after), copy(Some(100), &after)], id(9));
    assert_eq!((&again.document, again.behind), (&after, vec![]));
}

#[test]
fn numbers_that_registrations_name_are_nobody_elses() {
    let registration = |target: &str, port: u32| serde_json::json!({ "registrations": [{ "target": target, "relative_target_port": port }] });
    let mut document = with_target(&san(), IQN);
    document.reservations.insert(id(7), registration("iqn.2026-11.org.labsan:gone", 2));
    document.reservations.insert(id(8), serde_json::json!("what cannot be read names none"));
    let (new, gone) = ("iqn.2026-11.org.labsan:new", "iqn.2026-11.org.labsan:Gone");
    assert_eq!([document.port_for(new), document.port_for(gone)], [3, 2]);
    // It came with disks of another SAN and has a number of its own.
    document.reservations.insert(id(7), registration("iqn.2026-11.org.labsan:gone", 1));
    assert_eq!([document.port_for(new), document.port_for(gone)], [2, 2]);
}

#[test]
fn registrations_have_a_room_of_their_own() {
    let record = |count: usize| {
        let registration = serde_json::json!({ "initiator": "x".repeat(1000) });
        serde_json::json!({ "registrations": vec![registration; count] })
    };
    let reserved = |count: usize| {
        let mut record = record(count);
        record["reservation"] = serde_json::json!({ "type": 5, "holder": 3 });
        record
    };
    let mut kept = Records::new();
    assert_eq!(check_room(&kept, id(1), &record(40)), Ok(()));
    assert!(matches!(check_room(&kept, id(1), &record(60)), Err(NoRoom::Volume { .. })));
    for volume in 1..=3 {
        assert_eq!(check_room(&kept, id(volume), &record(40)), Ok(()));
        kept.insert(id(volume), record(40));
    }
    assert!(matches!(check_room(&kept, id(4), &record(40)), Err(NoRoom::Array { .. })));
    // Written by a labsan that allowed more: whoever takes no more than before may go on.
    kept.insert(id(4), record(60));
    assert_eq!(check_room(&kept, id(4), &reserved(60)), Ok(()));
    assert_eq!(check_room(&kept, id(4), &record(59)), Ok(()));
    assert!(check_room(&kept, id(4), &record(61)).is_err());
}

#[test]
fn a_labsan_that_would_serve_what_is_being_sanitized_does_not_take_the_document() {
    let mut document = SanDocument::empty(Uuid::nil());
    document.reservations.insert(Uuid::from_u128(1), serde_json::json!({"registrations": []}));
    assert_eq!(document.needed_schema(), 1);
    let sanitize = serde_json::json!({"registrations": [], "sanitize": {"action": "block-erase"}});
    document.reservations.insert(Uuid::from_u128(2), sanitize);
    assert_eq!(document.needed_schema(), 3);
    let served = SanDocument { schema: 3, ..document.clone() };
    assert!(served.same_configuration(&SanDocument { reservations: Records::new(), schema: 1, ..document }));
}
