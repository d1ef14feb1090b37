//! EXTENDED COPY between units, and what is told of it afterwards.

use super::*;

const OTHER_LUN: u64 = 3 << 48;

/// Two units of different blocks: what a copy reads and writes is told apart.
fn two(options: LuOptions) -> (Bench, MemoryDevice) {
    let bench = open();
    let device = MemoryDevice::new("other", BLOCKS as usize * 512);
    let identity = LuIdentity {
        uuid: Uuid::from_u128(0x77),
        serial: "SERIAL0002".to_owned(),
        product: "OTHER".to_owned(),
    };
    bench.luns.insert(3, LogicalUnit::new(Arc::new(device.clone()), identity, options)).unwrap();
    for from in ["a", "b"] {
        while bench.send(from, 0, &[0x00], &[]).status != Status::Good {}
    }
    (bench, device)
}

/// A target descriptor for a LUN, from what the LUN says of itself.
fn target(bench: &Bench, lun: u64) -> Vec<u8> {
    let ids = bench.send("a", lun, &[0x12, 1, 0x83, 0, 255, 0], &[]).data_in;
    let mut descriptor = vec![0xe4, 0, 0, 0];
    descriptor.extend_from_slice(&ids[4..16]);
    descriptor.resize(28, 0);
    descriptor.extend_from_slice(&[0, 0, 2, 0]);
    descriptor
}

fn segment(from: u8, to: u8, blocks: u16, source: u64, destination: u64) -> Vec<u8> {
    let mut descriptor = vec![0x02, 0, 0, 24, 0, from, 0, to, 0, 0];
    descriptor.extend_from_slice(&blocks.to_be_bytes());
    descriptor.extend_from_slice(&source.to_be_bytes());
    descriptor.extend_from_slice(&destination.to_be_bytes());
    descriptor
}

fn list(id: u8, targets: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (targets, segments) = (targets.concat(), segments.concat());
    let mut list = vec![id, 0];
    list.extend_from_slice(&(targets.len() as u16).to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    list.extend_from_slice(&(segments.len() as u32).to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    [list, targets, segments].concat()
}

fn copy(bench: &Bench, from: &str, list: &[u8]) -> ScsiResponse {
    let mut cdb = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb.extend_from_slice(&(list.len() as u32).to_be_bytes());
    bench.send(from, 0, &cdb, list)
}

fn results(action: u8, list: u8) -> Vec<u8> {
    vec![0x84, action, list, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
}

#[test]
fn blocks_go_from_unit_to_unit_and_the_outcome_is_kept() {
    let (bench, other) = two(LuOptions::default());
    bench.device.tamper(|bytes| bytes[..1024].fill(5));
    let targets = [target(&bench, 0), target(&bench, OTHER_LUN)];
    assert_eq!(bench.codes(&results(0, 9), &[]), (5, 0x24, 0), "nothing known of 9");
    let segments = [segment(0, 1, 2, 0, 100), segment(1, 0, 1, 100, 2000), segment(0, 0, 0, 0, 0)];
    assert_eq!(copy(&bench, "a", &list(9, &targets, &segments)).status, Status::Good);
    assert_eq!(other.contents()[100 * 512..103 * 512], [[5; 512], [5; 512], [0; 512]].concat());
    assert_eq!(bench.device.contents()[2000 * 512..2001 * 512], [5; 512]);
    assert_eq!(bench.data(&results(0, 9))[..], [0, 0, 0, 8, 1, 0, 3, 0, 0, 0, 6, 0]);
    assert_eq!(bench.data(&results(4, 9))[..], [0; 4], "no failure");
    assert_eq!(codes(&bench.send("b", 0, &results(0, 9), &[])), (5, 0x24, 0), "another's");
    bench.luns.nexus_lost(&nexus("a"));
    bench.luns.nexus_met(&nexus("a"));
    assert_eq!(bench.codes(&results(0, 9), &[]), (5, 0x24, 0), "gone with the nexus");
    let parameters = bench.data(&results(3, 0));
    assert_eq!(parameters.len(), 4 + u32::from_be_bytes(parameters[..4].try_into().unwrap()) as usize);
    assert_eq!(parameters[43..], [2, 0x02, 0xe4]);
}

#[test]
fn a_copy_does_not_reach_what_its_initiator_does_not_see() {
    let (bench, other) = two(LuOptions::default());
    let (own, hidden) = (target(&bench, 0), target(&bench, OTHER_LUN));
    bench.luns.insert_for(Some("a"), 0, Arc::clone(&bench.luns.units()[0].1)).unwrap();
    while bench.send("a", 0, &[0x00], &[]).status != Status::Good {}
    let both = [own.clone(), hidden.clone()];
    for (from, to) in [(0, 1), (1, 0)] {
        let response = copy(&bench, "a", &list(0, &both, &[segment(from, to, 1, 0, 0)]));
        assert_eq!(codes(&response), (0x0a, 0x08, 0x04), "unreachable, as if it were not there");
    }
    assert_eq!(copy(&bench, "b", &list(0, &both, &[segment(0, 1, 1, 0, 0)])).status, Status::Good);
    bench.device.tamper(|bytes| bytes[..512].fill(5));
    assert_eq!(copy(&bench, "a", &list(0, &[own], &[segment(0, 0, 1, 0, 9)])).status, Status::Good);
    assert_eq!(other.contents()[..512], [0; 512]);
}

#[test]
fn overlapping_blocks_are_read_before_they_are_written() {
    let blocks = 4096 + 100;
    let device = MemoryDevice::new("large", 4 << 20);
    let bench = open();
    let identity = LuIdentity { uuid: Uuid::from_u128(1), serial: "L".into(), product: "L".into() };
    bench.luns.insert(3, LogicalUnit::new(Arc::new(device.clone()), identity, LuOptions::default())).unwrap();
    while bench.send("a", 0, &[0x00], &[]).status != Status::Good {}
    let fill = |bytes: &mut [u8]| {
        for (index, block) in bytes.chunks_mut(512).enumerate() {
            block.fill((index % 251) as u8);
        }
    };
    for (from, to) in [(0u64, 1000u64), (1000, 0)] {
        device.tamper(fill);
        let before = device.contents();
        let segment = segment(0, 0, blocks, from, to);
        assert_eq!(
            copy(&bench, "a", &list(0, &[target(&bench, OTHER_LUN)], &[segment])).status,
            Status::Good
        );
        let (from, to, length) = (from as usize * 512, to as usize * 512, usize::from(blocks) * 512);
        assert!(device.contents()[to..to + length] == before[from..from + length], "{from} to {to}");
    }
}

#[test]
fn a_copy_that_cannot_be_done_changes_nothing_and_says_why() {
    let (bench, other) = two(LuOptions::default());
    let before = (bench.device.contents(), other.contents());
    let targets = [target(&bench, 0), target(&bench, OTHER_LUN)];
    let good = segment(0, 1, 1, 0, 0);
    let refused = |segments: &[Vec<u8>]| codes(&copy(&bench, "a", &list(1, &targets, segments)));
    assert_eq!(refused(&[good.clone(), segment(0, 2, 1, 0, 0)]), (0x0a, 0x08, 4), "no such target");
    assert_eq!(refused(&[good.clone(), segment(0, 1, 2, 0, BLOCKS - 1)]), (0x0a, 0, 0));
    assert_eq!(refused(&[good.clone(), segment(0, 1, 2, u64::MAX, 0)]), (0x0a, 0, 0));
    assert_eq!(bench.data(&results(0, 1))[4], 2, "ended with an error");
    let details = bench.data(&results(4, 1));
    assert_eq!((details[56], details[58..60].to_vec(), details[62] & 15), (2, vec![0, 18], 0x0a));
    let mut strange = target(&bench, 0);
    strange[10] ^= 1;
    assert_eq!(codes(&copy(&bench, "a", &list(1, &[strange], &[segment(0, 0, 1, 0, 1)]))), (0x0a, 0x08, 4));
    let mut misjudged = target(&bench, 0);
    misjudged[30] = 16;
    assert_eq!(codes(&copy(&bench, "a", &list(1, &[misjudged], &[segment(0, 0, 1, 0, 1)]))), (5, 0x26, 0));
    assert_eq!((bench.device.contents(), other.contents()), before);
    assert_eq!(bench.send("a", 0, &[0x83], &[]).status, Status::Good, "an empty list");
    assert_eq!(bench.codes(&[0x83, 0x10], &[]), (5, 0x24, 0), "an action that is not there");
}

#[test]
fn a_copy_respects_reservations_and_write_protection() {
    let (bench, _) = two(LuOptions { read_only: true, ..LuOptions::default() });
    let targets = [target(&bench, 0), target(&bench, OTHER_LUN)];
    let to_other = list(1, &targets, &[segment(0, 1, 1, 0, 0)]);
    let from_other = list(1, &targets, &[segment(1, 0, 1, 0, 0)]);
    assert_eq!(codes(&copy(&bench, "a", &to_other)), (7, 0x27, 0));
    assert_eq!(copy(&bench, "a", &from_other).status, Status::Good);
    while bench.send("b", OTHER_LUN, &[0x00], &[]).status != Status::Good {}
    assert_eq!(bench.send("b", OTHER_LUN, &[0x16], &[]).status, Status::Good);
    assert_eq!(copy(&bench, "a", &from_other).status, Status::ReservationConflict);
}

#[test]
fn an_aborted_copy_ends_between_two_pieces() {
    let (bench, other) = two(LuOptions::default());
    bench.device.tamper(|bytes| bytes.fill(5));
    let targets = [target(&bench, 0), target(&bench, OTHER_LUN)];
    let bytes = list(1, &targets, &[segment(0, 1, BLOCKS as u16, 0, 0)]);
    let mut cdb = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    let (_abort, aborted) = watch::channel(true);
    let command = ScsiCommand { abort: Some(aborted), ..command(0, &cdb, &bytes) };
    let response = run(bench.luns.execute(&nexus("a"), command, &bench.pool));
    assert_eq!(response.status, Status::TaskAborted);
    assert!(other.contents().iter().all(|byte| *byte == 0));
    assert_eq!(bench.data(&results(0, 1))[4], 2);
}

#[test]
fn a_list_longer_than_is_told_is_refused_whatever_it_claims() {
    let (bench, _) = two(LuOptions::default());
    let longest = u32::from_be_bytes(bench.data(&results(3, 0))[12..16].try_into().unwrap()) as usize + 16;
    let mut bytes = list(1, &[target(&bench, 0)], &[segment(0, 0, 1, 0, 1)]);
    bytes.resize(longest, 0);
    assert_eq!(copy(&bench, "a", &bytes).status, Status::Good);
    bytes.resize(longest + 1, 0);
    assert_eq!(codes(&copy(&bench, "a", &bytes)), (5, 0x1a, 0));
}

#[test]
fn an_identifier_is_of_one_copy_at_a_time() {
    let (bench, _) = two(LuOptions::default());
    let bytes = list(1, &[target(&bench, 0)], &[segment(0, 0, 1, 0, 1)]);
    let mut cdb = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    run(async {
        // The first waits for memory.
        let _all = bench.pool.take(32 << 20).await.unwrap();
        let from = nexus("a");
        let (_abort, aborted) = watch::channel(false);
        let patient = ScsiCommand { abort: Some(aborted), ..command(0, &cdb, &bytes) };
        let mut first = std::pin::pin!(bench.luns.execute(&from, patient, &bench.pool));
        tokio::select! {
            biased;
            _ = &mut first => unreachable!("there is no memory"),
            () = tokio::task::yield_now() => {}
        }
        let second = bench.luns.execute(&from, command(0, &cdb, &bytes), &bench.pool).await;
        assert_eq!(codes(&second), (5, 0x00, 0x16), "OPERATION IN PROGRESS");
        drop(_all);
        assert_eq!(first.await.status, Status::Good);
    });
}

/// A copy is let in once and goes on for long: each of its pieces asks again, and who has just reserved the destination waits
/// for those that were let in before.
#[test]
fn a_reservation_ends_a_copy_that_is_under_way() {
    let (bench, other) = two(LuOptions::default());
    bench.device.tamper(|bytes| bytes[..512].fill(5));
    let list = list(0, &[target(&bench, 0), target(&bench, OTHER_LUN)], &[segment(0, 1, 1, 0, 0)]);
    let mut cdb = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    cdb.extend_from_slice(&(list.len() as u32).to_be_bytes());
    let order = |action: u8, kind: u8, keys: (u8, u8)| {
        let mut list = [0; 24];
        (list[7], list[15]) = keys;
        command(OTHER_LUN, &[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &list)
    };
    let (a, b) = (nexus("a"), nexus("b"));
    let (source, destination) = (bench.luns.unit(&a, 0).unwrap(), bench.luns.unit(&a, OTHER_LUN).unwrap());
    let copied = run(async {
        // Holds the copy up after it was let in.
        let held = source.turn().write().await;
        let copying = bench.luns.execute(&a, command(0, &cdb, &list), &bench.pool);
        let reserving = async {
            tokio::task::yield_now().await;
            assert_eq!(bench.luns.execute(&b, order(6, 0, (0, 9)), &bench.pool).await.status, Status::Good);
            let piece = destination.turn().read().await;
            let mut reserving = std::pin::pin!(bench.luns.execute(&b, order(1, 1, (9, 0)), &bench.pool));
            tokio::select! {
                biased;
                _ = &mut reserving => unreachable!("a piece that was let in before is waited for"),
                () = tokio::task::yield_now() => {}
            }
            drop((held, piece));
            assert_eq!(reserving.await.status, Status::Good);
        };
        tokio::join!(copying, reserving).0
    });
    assert_eq!(copied.status, Status::ReservationConflict);
    assert_eq!(other.contents()[0], 0);
}
