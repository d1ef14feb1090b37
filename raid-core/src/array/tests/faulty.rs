//! A device in memory that can be made to fail.

use super::*;

pub(super) type Unwritable = (std::ops::Range<u64>, IoErrorKind);

pub(super) type Watcher = Box<dyn Fn(u64, u64) + Send>;

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faulty").field(&self.inner).finish()
    }
}

/// A device in memory with a switch: off, it is gone. Single ranges can be made unreadable.
#[derive(Clone)]
pub(super) struct Faulty {
    pub(super) inner: MemoryDevice,
    pub(super) gone: Arc<AtomicBool>,
    pub(super) bad: Arc<Mutex<Vec<std::ops::Range<u64>>>>,
    /// What cannot be read is not the medium's fault.
    pub(super) timeouts: Arc<AtomicBool>,
    /// What a write of these ranges ends in.
    pub(super) unwritable: Arc<Mutex<Vec<Unwritable>>>,
    pub(super) full: Arc<AtomicBool>,
    /// What it says of its pool.
    pub(super) room: Arc<Mutex<Option<block_io::ThinSpace>>>,
    /// Writes of data that begins with this byte take a second. 0: none.
    pub(super) slow: Arc<AtomicU8>,
    /// Reads take ten seconds, and give what is there then.
    pub(super) late: Arc<AtomicBool>,
    /// Bytes read and written.
    pub(super) moved: Arc<[AtomicU64; 2]>,
    /// Sees where everything but zeros is written, before it is.
    pub(super) watcher: Arc<Mutex<Option<Watcher>>>,
    /// Writes that may still be carried out; the others never end.
    pub(super) fuse: Arc<Mutex<Option<Arc<AtomicI64>>>>,
    /// Zeroing is not cheap, and what was on it before is still there.
    pub(super) used: bool,
}

impl Faulty {
    pub(super) fn new(name: &str) -> Self {
        let inner = MemoryDevice::new(name, MEMBER_BYTES);
        Self {
            inner,
            gone: Arc::default(),
            bad: Arc::default(),
            timeouts: Arc::default(),
            unwritable: Arc::default(),
            full: Arc::default(),
            room: Arc::default(),
            slow: Arc::default(),
            late: Arc::default(),
            moved: Arc::default(),
            watcher: Arc::default(),
            fuse: Arc::default(),
            used: false,
        }
    }

    pub(super) fn watch(&self, watcher: impl Fn(u64, u64) + Send + 'static) {
        *self.watcher.lock().unwrap() = Some(Box::new(watcher));
    }

    pub(super) fn read_bytes(&self) -> u64 {
        self.moved[0].load(Ordering::Relaxed)
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.moved[1].load(Ordering::Relaxed)
    }

    /// A write begins. It never ends where the fuse has blown.
    pub(super) async fn begin_write(&self, offset: u64, data: &[u8]) {
        self.moved[1].fetch_add(data.len() as u64, Ordering::Relaxed);
        if let Some(watcher) = &*self.watcher.lock().unwrap()
            && data.iter().any(|byte| *byte != 0)
        {
            watcher(offset, data.len() as u64);
        }
        let fuse = self.fuse.lock().unwrap().clone();
        if fuse.is_some_and(|fuse| fuse.fetch_sub(1, Ordering::Relaxed) <= 0) {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn error(
        &self,
        kind: IoErrorKind,
        operation: IoOperation,
        offset: u64,
        length: u64,
    ) -> IoError {
        IoError::new(kind, operation, &self.inner.name().into(), offset, length)
    }

    pub(super) fn check(&self, operation: IoOperation, offset: u64, length: u64) -> Result<(), IoError> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(self.error(IoErrorKind::Gone, operation, offset, length));
        }
        let mut bad = self.bad.lock().unwrap();
        let hit = |range: &std::ops::Range<u64>| range.start < offset + length && offset < range.end;
        if operation == IoOperation::Read && bad.iter().any(hit) {
            let timeouts = self.timeouts.load(Ordering::Relaxed);
            let kind = if timeouts { IoErrorKind::Other } else { IoErrorKind::Medium };
            return Err(self.error(kind, operation, offset, length));
        }
        if operation == IoOperation::Write {
            let unwritable = self.unwritable.lock().unwrap();
            if let Some((_, kind)) = unwritable.iter().find(|(range, _)| hit(range)) {
                return Err(self.error(*kind, operation, offset, length));
            }
            bad.retain(|range| !hit(range));
        }
        Ok(())
    }
}

impl BlockDevice for Faulty {
    fn info(&self) -> DeviceInfo {
        let zeroing = if self.used { Zeroing::Slow } else { Zeroing::Cheap };
        DeviceInfo { thin: true, zeroing, ..self.inner.info() }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn read(&self, offset: u64, buffer: Buffer) -> IoFuture<'_, ReadResult> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.moved[0].fetch_add(buffer.len() as u64, Ordering::Relaxed);
            if self.late.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            match self.check(IoOperation::Read, offset, buffer.len() as u64) {
                Ok(()) => self.inner.read(offset, buffer).await,
                Err(error) => (buffer, Err(error)),
            }
        })
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.begin_write(offset, &data).await;
            self.check(IoOperation::Write, offset, data.len() as u64)?;
            let slow = self.slow.load(Ordering::Relaxed);
            if slow != 0 && data.first() == Some(&slow) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            self.inner.write(offset, data, durability).await
        })
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.check(IoOperation::Flush, 0, 0) })
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.check(IoOperation::Write, offset, length)?;
            self.inner.zero(offset, length, durability).await
        })
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        self.zero(offset, length, Durability::Durable)
    }

    fn thin_space(&self) -> IoFuture<'_, Result<Option<block_io::ThinSpace>, IoError>> {
        Box::pin(async move {
            self.check(IoOperation::Provision, 0, 0)?;
            Ok(*self.room.lock().unwrap())
        })
    }

    fn provision(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        let full = self.full.load(Ordering::Relaxed);
        let result = if full {
            Err(self.error(IoErrorKind::NoSpace, IoOperation::Provision, offset, length))
        } else {
            Ok(())
        };
        Box::pin(std::future::ready(result))
    }
}
