//! SANITIZE and power losses: it is kept before it begins, goes on where it was, and is forgotten before anybody writes.

use block_io::IoErrorKind;

use super::super::{Restored, StoreFailed, UnitRecord, UnitStore};
use super::reservations::Store;
use super::sanitizing::{EXIT, PATTERN, READ, Slow, no_leave, overwrite};
use super::*;

const PIECE: usize = 1 << 20;
const RUNS: (u8, u8, u8) = (2, 0x04, 0x1b);
const FAILED: (u8, u8, u8) = (3, 0x31, 3);

fn slow() -> Slow {
    Slow {
        inner: MemoryDevice::new("slow", 4 * PIECE),
        leave: no_leave(),
        come: Arc::default(),
        failing: Arc::default(),
    }
}

/// LUN 0 over the device, as a start makes it of what was kept.
fn started(device: &Slow, store: &Arc<Store>, kept: Option<&UnitRecord>) -> (Bench, Arc<LogicalUnit>) {
    let mut bench = open();
    bench.luns = LunMap::new("iqn.2026-11.org.labsan:t");
    bench.luns.nexus_met(&nexus("a"));
    bench.luns.nexus_met(&nexus("b"));
    let identity = LuIdentity { uuid: Uuid::nil(), serial: "S".into(), product: "P".into() };
    let restored = kept.map_or_else(Restored::default, |record| record.restore().unwrap());
    let store: Arc<dyn UnitStore> = Arc::<Store>::clone(store);
    let unit =
        LogicalUnit::restored(Arc::new(device.clone()), identity, LuOptions::default(), store, restored);
    bench.luns.insert(0, Arc::clone(&unit)).unwrap();
    (bench, unit)
}

/// Begin to overwrite, without waiting for the end.
async fn begin(bench: &Bench, flags: u8) -> ScsiResponse {
    bench.send_now(0, &overwrite(0x80 | flags, 5), &PATTERN).await
}

#[test]
fn what_a_power_loss_interrupts_goes_on_where_it_was() {
    let (device, store) = (slow(), Arc::<Store>::default());
    let (bench, _) = started(&device, &store, None);
    run(async {
        assert_eq!(begin(&bench, 0).await.status, Status::Good);
        let kept = store.last_whole().unwrap().sanitize.unwrap();
        assert_eq!((kept.done_bytes, kept.failed), (0, false), "kept before the first byte");
        assert!(device.inner.contents().iter().all(|byte| *byte == 0));
        device.step(3).await;
    });
    // The power is lost: tasks are no more.
    let kept = store.last_whole().unwrap();
    assert_eq!(kept.sanitize.as_ref().unwrap().done_bytes, 3 * PIECE as u64);
    device.inner.tamper(|bytes| bytes[0] = 7);
    let (bench, unit) = started(&device, &store, Some(&kept));
    run(async {
        assert_eq!(codes(&bench.send_now(0, &READ, &[]).await), RUNS, "closed from the first moment");
        unit.go_on_sanitizing();
        device.step(1).await;
        assert_eq!(bench.send_now(0, &READ, &[]).await.status, Status::Good);
        assert_eq!(store.last_whole(), None);
    });
    let contents = device.inner.contents();
    assert_eq!(contents[0], 7, "what was done is not done again");
    assert!(contents[1..].iter().all(|byte| *byte == 0x55));
}

#[test]
fn a_unit_of_another_size_is_sanitized_from_its_beginning() {
    let (device, store) = (slow(), Arc::<Store>::default());
    let (bench, _) = started(&device, &store, None);
    run(async {
        begin(&bench, 0).await;
        device.step(2).await;
    });
    let mut kept = store.last_whole().unwrap();
    kept.sanitize.as_mut().unwrap().size_bytes -= 4096;
    let (_, unit) = started(&device, &store, Some(&kept));
    device.inner.tamper(|bytes| bytes.fill(7));
    run(async {
        unit.go_on_sanitizing();
        device.step(4).await;
    });
    assert!(device.inner.contents().iter().all(|byte| *byte == 0x55));
    assert_eq!(store.last_whole(), None);
}

#[test]
fn what_cannot_be_kept_does_not_begin() {
    for (why, sense) in [(StoreFailed::Unwritten, (4, 0x44, 0)), (StoreFailed::NoRoom, (5, 0x55, 3))] {
        let (device, store) = (slow(), Arc::<Store>::default());
        let (bench, _) = started(&device, &store, None);
        *store.fails.lock().unwrap() = Some(why);
        run(async {
            assert_eq!(codes(&begin(&bench, 0).await), sense);
            device.step(4).await;
            assert_eq!(bench.send_now(0, &READ, &[]).await.status, Status::Good);
        });
        assert!(device.inner.contents().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn nobody_is_let_in_while_it_is_not_known_whether_it_is_kept() {
    let (device, store) = (slow(), Arc::<Store>::default());
    let (bench, _) = started(&device, &store, None);
    *store.fails.lock().unwrap() = Some(StoreFailed::Doubtful);
    run(async {
        assert_eq!(codes(&begin(&bench, 0x20).await), (4, 0x44, 0));
        assert_eq!(codes(&bench.send_now(0, &READ, &[]).await), FAILED);
        *store.fails.lock().unwrap() = None;
        assert_eq!(bench.send_now(0, &EXIT, &[]).await.status, Status::Good);
        assert_eq!(bench.send_now(0, &READ, &[]).await.status, Status::Good);
    });
}

/// A start would overwrite what is written until then.
#[test]
fn nobody_is_let_in_while_a_start_would_sanitize_again() {
    let (device, store) = (slow(), Arc::<Store>::default());
    let (bench, _) = started(&device, &store, None);
    run(async {
        begin(&bench, 0x20).await;
        *store.fails.lock().unwrap() = Some(StoreFailed::Unwritten);
        device.step(4).await;
        assert_eq!(codes(&bench.send_now(0, &READ, &[]).await), FAILED);
        assert!(store.last_whole().unwrap().sanitize.is_some());
        assert_eq!(codes(&bench.send_now(0, &EXIT, &[]).await), (4, 0x44, 0));
        assert_eq!(codes(&bench.send_now(0, &READ, &[]).await), FAILED);
        *store.fails.lock().unwrap() = None;
        assert_eq!(bench.send_now(0, &EXIT, &[]).await.status, Status::Good);
        assert_eq!(store.last_whole(), None);
        assert_eq!(bench.send_now(0, &READ, &[]).await.status, Status::Good);
    });
}

#[test]
fn a_failure_of_the_medium_is_kept_and_an_array_that_stops_is_none() {
    for (kind, failed) in [
        (IoErrorKind::Medium, true),
        (IoErrorKind::NoSpace, true),
        (IoErrorKind::Stopped, false),
        (IoErrorKind::ArrayFailed, false),
        (IoErrorKind::Gone, false),
    ] {
        let (device, store) = (slow(), Arc::<Store>::default());
        let (bench, _) = started(&device, &store, None);
        run(async {
            begin(&bench, 0).await;
            *device.failing.lock().unwrap() = Some(kind);
            device.step(1).await;
            assert_eq!(codes(&bench.send_now(0, &READ, &[]).await), FAILED, "{kind:?}");
        });
        let kept = store.last_whole().unwrap();
        assert_eq!(kept.sanitize.as_ref().unwrap().failed, failed, "{kind:?}");
        *device.failing.lock().unwrap() = None;
        let (bench, unit) = started(&device, &store, Some(&kept));
        run(async {
            unit.go_on_sanitizing();
            device.step(4).await;
            let read = bench.send_now(0, &READ, &[]).await;
            match failed {
                true => assert_eq!(codes(&read), FAILED, "{kind:?}"),
                false => assert_eq!(read.status, Status::Good, "{kind:?}"),
            }
        });
    }
}

#[test]
fn registrations_and_sanitizing_are_kept_side_by_side() {
    let (device, store) = (slow(), Arc::<Store>::default());
    let (bench, unit) = started(&device, &store, None);
    let mut register = [0; 24];
    (register[15], register[20]) = (1, 1);
    let mut cdb = [0; 10];
    (cdb[0], cdb[8]) = (0x5f, 24);
    let whole = || store.last_whole().map(|r| (r.reservations.registrations.len(), r.sanitize.is_some()));
    run(async {
        assert_eq!(bench.send_now(0, &cdb, &register).await.status, Status::Good);
        assert_eq!(whole(), Some((1, false)));
        begin(&bench, 0).await;
        assert_eq!(whole(), Some((1, true)));
        device.step(4).await;
        assert_eq!(whole(), Some((1, false)));
        *device.failing.lock().unwrap() = Some(IoErrorKind::Medium);
        begin(&bench, 0).await;
        device.step(1).await;
        assert_eq!(unit.purge(1).await, Ok(1));
        assert_eq!(whole(), Some((0, true)), "nor does a registration that goes take the failure along");
    });
}

/// Whoever has been told that the unit is reserved for him is not overwritten by one that came before.
#[test]
fn a_reservation_that_comes_first_keeps_it_out() {
    let device = slow();
    let store = Arc::new(Store { slow: Some(tokio::sync::Semaphore::new(0)), ..Store::default() });
    let (bench, _) = started(&device, &store, None);
    let order = |action: u8, kind: u8, keys: (u8, u8)| {
        let mut list = vec![0; 24];
        (list[7], list[15], list[20]) = (keys.0, keys.1, 1);
        command(0, &[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], &list)
    };
    let from = nexus("b");
    run(async {
        store.slow.as_ref().unwrap().add_permits(1);
        let registered = bench.luns.execute(&from, order(0, 0, (0, 1)), &bench.pool).await;
        assert_eq!(registered.status, Status::Good);
        let reserve = bench.luns.execute(&from, order(1, 1, (1, 0)), &bench.pool);
        let sanitize = async {
            let begun = begin(&bench, 0);
            let leave = async {
                tokio::task::yield_now().await;
                store.slow.as_ref().unwrap().add_permits(9);
            };
            tokio::join!(begun, leave).0
        };
        let (reserved, sanitized) = tokio::join!(reserve, sanitize);
        assert_eq!((reserved.status, sanitized.status), (Status::Good, Status::ReservationConflict));
        device.step(4).await;
    });
    assert!(device.inner.contents().iter().all(|byte| *byte == 0));
}
