//! An array over such devices, what it should hold, and the time that passes.

use super::*;

/// Numbers from a seed, so that a failure can be had again.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

pub(super) struct World {
    pub(super) disks: Vec<Faulty>,
    pub(super) array: Array,
}

pub(super) fn path(index: usize) -> PathBuf {
    format!("/disks/{index}").into()
}

pub(super) fn environment() -> Environment {
    Environment { hostname: "box".to_owned() }
}

pub(super) fn device(disks: &[Faulty], index: usize) -> MemberDevice {
    MemberDevice { path: path(index), device: Arc::new(disks[index].clone()) }
}

impl World {
    pub(super) async fn new(level: Level, members: usize, spares: usize) -> Self {
        let disks = (0..members + spares).map(|i| Faulty::new(&format!("/disks/{i}"))).collect();
        Self::over(disks, level, members).await
    }

    pub(super) async fn over(disks: Vec<Faulty>, level: Level, members: usize) -> Self {
        Self::over_with(disks, level, members, Policy::Bitmap).await
    }

    pub(super) async fn over_with(disks: Vec<Faulty>, level: Level, members: usize, policy: Policy) -> Self {
        let spec = CreateSpec {
            name: "tank".to_owned(),
            level,
            chunk_bytes: 16 << 10,
            policy,
            members: (0..members).map(|i| device(&disks, i)).collect(),
            spares: (members..disks.len()).map(|i| device(&disks, i)).collect(),
            force: false,
        };
        let array = create(spec, &environment()).await.unwrap();
        Self { disks, array }
    }

    /// Start again from all disks but those, in reverse order.
    pub(super) async fn assemble(&self, without: &[usize], force: bool) -> Result<Array, AssembleError> {
        let devices =
            (0..self.disks.len()).rev().filter(|i| !without.contains(i)).map(|i| device(&self.disks, i));
        assemble(devices.collect(), AssembleOptions { force }, &environment()).await
    }

    pub(super) async fn wait_for(&self, state: ArrayState) {
        for _ in 0..10_000 {
            if self.array.status().await.state == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {state:?}: {:#?}", self.array.status().await);
    }

    /// Parity or copies agree on every unit, straight from the disks.
    pub(super) async fn check_redundancy(&self) {
        let core = &self.array.core;
        let table = core.table();
        for unit in 0..core.geometry.units() {
            let read = async |place: crate::geometry::Place| {
                let member = table.usable(place.member, unit).unwrap();
                let length = core.geometry.chunk_bytes() as usize;
                let (buffer, result) = member.read(place.offset, Buffer::zeroed(length)).await;
                result.unwrap();
                buffer.to_vec()
            };
            if core.geometry.level().has_parity() {
                let offset = core.geometry.stripe_offset(unit);
                let mut rows = Vec::new();
                for row in core.geometry.rows() {
                    let member = core.geometry.row_member(unit, row);
                    rows.push(read(crate::geometry::Place { member, offset }).await);
                }
                let data_rows = usize::from(core.geometry.data_rows());
                let expected = rows.clone();
                let lost: Vec<usize> = (data_rows..rows.len()).collect();
                let mut views: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
                crate::parity::recover(core.kernel, &mut views, data_rows, &lost).unwrap();
                assert!(rows == expected, "parity of stripe {unit} is wrong");
            } else {
                let copies = core.geometry.copies(unit);
                let first = read(copies[0]).await;
                for place in &copies[1..] {
                    assert!(read(*place).await == first, "copies of unit {unit} differ");
                }
            }
        }
    }
}

/// What the array should hold: blocks of 4 KiB, by a number each.
#[derive(Default)]
pub(super) struct Model(pub(super) HashMap<u64, u64>);

pub(super) const BLOCK: u64 = 4096;

pub(super) fn block(fill: u64) -> Vec<u8> {
    if fill == 0 { vec![0; BLOCK as usize] } else { fill.to_le_bytes().repeat(BLOCK as usize / 8) }
}

impl Model {
    pub(super) async fn write(&mut self, array: &Array, random: &mut Random) {
        let blocks = 1 + random.below(40);
        let at = random.below(array.info().size_bytes / BLOCK - blocks);
        let fills: Vec<u64> = (0..blocks).map(|_| random.next() | 1).collect();
        if random.below(8) == 0 {
            array.zero(at * BLOCK, blocks * BLOCK, Durability::Durable).await.unwrap();
            self.0.extend((at..at + blocks).map(|b| (b, 0)));
            return;
        }
        let data: Vec<u8> = fills.iter().flat_map(|&fill| block(fill)).collect();
        array.write(at * BLOCK, data.into(), Durability::Durable).await.unwrap();
        self.0.extend((at..at + blocks).zip(fills));
    }

    pub(super) async fn check(&self, array: &Array, random: &mut Random) {
        let blocks = 1 + random.below(40);
        let at = random.below(array.info().size_bytes / BLOCK - blocks);
        let (buffer, result) = array.read(at * BLOCK, Buffer::zeroed((blocks * BLOCK) as usize)).await;
        result.unwrap();
        for (index, got) in (at..at + blocks).zip(buffer.chunks(BLOCK as usize)) {
            let fill = self.0.get(&index).copied().unwrap_or(0);
            assert!(got == block(fill), "block {index} is not {fill:#x}");
        }
    }

    pub(super) async fn check_all(&self, array: &Array) {
        for (&index, &fill) in &self.0 {
            let (buffer, result) = array.read(index * BLOCK, Buffer::zeroed(BLOCK as usize)).await;
            result.unwrap();
            assert!(buffer[..] == block(fill), "block {index} is not {fill:#x}");
        }
    }
}

pub(super) fn run<F: Future<Output = ()>>(test: F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Where a unit's row (parity levels) or first copy lies: the disk, and the bytes on it.
pub(super) fn place_of(world: &World, unit: u64, row: crate::geometry::Row) -> (usize, std::ops::Range<u64>) {
    let core = &world.array.core;
    let index = core.geometry.row_member(unit, row);
    let table = core.table();
    let member = table.usable(index, unit).unwrap();
    let disk = (0..world.disks.len()).find(|&i| path(i) == member.path).unwrap();
    let start = member.layout.data_offset + core.geometry.stripe_offset(unit);
    (disk, start..start + u64::from(core.geometry.chunk_bytes()))
}

/// The superblock on a disk, and what md or mdadm might have made of it.
pub(super) fn change_superblock(
    disk: &Faulty,
    change: impl FnOnce(&mut crate::format::superblock::Superblock),
) {
    use crate::format::superblock::{SUPER_OFFSET_BYTES, Superblock};
    let at = SUPER_OFFSET_BYTES as usize;
    disk.inner.tamper(|bytes| {
        let mut superblock = Superblock::parse(&bytes[at..]).unwrap();
        change(&mut superblock);
        bytes[at..at + 4096].copy_from_slice(&superblock.encode());
    });
}
