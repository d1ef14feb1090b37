//! LUNs of one initiator's own: what it sees, what it is told, and that a unit is one under every number.

use super::*;

const NO_UNIT: (u8, u8, u8) = (5, 0x25, 0);
const LUNS_CHANGED: (u8, u8, u8) = (6, 0x3f, 0x0e);

fn lun(number: u16) -> u64 {
    u64::from(number) << 48
}

fn another_unit(id: u128) -> Arc<LogicalUnit> {
    let device = MemoryDevice::new("another", BLOCKS as usize * 512);
    let identity = LuIdentity { uuid: Uuid::from_u128(id), serial: id.to_string(), product: "VOLUME".into() };
    LogicalUnit::new(Arc::new(device), identity, LuOptions::default())
}

impl Bench {
    /// What REPORT LUNS names.
    fn luns_of(&self, from: &str) -> Vec<u16> {
        let list = self.send(from, 0, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0], &[]).data_in;
        list[8..].chunks_exact(8).map(|lun| u16::from_be_bytes([lun[0], lun[1]])).collect()
    }

    /// TEST UNIT READY: what stands in the way, if anything.
    fn ready(&self, from: &str, number: u16) -> Option<(u8, u8, u8)> {
        let response = self.send(from, lun(number), &[0; 6], &[]);
        (response.status != Status::Good).then(|| codes(&response))
    }

    fn unit(&self) -> Arc<LogicalUnit> {
        self.luns.units().remove(0).1
    }
}

#[test]
fn who_has_luns_of_its_own_sees_exactly_those() {
    let bench = open();
    bench.luns.insert_for(Some("a"), 7, another_unit(2)).unwrap();
    assert_eq!((bench.luns_of("a"), bench.luns_of("b")), (vec![7], vec![0]));
    assert_eq!((bench.ready("a", 7), bench.ready("a", 0)), (None, Some(NO_UNIT)));
    assert_eq!((bench.ready("b", 0), bench.ready("b", 7)), (None, Some(NO_UNIT)));
    let inquiry = |from, number| bench.send(from, lun(number), &[0x12, 0, 0, 0, 255, 0], &[]).data_in[0];
    assert_eq!((inquiry("a", 0), inquiry("a", 7), inquiry("b", 7)), (0x7f, 0, 0x7f));
    assert_eq!(bench.luns_of("A"), [7], "names are the same in any case");
    assert_eq!(bench.luns.insert_for(Some("A"), 7, another_unit(3)), Err(LunTaken(7)));
    // Its last one goes: it must not find others under old numbers.
    bench.luns.remove_for(Some("a"), 7).unwrap();
    assert_eq!((bench.luns_of("a"), bench.ready("a", 0)), (vec![], Some(NO_UNIT)));
    assert!(bench.luns.unmask("a").units.is_empty());
    assert_eq!(bench.ready("a", 0), Some(LUNS_CHANGED), "under that number there may have been another");
    assert_eq!((bench.luns_of("a"), bench.ready("a", 0)), (vec![0], None));
}

#[test]
fn a_unit_is_one_under_every_number() {
    let bench = open();
    for (name, number) in [("a", 0), ("b", 5)] {
        bench.luns.insert_for(Some(name), number, bench.unit()).unwrap();
    }
    bench.luns.mask("c");
    bench.luns.nexus_met(&nexus("c"));
    assert_eq!(bench.ready("a", 0), Some(LUNS_CHANGED), "another list of LUNs, though this one is the same");
    let write = |from, number| bench.send(from, lun(number), &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 512]);
    let read = |from, number| bench.send(from, lun(number), &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]);
    assert_eq!(write("a", 0).status, Status::Good);
    assert_eq!(read("b", 5).data_in[..], [7; 512]);
    assert_eq!((codes(&write("c", 0)), bench.luns_of("c")), (NO_UNIT, vec![]));

    assert_eq!(bench.send("a", lun(0), &[0x16, 0, 0, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(read("b", 5).status, Status::ReservationConflict, "RESERVE of SPC-2");
    assert_eq!(bench.send("a", lun(0), &[0x17, 0, 0, 0, 0, 0], &[]).status, Status::Good);
    let order = |from, number, action, keys: (u8, u8)| {
        let mut list = [0; 24];
        (list[7], list[15]) = keys;
        bench.send(from, lun(number), &[0x5f, action, 5, 0, 0, 0, 0, 0, 24, 0], &list).status
    };
    assert_eq!((order("a", 0, 0, (0, 1)), order("a", 0, 1, (1, 0))), (Status::Good, Status::Good));
    assert_eq!(write("b", 5).status, Status::ReservationConflict, "a persistent reservation");
    assert_eq!((order("b", 5, 0, (0, 2)), write("b", 5).status), (Status::Good, Status::Good));
    // Seen under another number now; whoever is registered still is.
    bench.luns.remove_for(Some("b"), 5).unwrap();
    bench.luns.insert_for(Some("b"), 6, bench.unit()).unwrap();
    assert_eq!(write("b", 6).status, Status::Good);
    assert_eq!(order("b", 6, 4, (2, 1)), Status::Good, "and preempts the other");
    assert_eq!(write("a", 0).status, Status::ReservationConflict);
    assert_eq!(bench.ready("a", 0), Some((6, 0x2a, 5)));
}

#[test]
fn only_those_are_told_whose_luns_have_changed() {
    let bench = open();
    bench.luns.nexus_met(&nexus("c"));
    assert_eq!(bench.ready("c", 0), Some(BEGUN));
    bench.luns.insert_for(Some("a"), 1, another_unit(2)).unwrap();
    assert_eq!([bench.ready("a", 1), bench.ready("b", 0), bench.ready("c", 0)], [None; 3]);
    bench.luns.insert_for(Some("a"), 2, another_unit(3)).unwrap();
    assert_eq!(
        [bench.ready("a", 1), bench.ready("b", 0), bench.ready("c", 0)],
        [Some(LUNS_CHANGED), None, None]
    );
    bench.luns.insert(3, another_unit(4)).unwrap();
    assert_eq!([bench.ready("a", 1), bench.ready("a", 2)], [None; 2]);
    assert_eq!([bench.ready("b", 0), bench.ready("c", 0)], [Some(LUNS_CHANGED); 2]);
    bench.luns.remove_for(Some("a"), 2).unwrap();
    assert_eq!(
        [bench.ready("a", 1), bench.ready("b", 0), bench.ready("c", 0)],
        [Some(LUNS_CHANGED), None, None]
    );
    // What happens to a unit is told to those who see it, not to others once they do.
    bench.unit().capacity_changed();
    bench.luns.remove_for(Some("a"), 1).unwrap();
    bench.luns.unmask("a");
    assert_eq!([bench.ready("a", 0), bench.ready("a", 0)], [Some(LUNS_CHANGED), None]);
    assert_eq!([bench.ready("b", 0), bench.ready("b", 0)], [Some((6, 0x2a, 9)), None]);
}

#[test]
fn a_number_that_meant_another_unit_says_so_at_first() {
    let bench = open();
    bench.luns.remove(0).unwrap();
    bench.luns.insert(0, another_unit(2)).unwrap();
    bench.luns.insert(4, another_unit(3)).unwrap();
    assert_eq!(
        [bench.ready("a", 0), bench.ready("a", 0), bench.ready("a", 4)],
        [Some(LUNS_CHANGED), None, None]
    );
    bench.luns.insert_for(Some("b"), 4, another_unit(4)).unwrap();
    bench.luns.insert_for(Some("b"), 5, another_unit(5)).unwrap();
    assert_eq!(
        [bench.ready("b", 4), bench.ready("b", 4), bench.ready("b", 5)],
        [Some(LUNS_CHANGED), None, None]
    );
}

#[test]
fn a_masked_initiator_leaves_nothing_behind_in_what_it_saw() {
    let bench = open();
    assert_eq!(bench.send("a", 0, &[0x16, 0, 0, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(bench.send("b", 0, &[0; 6], &[]).status, Status::ReservationConflict);
    bench.luns.mask("a");
    assert_eq!(bench.ready("b", 0), None, "its reservation went with it");
    // The target goes: the unit is reached by no port any more, in no map.
    bench.luns.insert_for(Some("a"), 0, bench.unit()).unwrap();
    let unit = bench.unit();
    assert_eq!(unit.each_port().len(), 1);
    bench.luns.clear();
    assert!(unit.each_port().is_empty() && bench.luns.all_units().is_empty());
}
