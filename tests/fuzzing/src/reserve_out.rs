//! PERSISTENT RESERVE OUT: any parameter lists, from several nexuses through two targets, beside what else befalls them.
//!
//! What must hold after each step: nobody is registered twice or with key 0, a holder is registered, an order that is
//! refused changes nothing, what APTPL keeps is what is in force, and reads and writes pass as SPC-4 has it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use iscsi_target::fuzzing;
use iscsi_target::limits::MAX_REGISTRATIONS;
use iscsi_target::scsi::reservations::{ItNexus, Kind, Reservations};
use iscsi_target::scsi::{
    LogicalUnit, LuOptions, LunMap, Nexus, Restored, ScsiCommand, ScsiResponse, Status, StoreFailed,
    StoreFuture, UnitRecord, UnitStore,
};
use smallvec::SmallVec;

use crate::input::Input;
use crate::units::{self, POOL};

const TARGETS: [&str; 2] = ["iqn.2026-11.org.labsan:one", "iqn.2026-11.org.labsan:two"];
const MOST_STEPS: usize = 40;

#[derive(Debug, Default)]
struct Store {
    fails: AtomicBool,
    kept: Mutex<Option<UnitRecord>>,
}

impl UnitStore for Store {
    fn store(&self, record: Option<UnitRecord>) -> StoreFuture<'_> {
        Box::pin(async move {
            if self.fails.load(Ordering::Relaxed) {
                return Err(if record.is_some() { StoreFailed::NoRoom } else { StoreFailed::Unwritten });
            }
            *self.kept.lock().unwrap() = record;
            Ok(())
        })
    }
}

struct World {
    luns: [LunMap; 2],
    unit: Arc<LogicalUnit>,
    store: Arc<Store>,
    nexuses: Vec<(usize, Nexus)>,
}

pub(crate) fn run(bytes: &[u8]) {
    transport_id(bytes);
    let mut input = Input::new(bytes);
    let luns = [LunMap::behind(TARGETS[0], 1), LunMap::behind(TARGETS[1], 2)];
    let (device, _) = units::unit(1, 512, LuOptions::default());
    let store = Arc::new(Store::default());
    let unit = LogicalUnit::restored(
        Arc::new(device),
        units::identity(1),
        LuOptions::default(),
        Arc::clone(&store) as Arc<dyn UnitStore>,
        Restored::default(),
    );
    luns[0].insert(0, Arc::clone(&unit)).unwrap();
    luns[1].insert(0, unit.view(LuOptions::default())).unwrap();
    let places = [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1)];
    let nexuses = places.map(|(number, at)| (at, units::nexus(number, TARGETS[at], at as u16 + 1))).to_vec();
    let world = World { luns, unit, store, nexuses };
    units::run(async {
        for (at, nexus) in &world.nexuses {
            world.luns[*at].nexus_met(nexus);
        }
        for _ in 0..MOST_STEPS {
            if input.is_empty() {
                break;
            }
            world.step(&mut input).await;
        }
    });
}

/// A TransportID that is understood is written down as one that is understood alike.
fn transport_id(bytes: &[u8]) {
    let Some((encoded, taken)) = fuzzing::transport_id(bytes) else { return };
    assert!(taken <= bytes.len() && encoded.len() >= 24 && encoded.len().is_multiple_of(4));
    assert_eq!(fuzzing::transport_id(&encoded), Some((encoded.clone(), encoded.len())));
}

impl World {
    async fn step(&self, input: &mut Input<'_>) {
        let what = input.u8();
        let (at, nexus) = &self.nexuses[usize::from(what >> 4) % self.nexuses.len()];
        let before = self.unit.reservations();
        match what & 0x0f {
            0..=7 => {
                let (cdb, list) = order(input);
                let response = self.send(*at, nexus, cdb, &list, u32::MAX).await;
                if response.status != Status::Good {
                    assert_eq!(self.unit.reservations(), before, "refused, and changed all the same");
                }
            }
            8 => {
                let cdb = [&[0x5f][..], &input.array::<15>()].concat();
                let list = input.part();
                self.send(*at, nexus, cdb, list, input.u16().into()).await;
            }
            9 | 10 => self.ask(*at, nexus, input).await,
            11 => {
                self.luns[*at].nexus_lost(nexus);
                assert_eq!(self.unit.reservations(), before, "registrations outlive sessions");
            }
            12 => self.luns[*at].nexus_met(nexus),
            13 => self.store.fails.store(input.chance(), Ordering::Relaxed),
            _ => self.read_or_write(*at, nexus, input.chance()).await,
        }
        self.check();
    }

    async fn send(
        &self,
        at: usize,
        nexus: &Nexus,
        mut cdb: Vec<u8>,
        list: &[u8],
        offered: u32,
    ) -> ScsiResponse {
        cdb.resize(16, 0);
        let wanted = self.luns[at].data_out_length(nexus, 0, &cdb).unwrap_or(0);
        let sent = list.len().min(wanted as usize).min(offered as usize);
        let command = ScsiCommand {
            lun: 0,
            cdb: SmallVec::from_slice(&cdb),
            data_out: Bytes::copy_from_slice(&list[..sent]),
            expected_data_out: sent as u32,
            expected_data_in: 1 << 16,
            abort: None,
        };
        let pool = POOL.with(Clone::clone);
        let response = self.luns[at].execute(nexus, command, &pool).await;
        units::well_formed(&response);
        response
    }

    /// PERSISTENT RESERVE IN tells what is so.
    async fn ask(&self, at: usize, nexus: &Nexus, input: &mut Input<'_>) {
        let action = input.u8() & 0x1f;
        let allocation = if input.chance() { 0xffff } else { input.u16() };
        let [high, low] = allocation.to_be_bytes();
        let response = self.send(at, nexus, vec![0x5e, action, 0, 0, 0, 0, 0, high, low], &[], 0).await;
        assert!(response.data_in.len() <= usize::from(allocation));
        let state = self.unit.reservations();
        if response.status != Status::Good || action == 2 || response.data_in.len() < 8 {
            return;
        }
        let number = |at: usize| u32::from_be_bytes(response.data_in[at..at + 4].try_into().unwrap());
        assert_eq!(number(0), state.generation);
        let told = number(4) as usize;
        let body = &response.data_in[8..];
        assert!(body.len() == told || usize::from(allocation) == body.len() + 8);
        match action {
            0 => assert_eq!(told, state.registrations.len() * 8),
            1 => assert_eq!(told, state.reservation.iter().count() * 16),
            _ if body.len() == told => full_status(body, &state),
            _ => {}
        }
    }

    async fn read_or_write(&self, at: usize, nexus: &Nexus, write: bool) {
        let state = self.unit.reservations();
        let response = self.send(at, nexus, vec![if write { 0x2a } else { 0x28 }], &[], 0).await;
        let own = ItNexus::from(nexus);
        let registered = state.registrations.iter().any(|one| one.nexus == own);
        let kept_out = state.reservation.is_some_and(|reservation| {
            use Kind::{
                ExclusiveAccess, ExclusiveAccessAllRegistrants, ExclusiveAccessRegistrantsOnly,
                WriteExclusive, WriteExclusiveAllRegistrants, WriteExclusiveRegistrantsOnly,
            };
            let (reads, shared) = match reservation.kind {
                WriteExclusive => (true, false),
                ExclusiveAccess => (false, false),
                WriteExclusiveRegistrantsOnly | WriteExclusiveAllRegistrants => (true, true),
                ExclusiveAccessRegistrantsOnly | ExclusiveAccessAllRegistrants => (false, true),
            };
            let has_rights = reservation.holder.as_ref() == Some(&own) || (shared && registered);
            !has_rights && (write || !reads)
        });
        assert_eq!(response.status == Status::ReservationConflict, kept_out, "{response:?}");
    }

    fn check(&self) {
        let state = self.unit.reservations();
        assert!(state.registrations.len() <= MAX_REGISTRATIONS);
        for (index, one) in state.registrations.iter().enumerate() {
            assert_ne!(one.key, 0);
            assert!(state.registrations[..index].iter().all(|other| other.nexus != one.nexus));
            assert_eq!(one.nexus.initiator_name, one.nexus.initiator_name.to_ascii_lowercase());
        }
        if let Some(reservation) = &state.reservation {
            match &reservation.holder {
                Some(holder) => assert!(state.registrations.iter().any(|one| one.nexus == *holder)),
                None => assert!(!state.registrations.is_empty() && reservation.kind.all_registrants()),
            }
        }
        let record = UnitRecord::of(&state, None);
        assert_eq!(*self.store.kept.lock().unwrap(), record, "kept is what is in force");
        if let Some(record) = record {
            let restored = record.restore().unwrap();
            assert_eq!(restored.reservations, Reservations { generation: 0, ..state });
        }
    }
}

/// READ FULL STATUS names every registration, in order.
fn full_status(mut body: &[u8], state: &Reservations) {
    for one in &state.registrations {
        assert_eq!(body[..8], one.key.to_be_bytes());
        assert_eq!(body[12] & 1 != 0, state.is_held_by(&one.nexus));
        let length = u32::from_be_bytes(body[20..24].try_into().unwrap()) as usize;
        let (id, rest) = body[24..].split_at(length);
        assert_eq!(fuzzing::transport_id(id), Some((id.to_vec(), length)));
        body = rest;
    }
    assert!(body.is_empty());
}

/// An order that makes sense as often as not.
fn order(input: &mut Input<'_>) -> (Vec<u8>, Vec<u8>) {
    let (action, kind) = (input.u8() & 0x1f, input.u8());
    let keys = input.u8();
    let (key, other_key) = (u64::from(keys & 3), u64::from(keys >> 2 & 3));
    let flags = input.u8();
    let ids: Vec<u8> = (0..keys >> 6).flat_map(|_| one_id(input)).collect();
    let mut list = [key.to_be_bytes(), other_key.to_be_bytes()].concat();
    if action == 7 {
        list.extend_from_slice(&[0, flags & 3, 0, flags >> 2 & 3]);
        list.extend_from_slice(&(ids.len() as u32).to_be_bytes());
        list.extend_from_slice(&ids);
    } else {
        list.extend_from_slice(&[0, 0, 0, 0, flags & 0x0d, 0, 0, 0]);
        if flags & 8 != 0 {
            list.extend_from_slice(&(ids.len() as u32).to_be_bytes());
            list.extend_from_slice(&ids);
        }
    }
    let mut cdb = vec![0x5f, action, kind, 0, 0];
    cdb.extend_from_slice(&(list.len() as u32).to_be_bytes());
    (cdb, list)
}

fn one_id(input: &mut Input<'_>) -> Vec<u8> {
    let what = input.u8();
    if what & 0x80 != 0 {
        return input.part().to_vec();
    }
    let name = format!("iqn.2026-11.com.example:node{}", what & 3);
    let port = if what & 4 != 0 { format!(",i,0x8000000000{:02x}", what >> 3) } else { String::new() };
    let mut text = format!("{name}{port}\0").into_bytes();
    text.resize(text.len().next_multiple_of(4), 0);
    let mut id = vec![if what & 4 != 0 { 0x45 } else { 0x05 }, 0];
    id.extend_from_slice(&(text.len() as u16).to_be_bytes());
    id.extend_from_slice(&text);
    id
}
