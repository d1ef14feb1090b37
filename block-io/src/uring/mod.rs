//! How does one worker do its I/O through its own io_uring?
//!
//! A future's first poll queues its entry; the first entry since the last submission wakes the driver
//! task, which runs after everything that was runnable already, so all that a round of polling brought
//! about goes to the kernel in one system call. The ring's descriptor sits in tokio's epoll; when it is
//! readable the driver reaps and wakes the futures, on the thread they live on.
//!
//! At most [`Ring::room`] operations are in flight; further ones wait, in order, for a place.

#![allow(unsafe_code)]

mod ring;
mod slots;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio::time::Sleep;

use crate::reactor::Operation;
use ring::{Reaped, Ring};

/// How long to wait when the kernel refuses a submission for want of memory.
const SUBMIT_RETRY: Duration = Duration::from_millis(1);

/// One thread's ring.
pub(crate) struct Uring {
    ring: RefCell<Ring>,
    room: Semaphore,
    driver: RefCell<Option<Waker>>,
    submit_wanted: Cell<bool>,
}

impl Uring {
    pub(crate) fn new() -> io::Result<Self> {
        let ring = Ring::new()?;
        let room = Semaphore::new(ring.room());
        Ok(Self {
            ring: RefCell::new(ring),
            room,
            driver: RefCell::new(None),
            submit_wanted: Cell::new(false),
        })
    }

    /// The task that submits and reaps; it runs on the ring's thread as long as the ring is used.
    /// Must be called within the thread's tokio runtime.
    pub(crate) fn driver(self: &Rc<Self>) -> io::Result<impl Future<Output = Infallible> + use<>> {
        let ring = RingFd { fd: self.ring.borrow().fd(), ring: Rc::clone(self) };
        // SAFETY: the ring that `RingFd` keeps alive owns this descriptor and never changes it.
        let fd = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        let mut driver = Driver { fd, retry: None, reaped: Reaped::default() };
        Ok(poll_fn(move |context| driver.poll(context)))
    }

    /// Run one operation once: bytes moved, or an errno.
    pub(crate) async fn perform(self: Rc<Self>, operation: Operation) -> (Operation, Result<usize, i32>) {
        match self.room.acquire().await {
            // Given back when the completion is reaped, which may be after this future is gone.
            Ok(place) => place.forget(),
            Err(_closed) => return (operation, Err(libc::ESHUTDOWN)),
        }
        let index = match self.enqueue(operation) {
            Ok(index) => index,
            Err(operation) => {
                self.room.add_permits(1);
                return (operation, Err(libc::EAGAIN));
            }
        };
        let (operation, result) = InFlight { ring: &self, index: Some(index) }.await;
        (operation, usize::try_from(result).map_err(|_| result.saturating_neg()))
    }

    fn enqueue(&self, operation: Operation) -> Result<u32, Operation> {
        let mut ring = self.ring.borrow_mut();
        let index = match ring.push(operation) {
            Ok(index) => index,
            Err(Some(operation)) => return Err(operation),
            Err(None) => unreachable!("a slot that was filled a moment ago is empty"),
        };
        drop(ring);
        if !self.submit_wanted.replace(true)
            && let Some(driver) = &*self.driver.borrow()
        {
            driver.wake_by_ref();
        }
        Ok(index)
    }

    fn submit(&self) -> io::Result<()> {
        self.submit_wanted.set(false);
        self.ring.borrow_mut().submit()
    }

    /// Collect completions, then wake and free without the ring borrowed: a waker, or the end of a
    /// buffer, may run code that uses the ring.
    fn reap(&self, reaped: &mut Reaped) {
        self.ring.borrow_mut().reap(reaped);
        if reaped.completed == 0 {
            return;
        }
        self.room.add_permits(std::mem::take(&mut reaped.completed));
        reaped.orphans.clear();
        for waker in reaped.wakers.drain(..) {
            waker.wake();
        }
    }
}

impl Drop for Uring {
    /// The kernel may still be writing into buffers: wait for it. Disk I/O always completes.
    fn drop(&mut self) {
        let ring = self.ring.get_mut();
        let mut reaped = Reaped::default();
        while ring.in_flight() > 0 {
            match ring.wait() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => std::thread::sleep(SUBMIT_RETRY),
            }
            ring.reap(&mut reaped);
            reaped.orphans.clear();
        }
    }
}

/// An operation between its submission and its completion.
struct InFlight<'a> {
    ring: &'a Uring,
    /// None once the result was taken.
    index: Option<u32>,
}

impl Future for InFlight<'_> {
    type Output = (Operation, i32);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(index) = self.index else { return Poll::Pending };
        let finished = self.ring.ring.borrow_mut().poll(index, context.waker());
        match finished {
            Some(finished) => {
                self.index = None;
                Poll::Ready(finished)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(index) = self.index {
            let finished = self.ring.ring.borrow_mut().abandon(index);
            drop(finished);
        }
    }
}

/// The ring's descriptor, which is open as long as the ring is there.
struct RingFd {
    fd: RawFd,
    ring: Rc<Uring>,
}

impl AsRawFd for RingFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

struct Driver {
    fd: AsyncFd<RingFd>,
    retry: Option<Pin<Box<Sleep>>>,
    reaped: Reaped,
}

impl Driver {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Infallible> {
        self.register(context.waker());
        loop {
            self.submit(context);
            // Much is complete as soon as it is submitted.
            self.fd.get_ref().ring.reap(&mut self.reaped);
            match self.fd.poll_read_ready(context) {
                // Readiness is cleared before reaping, so whatever completes later sets it again.
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                Poll::Ready(Err(error)) => {
                    tracing::error!("the input/output ring can no longer be watched: {error}");
                    return Poll::Pending;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn register(&self, waker: &Waker) {
        let mut known = self.fd.get_ref().ring.driver.borrow_mut();
        match &mut *known {
            Some(known) => known.clone_from(waker),
            None => *known = Some(waker.clone()),
        }
    }

    fn submit(&mut self, context: &mut Context<'_>) {
        if let Some(retry) = &mut self.retry {
            if retry.as_mut().poll(context).is_pending() {
                return;
            }
            self.retry = None;
        }
        if let Err(error) = self.fd.get_ref().ring.submit() {
            tracing::warn!("the kernel refuses input/output for the moment: {error}");
            let mut retry = Box::pin(tokio::time::sleep(SUBMIT_RETRY));
            // Polled once so that it wakes this task.
            let _ = retry.as_mut().poll(context);
            self.retry = Some(retry);
        }
    }
}
