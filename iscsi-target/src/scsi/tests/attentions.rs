//! What each nexus is told, when and how often.

use super::*;

#[test]
fn changes_are_told_to_each_nexus_once_and_in_order() {
    let bench = open();
    let (_, unit) = bench.luns.units().remove(0);
    unit.capacity_changed();
    unit.capacity_changed();
    unit.reset();
    assert_eq!(bench.send("a", 0, &[0x12, 0, 0, 0, 36, 0], &[]).status, Status::Good);
    assert_eq!(bench.codes(&[0x00], &[]), (6, 0x2a, 9));
    assert_eq!(bench.data(&[0x03, 0, 0, 0, 18, 0])[12..14], [0x29, 3]);
    assert_eq!(bench.send("a", 0, &[0x00], &[]).status, Status::Good);
    assert_eq!(codes(&bench.send("b", 0, &[0x00], &[])), (6, 0x2a, 9));
    assert_eq!(codes(&bench.send("b", 0, &[0x00], &[])), (6, 0x29, 3));
    assert_eq!(bench.send("b", 0, &[0x00], &[]).status, Status::Good);
}

#[test]
fn each_nexus_is_told_of_the_start_first_and_once_by_every_unit() {
    let bench = open();
    let other = LogicalUnit::new(
        Arc::new(bench.device.clone()),
        bench.luns.units()[0].1.identity().clone(),
        LuOptions::default(),
    );
    bench.luns.insert(1, other).unwrap();
    bench.luns.nexus_met(&nexus("c"));
    bench.luns.units()[0].1.capacity_changed();
    let ready = |lun: u64| bench.send("c", lun << 48, &[0x00], &[]);
    assert_eq!([codes(&ready(0)), codes(&ready(0)), codes(&ready(1))], [BEGUN, (6, 0x2a, 9), BEGUN]);
    assert_eq!([ready(0).status, ready(1).status], [Status::Good; 2], "once");
    // It has not begun because it is met again; nor is a LUN that comes later a beginning.
    bench.luns.nexus_met(&nexus("c"));
    assert_eq!(ready(0).status, Status::Good);
    let unit = bench.luns.remove(1).unwrap();
    bench.luns.insert(2, unit).unwrap();
    assert_eq!(ready(2).status, Status::Good);
    // That it was away it knows, but not what it was not told before.
    bench.luns.nexus_lost(&nexus("c"));
    bench.luns.nexus_met(&nexus("c"));
    assert_eq!([codes(&ready(0)), (6, 0x3f, 0x0e)], [(6, 0x3f, 0x0e); 2]);
    assert_eq!([ready(0).status, ready(2).status], [Status::Good; 2]);
    // Some come back under another ISID; a second one beside it is another path, and begins.
    let other = Nexus { isid: [7; 6], ..nexus("c") };
    bench.luns.nexus_met(&other);
    let response = run(bench.luns.execute(&other, command(0, &[0x00], &[]), &bench.pool));
    assert_eq!(response.status, Status::Good);
    let paths = [1, 2].map(|isid| Nexus { isid: [isid; 6], ..nexus("d") });
    paths.iter().for_each(|path| bench.luns.nexus_met(path));
    for path in &paths {
        let response = run(bench.luns.execute(path, command(0, &[0x00], &[]), &bench.pool));
        assert_eq!(codes(&response), BEGUN);
    }
}

#[test]
fn who_comes_back_is_told_what_it_has_missed() {
    let bench = open();
    let (_, unit) = bench.luns.units().remove(0);
    let told_to = |nexus: &Nexus| -> Vec<(u8, u8, u8)> {
        let one = || run(bench.luns.execute(nexus, command(0, &[0x00], &[]), &bench.pool));
        std::iter::repeat_with(one)
            .take_while(|told| told.status != Status::Good)
            .map(|told| codes(&told))
            .collect()
    };
    const CAPACITY: (u8, u8, u8) = (6, 0x2a, 9);
    const LUNS: (u8, u8, u8) = (6, 0x3f, 0x0e);
    let paths = [1, 2].map(|isid| Nexus { isid: [isid; 6], ..nexus("d") });
    paths.iter().for_each(|path| bench.luns.nexus_met(path));
    assert_eq!(told_to(&paths[0]), [BEGUN]);
    // One goes before it has heard of the start; then both are away.
    paths.iter().for_each(|path| bench.luns.nexus_lost(path));
    unit.capacity_changed();
    unit.capacity_changed();
    bench.luns.nexus_met(&paths[1]);
    assert_eq!(told_to(&paths[1]), [BEGUN, CAPACITY]);
    bench.luns.nexus_met(&paths[0]);
    assert_eq!(told_to(&paths[0]), [CAPACITY]);
    // Under another ISID it is told the same, and once.
    bench.luns.nexus_lost(&paths[0]);
    unit.reset();
    bench
        .luns
        .insert(
            7,
            LogicalUnit::new(Arc::new(bench.device.clone()), unit.identity().clone(), LuOptions::default()),
        )
        .unwrap();
    for (isid, told) in [(7, &[(6, 0x29, 3), LUNS][..]), (8, &[])] {
        let other = Nexus { isid: [isid; 6], ..nexus("d") };
        bench.luns.nexus_met(&other);
        assert_eq!(told_to(&other), told, "{isid}");
    }
    // And so is the path that it was: another may have been meant.
    bench.luns.nexus_met(&paths[0]);
    assert_eq!(told_to(&paths[0]), [(6, 0x29, 3), LUNS]);
    // What one path has not heard of the start no other has heard for it.
    let paths = [1, 2].map(|isid| Nexus { isid: [isid; 6], ..nexus("e") });
    bench.luns.nexus_met(&paths[0]);
    bench.luns.nexus_lost(&paths[0]);
    for path in [&paths[1], &paths[0]] {
        bench.luns.nexus_met(path);
        assert_eq!(told_to(path), [BEGUN]);
    }
}

#[test]
fn a_unit_that_was_stopped_and_comes_anew_says_so() {
    let bench = open();
    let (_, unit) = bench.luns.units().remove(0);
    let anew =
        || LogicalUnit::new(Arc::new(bench.device.clone()), unit.identity().clone(), LuOptions::default());
    bench.luns.remove(0).unwrap();
    bench.luns.insert(0, unit.view(LuOptions::default())).unwrap();
    assert_eq!(bench.codes(&[0x00], &[]), (6, 0x3f, 0x0e), "the same with other rights");
    assert_eq!(bench.send("a", 0, &[0x00], &[]).status, Status::Good);
    bench.luns.remove(0).unwrap();
    bench.luns.insert(0, anew()).unwrap();
    assert_eq!([bench.codes(&[0x00], &[]), bench.codes(&[0x00], &[])], [BEGUN, (6, 0x3f, 0x0e)]);
    assert_eq!(bench.send("a", 0, &[0x00], &[]).status, Status::Good);
}

#[test]
fn strangers_take_no_memory_for_good() {
    let mut attentions = nexus::Attentions::default();
    let mut told = 0;
    for number in 0..3 * crate::limits::MAX_RETURNING {
        let stranger = nexus(&number.to_string());
        attentions.begin(&stranger);
        told += usize::from(attentions.next(&stranger).is_some());
        attentions.forget(&stranger);
    }
    assert_eq!(told, 3 * crate::limits::MAX_RETURNING);
    assert!(attentions.remembered() <= crate::limits::MAX_RETURNING);
}
