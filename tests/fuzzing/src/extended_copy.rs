//! EXTENDED COPY: any parameter lists, carried out between two units in memory and one that is read-only.
//!
//! A list that is carried out leaves what copying its segments one by one leaves; one that is refused leaves everything.

use std::sync::Arc;

use block_io::MemoryDevice;
use bytes::Bytes;
use iscsi_target::fuzzing;
use iscsi_target::scsi::{LuOptions, LunMap, Nexus, ScsiCommand, ScsiResponse, Status};
use smallvec::SmallVec;

use crate::input::Input;
use crate::units::{self, POOL, UNIT_BYTES};

const TARGET: &str = "iqn.2026-11.org.labsan:copy";
const BLOCK_BYTES: [usize; 3] = [512, 4096, 512];
const READ_ONLY: usize = 2;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let raw = input.u8();
    let luns = LunMap::new(TARGET);
    let mut devices = Vec::new();
    for (number, block_bytes) in BLOCK_BYTES.into_iter().enumerate() {
        let options =
            LuOptions { read_only: number == READ_ONLY, write_cache: number == 1, ..LuOptions::default() };
        let (device, unit) = units::unit(number as u8, block_bytes as u32, options);
        luns.insert(number as u16, Arc::clone(&unit)).unwrap();
        devices.push(device);
    }
    let nexus = units::nexus(1, TARGET, 1);
    luns.nexus_met(&nexus);
    units::run(async {
        let designators = designators(&luns, &nexus).await;
        let list = if raw & 1 != 0 { input.rest().to_vec() } else { list(&mut input, &designators) };
        understood(&list);
        let before: Vec<Vec<u8>> = devices.iter().map(MemoryDevice::contents).collect();
        let mut cdb = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        cdb.extend_from_slice(&(list.len() as u32).to_be_bytes());
        let response = send(&luns, &nexus, cdb, &list).await;
        assert_eq!(POOL.with(block_io::BufferPool::used_bytes), 0, "memory is left behind");
        let mut expected = before;
        if response.status == Status::Good && list.len() >= 16 {
            copy(&list, &designators, &mut expected);
        }
        for (device, expected) in devices.iter().zip(&expected) {
            assert!(device.contents() == *expected, "after {:?}", response.status);
        }
        let id = list.first().copied().unwrap_or(0);
        for action in [0, 3, 4] {
            let asked = vec![0x84, action, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
            let told = send(&luns, &nexus, asked, &[]).await;
            assert!(told.data_in.len() < 256);
        }
    });
}

/// What is understood of a list, written down, is understood alike; and it is no longer than the list.
fn understood(list: &[u8]) {
    let Some(encoded) = fuzzing::copy_list(list) else { return };
    assert!(encoded.len() <= list.len());
    assert_eq!(fuzzing::copy_list(&encoded).as_ref(), Some(&encoded));
    // The lengths, and what segments say.
    assert_eq!(encoded[2..4], list[2..4]);
    assert_eq!(encoded[8..16], list[8..16]);
    let segments = 16 + usize::from(u16::from_be_bytes([list[2], list[3]]));
    for (ours, theirs) in encoded[segments..].chunks(28).zip(list[segments..].chunks(28)) {
        assert_eq!((ours[0], ours[1], &ours[2..8]), (theirs[0], theirs[1] & 2, &theirs[2..8]));
        assert_eq!(ours[10..], theirs[10..]);
    }
}

async fn send(luns: &LunMap, nexus: &Nexus, mut cdb: Vec<u8>, list: &[u8]) -> ScsiResponse {
    cdb.resize(16, 0);
    let command = ScsiCommand {
        lun: 0,
        cdb: SmallVec::from_slice(&cdb),
        data_out: Bytes::copy_from_slice(list),
        expected_data_out: list.len() as u32,
        expected_data_in: 1 << 16,
        abort: None,
    };
    let pool = POOL.with(Clone::clone);
    let response = luns.execute(nexus, command, &pool).await;
    units::well_formed(&response);
    response
}

/// The NAA designator of each unit, as it tells it.
async fn designators(luns: &LunMap, nexus: &Nexus) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for number in 0..BLOCK_BYTES.len() as u64 {
        let command = ScsiCommand {
            lun: number << 48,
            cdb: SmallVec::from_slice(&[0x12, 1, 0x83, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            data_out: Bytes::new(),
            expected_data_out: 0,
            expected_data_in: 255,
            abort: None,
        };
        let pool = POOL.with(Clone::clone);
        found.push(luns.execute(nexus, command, &pool).await.data_in[8..16].to_vec());
    }
    found
}

/// A list that makes sense as often as not.
fn list(input: &mut Input<'_>, designators: &[Vec<u8>]) -> Vec<u8> {
    let (targets, segments) = (input.u8() % 18, input.u8() % 66);
    let (id, usage) = (input.u8(), input.u8());
    let mut list = vec![id, usage & 0x18];
    list.extend_from_slice(&(u16::from(targets) * 32).to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    list.extend_from_slice(&(u32::from(segments) * 28).to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    for _ in 0..targets {
        let which = input.u8();
        let mut target = vec![0xe4, 0, 0, 0, 1, 3, 0, 8];
        target.extend_from_slice(&designators[usize::from(which) % designators.len()]);
        target.resize(28, 0);
        target.extend_from_slice(&(BLOCK_BYTES[usize::from(which) % BLOCK_BYTES.len()] as u32).to_be_bytes());
        if which & 0x80 != 0 {
            target[usize::from(input.u8()) % 32] = input.u8();
        }
        list.extend_from_slice(&target);
    }
    for _ in 0..segments {
        let how = input.u8();
        let mut segment = vec![0x02, how & 2, 0, 24, 0, how >> 2 & 3, 0, how >> 4 & 3, 0, 0];
        segment.extend_from_slice(&u16::from(input.u8()).to_be_bytes());
        segment.extend_from_slice(&u64::from(input.u8()).to_be_bytes());
        segment.extend_from_slice(&u64::from(input.u8()).to_be_bytes());
        if how & 0x80 != 0 {
            segment[usize::from(input.u8()) % 28] = input.u8();
        }
        list.extend_from_slice(&segment);
    }
    list
}

/// Copy segment by segment, as the list says.
fn copy(list: &[u8], designators: &[Vec<u8>], units: &mut [Vec<u8>]) {
    let number = |bytes: &[u8]| bytes.iter().fold(0usize, |value, byte| value << 8 | usize::from(*byte));
    let targets = number(&list[2..4]);
    let segments = number(&list[8..12]);
    let unit = |index: usize| {
        let target = &list[16 + index * 32..][..32];
        let named = &target[8..8 + usize::from(target[7])];
        designators.iter().position(|designator| designator == named).expect("a unit that is there")
    };
    for segment in list[16 + targets..16 + targets + segments].chunks(28) {
        let (from, to) = (unit(number(&segment[4..6])), unit(number(&segment[6..8])));
        assert_ne!(to, READ_ONLY);
        let counted = if segment[1] & 2 != 0 { to } else { from };
        let bytes = number(&segment[10..12]) * BLOCK_BYTES[counted];
        let (at, place) =
            (number(&segment[12..20]) * BLOCK_BYTES[from], number(&segment[20..28]) * BLOCK_BYTES[to]);
        assert!(at + bytes <= UNIT_BYTES && place + bytes <= UNIT_BYTES);
        let copied = units[from][at..at + bytes].to_vec();
        units[to][place..place + bytes].copy_from_slice(&copied);
    }
}
