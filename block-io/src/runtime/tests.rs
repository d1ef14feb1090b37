//! Workers: where work runs, that it is finished, and that they start and stop cleanly.

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::file::{Allocation, FileDevice};
use crate::{BlockDevice, Buffer, Durability};

const PATIENCE: Duration = Duration::from_secs(20);

fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::Threads];
    match detect(EngineChoice::IoUring) {
        Ok(engine) => engines.push(engine),
        Err(error) => println!("skipped one engine: {error}"),
    }
    engines
}

#[test]
fn what_is_asked_for_by_name_is_not_replaced() {
    assert_eq!(detect(EngineChoice::Threads).unwrap(), Engine::Threads);
    match detect(EngineChoice::IoUring) {
        Ok(engine) => assert_eq!((engine, detect(EngineChoice::Auto).unwrap()), (engine, engine)),
        Err(_) => assert_eq!(detect(EngineChoice::Auto).unwrap(), Engine::Threads),
    }
}

#[test]
fn local_tasks_run_beside_the_future() {
    for engine in engines() {
        let value = run_local(engine, async {
            let shared = Rc::new(7);
            let other = Rc::clone(&shared);
            tokio::task::spawn_local(async move { *other + 1 }).await.unwrap()
        });
        assert_eq!(value, 8);
    }
}

#[test]
fn several_workers_use_the_same_device() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let device = FileDevice::create(dir.path().join("disk"), 8 << 20, Allocation::Full).unwrap();
        let device: Arc<dyn BlockDevice> = Arc::new(device);
        let pool = WorkerPool::start(engine, 3).unwrap();
        let (done, results) = mpsc::channel();
        for part in 0..16u64 {
            let (device, done) = (Arc::clone(&device), done.clone());
            pool.spawn_on(part as usize, move || async move {
                for step in 0..32 {
                    let (offset, byte) = ((part * 32 + step) * 4096, (part * 3 + step) as u8);
                    let data = Buffer::copy_of(&[byte; 4096]).freeze();
                    device.write(offset, data, Durability::Cached).await.unwrap();
                    let (buffer, result) = device.read(offset, Buffer::zeroed(4096)).await;
                    result.unwrap();
                    assert!(buffer.iter().all(|&found| found == byte));
                }
                let name = std::thread::current().name().unwrap().to_owned();
                done.send(name).unwrap();
            });
        }
        let mut names: Vec<_> = (0..16).map(|_| results.recv_timeout(PATIENCE).unwrap()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names, ["labsan-w0", "labsan-w1", "labsan-w2"]);
        pool.shut_down();
    }
}

#[test]
fn background_work_outlives_its_caller() {
    for engine in engines() {
        let pool = WorkerPool::start(engine, 1).unwrap();
        let (done, result) = mpsc::channel();
        let call = pool.call_background(move || async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            done.send(std::thread::current().name().map(str::to_owned)).unwrap();
        });
        drop(call);
        assert_eq!(result.recv_timeout(PATIENCE).unwrap().as_deref(), Some("labsan-bg"));
        let value = run_local(Engine::Threads, pool.call_background(|| async { *Rc::new(5) }));
        assert_eq!(value.unwrap(), 5);
        pool.shut_down();
    }
}

#[test]
fn a_panic_ends_only_its_own_work() {
    let pool = WorkerPool::start(Engine::Threads, 1).unwrap();
    let failed = run_local(Engine::Threads, pool.call_on(0, || async { panic!("meant to fail") }));
    assert!(matches!(failed, Err(RuntimeError::Stopped)));
    assert_eq!(run_local(Engine::Threads, pool.call_on(0, || async { 1 })).unwrap(), 1);
    pool.shut_down();
}

#[test]
fn shutting_down_drops_tasks_and_refuses_more() {
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for engine in engines() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let pool = WorkerPool::start(engine, 2).unwrap();
        for worker in 0..4 {
            let guard = Guard(Arc::clone(&dropped));
            // A task that holds a handle of its own pool must not keep it alive.
            let handle = pool.clone();
            pool.spawn_on(worker, move || async move {
                std::future::pending::<()>().await;
                drop((guard, handle));
            });
        }
        let late = pool.clone();
        pool.shut_down();
        assert_eq!(dropped.load(Ordering::SeqCst), 4);
        late.spawn_background(|| async { unreachable!("the worker has stopped") });
        let refused = run_local(Engine::Threads, late.call_background(|| async { 1 }));
        assert!(matches!(refused, Err(RuntimeError::Stopped)));
        late.shut_down();
    }
}

#[test]
fn writes_in_flight_at_shut_down_reach_the_disk() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let device =
            Arc::new(FileDevice::create(dir.path().join("disk"), 1 << 20, Allocation::Full).unwrap());
        let pool = WorkerPool::start(engine, 1).unwrap();
        let (started, is_started) = mpsc::channel();
        let writer = Arc::clone(&device);
        pool.spawn_on(0, move || async move {
            let data = Buffer::copy_of(&[9; 4096]).freeze();
            let mut write = writer.write(0, data, Durability::Durable);
            let _ = futures_util::poll!(&mut write);
            started.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        is_started.recv_timeout(PATIENCE).unwrap();
        pool.shut_down();
        if engine == Engine::IoUring {
            let (buffer, result) = run_local(engine, device.read(0, Buffer::zeroed(4096)));
            result.unwrap();
            assert!(buffer.iter().all(|&byte| byte == 9));
        }
    }
}

#[test]
fn workers_end_with_the_last_handle() {
    let pool = WorkerPool::start(Engine::Threads, 1).unwrap();
    let (held, ended) = mpsc::channel::<()>();
    pool.spawn_on(0, move || async move {
        std::future::pending::<()>().await;
        drop(held);
    });
    drop(pool);
    assert_eq!(ended.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
}

/// From now on, and in threads started here, io_uring_setup fails with EPERM, as in many containers.
#[allow(unsafe_code)]
fn forbid_io_uring() {
    // Load the system call's number; if it is io_uring_setup, fail; else allow.
    let filter = [
        libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: both calls concern this thread only; the kernel copies the program.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        assert_eq!(libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program), 0);
    }
}

#[test]
fn where_io_uring_is_forbidden_threads_do_the_work() {
    let forbidden = std::thread::spawn(|| {
        forbid_io_uring();
        assert_eq!(detect(EngineChoice::Auto).unwrap(), Engine::Threads);
        let named = detect(EngineChoice::IoUring).unwrap_err();
        assert!(
            matches!(&named, RuntimeError::NoIoUring(error) if error.raw_os_error() == Some(libc::EPERM))
        );
        // An engine that was there at the start and is not any more: an error, not a panic.
        let refused = WorkerPool::start(Engine::IoUring, 2).unwrap_err();
        assert!(matches!(refused, RuntimeError::Start { worker, .. } if worker == "labsan-w0"));
        let pool = WorkerPool::start(Engine::Threads, 1).unwrap();
        assert_eq!(run_local(Engine::Threads, pool.call_background(|| async { 3 })).unwrap(), 3);
        pool.shut_down();
    });
    forbidden.join().unwrap();
}
