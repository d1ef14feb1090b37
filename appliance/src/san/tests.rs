//! The SAN document's rules, each by an example that would break if the rule were dropped.

use labsan_api::target::PathState;
use uuid::Uuid;

use super::access::{AccessRecord, RuleRecord};
use super::edit::{self, Edit, SanError};
use super::hold::{Hold, Moment};
use super::luns::{self, Wanted};
use super::merge::{Copy, merge};
use super::plan::{Step, plan};
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
    // Volume 7 is on array 100 (`wanted`); volume 8 is mapped nowhere.
    let (mut ours, _) = with_lun(&with_target(&san(), IQN), IQN, 7, None);
    let mut theirs = SanDocument { san_uuid: id(99), generation: 3, ..ours.clone() };
    ours.reservations.insert(id(7), kept(1));
    theirs.reservations.insert(id(7), kept(2));
    theirs.reservations.insert(id(8), kept(3));
    let merged = merge(&[copy(None, &ours), copy(Some(100), &theirs)], id(5));
    assert_eq!(merged.document.san_uuid, ours.san_uuid);
    assert_eq!(merged.document.reservations[&id(7)], kept(2), "what was preempted there stays preempted");
    assert_eq!(merged.document.reservations[&id(8)], kept(3));
    assert!(
        merged.document.generation > ours.generation.max(theirs.generation),
        "it is another document now"
    );
    theirs.reservations.clear();
    let merged = merge(&[copy(None, &ours), copy(Some(100), &theirs)], id(5));
    assert!(merged.document.reservations.is_empty(), "nor does what was cleared there come back");
    // An array that is not here cannot say so.
    assert_eq!(
        merge(&[copy(None, &ours), copy(Some(55), &theirs)], id(5)).document.reservations[&id(7)],
        kept(1)
    );
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
