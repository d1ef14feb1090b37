//! What holds whatever is sent, in whatever order.

use proptest::prelude::*;

use super::tests::{Sent, nexus, ports};
use super::transport_id::TransportId;
use super::*;
use crate::scsi::cdb::Cdb;
use crate::scsi::command_table::Class;
use crate::scsi::{Failure, Nexus};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn check_invariants(state: &Reservations) {
    for (index, one) in state.registrations.iter().enumerate() {
        assert_ne!(one.key, 0);
        assert!(state.registrations[..index].iter().all(|other| other.nexus != one.nexus));
    }
    if let Some(reservation) = &state.reservation {
        assert_eq!(reservation.holder.is_none(), reservation.kind.all_registrants());
        let held = |one: &Registration| state.is_held_by(&one.nexus);
        assert!(state.registrations.iter().any(held), "a reservation without a holder: {state:?}");
    }
}

/// What an order may do, told from outside.
fn check_outcome(from: &Nexus, before: &Reservations, outcome: &Outcome) {
    let (own, after) = (ItNexus::from(from), &outcome.next);
    check_invariants(after);
    let step = after.generation.wrapping_sub(before.generation);
    assert!(step <= 1);
    assert!(step == 1 || after.registrations == before.registrations, "a change that was not counted");
    assert!(outcome.told.iter().all(|(nexus, _)| *nexus != own), "the sender is told nothing");
    for one in &before.registrations {
        let gone = after.registrations.iter().all(|other| other.nexus != one.nexus);
        let told = outcome.told.iter().any(|(nexus, _)| *nexus == one.nexus);
        // Ports of one initiator unregister together (ALL_TG_PT).
        let own_port = one.nexus.initiator_name == own.initiator_name && one.nexus.isid == own.isid;
        assert!(!gone || told || own_port, "{one:?} was taken away unasked");
    }
    for nexus in &outcome.aborted {
        assert!(after.registrations.iter().all(|one| one.nexus != *nexus), "only who is gone is aborted");
    }
}

fn sent() -> impl Strategy<Value = (usize, Sent)> {
    let kind = prop::sample::select(vec![1u8, 3, 5, 6, 7, 8, 8, 0, 2, 0x11]);
    let flags = prop::sample::select(vec![0u8, 0, 0, 1, 4, 5]);
    (0..NAMES.len(), 0u8..7, kind, 0u64..4, 0u64..4, flags).prop_map(
        |(from, action, kind, key, new, flags)| (from, Sent::new(action, key, new).kind(kind).flags(flags)),
    )
}

proptest! {
    #[test]
    fn any_orders_keep_the_invariants(orders in prop::collection::vec(sent(), 1..60)) {
        let mut state = Reservations::default();
        let known: Vec<ItNexus> = NAMES.iter().map(|name| ItNexus::from(&nexus(name))).collect();
        let ports = ports();
        let around = Around { ports: &ports, known: &known, can_persist: true };
        for (from, sent) in orders {
            let from = nexus(NAMES[from]);
            let order = sent.order().unwrap();
            match state.apply(&from, &order, around) {
                Ok(outcome) => {
                    check_outcome(&from, &state, &outcome);
                    state = outcome.next;
                }
                Err(failure) => prop_assert!(matches!(failure, Failure::Status(_) | Failure::Check(_))),
            }
            // Whoever holds it may do everything; whoever may change may read.
            for name in NAMES {
                let nexus = nexus(name);
                let may = |class| state.admits(&nexus, class, Cdb(&[0; 16]));
                let holds = state.is_held_by(&ItNexus::from(&nexus));
                prop_assert!(!holds || may(Class::Restricted));
                prop_assert!(!may(Class::Restricted) || may(Class::Reading));
                prop_assert!(may(Class::Always));
            }
            if let Some(record) = state.record() {
                let restored = Reservations::restore(&record).unwrap();
                prop_assert_eq!(Reservations { generation: state.generation, ..restored }, state.clone());
            }
            for key in 0..4 {
                if let Some(outcome) = state.purge(key) {
                    check_invariants(&outcome.next);
                }
            }
        }
    }

    #[test]
    fn any_list_is_understood_or_refused(
        action in 0u8..8, kind: u8, list in prop::collection::vec(any::<u8>(), 0..120), claimed in 0u32..130, flags: u8,
    ) {
        let mut list = list;
        if let Some(byte) = list.get_mut(20) {
            // Mostly zeros, so that lists get past the first checks.
            *byte = flags & 0x0d;
        }
        let mut cdb = Sent::new(action, 0, 0).kind(kind).cdb();
        cdb[5..9].copy_from_slice(&claimed.to_be_bytes());
        if let Ok(order) = Order::parse(Cdb(&cdb), &list) {
            let around = Around { ports: &ports(), known: &[], can_persist: true };
            if let Ok(outcome) = Reservations::default().apply(&nexus("a"), &order, around) {
                check_invariants(&outcome.next);
            }
        }
    }

    #[test]
    fn any_transport_id_is_understood_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64), header in 0usize..3) {
        let mut bytes = bytes;
        let known = [[0x05, 0, 0, 20], [0x45, 0, 0, 40], [0xff, 0, 0, 4]][header];
        for (slot, byte) in bytes.iter_mut().zip(known) {
            *slot = byte;
        }
        if let Some((id, taken)) = TransportId::parse(&bytes) {
            prop_assert!(taken <= bytes.len());
            let encoded = id.encode();
            prop_assert_eq!(TransportId::parse(&encoded), Some((id, encoded.len())));
        }
    }

    #[test]
    fn transport_ids_come_back(name in "iqn\\.2026-11\\.[a-z]{1,9}(:[a-z0-9.-]{1,40})?", isid in any::<Option<[u8; 6]>>()) {
        let id = TransportId { name, isid };
        let bytes = id.encode();
        prop_assert_eq!(bytes.len() % 4, 0);
        prop_assert_eq!(TransportId::parse_all(&[bytes.clone(), bytes].concat()), Some(vec![id.clone(), id]));
    }
}
