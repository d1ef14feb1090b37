//! What the connections and tasks of one session share: its commands under way, and whose turn it is.
//!
//! | a command is | it has | it leaves by |
//! |---|---|---|
//! | `Receiving` | a transfer, perhaps a buffer | its last data: ready |
//! | `Dormant` | all its data, and waits for its turn (`Order`) | the end of what it waits for |
//! | `Running` | been given to its logical unit | its response, or silently if it was aborted |
//!
//! Everything here lives on one worker: `RefCell`s, never borrowed across an await.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use block_io::Buffer;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::Shape;
use super::link::Link;
use crate::login::parameters::Parameters;
use crate::pdu::response;
use crate::pdu::{Bhs, request};
use crate::scsi::{LogicalUnit, Nexus};
use crate::session::order::{Attribute, Order};
use crate::session::transfer::Transfer;
use crate::session::window::Window;

/// A command and what is needed to answer it.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) header: request::ScsiCommand,
    /// Its connection: all of it goes by that one (connection allegiance, RFC 7143 section 4.2.2).
    pub(super) link: Rc<Link>,
    pub(super) attribute: Attribute,
    pub(super) phase: Phase,
    pub(super) aborted: bool,
    /// Tells a command that may take long that it was aborted.
    pub(super) abort: Option<tokio::sync::watch::Sender<bool>>,
    /// Told when the command has ended.
    pub(super) waiters: Vec<oneshot::Sender<()>>,
}

impl Task {
    /// It has no place of its own among the commands.
    pub(super) fn is_immediate(&self) -> bool {
        self.header.opcode & crate::pdu::IMMEDIATE != 0
    }
}

#[derive(Debug)]
pub(super) enum Phase {
    Receiving(Box<Incoming>),
    Dormant {
        data: Bytes,
        meant: Meant,
    },
    /// In this unit, whatever becomes of the LUN; none where there is none.
    Running(Option<Arc<LogicalUnit>>),
}

/// The unit that a command was sent to: its data, if any, is for that one, whatever has the LUN by now.
#[derive(Clone, Debug)]
pub(super) struct Meant(Option<Weak<LogicalUnit>>);

impl Meant {
    pub(super) fn new(unit: Option<&Arc<LogicalUnit>>) -> Self {
        Self(unit.map(Arc::downgrade))
    }

    /// Is it this one, or another view of it?
    pub(super) fn is(&self, unit: &LogicalUnit) -> bool {
        self.0.as_ref().and_then(Weak::upgrade).is_some_and(|meant| meant.is_view_of(unit))
    }
}

/// Write data on its way in.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) transfer: Transfer,
    pub(super) shape: Shape,
    pub(super) meant: Meant,
    /// The command's data; away while a segment is being received into it. `None` where nothing is kept.
    pub(super) buffer: Option<Buffer>,
    /// Bytes the command will be given.
    pub(super) total: usize,
    /// Its CmdSN has had its turn.
    pub(super) arrived: bool,
    /// Its unsolicited data had ended before that.
    pub(super) ended_early: bool,
    /// Its header came.
    pub(super) began: Instant,
    /// Data of it came last, or was asked for.
    pub(super) heard: Instant,
    /// The memory that it holds until all its data is there.
    pub(super) held: Option<Held>,
}

/// Memory that is held for data on its way, counted for the session as long as this lives.
#[derive(Debug)]
pub(super) struct Held {
    count: Rc<Cell<usize>>,
    bytes: usize,
}

impl Held {
    pub(super) fn new(count: &Rc<Cell<usize>>, bytes: usize) -> Self {
        count.set(count.get() + bytes);
        Self { count: Rc::clone(count), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.set(self.count.get() - self.bytes);
    }
}

/// What waits in the window for its CmdSN.
#[derive(Debug)]
pub(super) enum Early {
    Command {
        tag: u32,
        /// By the time it has its turn another command may have the tag.
        cmd_sn: u32,
    },
    /// By the connection of this number.
    Other(u16, Bhs, Vec<u8>),
    /// It was rejected, or aborted before it came, and has its turn only so that others have theirs.
    Nothing,
}

/// What the connections of a session share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) nexus: Nexus,
    /// Of the session; what is a connection's own is in its link.
    pub(super) parameters: Parameters,
    pub(super) window: Rc<RefCell<Window<Early>>>,
    pub(super) tasks: RefCell<HashMap<u32, Task>>,
    pub(super) orders: RefCell<HashMap<u64, Order<u32>>>,
    /// The connections; those that end are among them until none of their commands runs any more.
    pub(super) links: RefCell<Vec<Rc<Link>>>,
    /// All connections are to end, and nobody may join.
    pub(super) ending: Cell<bool>,
    /// Task management functions under way.
    pub(super) managing: Cell<usize>,
    /// Numbers that a reset has passed over: what is no command of these has its turn when it comes.
    pub(super) passed_over: RefCell<BTreeSet<u32>>,
    /// Bytes of memory that commands hold whose data is on its way: of the pool for data, and of that for parameters.
    pub(super) held_for_data: Rc<Cell<usize>>,
    pub(super) held_for_parameters: Rc<Cell<usize>>,
    /// Immediate task management functions that wait for the commands sent before them, and the connections they came by.
    pub(super) held: RefCell<Vec<(u16, Bhs)>>,
    /// Bytes of data that wait with their PDUs for their turn.
    pub(super) early_bytes: Cell<usize>,
}

impl State {
    pub(super) fn new(nexus: Nexus, parameters: Parameters, cmd_sn: u32) -> Rc<Self> {
        Rc::new(Self {
            nexus,
            parameters,
            window: Rc::new(RefCell::new(Window::new(cmd_sn))),
            tasks: RefCell::default(),
            orders: RefCell::default(),
            links: RefCell::default(),
            ending: Cell::new(false),
            managing: Cell::new(0),
            passed_over: RefCell::default(),
            held_for_data: Rc::default(),
            held_for_parameters: Rc::default(),
            held: RefCell::default(),
            early_bytes: Cell::new(0),
        })
    }

    /// Commands and task management functions that are not over.
    pub(super) fn under_way(&self) -> usize {
        self.tasks.borrow().len() + self.managing.get()
    }

    /// The connection of this number.
    pub(super) fn link(&self, cid: u16) -> Option<Rc<Link>> {
        self.links.borrow().iter().find(|link| link.cid == cid).cloned()
    }

    /// Returns when none of a connection's commands runs any more.
    pub(super) async fn over(&self, link: &Rc<Link>) {
        let is_there = || self.links.borrow().iter().any(|other| Rc::ptr_eq(other, link));
        while is_there() {
            link.over.notified().await;
        }
    }

    /// All that are open.
    pub(super) fn open_links(&self) -> Vec<Rc<Link>> {
        self.links.borrow().iter().filter(|link| !link.closed.get()).cloned().collect()
    }
}

/// Residual flags and count (RFC 7143 section 11.4.1): how what the command wanted differs from what was expected.
pub(super) fn residual(
    command: &request::ScsiCommand,
    response: &crate::scsi::ScsiResponse,
    sent: u64,
) -> (u8, u32) {
    let expected = u64::from(command.expected_data_transfer_length.get());
    let writes = command.flags & request::COMMAND_WRITE != 0;
    let wanted = if writes { response.data_out_wanted } else { response.data_in_wanted.max(sent) };
    let count = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    match wanted.cmp(&expected) {
        std::cmp::Ordering::Greater => (response::OVERFLOW, count(wanted - expected)),
        std::cmp::Ordering::Less => (response::UNDERFLOW, count(expected - wanted)),
        std::cmp::Ordering::Equal => (0, 0),
    }
}
