//! One connection in full feature phase: what comes is parsed, what is ready is sent, and nothing else is done here.
//!
//! Each turn of the loop: everything a receive brought is parsed; everything that is queued is sent with one system
//! call; then wait for more bytes, room to send, a response, a message or a timer. Commands run as tasks of their
//! own (`commands`) and run to their end even when the connection is gone.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use block_io::Buffer;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::commands::Commands;
use super::ending::{Ending, Farewell, Over};
use super::receive::Staging;
use super::state::Incoming;
use super::text::TextExchange;
use super::upkeep::Patience;
use crate::limits;
use crate::pdu::ahs::Ahs;
use crate::pdu::response::RejectReason;
use crate::pdu::{BHS_BYTES, Bhs, NO_TAG, opcode, request, response};

/// Where the bytes of a data segment go.
pub(super) enum Sink {
    /// Kept for a PDU that is no command's data.
    Collect(Vec<u8>),
    /// Into a command's buffer.
    Buffer { buffer: Buffer, at: usize },
    /// Nowhere.
    Discard,
}

/// A PDU whose data is being received.
pub(super) struct Segment {
    pub(super) header: Bhs,
    pub(super) sink: Sink,
    pub(super) filled: usize,
    pub(super) length: usize,
    /// A command's transfer, made when its header came.
    pub(super) command: Option<Box<Incoming>>,
    /// The PDU was refused or is out of turn: its data is passed over and nothing follows.
    pub(super) ignored: bool,
    /// It was answered with a Reject.
    pub(super) refused: bool,
    /// Its header came.
    pub(super) began: Instant,
}

impl Segment {
    /// Whose data goes nowhere yet.
    pub(super) fn of(header: Bhs) -> Self {
        let length = header.data_bytes();
        let began = Instant::now();
        Self {
            header,
            sink: Sink::Discard,
            filled: 0,
            length,
            command: None,
            ignored: false,
            refused: false,
            began,
        }
    }
}

/// Can a command be carried out?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Ordinary,
    /// There is no memory for its data.
    TurnedAway,
    /// A command with a CDB longer than 16 bytes or with data both ways, of which there are none here.
    Unsupported {
        /// Bytes it wants to read beside what it writes.
        read: u32,
    },
}

impl Shape {
    /// Bytes that it wants to read beside what it writes.
    pub(super) fn read_bytes(self) -> u32 {
        match self {
            Self::Ordinary | Self::TurnedAway => 0,
            Self::Unsupported { read } => read,
        }
    }
}

/// A connection and its session.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) staging: Staging,
    pub(super) commands: Commands,
    pub(super) text: TextExchange,
    pub(super) discovery: bool,
    pub(super) segment: Option<Segment>,
    next_transfer_tag: u32,
    pub(super) patience: Patience,
    pub(super) heard: Instant,
    pub(super) asked: Option<Instant>,
    /// Data of any command came last.
    pub(super) data_heard: Instant,
    /// There was no memory just now: until then nobody waits for any.
    pub(super) no_memory_until: Option<Instant>,
    /// When it is looked whether data comes that was asked for.
    pub(super) look_at: Instant,
    pub(super) closing: Option<Ending>,
    pub(super) close_at: Option<Instant>,
    /// What answers a logout.
    pub(super) farewell: Option<response::Plain>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, commands: Commands, text: TextExchange, patience: Patience) -> Self {
        Self {
            stream,
            staging: Staging::new(),
            discovery: text.target.is_none(),
            commands,
            text,
            segment: None,
            next_transfer_tag: 0,
            patience,
            heard: Instant::now(),
            asked: None,
            data_heard: Instant::now(),
            no_memory_until: None,
            look_at: Instant::now() + patience.data / 4,
            closing: None,
            close_at: None,
            farewell: None,
        }
    }

    /// CID.
    pub(super) fn cid(&self) -> u16 {
        self.commands.link.cid
    }

    /// Serve until the connection ends; then wait until none of its commands runs any more.
    pub(super) async fn run(mut self) -> Over {
        let ending = match self.serve().await {
            Ok(ending) | Err(ending) => ending,
        };
        self.give_up(ending).await
    }

    /// End it, and wait until none of its commands runs any more.
    pub(super) async fn give_up(mut self, ending: Ending) -> Over {
        let link = Rc::clone(&self.commands.link);
        link.closed.set(true);
        // What comes after half a PDU could not be read.
        if !link.queue.borrow().is_empty() {
            self.farewell = None;
        }
        link.queue.borrow_mut().clear();
        self.commands.state.held.borrow_mut().retain(|(cid, _)| *cid != link.cid);
        self.segment = None;
        if self.farewell.is_none() {
            // The initiator learns at once that it is over; a socket that is gone already needs no closing.
            let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Both);
        }
        for task in self.commands.abort(|_, task| Rc::ptr_eq(&task.link, &link)) {
            // An error means that it has ended.
            let _ = task.await;
        }
        self.commands.state.links.borrow_mut().retain(|other| !Rc::ptr_eq(other, &link));
        link.over.notify_waiters();
        let stream = self.stream;
        Over { ending, farewell: self.farewell.map(|answer| Farewell::new(stream, link, answer)) }
    }

    async fn serve(&mut self) -> Result<Ending, Ending> {
        loop {
            self.parse().await?;
            self.run_errands(true);
            // Also of an initiator that never pauses.
            self.look_for_data(Instant::now());
            if self.is_due() {
                self.time_is_up();
            }
            let sent = self.flush()?;
            // Who is not to be waited for gets what the socket takes.
            if (sent || self.is_due())
                && let Some(ending) = self.closing.take()
            {
                return Ok(ending);
            }
            self.wait(sent).await?;
        }
    }

    pub(super) fn flush(&mut self) -> Result<bool, Ending> {
        Ok(self.commands.link.queue.borrow_mut().flush(&self.stream)?)
    }

    /// Wait until there is something to do. Bytes are received here.
    async fn wait(&mut self, sent: bool) -> Result<(), Ending> {
        let link = Rc::clone(&self.commands.link);
        // An initiator that does not take its responses gets no more commands in.
        let listens = self.closing.is_none() && link.queue.borrow().has_room();
        if !listens || !sent {
            // What it sends meanwhile is not looked at, and what asks for data may still be on its way behind other answers.
            self.data_heard = Instant::now();
        }
        let deadline = self.deadline();
        let (stream, staging, segment) = (&mut self.stream, &mut self.staging, &mut self.segment);
        let mut timed_out = false;
        let mut received = None;
        tokio::select! {
            biased;
            result = poll_fn(|context| {
                if !sent && stream.poll_write_ready(context).is_ready() {
                    return Poll::Ready(Ok(None));
                }
                if !listens {
                    return Poll::Pending;
                }
                receive(stream, staging, segment.as_mut(), context).map(|result| result.map(Some))
            }) => received = result?,
            () = link.wake.notified() => {}
            () = tokio::time::sleep_until(deadline) => timed_out = true,
        }
        if received == Some(0) {
            return Err(Ending::Closed);
        }
        if received.is_some() {
            self.heard = Instant::now();
            self.asked = None;
        }
        if timed_out {
            self.deadline_passed()?;
        }
        Ok(())
    }

    pub(super) fn transfer_tag(&mut self) -> u32 {
        self.next_transfer_tag = self.next_transfer_tag.wrapping_add(1);
        if self.next_transfer_tag == NO_TAG {
            self.next_transfer_tag = 1;
        }
        self.next_transfer_tag
    }

    /// Parse everything that is staged.
    async fn parse(&mut self) -> Result<(), Ending> {
        while self.closing.is_none() {
            match self.segment.take() {
                None => {
                    if !self.begin_pdu().await? {
                        return Ok(());
                    }
                }
                Some(segment) => {
                    if !self.fill_segment(segment)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Take the next header off the staging buffer. False: it is not all there yet.
    async fn begin_pdu(&mut self) -> Result<bool, Ending> {
        let (staged, parameters) = (self.staging.staged(), &self.commands.link.parameters);
        let head = parameters.framing().head(staged, parameters.our_max_recv)?;
        let Some((header, bytes)) = head else { return Ok(false) };
        let shape = self.shape(&header, &staged[BHS_BYTES..][..header.ahs_bytes()]);
        self.staging.consume(bytes);
        self.segment = Some(match shape {
            Ok(shape) => self.place(header, shape).await,
            Err(reason) => self.refuse(header, reason),
        });
        Ok(true)
    }

    /// What additional header segments make of a PDU.
    fn shape(&self, header: &Bhs, segments: &[u8]) -> Result<Shape, RejectReason> {
        let ahs = Ahs::parse(segments).map_err(|_| RejectReason::InvalidPduField)?;
        let both = request::COMMAND_READ | request::COMMAND_WRITE;
        let is_command = header.opcode() == opcode::SCSI_COMMAND && !self.discovery;
        let is_bidirectional = is_command && header.flags & both == both;
        match ahs {
            Ahs { read_length: Some(_), .. } if !is_bidirectional => Err(RejectReason::InvalidPduField),
            Ahs { extended_cdb: Some(_), .. } if !is_command => Err(RejectReason::InvalidPduField),
            Ahs { extended_cdb: None, read_length: None } if !is_bidirectional => Ok(Shape::Ordinary),
            Ahs { read_length, .. } => Ok(Shape::Unsupported { read: read_length.unwrap_or(0) }),
        }
    }

    /// Reject a PDU; its data is passed over.
    pub(super) fn refuse(&self, header: Bhs, reason: RejectReason) -> Segment {
        self.commands.link.reject(reason, &header);
        Segment { ignored: true, refused: true, ..Segment::of(header) }
    }

    /// Move staged bytes to where they belong. False: the PDU is not all there yet.
    fn fill_segment(&mut self, mut segment: Segment) -> Result<bool, Ending> {
        let rest = segment.length - segment.filled;
        segment.filled += match &mut segment.sink {
            Sink::Collect(bytes) => self.staging.copy_to(&mut bytes[segment.filled..]),
            Sink::Buffer { buffer, at } => {
                self.staging.copy_to(&mut buffer[*at + segment.filled..*at + segment.length])
            }
            Sink::Discard => {
                let count = rest.min(self.staging.staged().len());
                self.staging.consume(count);
                count
            }
        };
        let tail = self.commands.link.parameters.framing().tail_bytes(segment.length);
        if segment.filled < segment.length || self.staging.staged().len() < tail {
            self.segment = Some(segment);
            return Ok(false);
        }
        let intact = self.is_intact(&segment, tail);
        self.staging.consume(tail);
        self.pdu_complete(segment, intact)?;
        Ok(true)
    }

    fn is_intact(&self, segment: &Segment, tail: usize) -> bool {
        let data = match &segment.sink {
            Sink::Collect(bytes) => &bytes[..],
            Sink::Buffer { buffer, at } => &buffer[*at..*at + segment.length],
            Sink::Discard => return true,
        };
        self.commands.link.parameters.framing().is_intact(data, &self.staging.staged()[..tail])
    }
}

/// Receive: a long rest of a data segment straight to its place, anything else into the staging buffer.
fn receive(
    stream: &mut TcpStream,
    staging: &mut Staging,
    segment: Option<&mut Segment>,
    context: &mut std::task::Context<'_>,
) -> Poll<io::Result<usize>> {
    if let Some(segment) = segment {
        let Segment { sink, filled, length, .. } = segment;
        if let Sink::Buffer { buffer, at } = sink
            && *length - *filled >= limits::IN_PLACE_BYTES
            && staging.staged().is_empty()
        {
            let target = &mut buffer[*at + *filled..*at + *length];
            return staging
                .poll_fill_behind(stream, target, context)
                .map(|result| result.inspect(|count| *filled += count));
        }
    }
    staging.poll_fill(stream, context)
}
