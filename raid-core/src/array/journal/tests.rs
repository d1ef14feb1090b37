//! Power cuts at any moment, with members lost at the same time, over disks with volatile caches. What was acknowledged is
//! there; what was not is old or new, sector by sector, and stays what it was once read as.
//!
//! The simulator (`tests/simulation`) does this at length and with every kind of fault; here is what `cargo test` of this crate shows.

mod atomic;
mod redo;

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use block_io::{
    BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoErrorKind, IoFuture, MemoryDevice, ReadResult,
    Zeroing,
};
use bytes::Bytes;
use tokio::sync::Notify;

use crate::array::{Array, AssembleOptions, CreateSpec, Environment, MemberDevice, Policy, assemble, create};
use crate::geometry::Level;

const MEMBER_BYTES: usize = 17 << 20;
const SECTOR: u64 = 512;

#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The power: counts operations down to the cut.
#[derive(Debug)]
struct Power {
    left: u64,
    random: Random,
    out: bool,
    went_out: Arc<Notify>,
}

/// A disk with a volatile cache: what it shows, what would survive, and what is in between.
#[derive(Clone, Debug)]
struct Disk {
    shown: MemoryDevice,
    state: Arc<Mutex<DiskState>>,
    power: Arc<Mutex<Power>>,
}

#[derive(Debug)]
struct DiskState {
    durable: Vec<u8>,
    unflushed: Vec<(u64, u64, Bytes)>,
    next: u64,
}

impl Disk {
    fn new(name: &str, power: &Arc<Mutex<Power>>) -> Self {
        Self {
            shown: MemoryDevice::new(name, MEMBER_BYTES),
            state: Arc::new(Mutex::new(DiskState {
                durable: vec![0; MEMBER_BYTES],
                unflushed: Vec::new(),
                next: 0,
            })),
            power: Arc::clone(power),
        }
    }

    /// One operation passes, in its own time; none does once the power is out.
    async fn pass(&self) {
        let yields = {
            let mut power = self.power.lock().unwrap();
            power.left = power.left.saturating_sub(1);
            if power.left == 0 && !power.out {
                power.out = true;
                power.went_out.notify_one();
            }
            if power.out { u64::MAX } else { power.random.below(4) }
        };
        if yields == u64::MAX {
            std::future::pending::<()>().await;
        }
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
    }

    fn is_out(&self) -> bool {
        self.power.lock().unwrap().out
    }

    async fn store(&self, offset: u64, data: Bytes, durability: Durability) -> Result<(), IoError> {
        let id = {
            let mut state = self.state.lock().unwrap();
            state.next += 1;
            let id = state.next;
            state.unflushed.push((id, offset, data.clone()));
            id
        };
        self.pass().await;
        if self.is_out() {
            std::future::pending::<()>().await;
        }
        self.shown.write(offset, data.clone(), Durability::Cached).await?;
        if durability == Durability::Durable {
            let mut state = self.state.lock().unwrap();
            state.durable[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
            state.unflushed.retain(|(other, ..)| *other != id);
        }
        Ok(())
    }

    /// The power comes back: of each unflushed write every sector is there or not.
    fn cut(&self, random: &mut Random) {
        let mut state = self.state.lock().unwrap();
        let unflushed = std::mem::take(&mut state.unflushed);
        let mood = random.below(3);
        for (_, offset, data) in unflushed {
            for (index, sector) in data.chunks(SECTOR as usize).enumerate() {
                let kept = match mood {
                    0 => false,
                    1 => true,
                    _ => random.below(2) == 0,
                };
                if kept {
                    let at = offset as usize + index * SECTOR as usize;
                    state.durable[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        let durable = state.durable.clone();
        self.shown.tamper(|bytes| bytes.copy_from_slice(&durable));
    }
}

impl BlockDevice for Disk {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { zeroing: Zeroing::Cheap, ..self.shown.info() }
    }

    fn name(&self) -> &str {
        self.shown.name()
    }

    fn read(&self, offset: u64, buffer: Buffer) -> IoFuture<'_, ReadResult> {
        Box::pin(async move {
            self.pass().await;
            self.shown.read(offset, buffer).await
        })
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(self.store(offset, data, durability))
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let upto = self.state.lock().unwrap().next;
            let done: Vec<u64> = {
                let state = self.state.lock().unwrap();
                state.unflushed.iter().map(|(id, ..)| *id).filter(|id| *id <= upto).collect()
            };
            self.pass().await;
            if self.is_out() {
                std::future::pending::<()>().await;
            }
            let mut state = self.state.lock().unwrap();
            for id in done {
                if let Some(at) = state.unflushed.iter().position(|(other, ..)| *other == id) {
                    let (_, offset, data) = state.unflushed.remove(at);
                    state.durable[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
                }
            }
            Ok(())
        })
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(self.store(offset, Buffer::zeroed(length as usize).freeze(), durability))
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        self.zero(offset, length, Durability::Cached)
    }
}

/// A value that a sector may have, and when its write was under way.
#[derive(Clone, Copy, Debug)]
struct Value {
    id: u64,
    began: u64,
    ended: Option<u64>,
}

/// Which values may each sector have?
#[derive(Debug, Default)]
struct Model {
    sectors: HashMap<u64, Vec<Value>>,
    clock: u64,
}

impl Model {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn begin(&mut self, sectors: std::ops::Range<u64>, id: u64) -> u64 {
        let began = self.tick();
        for sector in sectors {
            let values =
                self.sectors.entry(sector).or_insert_with(|| vec![Value { id: 0, began: 0, ended: Some(0) }]);
            values.push(Value { id, began, ended: None });
        }
        began
    }

    fn end(&mut self, sectors: std::ops::Range<u64>, id: u64, began: u64) {
        let now = self.tick();
        for sector in sectors {
            let values = self.sectors.entry(sector).or_default();
            values.retain(|value| {
                value.id == id && value.began == began || value.ended.is_none_or(|ended| ended > began)
            });
            for value in values.iter_mut().filter(|value| value.id == id && value.began == began) {
                value.ended = Some(now);
            }
        }
    }

    /// Everything under way has ended, one way or the other.
    fn crash(&mut self) {
        let now = self.tick();
        for value in self.sectors.values_mut().flatten() {
            value.ended.get_or_insert(now);
        }
    }

    /// A read while nothing is written: from now on it stays.
    fn see(&mut self, sector: u64, id: u64) {
        let Some(values) = self.sectors.get_mut(&sector) else {
            assert!(id == 0, "sector {sector}, never written, reads as {id}");
            return;
        };
        assert!(
            values.iter().any(|value| value.id == id),
            "sector {sector} reads as {id}, may only be {values:?}"
        );
        values.retain(|value| value.id == id);
    }

    /// A read that began when `before` was what could be there.
    fn see_meanwhile(&self, sector: u64, id: u64, before: &[Value]) {
        let now = self.values(sector);
        assert!(
            now.iter().chain(before).any(|value| value.id == id),
            "sector {sector} reads as {id}, may only be {now:?} or {before:?}"
        );
    }

    fn values(&self, sector: u64) -> Vec<Value> {
        let zeros = Value { id: 0, began: 0, ended: Some(0) };
        self.sectors.get(&sector).cloned().unwrap_or_else(|| vec![zeros])
    }

    fn is_certain(&self, sector: u64) -> bool {
        self.sectors.get(&sector).is_none_or(|values| values.len() == 1)
    }
}

struct World {
    level: Level,
    power: Arc<Mutex<Power>>,
    went_out: Arc<Notify>,
    disks: Vec<Disk>,
    /// Not in the array now: lost, or being rebuilt.
    away: Vec<usize>,
    model: Arc<Mutex<Model>>,
    random: Random,
    chunk: u64,
}

fn path(index: usize) -> PathBuf {
    format!("/disks/{index}").into()
}

fn device(disks: &[Disk], index: usize) -> MemberDevice {
    MemberDevice { path: path(index), device: Arc::new(disks[index].clone()) }
}

fn environment() -> Environment {
    Environment { hostname: "box".to_owned() }
}

fn run<R>(test: impl Future<Output = R>) -> R {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

impl World {
    fn new(level: Level, members: usize, seed: u64) -> Self {
        let policy = if level.has_parity() { Policy::Journal } else { Policy::Bitmap };
        Self::with_policy(level, policy, members, seed)
    }

    fn with_policy(level: Level, policy: Policy, members: usize, seed: u64) -> Self {
        let went_out = Arc::new(Notify::new());
        let power = Power {
            left: u64::MAX,
            random: Random(seed ^ 0xabcd),
            out: false,
            went_out: Arc::clone(&went_out),
        };
        let power = Arc::new(Mutex::new(power));
        let disks: Vec<Disk> =
            (0..members).map(|index| Disk::new(&format!("/disks/{index}"), &power)).collect();
        let mut random = Random(seed);
        let chunk = [4 << 10, 8 << 10, 64 << 10][random.below(3) as usize];
        let spec = CreateSpec {
            name: "tank".to_owned(),
            level,
            chunk_bytes: chunk,
            policy,
            members: (0..members).map(|index| device(&disks, index)).collect(),
            spares: Vec::new(),
            force: false,
        };
        run(async { create(spec, &environment()).await.unwrap().stop().await.unwrap() });
        Self { level, power, went_out, disks, away: Vec::new(), model: Arc::default(), random, chunk }
    }

    fn redundancy(&self) -> usize {
        if self.level == Level::Raid6 { 2 } else { 1 }
    }

    fn power_on(&mut self, operations: u64) {
        let mut power = self.power.lock().unwrap();
        (power.left, power.out) = (operations, false);
    }

    async fn start(&self) -> Array {
        let present = (0..self.disks.len()).filter(|index| !self.away.contains(index));
        let devices = present.map(|index| device(&self.disks, index)).collect();
        assemble(devices, AssembleOptions::default(), &environment()).await.unwrap()
    }

    /// One life: start, read everything, take lost disks back, write until the power goes out.
    fn live(&mut self, operations: u64) {
        self.power_on(operations);
        let seed = self.random.next();
        let went_out = Arc::clone(&self.went_out);
        let back = std::mem::take(&mut self.away);
        self.away.clone_from(&back);
        let (optimal, away) = run(async {
            let optimal = std::cell::Cell::new(false);
            let life = self.life(seed, &back, &optimal);
            tokio::select! {
                biased;
                () = went_out.notified() => {}
                () = life => {}
            }
            (optimal.get(), back.clone())
        });
        self.away = if optimal { Vec::new() } else { away };
        for disk in &self.disks {
            disk.cut(&mut self.random);
        }
        self.model.lock().unwrap().crash();
        let allowed = self.redundancy() - self.away.len();
        for _ in 0..self.random.below(allowed as u64 + 1) {
            let victim = self.random.below(self.disks.len() as u64) as usize;
            if !self.away.contains(&victim) {
                self.away.push(victim);
            }
        }
    }

    fn life<'a>(&'a self, seed: u64, back: &'a [usize], optimal: &'a std::cell::Cell<bool>) -> Running<'a> {
        Box::pin(async move {
            let array = self.start().await;
            self.read_all(&array).await;
            for &index in back {
                array.add(device(&self.disks, index), true).await.unwrap();
            }
            let writers =
                (0..6).map(|writer| self.write_for_ever(array.clone(), Random(seed ^ writer), writer));
            let watching = async {
                loop {
                    let state = array.status().await.state;
                    optimal.set(state == crate::array::ArrayState::Optimal);
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            tokio::join!(futures_util::future::join_all(writers), watching);
        })
    }

    /// A few stripes only, so that everything meets.
    fn sectors(&self) -> u64 {
        let data = self.disks.len() as u64 - self.redundancy() as u64;
        (self.chunk * data / SECTOR * 12).min(8192)
    }

    async fn read_all(&self, array: &Array) {
        let step = 64;
        for first in (0..self.sectors()).step_by(step as usize) {
            let count = step.min(self.sectors() - first);
            for sector in first..first + count {
                let (buffer, result) = array.read(sector * SECTOR, Buffer::zeroed(SECTOR as usize)).await;
                let mut model = self.model.lock().unwrap();
                match result {
                    Ok(()) => model.see(sector, id_of(&buffer)),
                    Err(error) => {
                        assert_eq!(error.kind, IoErrorKind::Medium, "{error}");
                        let block = sector / 8 * 8;
                        assert!(
                            (block..block + 8).any(|sector| !model.is_certain(sector)),
                            "sector {sector} is lost, but must be {:?}",
                            model.sectors.get(&sector)
                        );
                    }
                }
            }
        }
    }

    async fn write_for_ever(&self, array: Array, mut random: Random, writer: u64) {
        let stripe = self.chunk * (self.disks.len() - self.redundancy()) as u64 / SECTOR;
        for count in 0_u64.. {
            let id = (writer + 1) << 40 | random.next() >> 48 << 16 | (count + 1);
            let (first, length) = match random.below(8) {
                0 | 1 => (random.below(self.sectors() / stripe) * stripe, stripe),
                2 => (random.below(self.sectors() - 16), 16),
                _ => (random.below(self.sectors() / 8) * 8, 8),
            };
            let range = first..(first + length).min(self.sectors());
            let (at, bytes) = (range.start * SECTOR, (range.end - range.start) * SECTOR);
            let zero = random.below(16) == 0;
            let id = if zero { 0 } else { id };
            let began = self.model.lock().unwrap().begin(range.clone(), id);
            let result = if zero {
                array.zero(at, bytes, Durability::Durable).await
            } else {
                let data = id.to_le_bytes().repeat(bytes as usize / 8);
                array.write(at, data.into(), Durability::Durable).await
            };
            result.unwrap();
            self.model.lock().unwrap().end(range, id, began);
            if random.below(4) == 0 {
                let sector = random.below(self.sectors());
                let before = self.model.lock().unwrap().values(sector);
                let (buffer, result) = array.read(sector * SECTOR, Buffer::zeroed(SECTOR as usize)).await;
                if result.is_ok() {
                    self.model.lock().unwrap().see_meanwhile(sector, id_of(&buffer), &before);
                }
            }
            if random.below(200) == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(random.below(400))).await;
            }
        }
    }
}

/// The number a sector is full of.
fn id_of(sector: &[u8]) -> u64 {
    let id = u64::from_le_bytes(sector[..8].try_into().unwrap());
    assert!(sector.chunks(8).all(|word| word == id.to_le_bytes()), "a sector of pieces");
    id
}

#[test]
fn what_was_acknowledged_survives_power_cuts_together_with_lost_members() {
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(4);
    let from: u64 = std::env::var("FROM").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1);
    for (level, members) in [(Level::Raid5, 3), (Level::Raid5, 5), (Level::Raid6, 4), (Level::Raid6, 6)] {
        for seed in from..from + seeds {
            println!("{level} of {members}, seed {seed}");
            let mut world = World::new(level, members, seed);
            for _ in 0..12 {
                // Half of them within the recovery from the one before.
                let most = [300, 6000][world.random.below(2) as usize];
                let operations = 1 + world.random.below(most);
                world.live(operations);
            }
        }
    }
}
