//! For tests: daemons in this process, arrays over memory whose disks can be made to hang, and nodes that send orders.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use block_io::runtime::{EngineChoice, WorkerPool, detect};
use block_io::{
    BlockDevice, Buffer, BufferPool, DeviceInfo, Durability, IoError, IoErrorKind, IoFuture, IoOperation,
    MemoryDevice, ReadResult,
};
use bytes::Bytes;
use iscsi_target::scsi::{LogicalUnit, LunMap, Nexus, ScsiCommand, ScsiResponse};
use labsan_api::VolumePath;
use labsan_api::target::{CreateTarget, MapLun};
use raid_core::array::{
    Array, AssembleOptions, CreateSpec, Environment, MemberDevice, Policy, assemble, create,
};
use raid_core::geometry::Level;
use raid_core::volume::VolumeSpec;

use crate::config::Config;
use crate::ops::{arrays, assembly, targets};
use crate::state::Daemon;
use crate::{change, host_copy};

const DISK_BYTES: usize = 16 << 20;
const VOLUME_BYTES: u64 = 1 << 20;
/// Longer than anything takes that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);
/// Good.
pub(crate) const GOOD: (u8, Sense) = (0, (0, 0, 0));

/// Sense key, code and qualifier.
pub(crate) type Sense = (u8, u8, u8);

/// A disk whose writes can be made to hang, or to fail.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    inner: MemoryDevice,
    hangs: Arc<AtomicBool>,
    fails: Arc<AtomicBool>,
    /// Writes that are to reach the medium though they fail.
    landing: Arc<AtomicU32>,
}

impl Disk {
    fn over(inner: MemoryDevice) -> Self {
        Self { inner, hangs: Arc::default(), fails: Arc::default(), landing: Arc::default() }
    }

    /// From now on writes end in an error; the first so many of them reach the medium all the same.
    pub(crate) fn fail_writes(&self, landing: u32) {
        self.landing.store(landing, Ordering::Release);
        self.fails.store(true, Ordering::Release);
    }

    pub(crate) fn mend(&self) {
        self.fails.store(false, Ordering::Release);
    }

    /// What another machine finds on it.
    pub(crate) fn copy(&self) -> Self {
        let (contents, inner) = (self.inner.contents(), MemoryDevice::new(self.name(), DISK_BYTES));
        inner.tamper(|bytes| bytes.copy_from_slice(&contents));
        Self::over(inner)
    }

    pub(crate) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Release);
    }

    async fn unless_it_hangs(&self) {
        while self.hangs.load(Ordering::Acquire) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl BlockDevice for Disk {
    fn info(&self) -> DeviceInfo {
        self.inner.info()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn read(&self, offset: u64, buffer: Buffer) -> IoFuture<'_, ReadResult> {
        self.inner.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.unless_it_hangs().await;
            let length = data.len() as u64;
            let fails = self.fails.load(Ordering::Acquire);
            let lands = self.landing.load(Ordering::Acquire);
            if fails {
                self.landing.store(lands.saturating_sub(1), Ordering::Release);
            }
            if !fails || lands > 0 {
                self.inner.write(offset, data, durability).await?;
            }
            let error =
                || IoError::new(IoErrorKind::Other, IoOperation::Write, &self.name().into(), offset, length);
            if fails { Err(error()) } else { Ok(()) }
        })
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.flush()
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.zero(offset, length, durability)
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.discard(offset, length)
    }
}

/// Two blank disks.
pub(crate) fn disks(name: &str) -> [Disk; 2] {
    [0, 1].map(|number| Disk::over(MemoryDevice::new(&format!("{name}{number}"), DISK_BYTES)))
}

fn members(disks: &[Disk]) -> Vec<MemberDevice> {
    let member = |disk: &Disk| MemberDevice {
        path: PathBuf::from(disk.name()),
        device: Arc::new(disk.clone()) as Arc<dyn BlockDevice>,
    };
    disks.iter().map(member).collect()
}

/// Run a test where a daemon's work is run. A directory goes with it.
pub(crate) fn on_the_background_worker<F, Fut>(test: F)
where
    F: FnOnce(WorkerPool, PathBuf) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let directory = tempfile::tempdir().unwrap();
    let workers = WorkerPool::start(detect(EngineChoice::Threads).unwrap(), 1).unwrap();
    let (here, path) = (workers.clone(), directory.path().to_owned());
    let done = workers.call_background(move || test(here, path));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(done).unwrap();
    workers.shut_down();
}

/// A host.
pub(crate) struct Host {
    pub(crate) daemon: Arc<Daemon>,
}

impl Host {
    /// One that keeps its copy in `state_dir`.
    pub(crate) fn new(workers: &WorkerPool, state_dir: PathBuf) -> Self {
        let config = Config { state_dir, ..Config::default() };
        let daemon = Daemon::new(config, workers.clone(), Environment { hostname: "host".into() });
        tokio::task::spawn_local(host_copy::keep_up(Arc::clone(&daemon)));
        Self { daemon }
    }

    /// An array of this name with a volume `v`.
    pub(crate) async fn create(&self, name: &str, disks: &[Disk]) -> Array {
        let spec = CreateSpec {
            name: name.into(),
            level: Level::Raid1,
            chunk_bytes: 0,
            policy: Policy::Bitmap,
            members: members(disks),
            spares: Vec::new(),
            force: false,
        };
        let array = create(spec, &self.daemon.environment).await.unwrap();
        self.volume(&array, "v").await;
        assembly::register(&self.daemon, &array);
        let notes =
            change::refresh(&self.daemon, std::slice::from_ref(&array), &self.daemon.document()).await;
        assert!(notes.is_empty(), "{notes:?}");
        array
    }

    /// The array's volume of this name.
    pub(crate) async fn volume(&self, array: &Array, name: &str) {
        let spec = VolumeSpec {
            name: name.into(),
            size_bytes: VOLUME_BYTES,
            write_cache: false,
            physical_block_bytes: None,
        };
        array.create_volume(spec).await.unwrap();
    }

    /// Disks that were connected: they run, and nobody has looked at what they carry.
    pub(crate) async fn connect(&self, disks: &[Disk]) -> Array {
        let array = assemble(members(disks), AssembleOptions::default(), &self.daemon.environment).await;
        let array = array.unwrap();
        assembly::register(&self.daemon, &array);
        array
    }

    /// What a start does with them.
    pub(crate) async fn start(&self, disks: &[Disk]) -> Array {
        let array = self.connect(disks).await;
        assembly::take_along(&self.daemon, std::slice::from_ref(&array)).await.unwrap();
        array
    }

    pub(crate) async fn stop(&self, name: &str) {
        arrays::stop(&self.daemon, name).await.unwrap();
    }

    /// A target of this name.
    pub(crate) async fn target(&self, name: &str) -> String {
        let iqn = format!("iqn.2026-11.org.labsan:{name}");
        targets::create(&self.daemon, CreateTarget { iqn: iqn.clone(), alias: None }).await.unwrap();
        iqn
    }

    /// The array's volume `v` as a LUN of the target.
    pub(crate) async fn map(&self, iqn: &str, array: &str) {
        self.map_volume(iqn, array, "v").await;
    }

    pub(crate) async fn map_volume(&self, iqn: &str, array: &str, volume: &str) {
        let volume = VolumePath::new(array, volume).unwrap();
        let request =
            MapLun { target: iqn.into(), volume, lun: None, read_only: false, force: false, initiator: None };
        targets::map(&self.daemon, request).await.unwrap();
    }

    /// The live unit of the array's volume.
    pub(crate) fn unit(&self, array: &Array) -> Arc<LogicalUnit> {
        self.daemon.targets.unit_of(&array.volume("v").unwrap()).unwrap()
    }

    /// A node that uses the array's volume.
    pub(crate) fn node(&self, array: &Array, name: &str) -> Node {
        Node::of(self.unit(array), name)
    }
}

/// A node that is logged in and has one LUN.
pub(crate) struct Node {
    luns: LunMap,
    nexus: Nexus,
    pool: BufferPool,
}

impl Node {
    pub(crate) fn of(unit: Arc<LogicalUnit>, name: &str) -> Self {
        let target = "iqn.2026-11.org.labsan:t";
        let luns = LunMap::new(target);
        let nexus = Nexus {
            initiator_name: format!("iqn.2026-11.com.example:{name}"),
            isid: [0x80, 0, 0, 0, 0, 1],
            target_name: target.into(),
            target_portal_group: 1,
            relative_target_port: 1,
        };
        luns.nexus_met(&nexus);
        luns.insert(0, unit).unwrap();
        Self { luns, nexus, pool: BufferPool::new(1 << 20) }
    }

    async fn send(&self, cdb: &[u8], data: Vec<u8>) -> ScsiResponse {
        loop {
            let command = ScsiCommand {
                lun: 0,
                cdb: cdb.into(),
                expected_data_out: u32::try_from(data.len()).unwrap(),
                data_out: data.clone().into(),
                expected_data_in: 4096,
                abort: None,
            };
            let response = self.luns.execute(&self.nexus, command, &self.pool).await;
            if response.sense.get(2).is_none_or(|key| key & 15 != 6) {
                return response;
            }
        }
    }

    /// PERSISTENT RESERVE OUT; a registration is one that shall survive. Status and sense.
    pub(crate) async fn order(&self, action: u8, keys: (u64, u64)) -> (u8, Sense) {
        let cdb = [0x5f, action & 0x1f, 5, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0];
        let mut list = [keys.0.to_be_bytes(), keys.1.to_be_bytes()].concat();
        let flags = u8::from(matches!(action, REGISTER));
        list.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0]);
        answer(&self.send(&cdb, list).await)
    }

    /// SANITIZE without data. Status and sense.
    pub(crate) async fn sanitize(&self, action: u8) -> (u8, Sense) {
        answer(&self.send(&[0x48, action, 0, 0, 0, 0, 0, 0, 0, 0], Vec::new()).await)
    }

    /// READ(10) of the first block. Status and sense.
    pub(crate) async fn read(&self) -> (u8, Sense) {
        answer(&self.send(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], Vec::new()).await)
    }

    /// READ KEYS, and PRGENERATION.
    pub(crate) async fn keys(&self) -> (u32, Vec<u64>) {
        let data = self.send(&[0x5e, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0], Vec::new()).await.data_in;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        (u32::try_from(number(&data[..4])).unwrap(), data[8..].chunks_exact(8).map(number).collect())
    }
}

fn answer(response: &ScsiResponse) -> (u8, Sense) {
    let byte = |at: usize| response.sense.get(at).copied().unwrap_or(0);
    (response.status as u8, (byte(2) & 15, byte(12), byte(13)))
}

/// BLOCK ERASE that may be left after a failure (AUSE).
pub(crate) const BLOCK_ERASE: u8 = 0x22;
/// EXIT FAILURE MODE.
pub(crate) const EXIT_FAILURE_MODE: u8 = 0x1f;
/// RESERVE (write exclusive, registrants only).
pub(crate) const RESERVE: u8 = 1;
/// PREEMPT.
pub(crate) const PREEMPT: u8 = 4;
/// REGISTER AND IGNORE EXISTING KEY.
pub(crate) const REGISTER: u8 = 6;

/// The same without APTPL.
pub(crate) const REGISTER_FOR_NOW: u8 = 0x80 | REGISTER;

/// Wait until something is so.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(PAUSE).await;
    }
}
