//! The list of lost blocks across starts and new members.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use block_io::{BlockDevice, Buffer, MemoryDevice};

use crate::array::{
    Array, ArrayState, AssembleError, AssembleOptions, CreateSpec, Environment, MemberDevice, Policy,
    assemble, create,
};
use crate::format::badblocks;
use crate::format::labsan::lost::LostBlocks;
use crate::geometry::{Level, Row};

const LOST: Range<u64> = 0..4096;

fn disks(count: usize) -> Vec<MemoryDevice> {
    (0..count).map(|index| MemoryDevice::new(&format!("/disks/{index}"), 20 << 20)).collect()
}

fn device(disk: &MemoryDevice) -> MemberDevice {
    MemberDevice { path: PathBuf::from(disk.name()), device: Arc::new(disk.clone()) }
}

fn environment() -> Environment {
    Environment { hostname: "box".to_owned() }
}

/// One life of an array: what still runs when `life` ends is cut off.
fn run<F: Future<Output = ()>>(life: F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, life);
}

async fn new_array(disks: &[MemoryDevice]) -> Array {
    let spec = CreateSpec {
        name: "tank".to_owned(),
        level: Level::Raid5,
        chunk_bytes: 16 << 10,
        policy: Policy::Journal,
        members: disks.iter().map(device).collect(),
        spares: Vec::new(),
        force: false,
    };
    create(spec, &environment()).await.unwrap()
}

async fn start(disks: &[MemoryDevice]) -> Array {
    assemble(disks.iter().map(device).collect(), AssembleOptions::default(), &environment()).await.unwrap()
}

#[test]
fn a_list_that_a_newer_labsan_wrote_is_not_passed_over() {
    run(async {
        let disks = disks(3);
        let array = new_array(&disks).await;
        array.core.declare_lost(std::slice::from_ref(&LOST)).await.unwrap();
        let [_, region] = array.core.table().current().next().unwrap().layout.lost;
        let newer = LostBlocks::newer_copy(array.uuid(), 9).unwrap();
        array.stop().await.unwrap();
        drop(array);
        let at = region.offset as usize;
        disks[1].tamper(|bytes| bytes[at..at + newer.len()].copy_from_slice(&newer));
        let refused =
            assemble(disks.iter().map(device).collect(), AssembleOptions { force: true }, &environment())
                .await;
        assert!(matches!(refused, Err(AssembleError::Lost { .. })), "{refused:?}");
    });
}

#[test]
fn a_rebuilt_member_tells_md_which_of_its_blocks_are_lost() {
    run(async {
        let disks = disks(4);
        let array = new_array(&disks[..3]).await;
        array.core.declare_lost(std::slice::from_ref(&LOST)).await.unwrap();
        let slot = usize::from(array.core.geometry.row_member(0, Row::Data(0)).0);
        array.fail(disks[slot].name().as_ref(), false).await.unwrap();
        array.add(device(&disks[3]), false).await.unwrap();
        while array.status().await.state != ArrayState::Optimal {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let member = array.core.member_at(disks[3].name().as_ref()).unwrap();
        let log = member.layout.bad_block_log;
        let bytes = &disks[3].contents()[log.offset as usize..(log.offset + log.len) as usize];
        let first = member.layout.data_offset / 512;
        assert_eq!(badblocks::parse(bytes, 0).unwrap(), vec![Range { start: first, end: first + 8 }]);
    });
}

#[test]
fn what_one_member_knows_of_lost_blocks_all_know_after_a_start() {
    let disks = disks(3);
    run(async {
        let array = new_array(&disks).await;
        array.core.declare_lost(&[LOST, 65536..69632]).await.unwrap();
        // The power goes while the next update, of a block that was rewritten, is on one member only.
        let mut list = array.core.lost.lock().unwrap().clone();
        list.remove(&LOST);
        list.generation += 1;
        let page = list.encode(array.uuid()).unwrap();
        let first = array.core.member_at(disks[0].name().as_ref()).unwrap();
        array.core.write_lost(&first, &list, &page).await.unwrap();
    });
    run(async { assert_eq!(start(&disks).await.core.lost_bytes(), 4096) });
    run(async {
        let array = start(&disks[1..]).await;
        assert_eq!(array.core.lost_bytes(), 4096, "the member that knew is missing");
        let (_, result) = array.read(LOST.start, Buffer::zeroed(4096)).await;
        assert!(result.is_ok(), "{result:?}");
    });
}
