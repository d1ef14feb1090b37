//! LUNs of single initiators, and numbers that rest.

use uuid::Uuid;

use super::access::RuleRecord;
use super::edit::{self, Edit, SanError};
use super::hold::{Hold, Moment};
use super::luns::{Wanted, map_lun, mask, unmap_lun, unmask};
use super::plan::{Step, plan};
use super::*;

const IQN: &str = "iqn.2026-11.org.labsan:a";
const NODE: &str = "iqn.2026-11.org.example:node1";
const OTHER: &str = "iqn.2026-11.org.example:node2";

fn after(edit: Edit) -> SanDocument {
    edit.next.expect("a change")
}

/// An hour, at so many seconds after a beginning.
fn hold(at: u64) -> Hold {
    Hold { now: Moment { at_unix: 1_000_000 + at, ..Moment::default() }, seconds: 3600 }
}

fn wanted(volume: u128, initiator: Option<&str>, lun: Option<u16>) -> Wanted {
    Wanted {
        array_uuid: Uuid::from_u128(100),
        volume_uuid: Uuid::from_u128(volume),
        initiator: initiator.map(str::to_owned),
        lun,
        ..Wanted::default()
    }
}

/// A target that lets everybody in, with volume 1 as LUN 0 for all.
fn target() -> SanDocument {
    let document = after(edit::create_target(&SanDocument::empty(Uuid::from_u128(1)), IQN, None).unwrap());
    let document = after(allow::allow(&document, IQN, RuleRecord::name("*"), None).unwrap());
    mapped(&document, &wanted(1, None, Some(0)))
}

fn mapped(document: &SanDocument, wanted: &Wanted) -> SanDocument {
    after(map_lun(document, IQN, wanted, &hold(0)).unwrap().0)
}

fn unmapped(document: &SanDocument, whose: Option<&str>, lun: u16, at: u64) -> SanDocument {
    after(unmap_lun(document, IQN, whose, lun, &hold(at)).unwrap())
}

fn left(refused: Result<(Edit, u16), SanError>) -> u64 {
    match refused {
        Err(SanError::LunHeld { left_seconds, .. }) => left_seconds,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_initiator_has_numbers_of_its_own_for_the_same_volumes() {
    let one = mapped(&target(), &wanted(2, Some(NODE), Some(7)));
    let two = mapped(&one, &wanted(1, Some(NODE), None));
    let three = mapped(&two, &wanted(2, Some(OTHER), Some(3)));
    let places: Vec<(Option<&str>, u16)> =
        three.mappings(Uuid::from_u128(2)).map(|(_, whose, lun)| (whose, lun.lun)).collect();
    assert_eq!(places, [(Some(NODE), 7), (Some(OTHER), 3)]);
    let own: Vec<u16> = three.targets[0].mask(NODE).unwrap().luns.iter().map(|lun| lun.lun).collect();
    assert_eq!(own, [7, 8], "the next of its own");
    assert_eq!(map_lun(&three, IQN, &wanted(2, Some(NODE), None), &hold(0)).unwrap().0.next, None);
    let again = map_lun(&three, IQN, &wanted(2, Some(NODE), Some(9)), &hold(0)).unwrap_err();
    assert!(again.hint().unwrap().ends_with(&format!("unmap {IQN} 7 --initiator {NODE}")), "{again:?}");
    assert!(matches!(
        map_lun(&three, IQN, &wanted(5, Some(NODE), Some(7)), &hold(0)),
        Err(SanError::LunTaken { lun: 7, .. })
    ));
    for name in ["iqn.2026-11.org.example:*", "node1", "*"] {
        assert!(matches!(
            map_lun(&three, IQN, &wanted(5, Some(name), None), &hold(0)),
            Err(SanError::Name(_))
        ));
    }
}

#[test]
fn the_last_own_lun_gone_means_none_not_the_common_ones() {
    let one = mapped(&target(), &wanted(2, Some(NODE), Some(7)));
    let none = unmapped(&one, Some(NODE), 7, 0);
    assert!(none.targets[0].mask(NODE).is_some_and(|mask| mask.luns.is_empty()));
    assert!(matches!(unmask(&one, IQN, NODE, true, &hold(0)), Err(SanError::HasOwnLuns { lun: 7, .. })));
    let common = after(unmask(&none, IQN, NODE, false, &hold(0)).unwrap());
    assert!(common.targets[0].masks.is_empty());
    assert_eq!(unmask(&common, IQN, NODE, false, &hold(0)).unwrap().next, None);
    assert_eq!(mask(&none, IQN, NODE, false, &hold(0)).unwrap().next, None);
    assert!(mask(&common, IQN, NODE, false, &hold(0)).unwrap().next.is_some());
}

#[test]
fn a_freed_number_rests_and_the_message_says_how_long() {
    let free = unmapped(&target(), None, 0, 100);
    let error = map_lun(&free, IQN, &wanted(2, None, Some(0)), &hold(1900)).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("another 30 min 0 s"), "{message}");
    assert!(error.hint().unwrap().contains("--force"));
    assert_eq!(left(map_lun(&free, IQN, &wanted(2, None, Some(0)), &hold(3699))), 1);
    assert_eq!(map_lun(&free, IQN, &wanted(2, None, Some(0)), &hold(3700)).unwrap().1, 0);
    let insisting = Wanted { force: true, ..wanted(2, None, Some(0)) };
    assert_eq!(map_lun(&free, IQN, &insisting, &hold(101)).unwrap().1, 0);
    assert_eq!(
        map_lun(&free, IQN, &wanted(1, None, Some(0)), &hold(101)).unwrap().1,
        0,
        "the same disk again"
    );
    assert_eq!(map_lun(&free, IQN, &wanted(2, None, None), &hold(101)).unwrap().1, 1);
    // It survives in the document, and goes from it when it is over.
    let stored = serde_json::to_value(&free).unwrap();
    let read = SanDocument::from_json(stored).unwrap().unwrap();
    assert_eq!((&read, read.schema), (&free, 1));
    assert_eq!(left(map_lun(&read, IQN, &wanted(2, None, Some(0)), &hold(101))), 3599);
    let later = after(map_lun(&read, IQN, &wanted(2, None, Some(5)), &hold(9999)).unwrap().0);
    assert!(later.targets[0].freed.is_empty());
}

#[test]
fn when_all_free_numbers_rest_none_is_given_unasked() {
    let mut document = target();
    for lun in 1..=255 {
        document = mapped(&document, &wanted(1000 + u128::from(lun), None, Some(lun)));
    }
    document = unmapped(&document, None, 9, 50);
    document = unmapped(&document, None, 8, 60);
    let refused = map_lun(&document, IQN, &wanted(2, None, None), &hold(60)).unwrap_err();
    assert!(matches!(refused, SanError::LunHeld { lun: 9, left_seconds: 3590, .. }), "{refused:?}");
    assert_eq!(map_lun(&document, IQN, &wanted(2, None, None), &hold(3650)).unwrap().1, 9);
}

#[test]
fn numbers_rest_for_those_who_saw_them() {
    let document = mapped(&target(), &wanted(2, Some(NODE), Some(7)));
    let free = unmapped(&document, Some(NODE), 7, 0);
    assert!(left(map_lun(&free, IQN, &wanted(3, Some(NODE), Some(7)), &hold(0))) > 0);
    assert_eq!(
        map_lun(&free, IQN, &wanted(3, Some(OTHER), Some(7)), &hold(0)).unwrap().1,
        7,
        "it never saw that"
    );
    assert_eq!(map_lun(&free, IQN, &wanted(3, None, Some(7)), &hold(0)).unwrap().1, 7, "nor have the others");
    // Its first own LUN takes the common ones away: their numbers may be remembered.
    assert!(left(map_lun(&target(), IQN, &wanted(3, Some(NODE), Some(0)), &hold(0))) > 0);
    assert_eq!(map_lun(&target(), IQN, &wanted(1, Some(NODE), Some(0)), &hold(0)).unwrap().1, 0);
    assert_eq!(map_lun(&target(), IQN, &wanted(3, Some(NODE), None), &hold(0)).unwrap().1, 1);
    // Not by who could not get in and is not there.
    let closed = after(allow::deny(&target(), IQN, RuleRecord::name("*")).unwrap());
    assert_eq!(map_lun(&closed, IQN, &wanted(3, Some(NODE), Some(0)), &hold(0)).unwrap().1, 0);
    let there = Wanted { logged_in: true, ..wanted(3, Some(NODE), Some(0)) };
    assert!(left(map_lun(&closed, IQN, &there, &hold(0))) > 0);
    // Back to the common ones: number 7 there is another disk than the one it remembers.
    let other_seven = mapped(&free, &wanted(3, None, Some(7)));
    let refused = unmask(&other_seven, IQN, NODE, false, &hold(10));
    assert!(matches!(refused, Err(SanError::LunHeld { lun: 7, .. })), "{refused:?}");
    assert!(unmask(&other_seven, IQN, NODE, true, &hold(10)).is_ok());
    assert!(unmask(&other_seven, IQN, NODE, false, &hold(3600)).is_ok());
    // And a common LUN that comes after it has come back.
    let back = after(unmask(&free, IQN, NODE, false, &hold(10)).unwrap());
    assert!(left(map_lun(&back, IQN, &wanted(3, None, Some(7)), &hold(10))) > 0);
}

#[test]
fn a_target_made_anew_remembers_the_numbers_of_the_old_one() {
    let document = mapped(&target(), &wanted(2, Some(NODE), Some(7)));
    let gone = after(edit::delete_target(&document, IQN, &hold(0)).unwrap());
    let anew = after(edit::create_target(&gone, IQN, None).unwrap());
    assert!(anew.departed.is_empty());
    assert!(left(map_lun(&anew, IQN, &wanted(3, None, Some(0)), &hold(10))) > 0);
    assert!(left(map_lun(&anew, IQN, &wanted(3, Some(NODE), Some(7)), &hold(10))) > 0);
    assert_eq!(map_lun(&anew, IQN, &wanted(1, None, Some(0)), &hold(10)).unwrap().1, 0);
    // What is long over is not kept.
    let other = after(edit::create_target(&gone, "iqn.2026-11.org.labsan:b", None).unwrap());
    let later = after(edit::delete_target(&other, "iqn.2026-11.org.labsan:b", &hold(4000)).unwrap());
    assert!(later.departed.is_empty());
}

#[test]
fn the_plan_shows_less_before_it_shows_other_things() {
    let old = target();
    let new = mapped(&old, &wanted(1, Some(NODE), Some(0)));
    assert_eq!(new.schema, 2, "an older labsan would show it the common LUNs");
    let steps = plan(Some(&old), &new);
    assert!(matches!(&steps[..], [Step::Mask { .. }, Step::MapLun { initiator: Some(_), .. }]), "{steps:?}");
    let back = plan(Some(&new), &old);
    assert!(
        matches!(&back[..], [Step::UnmapLun { initiator: Some(_), .. }, Step::Unmask { .. }]),
        "{back:?}"
    );
    let start = plan(None, &new);
    let at = |which: fn(&Step) -> bool| start.iter().position(which).unwrap();
    assert!(at(|step| matches!(step, Step::Mask { .. })) < at(|step| matches!(step, Step::SetAccess { .. })));
    assert_eq!(start.iter().filter(|step| matches!(step, Step::MapLun { .. })).count(), 2);
}
