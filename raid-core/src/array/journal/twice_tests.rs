//! Two starts in a row: what the first leaves in the rings must not mislead the second. With the feature `sabotage` also that
//! it does where the rule is left out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use block_io::{BlockDevice, Buffer, Durability, IoErrorKind, MemoryDevice};

use crate::array::{Array, AssembleOptions, CreateSpec, Environment, MemberDevice, Policy, assemble, create};
use crate::format::PAGE_BYTES;
use crate::format::layout::MemberLayout;
use crate::geometry::Level;

const MEMBER_BYTES: usize = 20 << 20;
const BLOCK: u64 = 4096;
const CHUNK: u64 = 16 << 10;
/// Of three members.
const STRIPE: u64 = 2 * CHUNK;

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

async fn new_array(disks: &[MemoryDevice]) -> Array {
    let spec = CreateSpec {
        name: "tank".to_owned(),
        level: Level::Raid5,
        chunk_bytes: CHUNK,
        policy: Policy::Journal,
        members: disks.iter().map(device).collect(),
        spares: Vec::new(),
        force: false,
    };
    create(spec, &environment()).await.unwrap()
}

fn new_disks() -> Vec<MemoryDevice> {
    (0..3).map(|index| MemoryDevice::new(&format!("/disks/{index}"), MEMBER_BYTES)).collect()
}

async fn start(disks: &[MemoryDevice]) -> Array {
    assemble(disks.iter().map(device).collect(), AssembleOptions::default(), &environment()).await.unwrap()
}

async fn write(array: &Array, at: u64, bytes: u64, value: u8) {
    array.write(at, vec![value; bytes as usize].into(), Durability::Durable).await.unwrap();
}

async fn read(array: &Array, at: u64) -> Result<u8, IoErrorKind> {
    let (buffer, result) = array.read(at, Buffer::zeroed(BLOCK as usize)).await;
    result.map(|()| buffer[0]).map_err(|error| error.kind)
}

/// Long enough for everything to be in its place and the ring empty.
async fn rest() {
    tokio::time::sleep(Duration::from_secs(10)).await;
}

/// First pages of this commit on a disk, taken away and given.
fn take_record(disk: &MemoryDevice, sequence: u8) -> Vec<(usize, Vec<u8>)> {
    let ring = MemberLayout::for_member(MEMBER_BYTES as u64).unwrap().journal;
    let mut taken = Vec::new();
    disk.tamper(|bytes| {
        for at in (ring.offset as usize..(ring.offset + ring.len) as usize).step_by(PAGE_BYTES) {
            let page = &mut bytes[at..at + PAGE_BYTES];
            if page.starts_with(b"LABSANJR") && page[32] == sequence {
                taken.push((at, page.to_vec()));
                page.fill(0);
            }
        }
    });
    taken
}

fn newest_record(disks: &[MemoryDevice]) -> u8 {
    let ring = MemberLayout::for_member(MEMBER_BYTES as u64).unwrap().journal;
    let newest = |disk: &MemoryDevice| {
        let contents = disk.contents();
        let pages = contents[ring.offset as usize..(ring.offset + ring.len) as usize].chunks(PAGE_BYTES);
        pages.filter(|page| page.starts_with(b"LABSANJR")).map(|page| page[32]).max()
    };
    disks.iter().filter_map(newest).max().unwrap()
}

/// A commit that was never acknowledged is on one member, where one start cannot read it, and the next can.
fn read_after_a_commit_was_hidden() -> Result<u8, IoErrorKind> {
    let disks = new_disks();
    run(async {
        let array = new_array(&disks).await;
        write(&array, 0, BLOCK, 1).await;
        rest().await;
        write(&array, 0, BLOCK, 2).await;
    });
    let last = newest_record(&disks);
    let mut copies: Vec<_> = disks.iter().map(|disk| take_record(disk, last)).collect();
    let seen = run(async { read(&start(&disks).await, 0).await });
    assert_eq!(seen, Ok(1), "nothing of the second write is there");
    let keeper = copies.iter().position(|pages| !pages.is_empty()).unwrap();
    for (at, page) in copies.swap_remove(keeper) {
        disks[keeper].tamper(|bytes| bytes[at..at + PAGE_BYTES].copy_from_slice(&page));
    }
    run(async { read(&start(&disks).await, 0).await })
}

/// A whole stripe was being written when the power went, with something older in the journal; everybody comes back. Then the
/// power goes once more, and with it a member.
fn read_after_an_intent_and_a_lost_member() -> Result<u8, IoErrorKind> {
    let disks = new_disks();
    run(async {
        let array = new_array(&disks).await;
        write(&array, 0, STRIPE, 1).await;
        rest().await;
        let before: Vec<Vec<u8>> = disks.iter().map(MemoryDevice::contents).collect();
        write(&array, 5 * STRIPE, BLOCK, 7).await;
        write(&array, 0, STRIPE, 2).await;
        // The intent is there, of the stripe nothing.
        let data = MemberLayout::for_member(MEMBER_BYTES as u64).unwrap().data_offset as usize;
        for (disk, before) in disks.iter().zip(before) {
            disk.tamper(|bytes| bytes[data..].copy_from_slice(&before[data..]));
        }
    });
    let seen = run(async { read(&start(&disks).await, 0).await });
    assert_eq!(seen, Ok(1), "what was there before, as everybody is");
    run(async { read(&start(&disks[1..]).await, 0).await })
}

#[test]
fn a_commit_that_a_start_did_not_see_stays_unseen() {
    assert_eq!(read_after_a_commit_was_hidden(), Ok(1));
}

#[test]
fn an_intent_is_gone_before_anybody_reads_its_stripe() {
    assert_eq!(read_after_an_intent_and_a_lost_member(), Ok(1));
}

#[cfg(feature = "sabotage")]
mod sabotaged {
    use super::*;
    use crate::sabotage::{Sabotage, plant};

    /// What becomes of it where a rule is left out.
    fn with<R>(planted: Sabotage, scenario: impl FnOnce() -> R) -> R {
        plant(Some(planted));
        let outcome = scenario();
        plant(None);
        outcome
    }

    #[test]
    fn without_an_epoch_of_its_own_a_start_leaves_records_to_the_next() {
        assert_eq!(with(Sabotage::StaleEpochReplayed, read_after_a_commit_was_hidden), Ok(2));
    }

    #[test]
    fn an_intent_that_outlives_a_start_condemns_what_it_left() {
        let outcome = with(Sabotage::ServedWithIntent, read_after_an_intent_and_a_lost_member);
        assert_eq!(outcome, Err(IoErrorKind::Medium));
    }
}
