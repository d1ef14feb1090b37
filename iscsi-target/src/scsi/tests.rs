//! The device server over a device in memory: golden answers, and random CDBs.

use std::sync::Arc;

use block_io::{BlockDevice, BufferPool, MemoryDevice};
use proptest::prelude::*;
use uuid::Uuid;

use super::command_table::{self, Command};
use super::*;

mod asymmetric;
mod atomic;
mod attentions;
mod masking;
mod reservations;
mod sanitizing;
mod sanitizing_kept;
mod thin;
mod third_party;
mod undivided;

const BLOCKS: u64 = 2048;
/// What a nexus that has begun is told.
const BEGUN: (u8, u8, u8) = (6, 0x29, 0);

struct Bench {
    luns: LunMap,
    pool: BufferPool,
    device: MemoryDevice,
}

fn nexus(name: &str) -> Nexus {
    Nexus {
        initiator_name: name.to_owned(),
        isid: [0; 6],
        target_name: "iqn.2026-11.org.labsan:t".to_owned(),
        target_portal_group: 1,
        relative_target_port: 1,
    }
}

fn command(lun: u64, cdb: &[u8], data: &[u8]) -> ScsiCommand {
    let mut whole = SmallVec::from_slice(cdb);
    whole.resize(16, 0);
    ScsiCommand {
        lun,
        cdb: whole,
        data_out: Bytes::copy_from_slice(data),
        expected_data_out: data.len() as u32,
        expected_data_in: 1 << 20,
        abort: None,
    }
}

fn run<R>(work: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

impl Bench {
    fn new(options: LuOptions) -> Self {
        Self::over(MemoryDevice::new("memory", BLOCKS as usize * 512), options)
    }

    fn over(device: MemoryDevice, options: LuOptions) -> Self {
        let identity = LuIdentity {
            uuid: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            serial: "SERIAL0001".to_owned(),
            product: "VOLUME".to_owned(),
        };
        let luns = LunMap::new("iqn.2026-11.org.labsan:t");
        luns.nexus_met(&nexus("a"));
        luns.nexus_met(&nexus("b"));
        luns.insert(0, LogicalUnit::new(Arc::new(device.clone()), identity, options)).unwrap();
        Self { luns, pool: BufferPool::new(32 << 20), device }
    }

    fn send(&self, from: &str, lun: u64, cdb: &[u8], data: &[u8]) -> ScsiResponse {
        let command = command(lun, cdb, data);
        run(self.luns.execute(&nexus(from), command, &self.pool))
    }

    fn data(&self, cdb: &[u8]) -> Bytes {
        let response = self.send("a", 0, cdb, &[]);
        assert_eq!(response.status, Status::Good, "{cdb:02x?}: {response:?}");
        response.data_in
    }

    fn codes(&self, cdb: &[u8], data: &[u8]) -> (u8, u8, u8) {
        codes(&self.send("a", 0, cdb, data))
    }
}

fn codes(response: &ScsiResponse) -> (u8, u8, u8) {
    assert_eq!(response.status, Status::CheckCondition, "{response:?}");
    (response.sense[2] & 15, response.sense[12], response.sense[13])
}

fn open() -> Bench {
    Bench::new(LuOptions::default())
}

#[test]
fn identity_is_complete_and_stable() {
    let bench = open();
    let standard = bench.data(&[0x12, 0, 0, 0, 255, 0]);
    assert_eq!((standard[0], standard[2], standard[4] as usize + 5), (0, 6, standard.len()));
    assert_eq!(&standard[8..32], b"LABSAN  VOLUME          ");
    assert_eq!(bench.data(&[0x12, 0, 0, 0, 5, 0]).len(), 5, "cut at the allocation length");
    let pages = bench.data(&[0x12, 1, 0, 0, 255, 0]);
    for page in &pages[4..] {
        let data = bench.data(&[0x12, 1, *page, 0, 255, 0]);
        assert_eq!(data[1], *page);
        assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])) + 4, data.len());
    }
    let ids = bench.data(&[0x12, 1, 0x83, 0, 255, 0]);
    assert_eq!(ids[4..16], [1, 3, 0, 8, 0x38, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
    assert_eq!(bench.codes(&[0x12, 0, 0x80, 0, 255, 0], &[]), (5, 0x24, 0));
    assert_eq!(bench.codes(&[0x12, 1, 0x55, 0, 255, 0], &[]), (5, 0x24, 0));
}

#[test]
fn an_absent_lun_says_so() {
    let bench = open();
    let lun = 0x0007_0000_0000_0000;
    assert_eq!(bench.send("a", lun, &[0x12, 0, 0, 0, 96, 0], &[]).data_in[0], 0x7f);
    assert_eq!(codes(&bench.send("a", lun, &[0x00], &[])), (5, 0x25, 0));
    assert_eq!(bench.send("a", lun, &[0x03, 0, 0, 0, 96, 0], &[]).data_in[12], 0x25);
    let luns = bench.data(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]);
    assert_eq!(luns[..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.codes(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0], &[]), (5, 0x24, 0));
}

#[test]
fn unknown_commands_and_fields_are_refused() {
    let bench = open();
    assert_eq!(bench.codes(&[0x85], &[]), (5, 0x20, 0));
    let action = bench.send("a", 0, &[0x9e, 0x1f], &[]);
    assert_eq!((codes(&action), &action.sense[15..18]), ((5, 0x24, 0), &[0xc0, 0, 1][..]));
    for cdb in [&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0][..], &[0x2a, 0x20, 0, 0, 0, 0, 0, 0, 1, 0]] {
        assert_eq!(bench.codes(cdb, &[0; 512]), (5, 0x24, 0), "{cdb:x?}");
    }
}

#[test]
fn blocks_written_are_blocks_read_by_every_length() {
    let bench = open();
    let writes: [&[u8]; 4] = [
        &[0x0a, 0, 0, 1, 1, 0],
        &[0x2a, 0, 0, 0, 0, 2, 0, 0, 1, 0],
        &[0xaa, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0],
        &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0],
    ];
    for (index, cdb) in writes.iter().enumerate() {
        let response = bench.send("a", 0, cdb, &[index as u8 + 1; 512]);
        assert_eq!((response.status, response.data_out_wanted), (Status::Good, 512));
        let mut read = cdb.to_vec();
        read[0] -= 2;
        assert_eq!(bench.data(&read)[..], [index as u8 + 1; 512]);
    }
    assert_eq!(bench.device.contents()[512..2560], [[1; 512], [2; 512], [3; 512], [4; 512]].concat());
}

#[test]
fn the_end_of_the_medium_is_the_end() {
    let bench = open();
    let last = (BLOCKS as u32 - 1).to_be_bytes();
    let read = |block: [u8; 4], count: u8| [&[0x28, 0][..], &block, &[0, 0, count, 0]].concat();
    assert_eq!(bench.data(&read(last, 1)).len(), 512);
    assert_eq!(bench.codes(&read(last, 2), &[]), (5, 0x21, 0));
    assert_eq!(bench.codes(&read((BLOCKS as u32).to_be_bytes(), 0), &[]), (5, 0x21, 0));
    let wraps = [&[0x88, 0][..], &u64::MAX.to_be_bytes(), &[0, 0, 0, 2, 0, 0]].concat();
    assert_eq!(bench.codes(&wraps, &[]), (5, 0x21, 0));
    assert_eq!(bench.data(&[0x25])[..4], last);
}

#[test]
fn compare_and_write_is_all_or_nothing() {
    let bench = open();
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0];
    let data = [[0; 512], [5; 512]].concat();
    assert_eq!(bench.send("a", 0, &cdb, &data).status, Status::Good);
    let again = bench.send("a", 0, &cdb, &data);
    assert_eq!(codes(&again), (0x0e, 0x1d, 0));
    assert_eq!((again.sense[0], &again.sense[3..7]), (0xf0, &[0, 0, 0, 0][..]));
    assert_eq!(bench.device.contents()[9 * 512..10 * 512], [5; 512]);
    let mut late = [[5; 512], [6; 512]].concat();
    late[100] = 9;
    assert_eq!(bench.codes(&cdb, &late[..512]), (5, 0x24, 0), "two blocks, no less");
    assert_eq!(bench.send("a", 0, &cdb, &late).sense[3..7], [0, 0, 0, 100]);
}

#[test]
fn verify_compares_what_it_is_given() {
    let bench = open();
    bench.send("a", 0, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[7; 1024]);
    let verify =
        |check: u8, data: &[u8]| bench.send("a", 0, &[0x2f, check << 1, 0, 0, 0, 0, 0, 0, 2, 0], data);
    assert_eq!(verify(0, &[]).status, Status::Good);
    assert_eq!(verify(1, &[7; 1024]).status, Status::Good);
    assert_eq!(verify(3, &[7; 512]).status, Status::Good);
    assert_eq!(codes(&verify(3, &[8; 512])), (0x0e, 0x1d, 0));
    assert_eq!(codes(&verify(2, &[7; 1024])), (5, 0x24, 0));
    let (_abort, aborted) = watch::channel(true);
    let whole = [0x8f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0];
    let aborted = ScsiCommand { abort: Some(aborted), ..command(0, &whole, &[]) };
    let response = run(bench.luns.execute(&nexus("a"), aborted, &bench.pool));
    assert_eq!(response.status, Status::TaskAborted, "nobody waits for the rest of the medium");
    assert!([0x2f, 0x8f, 0xaf].into_iter().all(command_table::may_take_long));
}

#[test]
fn zeroing_by_write_same_and_unmap() {
    let bench = open();
    let all = vec![9; 64 * 512];
    bench.send("a", 0, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 64, 0], &all);
    let same = bench.send("a", 0, &[0x41, 0, 0, 0, 0, 4, 0, 0, 8, 0], &[3; 512]);
    assert_eq!((same.status, same.data_out_wanted), (Status::Good, 512));
    let zeroed = bench.send("a", 0, &[0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 8, 0, 0], &[]);
    assert_eq!(zeroed.status, Status::Good);
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend_from_slice(&32u64.to_be_bytes());
    list.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0, 0]);
    assert_eq!(bench.send("a", 0, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list).status, Status::Good);
    let contents = bench.device.contents();
    for (block, expected) in
        [(3, 9), (4, 3), (11, 3), (12, 9), (16, 0), (23, 0), (24, 9), (32, 0), (39, 0), (40, 9)]
    {
        assert_eq!(contents[block * 512], expected, "block {block}");
    }
    assert_eq!(bench.codes(&[0x41, 0x10, 0, 0, 0, 4, 0, 0, 8, 0], &[3; 512]), (5, 0x24, 0));
    assert_eq!(
        bench.codes(&[0x41, 0, 0, 0, 0, 4, 0, 0, 8, 0], &[3; 1024]),
        (5, 0x24, 0),
        "one block, no more"
    );
}

#[test]
fn a_repeated_pattern_takes_memory_of_the_pool_or_waits_for_none() {
    let mut bench = open();
    let verify = |bench: &Bench| bench.send("a", 0, &[0x2f, 6, 0, 0, 0, 4, 0, 0, 8, 0], &[3; 512]);
    let same = |bench: &Bench| bench.send("a", 0, &[0x41, 0, 0, 0, 0, 4, 0, 0, 8, 0], &[3; 512]);
    assert_eq!((same(&bench).status, verify(&bench).status), (Status::Good, Status::Good));
    bench.device.tamper(|bytes| bytes[9 * 512 + 7] = 4);
    let miscompare = verify(&bench);
    assert_eq!(miscompare.sense[3..7], (5 * 512u32 + 7).to_be_bytes(), "in the sixth of the blocks");
    bench.pool = BufferPool::new(4096);
    let _taken = bench.pool.try_take(4096).unwrap();
    assert_eq!(same(&bench).status, Status::TaskSetFull);
}

#[test]
fn a_read_only_unit_takes_no_writes() {
    let bench = Bench::new(LuOptions { read_only: true, ..LuOptions::default() });
    for command in command_table::all().filter(|command| command.writes) {
        let mut cdb = vec![0; 16];
        (cdb[0], cdb[1]) = (command.opcode, command.service_action.unwrap_or(0));
        assert_eq!(bench.codes(&cdb, &[0; 1024]), (7, 0x27, 0), "{}", command.name);
    }
    assert_eq!(bench.data(&[0x1a, 0, 0x3f, 0, 255, 0])[2] & 0x80, 0x80);
}

#[test]
fn the_write_cache_is_told_truthfully() {
    for write_cache in [false, true] {
        let bench = Bench::new(LuOptions { write_cache, ..LuOptions::default() });
        let page = bench.data(&[0x1a, 8, 0x08, 0, 255, 0]);
        assert_eq!(page[4 + 2] & 4 != 0, write_cache);
    }
}

#[test]
fn mode_select_changes_what_can_be_changed_and_tells_the_others() {
    let bench = open();
    let mut list = bench.data(&[0x1a, 8, 0x0a, 0, 255, 0]).to_vec();
    list[0] = 0;
    list[4 + 2] |= 4;
    let select = [0x15, 0x10, 0, 0, list.len() as u8, 0];
    assert_eq!(bench.send("a", 0, &select, &list).status, Status::Good);
    assert_eq!(codes(&Bench::fixed(&bench.send("b", 0, &[0x00], &[]))), (6, 0x2a, 1), "told once");
    assert_eq!(bench.send("b", 0, &[0x00], &[]).status, Status::Good);
    let response = bench.send("a", 0, &[0x85], &[]);
    assert_eq!(response.sense[..3], [0x72, 5, 0x20], "descriptor format now");
    list[4 + 3] ^= 1;
    assert_eq!(bench.send("a", 0, &select, &list).sense[1..4], [5, 0x26, 0]);
}

impl Bench {
    /// Sense in descriptor format, rewritten in fixed format for `codes`.
    fn fixed(response: &ScsiResponse) -> ScsiResponse {
        let mut fixed = response.clone();
        if response.sense.first() == Some(&0x72) {
            fixed.sense = Sense::new(response.sense[1], response.sense[2], response.sense[3]).encode(false);
        }
        fixed
    }
}

#[test]
fn a_reservation_keeps_the_others_out_until_its_holder_goes() {
    let bench = open();
    assert_eq!(bench.send("a", 0, &[0x16], &[]).status, Status::Good);
    assert_eq!(bench.send("b", 0, &[0x00], &[]).status, Status::ReservationConflict);
    assert_eq!(bench.send("b", 0, &[0x12, 0, 0, 0, 36, 0], &[]).status, Status::Good);
    assert_eq!(bench.send("b", 0, &[0x17], &[]).status, Status::Good, "releasing another's does nothing");
    assert_eq!(bench.send("b", 0, &[0x00], &[]).status, Status::ReservationConflict);
    bench.luns.nexus_lost(&nexus("a"));
    assert_eq!(bench.send("b", 0, &[0x00], &[]).status, Status::Good);
}

#[test]
fn task_sets_are_told_as_they_are() {
    let bench = open();
    let control = bench.data(&[0x1a, 8, 0x0a, 0, 255, 0])[4..].to_vec();
    assert_eq!((control[2] >> 5, control[3] >> 4), (1, 1), "TST and QUEUE ALGORITHM MODIFIER");
}

/// SAM-5 clause 5.2: there is no ACA here (NORMACA is 0), so nobody may ask for one.
#[test]
fn nobody_may_ask_for_an_auto_contingent_allegiance() {
    let bench = open();
    for cdb in [
        &[0x00, 0, 0, 0, 0, 4][..],
        &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 4],
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4],
        &[0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4],
    ] {
        assert_eq!(bench.codes(cdb, &[]), (5, 0x24, 0), "{cdb:02x?}");
        let mut without = cdb.to_vec();
        *without.last_mut().unwrap() = 0;
        assert_eq!(bench.send("a", 0, &without, &[]).status, Status::Good, "{cdb:02x?}");
    }
}

#[test]
fn supported_opcodes_are_those_of_the_table() {
    let bench = open();
    let all = bench.data(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
    assert_eq!(all.len(), 4 + command_table::all().count() * 8);
    for command in command_table::all() {
        let option = if command.service_action.is_some() { 2 } else { 1 };
        let action = command.service_action.unwrap_or(0);
        let one = bench.data(&[0xa3, 0x0c, option, command.opcode, 0, action, 0, 0, 0, 255, 0, 0]);
        assert_eq!((one[1], one.len()), (3, 4 + command.usage.len()), "{}", command.name);
        let with = bench.data(&[0xa3, 0x0c, 0x80 | option, command.opcode, 0, action, 0, 0, 0, 255, 0, 0]);
        assert_eq!(with.len(), one.len() + 12);
    }
    assert_eq!(bench.data(&[0xa3, 0x0c, 1, 0x85, 0, 0, 0, 0, 0, 255, 0, 0])[1], 1);
    assert_eq!(bench.codes(&[0xa3, 0x0c, 1, 0x9e, 0, 0, 0, 0, 0, 255, 0, 0], &[]), (5, 0x24, 0));
}

fn nth(index: usize) -> &'static Command {
    command_table::all().nth(index).unwrap()
}

proptest! {
    #[test]
    fn any_cdb_gets_an_answer(
        index in 0..command_table::all().count(), bytes in prop::collection::vec(any::<u8>(), 15), data in prop::collection::vec(any::<u8>(), 0..2048),
        lun in prop::sample::select(vec![0u64, 1 << 48, u64::MAX]),
    ) {
        let bench = open();
        let cdb = [&[nth(index).opcode][..], &bytes].concat();
        let before = bench.device.info();
        let response = bench.send("a", lun, &cdb, &data);
        prop_assert!(response.status != Status::CheckCondition || !response.sense.is_empty());
        prop_assert_eq!(bench.device.info(), before);
        prop_assert_eq!(bench.pool.used_bytes(), if response.data_in.is_empty() { 0 } else { bench.pool.used_bytes() });
    }
}

/// A device that has data in every third 64 blocks, told in pieces of 32.
#[derive(Debug)]
struct Holes(MemoryDevice);

impl BlockDevice for Holes {
    fn info(&self) -> block_io::DeviceInfo {
        self.0.info()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn read(&self, offset: u64, buffer: block_io::Buffer) -> block_io::IoFuture<'_, block_io::ReadResult> {
        self.0.read(offset, buffer)
    }

    fn write(
        &self,
        offset: u64,
        data: Bytes,
        durability: block_io::Durability,
    ) -> block_io::IoFuture<'_, Result<(), block_io::IoError>> {
        self.0.write(offset, data, durability)
    }

    fn flush(&self) -> block_io::IoFuture<'_, Result<(), block_io::IoError>> {
        self.0.flush()
    }

    fn zero(
        &self,
        offset: u64,
        length: u64,
        durability: block_io::Durability,
    ) -> block_io::IoFuture<'_, Result<(), block_io::IoError>> {
        self.0.zero(offset, length, durability)
    }

    fn discard(&self, offset: u64, length: u64) -> block_io::IoFuture<'_, Result<(), block_io::IoError>> {
        self.0.discard(offset, length)
    }

    fn space_run(&self, offset: u64, length: u64) -> block_io::SpaceRun {
        let piece = 32 * 512;
        let behind = (offset / piece + 1) * piece - offset;
        block_io::SpaceRun { length: behind.min(length), mapped: (offset / (2 * piece)).is_multiple_of(3) }
    }
}

#[test]
fn get_lba_status_tells_data_from_holes() {
    let status = |cdb: &[u8], device: &dyn BlockDevice| {
        let data = capacity::get_lba_status(cdb::Cdb(cdb), device).unwrap().data_in;
        let told = u32::from_be_bytes([data[0], data[1], data[2], data[3]]);
        let descriptors: Vec<(u64, u32, u8)> = data[8..]
            .chunks_exact(16)
            .map(|d| {
                let block = u64::from_be_bytes(d[..8].try_into().unwrap());
                (block, u32::from_be_bytes(d[8..12].try_into().unwrap()), d[12])
            })
            .collect();
        (told as usize, descriptors)
    };
    let command = |block: u8, asked: u32| {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[9]) = (0x9e, 0x12, block);
        cdb[10..14].copy_from_slice(&asked.to_be_bytes());
        cdb
    };
    let holes = Holes(MemoryDevice::new("holes", 300 * 512));
    let all = vec![(0, 64, 0), (64, 128, 1), (192, 64, 0), (256, 44, 1)];
    assert_eq!(status(&command(0, 4096), &holes), (4 + 16 * 4, all));
    assert_eq!(status(&command(70, 24), &holes), (20, vec![(70, 122, 1)]), "one as long as it is");
    assert_eq!(status(&command(70, 41), &holes), (36, vec![(70, 122, 1), (192, 64, 0)]));
    assert_eq!(status(&command(0, 10), &holes).0, 20, "cut, but told whole");
    let solid = MemoryDevice::new("solid", 300 * 512);
    assert_eq!(
        status(&command(5, 4096), &solid),
        (20, vec![(5, 295, 0)]),
        "who does not know calls all of it mapped"
    );
    let beyond =
        capacity::get_lba_status(cdb::Cdb(&command(255, 24)), &MemoryDevice::new("small", 255 * 512));
    assert!(matches!(beyond, Err(sense) if sense == Sense::OUT_OF_RANGE));
}
