//! Orders one by one, and the bytes of lists and answers.

use smallvec::SmallVec;

use super::state::{Around, ItNexus, Kind, Outcome, PortName, Reservations};
use super::transport_id::TransportId;
use super::*;
use crate::limits;
use crate::scsi::cdb::Cdb;
use crate::scsi::command_table::{self, Class};
use crate::scsi::{Failure, Nexus, Sense, Status};

const TARGET: &str = "iqn.2026-11.org.labsan:t";
const CONFLICT: Failure = Failure::Status(Status::ReservationConflict);

pub(super) fn nexus(name: &str) -> Nexus {
    Nexus {
        initiator_name: format!("iqn.2026-11.com.example:{name}"),
        isid: [0x80, 0, 0, 0, 0, 1],
        target_name: TARGET.to_owned(),
        target_portal_group: 1,
        relative_target_port: 1,
    }
}

pub(super) fn ports() -> Vec<PortName> {
    let port = |target: &str| PortName { target_name: target.to_owned(), portal_group: 1, relative: 1 };
    vec![port(TARGET), port("iqn.2026-11.org.labsan:u")]
}

/// A CDB and a list.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) action: u8,
    pub(super) kind: u8,
    pub(super) key: u64,
    pub(super) new_key: u64,
    pub(super) flags: u8,
    pub(super) rest: Vec<u8>,
}

impl Sent {
    pub(super) fn new(action: u8, key: u64, new_key: u64) -> Self {
        Self { action, kind: 0, key, new_key, flags: 0, rest: Vec::new() }
    }

    pub(super) fn kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }

    pub(super) fn flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// SPEC_I_PT.
    fn others(self, ids: &[u8]) -> Self {
        let rest = [&(ids.len() as u32).to_be_bytes()[..], ids].concat();
        Self { flags: self.flags | 8, rest, ..self }
    }

    pub(super) fn cdb(&self) -> SmallVec<[u8; 16]> {
        let mut cdb = SmallVec::from_slice(&[0x5f, self.action, self.kind, 0, 0]);
        cdb.extend_from_slice(&(24 + self.rest.len() as u32).to_be_bytes());
        cdb.resize(16, 0);
        cdb
    }

    pub(super) fn list(&self) -> Vec<u8> {
        let mut list = [self.key.to_be_bytes(), self.new_key.to_be_bytes()].concat();
        list.extend_from_slice(&[0, 0, 0, 0, self.flags, 0, 0, 0]);
        list.extend_from_slice(&self.rest);
        list
    }

    pub(super) fn order(&self) -> Result<Order, Sense> {
        Order::parse(Cdb(&self.cdb()), &self.list())
    }
}

/// Orders to a state, and what came of the last.
#[derive(Default)]
struct World {
    state: Reservations,
}

impl World {
    fn result(&self, from: &str, sent: &Sent) -> Result<Outcome, Failure> {
        let known = [ItNexus::from(&nexus("a")), ItNexus::from(&nexus("b")), ItNexus::from(&nexus("c"))];
        let around = Around { ports: &ports(), known: &known, can_persist: true };
        self.state.apply(&nexus(from), &sent.order()?, around)
    }

    /// Who was told what, and whose commands end.
    fn send(&mut self, from: &str, sent: &Sent) -> (Vec<(String, Sense)>, Vec<String>) {
        let outcome = self.result(from, sent).unwrap();
        self.state = outcome.next;
        let name = |nexus: &ItNexus| nexus.initiator_name.rsplit(':').next().unwrap().to_owned();
        (
            outcome.told.iter().map(|(nexus, sense)| (name(nexus), *sense)).collect(),
            outcome.aborted.iter().map(name).collect(),
        )
    }

    /// Everyone of `names` registered with the key of its place, and `names[0]` holding `kind`.
    fn reserved(names: &[&str], kind: u8) -> Self {
        let mut world = Self::default();
        for (index, name) in names.iter().enumerate() {
            world.send(name, &Sent::new(6, 0, index as u64 + 1));
        }
        if kind != 0 {
            world.send(names[0], &Sent::new(1, 1, 0).kind(kind));
        }
        world
    }

    fn keys(&self) -> Vec<u64> {
        self.state.registrations.iter().map(|one| one.key).collect()
    }

    fn read(&self, action: u8, allocation: u16) -> Vec<u8> {
        let [high, low] = allocation.to_be_bytes();
        let cdb = [0x5e, action, 0, 0, 0, 0, 0, high, low, 0];
        answer(Cdb(&cdb), &self.state, Capabilities { can_persist: true }).unwrap().data_in.to_vec()
    }
}

fn told(names: &[&str], sense: Sense) -> Vec<(String, Sense)> {
    names.iter().map(|name| ((*name).to_owned(), sense)).collect()
}

#[test]
fn registering_asks_for_the_right_key() {
    let mut world = World::default();
    assert_eq!(world.result("a", &Sent::new(0, 5, 1)), Err(CONFLICT), "it has no key yet");
    world.send("a", &Sent::new(0, 0, 0));
    assert_eq!(world.state, Reservations::default(), "nothing registered, nothing counted");
    world.send("a", &Sent::new(0, 0, 1));
    assert_eq!(world.result("a", &Sent::new(0, 0, 2)), Err(CONFLICT));
    world.send("a", &Sent::new(0, 1, 2));
    world.send("a", &Sent::new(6, 99, 3));
    assert_eq!((world.keys(), world.state.generation), (vec![3], 3));
    world.send("a", &Sent::new(6, 0, 0));
    assert_eq!((world.keys(), world.state.generation), (vec![], 4));
}

#[test]
fn only_registrants_with_their_key_give_orders() {
    let world = World::reserved(&["a"], 0);
    for action in 1..=5 {
        assert_eq!(world.result("b", &Sent::new(action, 0, 1).kind(5)), Err(CONFLICT));
        assert_eq!(world.result("a", &Sent::new(action, 2, 1).kind(5)), Err(CONFLICT));
    }
}

#[test]
fn reserving_is_for_one_unless_all_hold_it() {
    for kind in [1, 3, 5, 6, 7, 8] {
        let mut world = World::reserved(&["a", "b"], kind);
        assert_eq!(world.state.generation, 2, "RESERVE is not counted");
        let again = world.result("a", &Sent::new(1, 1, 0).kind(kind)).unwrap();
        assert_eq!(again.next, world.state);
        let other = if kind == 5 { 6 } else { 5 };
        assert_eq!(world.result("a", &Sent::new(1, 1, 0).kind(other)), Err(CONFLICT));
        let second = world.result("b", &Sent::new(1, 2, 0).kind(kind));
        assert_eq!(second.is_ok(), kind >= 7, "type {kind}");
        assert_eq!(
            world.result("a", &Sent::new(2, 1, 0).kind(other)),
            Err(Sense::INVALID_RELEASE.into()),
            "released as what it is not"
        );
        let expected = if kind >= 5 { told(&["b"], Sense::RESERVATIONS_RELEASED) } else { Vec::new() };
        assert_eq!(world.send("a", &Sent::new(2, 1, 0).kind(kind)).0, expected);
        assert_eq!(world.state.reservation, None);
    }
    let world = World::reserved(&["a", "b"], 5);
    let released = world.result("b", &Sent::new(2, 2, 0).kind(5)).unwrap();
    assert_eq!(released.next, world.state, "releasing another's does nothing");
    for bad in [0, 2, 4, 9, 15, 0x15] {
        let free = World::reserved(&["a"], 0);
        assert_eq!(free.result("a", &Sent::new(1, 1, 0).kind(bad)), Err(Sense::INVALID_FIELD.into()));
    }
}

#[test]
fn a_holder_that_unregisters_gives_up_what_it_holds() {
    for kind in [1, 3, 5, 6] {
        let mut world = World::reserved(&["a", "b", "c"], kind);
        let expected = if kind >= 5 { told(&["b", "c"], Sense::RESERVATIONS_RELEASED) } else { Vec::new() };
        assert_eq!(world.send("a", &Sent::new(0, 1, 0)).0, expected, "type {kind}");
        assert_eq!(world.state.reservation, None);
    }
    for kind in [7, 8] {
        let mut world = World::reserved(&["a", "b"], kind);
        assert_eq!(world.send("a", &Sent::new(0, 1, 0)).0, []);
        assert!(world.state.reservation.is_some(), "b holds it too");
        world.send("b", &Sent::new(0, 2, 0));
        assert_eq!(world.state.reservation, None, "nobody is left");
    }
}

#[test]
fn clearing_tells_everyone_else() {
    let mut world = World::reserved(&["a", "b", "c"], 3);
    let (told_whom, _) = world.send("b", &Sent::new(3, 2, 0));
    assert_eq!(told_whom, told(&["a", "c"], Sense::RESERVATIONS_PREEMPTED));
    assert_eq!(world.state, Reservations { generation: 4, ..Reservations::default() });
}

#[test]
fn preempting_the_holder_takes_the_reservation() {
    let mut world = World::reserved(&["a", "b", "c"], 5);
    let (told_whom, aborted) = world.send("b", &Sent::new(5, 2, 1).kind(5));
    assert_eq!(
        told_whom,
        told(&["a"], Sense::REGISTRATIONS_PREEMPTED),
        "the type is the same: c is not told"
    );
    assert_eq!((aborted, world.keys()), (vec!["a".to_owned()], vec![2, 3]));
    assert!(world.state.is_held_by(&ItNexus::from(&nexus("b"))));
    let (told_whom, aborted) = world.send("c", &Sent::new(4, 3, 2).kind(3));
    assert_eq!(told_whom, told(&["b"], Sense::REGISTRATIONS_PREEMPTED));
    assert!(aborted.is_empty(), "PREEMPT ends no commands");
    let (told_whom, _) = World::reserved(&["a", "b", "c"], 5).send("b", &Sent::new(4, 2, 1).kind(6));
    let mut both = told(&["a"], Sense::REGISTRATIONS_PREEMPTED);
    both.extend(told(&["c"], Sense::RESERVATIONS_RELEASED));
    assert_eq!(told_whom, both, "another type now: c is told");
}

#[test]
fn preempting_others_takes_their_registrations_only() {
    let mut world = World::reserved(&["a", "b", "c"], 5);
    let (told_whom, aborted) = world.send("b", &Sent::new(5, 2, 3).kind(0x1f));
    assert_eq!(told_whom, told(&["c"], Sense::REGISTRATIONS_PREEMPTED));
    assert_eq!((aborted, world.keys()), (vec!["c".to_owned()], vec![1, 2]), "scope and type do not count");
    assert!(world.state.is_held_by(&ItNexus::from(&nexus("a"))));
    assert_eq!(world.result("b", &Sent::new(4, 2, 9).kind(5)), Err(CONFLICT), "nobody has that key");
    assert_eq!(world.result("b", &Sent::new(4, 2, 0).kind(5)), Err(Sense::INVALID_PARAMETER.into()));
    let (told_whom, aborted) = world.send("b", &Sent::new(5, 2, 2).kind(5));
    assert_eq!((told_whom, aborted), (vec![], vec!["b".to_owned()]), "its own registration goes as well");
    assert_eq!(world.keys(), [1]);
}

#[test]
fn the_holder_preempts_itself_to_change_the_type() {
    let mut world = World::reserved(&["a", "b"], 5);
    world.send("b", &Sent::new(0, 2, 1));
    let (told_whom, _) = world.send("a", &Sent::new(4, 1, 1).kind(8));
    assert_eq!(told_whom, told(&["b"], Sense::REGISTRATIONS_PREEMPTED), "b had the same key");
    let kind = Kind::ExclusiveAccessAllRegistrants;
    assert_eq!(world.state.reservation, Some(Reservation { kind, holder: None }));
    assert_eq!(world.keys(), [1]);
}

#[test]
fn preempting_all_registrants() {
    let mut world = World::reserved(&["a", "b", "c"], 7);
    world.send("a", &Sent::new(4, 1, 3).kind(5));
    assert_eq!((world.keys(), world.state.reservation.as_ref().unwrap().kind as u8), (vec![1, 2], 7));
    let (told_whom, aborted) = world.send("b", &Sent::new(5, 2, 0).kind(1));
    assert_eq!((told_whom, aborted), (told(&["a"], Sense::REGISTRATIONS_PREEMPTED), vec!["a".to_owned()]));
    assert_eq!(world.keys(), [2]);
    assert_eq!(world.state.reservation.as_ref().unwrap().kind, Kind::WriteExclusive);
    let mut last = World::reserved(&["a"], 8);
    last.send("a", &Sent::new(4, 1, 1).kind(8));
    assert_eq!((last.keys(), &last.state.reservation), (vec![], &None), "the last took itself away");
}

#[test]
fn registering_others_and_every_port() {
    let mut world = World::default();
    let id = |name: &str, isid| TransportId { name: nexus(name).initiator_name, isid }.encode();
    let port = [0x80, 0, 0, 0, 0, 7];
    let ids = [id("b", Some(port)), id("c", None)].concat();
    world.send("a", &Sent::new(0, 0, 9).flags(4).others(&ids));
    assert_eq!(world.keys(), [9; 6], "three initiator ports, two target ports");
    assert_eq!(world.result("a", &Sent::new(0, 9, 8).others(&ids)), Err(Sense::INVALID_FIELD.into()));
    let nothing = World::default().result("a", &Sent::new(0, 0, 0).others(&ids)).unwrap();
    assert_eq!(nothing.next, Reservations::default(), "neither key: nothing is done");
    for named in [id("b", Some(port)), id("b", None)] {
        let again = world.result("d", &Sent::new(0, 0, 8).flags(4).others(&named));
        assert_eq!(
            again,
            Err(Sense::INVALID_PARAMETER.into()),
            "registered: its key would not be the sender's"
        );
    }
    let unknown = id("nobody", None);
    let refused = World::default().result("a", &Sent::new(0, 0, 9).others(&unknown));
    assert_eq!(refused, Err(Sense::INVALID_PARAMETER.into()), "a device of which no port is known");
    world.send("a", &Sent::new(6, 0, 0).flags(4));
    assert_eq!(world.keys(), [9; 4], "unregistered at both ports");
    let list = Sent::new(6, 0, 9).others(&ids);
    assert_eq!(world.result("a", &list), Err(Sense::INVALID_PARAMETER.into()), "for REGISTER alone");
}

/// All portal groups have one number: of them that is meant by which the other is here.
#[test]
fn what_is_moved_goes_to_the_portal_group_by_which_the_other_is_here() {
    let groups = |groups: &[u16]| -> Vec<PortName> {
        let port =
            |group: &u16| PortName { target_name: TARGET.to_owned(), portal_group: *group, relative: 1 };
        groups.iter().map(port).collect()
    };
    let id = TransportId { name: nexus("b").initiator_name, isid: Some(nexus("b").isid) }.encode();
    let sent = Sent { rest: id.clone(), ..Sent::new(7, 1, 7) };
    let mut list = sent.list();
    list[19] = 1;
    list[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
    let world = World::reserved(&["a"], 3);
    let moved_to = |ports: &[u16], known: &[ItNexus]| {
        let ports = groups(ports);
        let around = Around { ports: &ports, known, can_persist: true };
        let order = Order::parse(Cdb(&sent.cdb()), &list).unwrap();
        let next = world.state.apply(&nexus("a"), &order, around).unwrap().next;
        next.reservation.unwrap().holder.unwrap().portal_group
    };
    let here_by = |portal_group: u16| ItNexus { portal_group, ..ItNexus::from(&nexus("b")) };
    assert_eq!(moved_to(&[4, 1, 2], &[here_by(2)]), 2);
    assert_eq!(moved_to(&[4, 1, 2], &[here_by(4)]), 4);
    assert_eq!(moved_to(&[4, 1, 2], &[]), 1, "not here: the sender's own");
    assert_eq!(moved_to(&[4, 2], &[here_by(3)]), 4);
}

#[test]
fn moving_gives_registration_and_reservation_to_another() {
    let to = TransportId { name: nexus("b").initiator_name, isid: Some(nexus("b").isid) }.encode();
    let moving = |key: u64, new_key: u64, flags: u8, relative: u8, id: &[u8]| {
        let mut sent = Sent::new(7, key, new_key);
        sent.rest = id.to_vec();
        let mut list = sent.list();
        list[17] = flags;
        list[19] = relative;
        list[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
        (sent, list)
    };
    let result = |world: &World, (sent, list): (Sent, Vec<u8>)| {
        let around = Around { ports: &ports(), known: &[], can_persist: true };
        world.state.apply(&nexus("a"), &Order::parse(Cdb(&sent.cdb()), &list)?, around)
    };
    let invalid = || Err(Sense::INVALID_PARAMETER.into());
    let mut world = World::reserved(&["a", "c"], 3);
    assert_eq!(
        result(&World::reserved(&["a"], 0), moving(1, 7, 0, 1, &to)),
        Err(Sense::INVALID_FIELD.into())
    );
    assert_eq!(result(&World::reserved(&["a"], 8), moving(1, 7, 0, 1, &to)), Err(CONFLICT));
    assert_eq!(result(&World::reserved(&["c", "a"], 3), moving(2, 7, 0, 1, &to)), Err(CONFLICT));
    assert_eq!(result(&world, moving(1, 0, 0, 1, &to)), invalid());
    assert_eq!(result(&world, moving(1, 7, 0, 9, &to)), invalid(), "no such port");
    let itself = TransportId::of(&ItNexus::from(&nexus("a"))).encode();
    assert_eq!(result(&world, moving(1, 7, 0, 1, &itself)), invalid());
    let device = TransportId { name: nexus("b").initiator_name, isid: None }.encode();
    assert_eq!(result(&world, moving(1, 7, 0, 1, &device)), invalid(), "a device is no port");
    let kept = result(&world, moving(1, 7, 0, 1, &to)).unwrap().next;
    assert_eq!((kept.registrations.len(), kept.persists), (3, false));
    world.state = result(&world, moving(1, 7, 3, 1, &to)).unwrap().next;
    assert_eq!((world.keys(), world.state.persists), (vec![2, 7], true));
    assert!(world.state.is_held_by(&ItNexus::from(&nexus("b"))));
}

#[test]
fn lists_of_the_wrong_length_are_refused() {
    let parse = |action: u8, length: u32, list: &[u8]| {
        let mut cdb = Sent::new(action, 0, 1).cdb();
        cdb[5..9].copy_from_slice(&length.to_be_bytes());
        Order::parse(Cdb(&cdb), list).map(|_| ())
    };
    let list = [0; 40];
    for length in [0, 23, 25, 28, 41, u32::MAX] {
        assert_eq!(parse(0, length, &list), Err(Sense::PARAMETER_LENGTH), "{length}");
        assert_eq!(parse(1, length, &list), Err(Sense::PARAMETER_LENGTH), "{length}");
    }
    assert_eq!(parse(0, 24, &list[..23]), Err(Sense::PARAMETER_LENGTH), "fewer than promised");
    let mut others = [0; 40];
    others[20] = 8;
    assert_eq!(parse(0, 40, &others), Err(Sense::PARAMETER_LENGTH), "the inner length does not fit");
    others[27] = 12;
    assert_eq!(parse(0, 40, &others), Err(Sense::INVALID_PARAMETER), "no TransportID");
    assert_eq!(parse(4, 24, &others), Err(Sense::INVALID_PARAMETER), "SPEC_I_PT elsewhere");
    assert_eq!(parse(0, 24, &others), Err(Sense::PARAMETER_LENGTH));
}

#[test]
fn answers_are_whole_though_they_are_cut() {
    let mut world = World::reserved(&["a", "b"], 6);
    assert_eq!(world.read(0, 8), [0, 0, 0, 2, 0, 0, 0, 16]);
    assert_eq!(world.read(0, 255)[8..], [[0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 2]].concat());
    let held = [&[0, 0, 0, 2, 0, 0, 0, 16][..], &1u64.to_be_bytes(), &[0, 0, 0, 0, 0, 6, 0, 0]].concat();
    assert_eq!(world.read(1, 255), held);
    assert_eq!(world.read(2, 255), [0, 8, 0x1d, 0xb0, 0xea, 0x01, 0, 0]);
    let full = world.read(3, 1024);
    let id = [&b"iqn.2026-11.com.example:a,i,0x800000000001\0\0"[..]].concat();
    assert_eq!(full[8..16], 1u64.to_be_bytes());
    assert_eq!(full[16..32], [0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 1, 0, 0, 0, 48]);
    assert_eq!(full[32..36], [0x45, 0, 0, 44]);
    assert_eq!(full[36..36 + 44], id);
    assert_eq!(full.len(), 8 + 2 * (24 + 48));
    assert_eq!(full[80 + 12], 0, "b holds nothing");
    world.send("a", &Sent::new(2, 1, 0).kind(6));
    assert_eq!(world.read(1, 255), [0, 0, 0, 2, 0, 0, 0, 0]);
    world.send("a", &Sent::new(1, 1, 0).kind(8));
    assert_eq!(world.read(1, 255)[8..16], [0; 8], "all registrants: no one key");
    world.send("a", &Sent::new(6, 0, 5).flags(1));
    assert_eq!(world.read(2, 255)[3], 0xb1, "PTPL_A");
}

#[test]
fn what_cannot_be_kept_or_does_not_fit_is_refused() {
    let around = Around { ports: &[], known: &[], can_persist: false };
    let order = Sent::new(0, 0, 1).flags(1).order().unwrap();
    let refused = Reservations::default().apply(&nexus("a"), &order, around);
    assert_eq!(refused, Err(Sense::INVALID_PARAMETER.into()));
    let mut world = World::default();
    for number in 0..limits::MAX_REGISTRATIONS {
        world.send(&format!("n{number}"), &Sent::new(6, 0, 1));
    }
    assert_eq!(world.result("a", &Sent::new(6, 0, 1)), Err(Sense::NO_ROOM_TO_REGISTER.into()));
    world.send("n0", &Sent::new(6, 0, 2));
}

/// The table of the module, for a command of each class.
#[test]
fn rights_are_those_of_the_table() {
    for kind in [1, 3, 5, 6, 7, 8] {
        let world = World::reserved(&["a", "b"], kind);
        let may = |who: &str, cdb: &[u8]| {
            let class = command_table::find(cdb).unwrap().class;
            world.state.admits(&nexus(who), class, Cdb(cdb))
        };
        let (read, write, starts): (&[u8], &[u8], &[u8]) = (&[0x28], &[0x2a], &[0x1b, 0, 0, 0, 1, 0]);
        let (shares, reads) = (kind >= 5, matches!(kind, 1 | 5 | 7));
        assert!(may("a", read) && may("a", write));
        assert_eq!((may("b", read), may("b", write)), (shares || reads, shares), "type {kind}");
        assert_eq!((may("x", read), may("x", write)), (reads, false), "type {kind}");
        assert!(
            may("x", starts) && !may("x", &[0x1b, 0, 0, 0, 0, 0]) && !may("x", &[0x1b, 0, 0, 0, 0x11, 0])
        );
        assert!(may("x", &[0x1e]) && !may("x", &[0x1e, 0, 0, 0, 1]));
        assert!(may("x", &[0x00]) && may("x", &[0x12]) && may("x", &[0x5e, 0]) && may("x", &[0x5f, 0]));
        assert!(may("x", &[0x1a]) == reads && !may("x", &[0x15]) && !may("x", &[0x35]));
    }
    assert!(Reservations::default().admits(&nexus("x"), Class::Restricted, Cdb(&[0x2a])));
}

#[test]
fn legacy_reservations_give_way() {
    let legacy = |world: &World, who: &str| world.state.legacy(&nexus(who));
    assert_eq!(legacy(&World::default(), "a"), Legacy::Processed);
    assert_eq!(legacy(&World::reserved(&["a"], 0), "a"), Legacy::Conflict, "somebody is registered");
    let one = World::reserved(&["a", "b"], 3);
    assert_eq!([legacy(&one, "a"), legacy(&one, "b")], [Legacy::Ignored, Legacy::Conflict]);
    let shared = World::reserved(&["a", "b"], 5);
    let all = [legacy(&shared, "a"), legacy(&shared, "b"), legacy(&shared, "x")];
    assert_eq!(all, [Legacy::Ignored, Legacy::Ignored, Legacy::Conflict]);
}

#[test]
fn purging_takes_a_key_and_what_it_holds() {
    let world = World::reserved(&["a", "b", "c"], 5);
    let outcome = world.state.purge(1).unwrap();
    assert_eq!((outcome.next.registrations.len(), &outcome.next.reservation), (2, &None));
    assert_eq!(outcome.told.len(), 3, "one lost it, two are told it is free");
    assert_eq!(world.state.purge(9), None);
    assert!(world.state.purge(2).unwrap().next.reservation.is_some());
}

#[test]
fn names_differ_by_more_than_case() {
    let mut world = World::default();
    world.send("a", &Sent::new(6, 0, 1));
    world.send("A", &Sent::new(0, 1, 2));
    assert_eq!(world.keys(), [2]);
}

#[test]
fn records_that_make_no_sense_are_refused() {
    let mut world = World::reserved(&["a", "b"], 3);
    world.send("a", &Sent::new(6, 0, 1).flags(1));
    let record = world.state.record().unwrap();
    assert_eq!(record.registrations[0].key, "0000000000000001");
    let damaged = |damage: &dyn Fn(&mut ReservationRecord)| {
        let mut record = record.clone();
        damage(&mut record);
        Reservations::restore(&record).unwrap_err();
    };
    damaged(&|record| record.registrations[1] = record.registrations[0].clone());
    damaged(&|record| record.registrations[0].key = "0".into());
    damaged(&|record| record.registrations[0].isid = "80".into());
    damaged(&|record| record.reservation = Some(ReservedRecord { kind: 3, holder: Some(2) }));
    damaged(&|record| record.reservation = Some(ReservedRecord { kind: 3, holder: None }));
    damaged(&|record| record.reservation = Some(ReservedRecord { kind: 7, holder: Some(0) }));
    damaged(&|record| record.reservation = Some(ReservedRecord { kind: 2, holder: Some(0) }));
}
