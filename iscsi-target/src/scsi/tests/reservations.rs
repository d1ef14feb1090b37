//! Persistent reservations through the device server: conflicts, unit attentions, and what is kept.

use std::sync::Mutex;

use super::super::reservations::{ReservationRecord, Reservations};
use super::super::{Restored, StoreFailed, StoreFuture, UnitRecord, UnitStore};
use super::*;

/// Keeps the last record, or fails.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) kept: Mutex<Vec<Option<UnitRecord>>>,
    pub(super) fails: Mutex<Option<StoreFailed>>,
    /// Stores wait until it is given a permit; where there is none, they do not.
    pub(super) slow: Option<tokio::sync::Semaphore>,
}

impl UnitStore for Store {
    fn store(&self, record: Option<UnitRecord>) -> StoreFuture<'_> {
        Box::pin(async move {
            if let Some(slow) = &self.slow {
                slow.acquire().await.unwrap().forget();
            }
            if let Some(why) = *self.fails.lock().unwrap() {
                return Err(why);
            }
            self.kept.lock().unwrap().push(record);
            Ok(())
        })
    }
}

impl Store {
    pub(super) fn last_whole(&self) -> Option<UnitRecord> {
        self.kept.lock().unwrap().last().cloned().flatten()
    }

    fn last(&self) -> Option<ReservationRecord> {
        self.last_whole().map(|record| record.reservations)
    }
}

fn keeping(store: &Arc<Store>, restored: Reservations) -> Bench {
    let mut bench = open();
    bench.luns = LunMap::new("iqn.2026-11.org.labsan:t");
    bench.luns.nexus_met(&nexus("a"));
    bench.luns.nexus_met(&nexus("b"));
    let identity = LuIdentity { uuid: Uuid::nil(), serial: "S".into(), product: "P".into() };
    let device = Arc::new(bench.device.clone());
    let store: Arc<dyn UnitStore> = Arc::<Store>::clone(store);
    let restored = Restored { reservations: restored, ..Restored::default() };
    let unit = LogicalUnit::restored(device, identity, LuOptions::default(), store, restored);
    bench.luns.insert(0, unit).unwrap();
    bench
}

impl Bench {
    /// PERSISTENT RESERVE OUT.
    fn order(&self, from: &str, action: u8, kind: u8, keys: (u64, u64), flags: u8) -> ScsiResponse {
        let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
        let mut list = [keys.0.to_be_bytes(), keys.1.to_be_bytes()].concat();
        list.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0]);
        self.send(from, 0, &cdb, &list)
    }

    fn done(&self, from: &str, action: u8, kind: u8, keys: (u64, u64)) {
        let response = self.order(from, action, kind, keys, 0);
        assert_eq!((response.status, response.data_out_wanted), (Status::Good, 24), "{response:?}");
    }

    fn status(&self, from: &str, cdb: &[u8], data: &[u8]) -> Status {
        self.send(from, 0, cdb, data).status
    }

    /// Unit attentions of a nexus, until there are no more.
    fn attentions(&self, from: &str) -> Vec<(u8, u8)> {
        let asked = std::iter::repeat_with(|| self.send(from, 0, &[0x00], &[]));
        let waiting = asked.take_while(|response| response.status == Status::CheckCondition);
        waiting.map(|response| (response.sense[12], response.sense[13])).collect()
    }

    fn read_in(&self, action: u8) -> Bytes {
        self.data(&[0x5e, action, 0, 0, 0, 0, 0, 4, 0, 0])
    }
}

const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// The CDB that does a command's work, as far as a reservation cares.
fn sample(command: &Command) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = command.opcode;
    cdb[1] = command.service_action.unwrap_or(0);
    cdb[4] = if command.opcode == 0x1e { 1 } else { 0 };
    cdb
}

#[test]
fn a_reservation_keeps_out_what_the_table_says() {
    use command_table::Class;
    for (kind, reads) in [(1, true), (3, false), (5, true), (6, false), (7, true), (8, false)] {
        let bench = open();
        bench.done("a", 6, 0, (0, 1));
        bench.done("a", 1, kind, (1, 0));
        for command in command_table::all() {
            let passes = match command.class {
                Class::Always => true,
                Class::Reading => reads,
                Class::Restricted | Class::Starting | Class::Preventing => false,
                Class::Legacy | Class::Persistent => continue,
            };
            let conflict = bench.status("b", &sample(command), &[]) == Status::ReservationConflict;
            assert_eq!(!conflict, passes, "{} under type {kind}", command.name);
            let own = bench.status("a", &sample(command), &[]);
            assert_ne!(own, Status::ReservationConflict, "{} of the holder", command.name);
        }
        bench.attentions("b");
        bench.done("b", 6, 0, (0, 2));
        let shared = if kind >= 5 { Status::Good } else { Status::ReservationConflict };
        assert_eq!(bench.status("b", &WRITE, &[1; 512]), shared, "a registrant under type {kind}");
    }
}

#[test]
fn a_registration_outlives_its_session() {
    let bench = open();
    bench.done("a", 0, 0, (0, 7));
    bench.done("a", 1, 3, (7, 0));
    bench.luns.nexus_lost(&nexus("a"));
    assert_eq!(bench.status("b", &READ, &[]), Status::ReservationConflict);
    bench.luns.nexus_met(&nexus("a"));
    assert_eq!(bench.status("a", &READ, &[]), Status::Good);
    bench.luns.units()[0].1.reset();
    assert_eq!(bench.status("b", &READ, &[]), Status::ReservationConflict, "a reset changes nothing");
}

#[test]
fn the_preempted_are_told_and_kept_out() {
    let bench = open();
    bench.done("a", 6, 0, (0, 1));
    bench.done("b", 6, 0, (0, 2));
    bench.done("a", 1, 5, (1, 0));
    let response = bench.order("b", 5, 5, (2, 1), 0);
    let preempted = response.preempted.unwrap();
    assert!(preempted.nexuses.len() == 1 && preempted.nexuses[0].is(&nexus("a")));
    // Until then nobody else has the turn.
    drop(preempted);
    // A conflict goes before a unit attention (SAM-5 clause 5.3.3), which is not lost by it.
    assert_eq!(bench.status("a", &WRITE, &[1; 512]), Status::ReservationConflict);
    assert_eq!(bench.attentions("a"), [(0x2a, 5)]);
    assert_eq!(bench.status("a", &WRITE, &[1; 512]), Status::ReservationConflict);
    assert_eq!(bench.status("b", &WRITE, &[1; 512]), Status::Good);
    bench.done("a", 6, 0, (0, 1));
    bench.done("b", 2, 5, (2, 0));
    assert_eq!(bench.attentions("a"), [(0x2a, 4)]);
    bench.done("b", 3, 0, (2, 0));
    assert_eq!(bench.attentions("a"), [(0x2a, 3)]);
    assert_eq!(bench.read_in(0)[..8], [0, 0, 0, 5, 0, 0, 0, 0]);
}

#[test]
fn both_kinds_of_reservations_exclude_each_other() {
    let bench = open();
    assert_eq!(bench.status("a", &[0x16], &[]), Status::Good);
    for who in ["a", "b"] {
        assert_eq!(bench.status(who, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[]), Status::ReservationConflict);
        assert_eq!(bench.order(who, 6, 0, (0, 1), 0).status, Status::ReservationConflict);
    }
    assert_eq!(bench.status("a", &[0x17], &[]), Status::Good);
    bench.done("a", 6, 0, (0, 1));
    assert_eq!(bench.status("a", &[0x16], &[]), Status::ReservationConflict, "registered, nothing reserved");
    bench.done("a", 1, 3, (1, 0));
    assert_eq!(bench.status("a", &[0x56], &[]), Status::Good, "compatible: the holder may, to no effect");
    assert_eq!(bench.status("b", &[0x56], &[]), Status::ReservationConflict);
    assert_eq!(bench.status("a", &[0x57], &[]), Status::Good);
    assert_eq!(bench.status("b", &READ, &[]), Status::ReservationConflict, "still held");
}

#[test]
fn unknown_service_actions_are_bad_fields() {
    let bench = open();
    for action in 4..0x20 {
        assert_eq!(bench.codes(&[0x5e, action, 0, 0, 0, 0, 0, 0, 8, 0], &[]), (5, 0x24, 0));
    }
    assert_eq!(bench.codes(&[0x5f, 8, 0, 0, 0, 0, 0, 0, 24, 0], &[0; 24]), (5, 0x24, 0));
    assert_eq!(bench.codes(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 23, 0], &[0; 23]), (5, 0x1a, 0));
    assert_eq!(bench.codes(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &[0; 20]), (5, 0x1a, 0));
}

#[test]
fn what_shall_survive_is_kept_before_it_counts() {
    let store = Arc::<Store>::default();
    let bench = keeping(&store, Reservations::default());
    assert_eq!(bench.read_in(2)[2..4], [0x1d, 0xb0], "PTPL_C, not PTPL_A");
    bench.done("b", 6, 0, (0, 2));
    assert!(store.kept.lock().unwrap().is_empty(), "without APTPL nothing is written");
    assert_eq!(bench.order("a", 6, 0, (0, 1), 1).status, Status::Good);
    bench.done("a", 1, 5, (1, 0));
    assert_eq!(bench.read_in(2)[3], 0xb1);
    let record = store.last().unwrap();
    assert_eq!((record.registrations.len(), record.reservation.as_ref().unwrap().kind), (2, 5));

    *store.fails.lock().unwrap() = Some(StoreFailed::Unwritten);
    let before = bench.luns.units()[0].1.reservations();
    assert_eq!(codes(&bench.order("a", 2, 5, (1, 0), 0)), (4, 0x44, 0));
    assert_eq!(codes(&bench.order("b", 5, 5, (2, 1), 0)), (4, 0x44, 0));
    assert_eq!(bench.luns.units()[0].1.reservations(), before, "what cannot be kept has not happened");
    assert!(bench.attentions("a").is_empty() && bench.attentions("b").is_empty());
    *store.fails.lock().unwrap() = Some(StoreFailed::NoRoom);
    assert_eq!(codes(&bench.order("a", 6, 0, (0, 9), 1)), (5, 0x55, 4));
    *store.fails.lock().unwrap() = None;

    let after = keeping(&store, Reservations::restore(&record).unwrap());
    assert_eq!(after.read_in(0)[..8], [0, 0, 0, 0, 0, 0, 0, 16], "PRGENERATION begins at 0");
    assert_eq!(after.status("b", &WRITE, &[1; 512]), Status::Good, "a registrant as before");
    after.luns.nexus_met(&nexus("c"));
    assert_eq!(after.status("c", &WRITE, &[1; 512]), Status::ReservationConflict);
    assert_eq!(after.order("a", 6, 0, (0, 1), 0).status, Status::Good);
    assert_eq!(store.last(), None, "the last APTPL counts");
}

#[test]
fn without_a_place_to_keep_it_aptpl_is_refused() {
    let bench = open();
    assert_eq!(codes(&bench.order("a", 6, 0, (0, 1), 1)), (5, 0x26, 0));
    assert_eq!(bench.read_in(2)[2..4], [0x1c, 0xb0]);
}

#[test]
fn a_unit_is_one_with_whatever_rights_it_is_seen() {
    let bench = open();
    let unit = Arc::clone(&bench.luns.units()[0].1);
    let reader = unit.view(LuOptions { read_only: true, ..LuOptions::default() });
    let other = LunMap::new("iqn.2026-11.org.labsan:u");
    let there = Nexus { target_name: "iqn.2026-11.org.labsan:u".into(), ..nexus("b") };
    other.nexus_met(&there);
    other.insert(3, Arc::clone(&reader)).unwrap();
    assert!(reader.is_view_of(&unit));
    bench.done("a", 6, 0, (0, 1));
    bench.done("a", 1, 3, (1, 0));
    let read = command(3 << 48, &READ, &[]);
    let response = run(other.execute(&there, read.clone(), &bench.pool));
    assert_eq!(response.status, Status::ReservationConflict);
    // ALL_TG_PT reaches both targets.
    assert_eq!(bench.order("b", 6, 0, (0, 2), 4).status, Status::Good);
    assert_eq!(unit.reservations().registrations.len(), 3);
    assert_eq!(run(unit.purge(1)), Ok(1));
    assert_eq!(run(other.execute(&there, read, &bench.pool)).status, Status::Good);
    assert_eq!(bench.attentions("a"), [(0x2a, 5)]);
}

fn register(key: u8, flags: u8) -> ScsiCommand {
    let mut list = [0; 24];
    (list[15], list[20]) = (key, flags);
    command(0, &[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &list)
}

/// SPC-2 and SPC-4 reservations exclude each other, also while one of them is on its way to the disks.
#[test]
fn what_is_being_kept_counts_already_against_a_reservation_of_the_other_kind() {
    let store = Arc::new(Store { slow: Some(tokio::sync::Semaphore::new(0)), ..Store::default() });
    let bench = keeping(&store, Reservations::default());
    let (a, b) = (nexus("a"), nexus("b"));
    let reserve = async {
        // The order has passed the gates and waits for the disks.
        tokio::task::yield_now().await;
        let reserving = bench.luns.execute(&b, command(0, &[0x16, 0, 0, 0, 0, 0], &[]), &bench.pool);
        tokio::pin!(reserving);
        tokio::select! {
            biased;
            early = &mut reserving => return early,
            () = tokio::task::yield_now() => {}
        }
        store.slow.as_ref().unwrap().add_permits(1);
        reserving.await
    };
    let both = async { tokio::join!(bench.luns.execute(&a, register(1, 1), &bench.pool), reserve) };
    let (registered, reserved) = run(both);
    assert_eq!((registered.status, reserved.status), (Status::Good, Status::ReservationConflict));
    assert_eq!(bench.read_in(0)[7], 8, "one key");
}

#[test]
fn an_order_that_waits_for_its_turn_sees_who_reserved_meanwhile() {
    let store = Arc::new(Store { slow: Some(tokio::sync::Semaphore::new(0)), ..Store::default() });
    let bench = keeping(&store, Reservations::default());
    let (a, b) = (nexus("a"), nexus("b"));
    // The first registers and unregisters; RESERVE(6) comes between, and then an order that passed the gates before it.
    assert_eq!(bench.order("a", 6, 0, (0, 1), 0).status, Status::Good);
    let release = command(0, &[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &{
        let mut list = [0; 24];
        list[20] = 1;
        list
    });
    let reserve = command(0, &[0x16, 0, 0, 0, 0, 0], &[]);
    let open = async {
        tokio::task::yield_now().await;
        store.slow.as_ref().unwrap().add_permits(4);
    };
    let orders = async {
        tokio::join!(
            bench.luns.execute(&a, register(1, 1), &bench.pool),
            bench.luns.execute(&a, release, &bench.pool),
            bench.luns.execute(&b, reserve, &bench.pool),
            bench.luns.execute(&a, register(2, 1), &bench.pool),
            open,
        )
    };
    let (first, gone, reserved, late, ()) = run(orders);
    assert_eq!([first.status, gone.status, reserved.status], [Status::Good; 3]);
    assert_eq!(late.status, Status::ReservationConflict);
}

#[test]
fn a_unit_that_is_taken_from_one_target_is_still_known_in_the_other() {
    let bench = open();
    let unit = Arc::clone(&bench.luns.units()[0].1);
    bench.luns.insert(5, unit.view(LuOptions { read_only: true, ..LuOptions::default() })).unwrap();
    let other = LunMap::behind("iqn.2026-11.org.labsan:u", 2);
    let there = Nexus { target_name: "iqn.2026-11.org.labsan:u".into(), ..nexus("z") };
    other.nexus_met(&there);
    other.insert(3, Arc::clone(&unit)).unwrap();
    bench.attentions("a");
    bench.attentions("b");
    assert_eq!(bench.status("a", &[0x16], &[]), Status::Good);
    bench.luns.remove(5).unwrap();
    assert_eq!(bench.status("b", &READ, &[]), Status::ReservationConflict, "reached by LUN 0 as before");
    assert_eq!(bench.attentions("a"), [(0x3f, 0x0e)]);
    let response = run(other.execute(&there, command(3 << 48, &[0x03, 0, 0, 0, 18, 0], &[]), &bench.pool));
    assert_eq!(response.data_in[2], 0, "its LUNs are what they were");
}

/// A command that writes has its place before it meets the gates, so that whoever closes them can wait for all that have
/// passed. One that still waits for its place when they close has not passed them.
#[test]
fn a_write_meets_the_gates_only_when_it_has_its_place() {
    let order = |action: u8| {
        let mut list = [0; 24];
        list[7] = 1;
        command(0, &[0x5f, action, 3, 0, 0, 0, 0, 0, 24, 0], &list)
    };
    let mut compare = [0; 16];
    (compare[0], compare[13]) = (0x89, 1);
    for (cdb, data) in [(&WRITE[..], vec![7; 512]), (&compare[..], [[0; 512], [7; 512]].concat())] {
        let bench = open();
        bench.done("a", 6, 0, (0, 1));
        let (a, b) = (nexus("a"), nexus("b"));
        let unit = Arc::clone(&bench.luns.units()[0].1);
        let (written, reserved) = run(async {
            let held = unit.turn().write().await;
            let write = bench.luns.execute(&b, command(0, cdb, &data), &bench.pool);
            let reserve = bench.luns.execute(&a, order(1), &bench.pool);
            let letting_go = async {
                tokio::task::yield_now().await;
                assert!(unit.reservations().reservation.is_some(), "in force, and not answered yet");
                drop(held);
            };
            let (written, reserved, ()) = tokio::join!(biased; write, reserve, letting_go);
            (written, reserved)
        });
        assert_eq!((written.status, reserved.status), (Status::ReservationConflict, Status::Good));
        assert_eq!(bench.device.contents()[0], 0);
    }
}
