//! One connection in full feature phase: what comes is parsed, what is ready is sent, and nothing else is done here.
//!
//! Each turn of the loop: everything a receive brought is parsed; everything that is queued is sent with one system
//! call; then wait for more bytes, room to send, a response, a message or a timer. Commands run as tasks of their
//! own (`commands`) and run to their end even when the connection is gone.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use block_io::Buffer;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use zerocopy::big_endian::U32;

use super::commands::Commands;
use super::receive::Staging;
use super::state::{Incoming, Phase};
use super::text::TextExchange;
use crate::limits;
use crate::pdu::frame::FrameError;
use crate::pdu::response::{AsyncEvent, RejectReason};
use crate::pdu::{Bhs, FINAL, NO_TAG, opcode, request, response};
use crate::registry::{SessionMessage, TargetRegistry};
use crate::session::transfer::Spoilt;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    #[error("the initiator closed the connection")]
    Closed,
    #[error("logged out")]
    Logout,
    #[error("dropped by the target")]
    Dropped,
    #[error("the initiator does not answer")]
    Silent,
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("protocol error: {0}")]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where the bytes of a data segment go.
pub(super) enum Sink {
    /// Kept for a PDU that is no command's data.
    Collect(Vec<u8>),
    /// Into a command's buffer.
    Buffer { buffer: Buffer, at: usize },
    /// Nowhere.
    Discard,
}

/// A connection that is over. Whoever asked for its end is told only when the session has left the registry too: a new
/// session of the same nexus must not meet its former self there.
pub(super) struct Ended {
    pub(super) ending: Ending,
    told: Vec<oneshot::Sender<()>>,
    /// Kept so that those who still wait in it are told no sooner than the others.
    _messages: mpsc::Receiver<SessionMessage>,
}

impl Ended {
    /// The session is gone from everywhere.
    pub(super) fn tell(self) {
        for told in self.told {
            // Whoever asked may have gone itself.
            let _ = told.send(());
        }
    }
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
}

/// A connection and its session.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) staging: Staging,
    pub(super) commands: Commands,
    pub(super) registry: Arc<TargetRegistry>,
    pub(super) session: u64,
    pub(super) messages: mpsc::Receiver<SessionMessage>,
    pub(super) text: TextExchange,
    pub(super) discovery: bool,
    /// Bytes of data that wait with their PDUs for their turn.
    pub(super) early_bytes: usize,
    segment: Option<Segment>,
    next_transfer_tag: u32,
    heard: Instant,
    asked: Option<Instant>,
    pub(super) closing: Option<Ending>,
    close_at: Option<Instant>,
    told: Vec<oneshot::Sender<()>>,
}

impl Connection {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        stream: TcpStream,
        staging: Staging,
        commands: Commands,
        registry: Arc<TargetRegistry>,
        session: u64,
        messages: mpsc::Receiver<SessionMessage>,
        text: TextExchange,
        discovery: bool,
    ) -> Self {
        Self {
            stream,
            staging,
            commands,
            registry,
            session,
            messages,
            text,
            discovery,
            early_bytes: 0,
            segment: None,
            next_transfer_tag: 0,
            heard: Instant::now(),
            asked: None,
            closing: None,
            close_at: None,
            told: Vec::new(),
        }
    }

    /// Serve until the connection ends; then wait until none of its commands runs any more.
    pub(super) async fn run(mut self) -> Ended {
        let ending = match self.serve().await {
            Ok(ending) | Err(ending) => ending,
        };
        let state = Rc::clone(&self.commands.state);
        state.closed.set(true);
        state.queue.borrow_mut().clear();
        self.segment = None;
        // The initiator learns at once that it is over; a socket that is gone already needs no closing.
        let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Both);
        for task in self.commands.abort(|_, _| true).running {
            // An error means that it has ended.
            let _ = task.await;
        }
        Ended { ending, told: self.told, _messages: self.messages }
    }

    async fn serve(&mut self) -> Result<Ending, Ending> {
        loop {
            self.parse().await?;
            let sent = self.flush()?;
            // Who is dropped may be one who takes nothing any more: that is not waited for.
            let over = |ending: &mut Ending| sent || matches!(ending, Ending::Dropped);
            if let Some(ending) = self.closing.take_if(over) {
                return Ok(ending);
            }
            if self.close_at.is_some_and(|at| Instant::now() >= at) {
                return Ok(Ending::Dropped);
            }
            self.wait(sent).await?;
        }
    }

    pub(super) fn flush(&mut self) -> Result<bool, Ending> {
        Ok(self.commands.state.queue.borrow_mut().flush(&self.stream)?)
    }

    /// Wait until there is something to do. Bytes are received here.
    async fn wait(&mut self, sent: bool) -> Result<(), Ending> {
        let state = Rc::clone(&self.commands.state);
        // An initiator that does not take its responses gets no more commands in.
        let listens = self.closing.is_none() && state.queue.borrow().has_room();
        let deadline = self.deadline();
        let (stream, staging, segment) = (&mut self.stream, &mut self.staging, &mut self.segment);
        let mut writable = false;
        let mut message = None;
        let mut timed_out = false;
        let mut received = None;
        tokio::select! {
            biased;
            result = poll_fn(|context| {
                if !sent && stream.poll_write_ready(context).is_ready() {
                    writable = true;
                    return Poll::Ready(Ok(None));
                }
                if !listens {
                    return Poll::Pending;
                }
                receive(stream, staging, segment.as_mut(), context).map(|result| result.map(Some))
            }) => received = result?,
            () = state.wake.notified() => {}
            some = self.messages.recv() => message = some,
            () = tokio::time::sleep_until(deadline) => timed_out = true,
        }
        if received == Some(0) {
            return Err(Ending::Closed);
        }
        if received.is_some() {
            self.heard = Instant::now();
            self.asked = None;
        }
        if let Some(message) = message {
            self.take_message(message);
        }
        if timed_out {
            self.ask_whether_alive()?;
        }
        let _ = writable;
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let alive = match self.asked {
            Some(asked) => asked + Duration::from_millis(limits::NOP_IN_TIMEOUT_MS),
            None => self.heard + Duration::from_millis(limits::NOP_IN_INTERVAL_MS),
        };
        self.close_at.map_or(alive, |at| at.min(alive))
    }

    /// NOP-In, once it has been silent for long (RFC 7143 section 11.19).
    fn ask_whether_alive(&mut self) -> Result<(), Ending> {
        if self.close_at.is_some_and(|at| Instant::now() >= at) {
            return Ok(());
        }
        if self.asked.is_some() {
            return Err(Ending::Silent);
        }
        self.asked = Some(Instant::now());
        if !self.discovery {
            let mut header = response::plain(opcode::NOP_IN, NO_TAG);
            header.target_transfer_tag = U32::new(self.transfer_tag());
            self.commands.state.send_unnumbered(&header, Bytes::new());
        }
        Ok(())
    }

    pub(super) fn take_message(&mut self, message: SessionMessage) {
        match message {
            SessionMessage::Abort { units, cleared, done } => {
                let running = self.commands.ended_by_another(&units, cleared).running;
                tokio::task::spawn_local(async move {
                    for task in running {
                        let _ = task.await;
                    }
                    let _ = done.send(());
                });
            }
            SessionMessage::Drop { done } => {
                self.told.push(done);
                self.closing = Some(Ending::Dropped);
            }
            SessionMessage::ShutDown { done } => {
                self.told.push(done);
                let grace = limits::LOGOUT_GRACE_S;
                let header = response::async_message(AsyncEvent::LogoutRequest, [0, 0, grace]);
                self.commands.state.send(&header, Bytes::new());
                self.close_at = Some(Instant::now() + Duration::from_secs(grace.into()));
            }
        }
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
        let parameters = &self.commands.state.parameters;
        let head = parameters.framing().head(self.staging.staged(), parameters.our_max_recv)?;
        let Some((header, bytes)) = head else { return Ok(false) };
        self.staging.consume(bytes);
        let segment = self.place(header).await;
        self.segment = Some(segment);
        Ok(true)
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
        let tail = self.commands.state.parameters.framing().tail_bytes(segment.length);
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
        self.commands.state.parameters.framing().is_intact(data, &self.staging.staged()[..tail])
    }

    /// A PDU is wholly here.
    fn pdu_complete(&mut self, segment: Segment, intact: bool) -> Result<(), Ending> {
        let header = segment.header;
        match header.opcode() {
            opcode::SCSI_COMMAND if !self.discovery => self.command_complete(segment, intact),
            opcode::DATA_OUT if !self.discovery => self.data_out_complete(segment, intact),
            _ if !intact => self.commands.state.reject(RejectReason::DataDigestError, &header),
            _ => {
                let data = if let Sink::Collect(bytes) = segment.sink { bytes } else { Vec::new() };
                return self.in_turn(header, data);
            }
        }
        Ok(())
    }

    fn command_complete(&mut self, segment: Segment, intact: bool) {
        let Some(mut incoming) = segment.command else { return };
        let command: request::ScsiCommand = segment.header.view();
        if let Sink::Buffer { buffer, .. } = segment.sink {
            incoming.buffer = Some(buffer);
        }
        if !intact {
            incoming.transfer.spoil(Spoilt::DigestError);
        }
        self.commands.arrived(command, *incoming, &segment.header);
        self.take_early();
    }

    fn data_out_complete(&mut self, segment: Segment, intact: bool) {
        let header: request::DataOut = segment.header.view();
        let tag = header.initiator_task_tag.get();
        let next = {
            let mut tasks = self.commands.state.tasks.borrow_mut();
            let Some(super::state::Task { phase: Phase::Receiving(incoming), .. }) = tasks.get_mut(&tag)
            else {
                return;
            };
            if let Sink::Buffer { buffer, .. } = segment.sink {
                incoming.buffer = Some(buffer);
            }
            if segment.ignored {
                return;
            }
            if !intact {
                incoming.transfer.spoil(Spoilt::DigestError);
            }
            if !incoming.arrived {
                return;
            }
            incoming.transfer.after_data(header.flags & FINAL != 0)
        };
        self.commands.go_on(tag, next);
    }

    pub(super) fn dispatch(&mut self, header: &Bhs, data: Vec<u8>) -> Result<(), Ending> {
        let state = Rc::clone(&self.commands.state);
        match header.opcode() {
            opcode::NOP_OUT => self.nop_out(header, data),
            opcode::TASK_MANAGEMENT if state.managing.get() >= limits::MAX_IMMEDIATE => {
                state.reject(RejectReason::TooManyImmediateCommands, header);
            }
            opcode::TASK_MANAGEMENT if !self.discovery => {
                self.commands.manage(&header.view(), &self.registry, self.session);
            }
            opcode::TEXT => match self.text.step(header, &data, state.parameters.initiator_max_recv) {
                Ok((answer, text)) => state.send(&answer, text),
                Err(reason) => state.reject(reason, header),
            },
            opcode::LOGOUT => self.logout(&header.view()),
            opcode::SNACK => state.reject(RejectReason::SnackReject, header),
            opcode::LOGIN => {
                state.reject(RejectReason::ProtocolError, header);
                self.closing = Some(Ending::Protocol("a login in full feature phase"));
            }
            _ => state.reject(RejectReason::CommandNotSupported, header),
        }
        Ok(())
    }

    /// Echo a ping (RFC 7143 section 11.18); an answer to ours needs none.
    fn nop_out(&self, header: &Bhs, mut data: Vec<u8>) {
        let tag = header.initiator_task_tag.get();
        if tag == NO_TAG {
            return;
        }
        let state = &self.commands.state;
        data.truncate(state.parameters.initiator_max_recv as usize);
        let mut answer = response::plain(opcode::NOP_IN, tag);
        answer.lun = header.lun;
        answer.data_segment_length = crate::pdu::three_bytes(data.len());
        state.send(&answer, data.into());
    }

    fn logout(&mut self, header: &request::Logout) {
        let mut answer = response::plain(opcode::LOGOUT_RESPONSE, header.initiator_task_tag.get());
        answer.target_transfer_tag = U32::new(0);
        match header.reason & 0x7f {
            0 | 1 => self.closing = Some(Ending::Logout),
            // Removal for recovery: there is none at error recovery level 0.
            _ => answer.response = 2,
        }
        let parameters = &self.commands.state.parameters;
        answer.specific[4..6].copy_from_slice(&(parameters.time_to_wait_s as u16).to_be_bytes());
        answer.specific[6..8].copy_from_slice(&(parameters.time_to_retain_s as u16).to_be_bytes());
        self.commands.state.send(&answer, Bytes::new());
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
