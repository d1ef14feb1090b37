//! Starts that are refused because the journal is not what it was, and what `force` makes of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use block_io::{BlockDevice, Buffer, Durability, MemoryDevice};

use super::JournalError;
use crate::array::{
    Array, ArrayState, AssembleError, AssembleOptions, CreateSpec, Environment, MemberDevice, Policy,
    assemble, create,
};
use crate::format::PAGE_BYTES;
use crate::format::labsan::journal_head::JournalHead;
use crate::format::layout::MemberLayout;
use crate::geometry::Level;

const MEMBER_BYTES: usize = 20 << 20;
const BLOCK: u64 = 4096;

fn device(disk: &MemoryDevice) -> MemberDevice {
    MemberDevice { path: PathBuf::from(disk.name()), device: Arc::new(disk.clone()) }
}

fn environment() -> Environment {
    Environment { hostname: "box".to_owned() }
}

/// One life of an array: what still runs when `life` ends is cut off.
fn run<R>(life: impl Future<Output = R>) -> R {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, life)
}

/// An array that went down with five commits in its journal: block `n` holds `n`.
fn cut_off() -> Vec<MemoryDevice> {
    let disks: Vec<MemoryDevice> =
        (0..3).map(|index| MemoryDevice::new(&format!("/disks/{index}"), MEMBER_BYTES)).collect();
    run(async {
        let spec = CreateSpec {
            name: "tank".to_owned(),
            level: Level::Raid5,
            chunk_bytes: 16 << 10,
            policy: Policy::Journal,
            members: disks.iter().map(device).collect(),
            spares: Vec::new(),
            force: false,
        };
        let array = create(spec, &environment()).await.unwrap();
        for number in 1..=5u8 {
            let data = vec![number; BLOCK as usize];
            array.write(u64::from(number) * BLOCK, data.into(), Durability::Durable).await.unwrap();
        }
    });
    disks
}

async fn start(disks: &[MemoryDevice], force: bool) -> Result<Array, AssembleError> {
    assemble(disks.iter().map(device).collect(), AssembleOptions { force }, &environment()).await
}

async fn first_byte(array: &Array, number: u64) -> u8 {
    let (buffer, result) = array.read(number * BLOCK, Buffer::zeroed(BLOCK as usize)).await;
    result.unwrap();
    buffer[0]
}

async fn resyncs(array: &Array) {
    assert_eq!(array.status().await.state, ArrayState::Resyncing);
    while array.status().await.state != ArrayState::Optimal {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_commit_that_is_damaged_everywhere_is_refused_and_given_up_only_by_force() {
    let disks = cut_off();
    let ring = MemberLayout::for_member(MEMBER_BYTES as u64).unwrap().journal;
    let mut damaged = 0;
    for disk in &disks {
        disk.tamper(|bytes| {
            for page in bytes[ring.offset as usize..(ring.offset + ring.len) as usize].chunks_mut(PAGE_BYTES)
            {
                if page.starts_with(b"LABSANJR") && page[32] == 3 {
                    page[100] ^= 1;
                    damaged += 1;
                }
            }
        });
    }
    assert_eq!(damaged, 2, "a commit has two copies");
    let refused = run(async { start(&disks, false).await.map(|_| ()) });
    let Err(AssembleError::Journal(JournalError::Damaged { missing: 3, later: 4, .. })) = refused else {
        panic!("{refused:?}")
    };
    run(async {
        let array = start(&disks, true).await.unwrap();
        for (number, expected) in [(1, 1), (2, 2), (3, 0), (4, 0), (5, 0)] {
            assert_eq!(first_byte(&array, number).await, expected, "block {number}");
        }
        // What was given up may have been half-way in place.
        resyncs(&array).await;
        array.write(4 * BLOCK, vec![44; BLOCK as usize].into(), Durability::Durable).await.unwrap();
    });
    run(async {
        let array = start(&disks, false).await.unwrap();
        assert_eq!((first_byte(&array, 4).await, first_byte(&array, 5).await), (44, 0));
    });
}

#[test]
fn a_head_that_names_a_longer_ring_than_there_is_does_not_count() {
    let disks = cut_off();
    let layout = MemberLayout::for_member(MEMBER_BYTES as u64).unwrap();
    let at = layout.journal_head.offset as usize;
    let uuid = run(async { start(&disks, false).await.unwrap().uuid() });
    for disk in &disks {
        disk.tamper(|bytes| {
            let region = &mut bytes[at..at + 2 * PAGE_BYTES];
            let head = JournalHead::find(region, uuid).unwrap();
            let ring_bytes = layout.journal.len + (1 << 20);
            let longer = JournalHead { ring_bytes, generation: head.generation + 1, ..head };
            let side = longer.side().index() * PAGE_BYTES;
            region.fill(0);
            region[side..side + PAGE_BYTES].copy_from_slice(&longer.encode(uuid));
        });
    }
    let refused = run(async { start(&disks, false).await.map(|_| ()) });
    assert!(matches!(refused, Err(AssembleError::Journal(JournalError::Missing { .. }))), "{refused:?}");
}

#[test]
fn a_journal_that_cannot_be_found_is_refused_and_begun_anew_only_by_force() {
    let disks = cut_off();
    let head = MemberLayout::for_member(MEMBER_BYTES as u64).unwrap().journal_head;
    for disk in &disks {
        disk.tamper(|bytes| bytes[head.offset as usize..(head.offset + head.len) as usize].fill(0));
    }
    let refused = run(async { start(&disks, false).await.map(|_| ()) });
    assert!(matches!(refused, Err(AssembleError::Journal(JournalError::Missing { .. }))), "{refused:?}");
    run(async {
        let array = start(&disks, true).await.unwrap();
        assert_eq!(first_byte(&array, 1).await, 0);
        resyncs(&array).await;
        array.write(BLOCK, vec![11; BLOCK as usize].into(), Durability::Durable).await.unwrap();
    });
    run(async {
        let array = start(&disks, false).await.unwrap();
        assert_eq!((first_byte(&array, 1).await, first_byte(&array, 2).await), (11, 0));
    });
}
