//! Atomic writes of mirrors, cut after every operation, with every set of members that may be lost: all or nothing, and nothing
//! that was written later is undone.

use std::cell::Cell;

use super::*;
use crate::array::AssembleError;
use crate::array::journal::JournalError;
use crate::format::labsan::header::{Header, REDO_RECORDS, SEARCH_BYTES};
use crate::format::labsan::journal_record::{self, Item, Stamp, record_bytes};
use crate::format::layout::MemberLayout;
use crate::format::superblock::{SUPER_OFFSET_BYTES, Superblock};

const BLOCK: u64 = 4096;
/// Not on a boundary of anything but a block, over several units of any size.
const AT: u64 = BLOCK;
const LENGTH: u64 = 160 << 10;
/// A block of the atomic write that is written once more after it.
const LATER: u64 = AT + 72 * 1024;

/// What was acknowledged when the power went.
#[derive(Default)]
struct Told {
    atomic: Cell<bool>,
    later: Cell<bool>,
    done: Cell<bool>,
}

fn filled(value: u64, length: u64) -> Bytes {
    value.to_le_bytes().repeat(length as usize / 8).into()
}

/// Sets of members that may be lost.
fn losses(level: Level, members: usize) -> Vec<Vec<usize>> {
    let bears = |lost: &[usize]| match level {
        Level::Raid10 => {
            (0..members / 2).all(|pair| !(lost.contains(&(2 * pair)) && lost.contains(&(2 * pair + 1))))
        }
        _ => lost.len() < members,
    };
    (0..1_usize << members)
        .map(|bits| (0..members).filter(|member| bits >> member & 1 == 1).collect::<Vec<_>>())
        .filter(|lost| bears(lost))
        .collect()
}

impl World {
    /// The power goes after so many operations of an atomic write and what is written after it.
    fn cut_an_atomic_write(&mut self, operations: u64) -> Told {
        let told = Told::default();
        self.power_on(u64::MAX);
        let went_out = Arc::clone(&self.went_out);
        let world = &*self;
        run(async {
            let array = world.start().await;
            array.write(AT, filled(1, LENGTH), Durability::Durable).await.unwrap();
            world.power.lock().unwrap().left = operations;
            let life = async {
                array.write_atomic(AT, filled(2, LENGTH)).await.unwrap();
                told.atomic.set(true);
                array.write(LATER, filled(3, BLOCK), Durability::Durable).await.unwrap();
                told.later.set(true);
                told.done.set(true);
            };
            tokio::select! {
                biased;
                () = went_out.notified() => {}
                () = life => {}
            }
        });
        self.lose_power();
        told
    }

    fn lose_power(&mut self) {
        for disk in &self.disks {
            disk.cut(&mut self.random);
        }
    }

    /// A start that is cut short.
    fn begin_a_start(&mut self, operations: u64) {
        self.power_on(operations);
        let went_out = Arc::clone(&self.went_out);
        run(async {
            tokio::select! {
                biased;
                () = went_out.notified() => {}
                _ = self.start() => {}
            }
        });
        self.lose_power();
    }

    /// What is written now stays over one more power cut, and nothing else changes.
    fn write_and_read_again(&mut self, values: &[u64]) {
        run(async {
            let array = self.start().await;
            array.write(LATER, filled(4, BLOCK), Durability::Durable).await.unwrap();
        });
        self.lose_power();
        assert_eq!(self.read_window(), (values.to_vec(), 4), "a record came back");
    }

    /// The values of the window's blocks, the later one apart.
    fn read_window(&mut self) -> (Vec<u64>, u64) {
        self.power_on(u64::MAX);
        run(async {
            let array = self.start().await;
            let (buffer, result) = array.read(AT, Buffer::zeroed(LENGTH as usize)).await;
            result.unwrap();
            let mut values: Vec<u64> = buffer.chunks(SECTOR as usize).map(id_of).collect();
            let from = ((LATER - AT) / SECTOR) as usize;
            let later: Vec<u64> = values.drain(from..from + (BLOCK / SECTOR) as usize).collect();
            values.dedup();
            (values, later[0])
        })
    }
}

fn cut_everywhere(level: Level, members: usize, rounds: u64) {
    let losses = losses(level, members);
    let (mut none, mut all) = (0, 0);
    for operations in 1.. {
        let mut done = false;
        for round in 0..rounds {
            let mut world = World::new(level, members, 7);
            world.random = Random(operations * 8 + round);
            let told = world.cut_an_atomic_write(operations);
            done |= told.done.get();
            let first = world.random.below(losses.len() as u64) as usize;
            world.away.clone_from(&losses[first]);
            if round % 2 == 1 {
                let most = 60;
                let cut = 1 + world.random.below(most);
                world.begin_a_start(cut);
                let more: Vec<&Vec<usize>> = losses
                    .iter()
                    .filter(|lost| losses[first].iter().all(|member| lost.contains(member)))
                    .collect();
                let more = more[world.random.below(more.len() as u64) as usize].clone();
                world.away = more;
            }
            let (values, later) = world.read_window();
            world.write_and_read_again(&values);
            let what = format!("{level}, cut after {operations}, round {round}, lost {:?}", world.away);
            assert!(values == [1] || values == [2], "{what}: {values:?}");
            assert!(!told.atomic.get() || values == [2], "{what}: acknowledged, and {values:?}");
            assert!(later == values[0] || later == 3 && told.atomic.get(), "{what}: {values:?}, {later}");
            assert!(!told.later.get() || later == 3, "{what}: what was written later is {later}");
            *(if values == [1] { &mut none } else { &mut all }) += 1;
        }
        if done {
            break;
        }
    }
    assert!(none > 0 && all > 10, "{level}: {none} had nothing of it, {all} had all");
}

#[test]
fn a_mirrors_atomic_write_that_is_cut_anywhere_is_there_as_a_whole_or_not_at_all() {
    cut_everywhere(Level::Raid1, 2, 4);
    cut_everywhere(Level::Raid1, 3, 2);
    cut_everywhere(Level::Raid10, 4, 2);
}

/// Whoever sent it goes away at any moment: what is acknowledged later is not undone by what is left of it.
#[test]
fn an_abandoned_atomic_write_undoes_nothing_that_is_acknowledged_later() {
    let (mut refused, mut taken, mut unread) = (0, 0, 0);
    for (seed, polls) in (1..=4).flat_map(|seed| (1..=30).map(move |polls| (seed, polls))) {
        let mut world = World::new(Level::Raid1, 2, seed);
        let later = run(async {
            let array = world.start().await;
            array.write(AT, filled(1, LENGTH), Durability::Durable).await.unwrap();
            {
                let mut writing = array.write_atomic(AT, filled(2, LENGTH));
                for _ in 0..polls {
                    if futures_util::poll!(&mut writing).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            let (buffer, read) = array.read(AT, Buffer::zeroed(LENGTH as usize)).await;
            match read.map_err(|error| error.kind) {
                Ok(()) => {
                    let values: Vec<u64> = buffer.chunks(SECTOR as usize).map(id_of).collect();
                    assert!(values.iter().all(|value| *value == values[0]), "half of it was read");
                }
                Err(kind) => {
                    assert_eq!(kind, IoErrorKind::ArrayFailed);
                    unread += 1;
                }
            }
            array.write(LATER, filled(3, BLOCK), Durability::Durable).await
        });
        world.lose_power();
        let (values, found) = world.read_window();
        assert!(values == [1] || values == [2], "abandoned after {polls} polls: {values:?}");
        match later {
            Ok(()) => {
                assert_eq!(found, 3, "abandoned after {polls} polls");
                taken += 1;
            }
            Err(error) => {
                assert_eq!(error.kind, IoErrorKind::ArrayFailed);
                refused += 1;
            }
        }
    }
    assert!(refused > 10 && taken > 10, "{refused} times it refused writes, {taken} times it took them");
    assert_eq!(unread, refused, "what was given up is not read");
}

fn ring() -> u64 {
    MemberLayout::for_member(MEMBER_BYTES as u64).unwrap().journal.offset
}

impl Disk {
    /// Put bytes on the medium behind everyone's back.
    fn put(&self, offset: u64, bytes: &[u8]) {
        let range = offset as usize..offset as usize + bytes.len();
        self.state.lock().unwrap().durable[range.clone()].copy_from_slice(bytes);
        self.shown.tamper(|shown| shown[range].copy_from_slice(bytes));
    }

    /// A record of an atomic write that would put 9 where the window begins.
    fn put_record(&self, array: uuid::Uuid) {
        let data = filled(9, BLOCK);
        let mut record = vec![0; record_bytes(1, data.len())];
        let item = Item::Data { stripe: 0, start: AT as u32, length: BLOCK as u32 };
        let stamp = Stamp { epoch: 0, nonce: 0 };
        journal_record::encode(&mut record, array, 1, stamp, [(item, &data[..])].into_iter());
        self.put(ring(), &record);
    }

    fn incompatible_features(&self) -> u32 {
        let head = self.shown.contents();
        let superblock = Superblock::parse(&head[SUPER_OFFSET_BYTES as usize..][..4096]).unwrap();
        Header::find(&head[..SEARCH_BYTES], &superblock, MEMBER_BYTES as u64).unwrap().1.incompatible
    }
}

async fn first_block(array: &Array) -> u64 {
    let (buffer, result) = array.read(AT, Buffer::zeroed(BLOCK as usize)).await;
    result.unwrap();
    id_of(&buffer)
}

/// It may have been away with a record of its own, and be used again by a labsan that did not know of such.
#[test]
fn a_member_that_comes_in_sync_brings_no_record_along() {
    let mut world = World::new(Level::Raid1, 3, 3);
    run(async {
        let array = world.start().await;
        array.write(AT, filled(1, LENGTH), Durability::Durable).await.unwrap();
        array.fail(&path(2), false).await.unwrap();
        array.remove(&path(2)).await.unwrap();
        array.add(device(&world.disks, 2), true).await.unwrap();
        world.disks[2].put_record(array.uuid());
        while array.status().await.state != crate::array::ArrayState::Optimal {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    world.lose_power();
    assert_eq!(run(async { first_block(&world.start().await).await }), 1);
}

#[test]
fn what_lies_where_a_record_would_counts_only_if_the_headers_say_so() {
    let (mut world, uuid) = stopped_with_records(3, &[0, 1]);
    // After a clean stop there is none; nor is there one for the start after that, when the headers do say so.
    for _ in 0..2 {
        assert_eq!(run(async { first_block(&world.start().await).await }), 1);
        world.lose_power();
    }
    world.disks[1].put_record(uuid);
    assert_eq!(run(async { first_block(&world.start().await).await }), 9, "the record was no good");
}

/// Members that were stopped cleanly, with something in their rings that would be a record.
fn stopped_with_records(seed: u64, on: &[usize]) -> (World, uuid::Uuid) {
    let world = World::new(Level::Raid1, 2, seed);
    let uuid = run(async {
        let array = world.start().await;
        array.write(AT, filled(1, LENGTH), Durability::Durable).await.unwrap();
        array.stop().await.unwrap();
        array.uuid()
    });
    on.iter().for_each(|index| world.disks[*index].put_record(uuid));
    (world, uuid)
}

/// It is erased before the headers say that it would count.
#[test]
fn a_start_that_is_cut_short_makes_no_record_of_what_is_none() {
    for operations in 1..60 {
        let (mut world, _) = stopped_with_records(operations, &[0, 1]);
        world.begin_a_start(operations);
        world.power_on(u64::MAX);
        assert_eq!(run(async { first_block(&world.start().await).await }), 1, "cut after {operations}");
    }
}

/// Only one member has the record; the start that completes it is cut short, and that member is lost.
#[test]
fn a_record_is_on_all_members_before_a_start_puts_any_of_it_in_place() {
    let (mut none, mut all) = (0, 0);
    for (seed, operations) in (1..=3).flat_map(|seed| (1..40).map(move |operations| (seed, operations))) {
        let mut world = World::new(Level::Raid1, 2, seed);
        let uuid = run(async {
            let array = world.start().await;
            array.write(AT, filled(1, LENGTH), Durability::Durable).await.unwrap();
            array.uuid()
        });
        world.lose_power();
        world.disks[0].put_record(uuid);
        world.begin_a_start(operations);
        world.away = vec![0];
        world.power_on(u64::MAX);
        // A block of sectors that differ is not read at all.
        match run(async { first_block(&world.start().await).await }) {
            1 => none += 1,
            9 => all += 1,
            other => panic!("{other}"),
        }
    }
    assert!(none > 20 && all > 20, "{none} had nothing of it, {all} had all");
}

/// An older labsan refuses the array while there may be a record, and only then.
#[test]
fn the_headers_name_records_while_the_array_runs() {
    for (level, running) in [(Level::Raid1, REDO_RECORDS), (Level::Raid10, REDO_RECORDS), (Level::Raid5, 0)] {
        let world = World::new(level, 4, 3);
        let named = || world.disks.iter().map(Disk::incompatible_features).collect::<Vec<_>>();
        assert_eq!(named(), [0; 4], "{level}, at rest");
        run(async {
            let array = world.start().await;
            assert_eq!(named(), [running; 4], "{level}, running");
            array.stop().await.unwrap();
        });
        assert_eq!(named(), [0; 4], "{level}, stopped");
    }
}

/// A disk that cannot read where a record would be, nor perhaps write there.
#[derive(Debug)]
struct Blind(Disk, bool);

impl Blind {
    fn error(&self, operation: block_io::IoOperation, length: usize) -> IoError {
        IoError::new(IoErrorKind::Medium, operation, &self.0.name().into(), ring(), length as u64)
    }
}

impl BlockDevice for Blind {
    fn info(&self) -> DeviceInfo {
        self.0.info()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn read(&self, offset: u64, buffer: Buffer) -> IoFuture<'_, ReadResult> {
        if offset == ring() {
            let error = self.error(block_io::IoOperation::Read, buffer.len());
            return Box::pin(std::future::ready((buffer, Err(error))));
        }
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        if offset == ring() && self.1 {
            let error = self.error(block_io::IoOperation::Write, data.len());
            return Box::pin(std::future::ready(Err(error)));
        }
        self.0.write(offset, data, durability)
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        self.0.flush()
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        self.0.zero(offset, length, durability)
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        self.0.discard(offset, length)
    }
}

impl World {
    async fn start_blind(&self, blind: &[usize], force: bool) -> Result<Array, AssembleError> {
        let devices = (0..self.disks.len()).map(|index| match blind.contains(&index) {
            true => {
                MemberDevice { path: path(index), device: Arc::new(Blind(self.disks[index].clone(), false)) }
            }
            false => device(&self.disks, index),
        });
        assemble(devices.collect(), AssembleOptions { force }, &environment()).await
    }

    /// The places of records can be neither read nor written on any of the disks that are there.
    async fn start_where_none_is_erased(&self, force: bool) -> Result<Array, AssembleError> {
        let there = (0..self.disks.len()).filter(|index| !self.away.contains(index));
        let devices = there.map(|index| {
            let device = Arc::new(Blind(self.disks[index].clone(), true));
            MemberDevice { path: path(index), device }
        });
        assemble(devices.collect(), AssembleOptions { force }, &environment()).await
    }
}

#[test]
fn a_record_that_no_member_can_read_is_refused_and_given_up_only_by_force() {
    let mut world = World::new(Level::Raid1, 2, 3);
    let uuid = run(async {
        let array = world.start().await;
        array.write(AT, filled(1, LENGTH), Durability::Durable).await.unwrap();
        array.uuid()
    });
    world.lose_power();
    world.disks.iter().for_each(|disk| disk.put_record(uuid));
    let refused = run(async { world.start_blind(&[0, 1], false).await.map(|_| ()) });
    assert!(matches!(refused, Err(AssembleError::Journal(JournalError::Unread { .. }))), "{refused:?}");
    run(async { assert_eq!(first_block(&world.start_blind(&[0, 1], true).await.unwrap()).await, 1) });
    world.lose_power();
    // What could not be read then is not there now.
    assert_eq!(run(async { first_block(&world.start().await).await }), 1);
    world.lose_power();
    world.disks[1].put_record(uuid);
    // One that can read is enough.
    run(async { assert_eq!(first_block(&world.start_blind(&[0], false).await.unwrap()).await, 9) });
}

/// All user data can be read, so the array can be had; and no start ever undoes with that record what was written meanwhile,
/// whichever copy of the headers is all that it can read.
#[test]
fn a_record_that_can_be_neither_read_nor_erased_counts_for_no_later_start() {
    // One member is left, or all of them are alike; one life goes by, or two.
    for (away, lives, spoilt) in [vec![1], vec![]].into_iter().flat_map(|away| {
        [(1, 0), (1, 1), (2, 0), (2, 1)].map(|(lives, spoilt)| (away.clone(), lives, spoilt))
    }) {
        let mut world = World::new(Level::Raid1, 2, 3);
        let uuid = run(async {
            let array = world.start().await;
            array.write(AT, filled(1, LENGTH), Durability::Durable).await.unwrap();
            array.uuid()
        });
        world.lose_power();
        world.disks.iter().for_each(|disk| disk.put_record(uuid));
        world.away.clone_from(&away);
        let refused = run(async { world.start_where_none_is_erased(false).await.map(|_| ()) });
        assert!(matches!(refused, Err(AssembleError::Journal(JournalError::Unread { .. }))), "{refused:?}");
        let living = async |force: bool, value: u64| {
            let array = world.start_where_none_is_erased(force).await.unwrap();
            assert_eq!(
                (array.atomic_limit_bytes(), first_block(&array).await),
                (0, value - 1),
                "lost {away:?}"
            );
            let members = array.status().await.members;
            let in_sync = members.iter().filter(|member| member.state == crate::array::MemberState::InSync);
            assert_eq!(in_sync.count(), 2 - away.len(), "{members:?}");
            let ended = array.write_atomic(AT, filled(8, BLOCK)).await;
            assert_eq!(ended.unwrap_err().kind, IoErrorKind::Unsupported);
            array.write(AT, filled(value, LENGTH), Durability::Durable).await.unwrap();
        };
        run(living(true, 2));
        world.disks.iter().for_each(|disk| disk.cut(&mut Random(1)));
        if lives == 2 {
            // Nothing is given up any more, so this one needs no force.
            run(living(false, 3));
        }
        world.lose_power();
        let headers = MemberLayout::for_member(MEMBER_BYTES as u64).unwrap().headers.offset;
        world.disks.iter().for_each(|disk| disk.put(headers + spoilt * 4096, &[0xff; 4096]));
        run(async {
            let array = world.start().await;
            assert_eq!(first_block(&array).await, lives + 1, "lost {away:?}: the record came back");
            array.write_atomic(AT, filled(4, LENGTH)).await.unwrap();
        });
        world.lose_power();
        assert_eq!(run(async { first_block(&world.start().await).await }), 4);
    }
}
