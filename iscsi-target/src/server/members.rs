//! A session and its connections, on one worker: what is said to the session is passed on to them, and others join.
//!
//! Each connection is a task of its own. The session lasts as long as it has one (RFC 7143 section 4.4.3); the commands of a
//! connection end with it (connection allegiance, section 4.2.2), those of the others go on.

use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::commands::Commands;
use super::connection::Connection;
use super::ending::{Ended, Ending, Farewell, Over};
use super::link::{Errand, Link};
use super::login::LoggedIn;
use super::portals::CameBy;
use super::text::TextExchange;
use super::upkeep::Patience;
use crate::login::Refusal;
use crate::login::parameters::Parameters;
use crate::registry::SessionMessage;

/// Somebody who has logged in to join a session, wherever that is.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(super) stream: std::net::TcpStream,
    pub(super) login: LoggedIn,
    pub(super) came_by: CameBy,
    /// Dropped when the connection is over.
    pub(super) over: oneshot::Sender<()>,
}

/// A session whose connections are served.
pub(super) struct Members {
    /// Of any of its connections.
    commands: Commands,
    patience: Patience,
    connections: JoinSet<Over>,
    /// Those whose CID is another's, which has to be over first; until when they wait.
    waiting: Vec<(Instant, Joining)>,
    /// It is to end: nobody joins any more.
    leaving: bool,
    told: Vec<oneshot::Sender<()>>,
    /// Said when all is over.
    farewells: Vec<Farewell>,
}

impl Members {
    /// A session with its leading connection.
    pub(super) fn new(stream: TcpStream, commands: Commands, text: TextExchange, patience: Patience) -> Self {
        let mut connections = JoinSet::new();
        commands.state.links.borrow_mut().push(Rc::clone(&commands.link));
        connections.spawn_local(Connection::new(stream, commands.clone(), text, patience).run());
        Self {
            commands,
            patience,
            connections,
            waiting: Vec::new(),
            leaving: false,
            told: Vec::new(),
            farewells: Vec::new(),
        }
    }

    /// Until the last connection has ended.
    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<SessionMessage>) -> Ended {
        let mut last = Ending::Dropped;
        while !self.connections.is_empty() {
            let (waits, deadline) = (!self.waiting.is_empty(), self.next_deadline());
            tokio::select! {
                Some(message) = messages.recv() => self.take(message),
                Some(ended) = self.connections.join_next() => {
                    // One that failed inside has said why already.
                    let over = ended.unwrap_or(Over { ending: Ending::Dropped, farewell: None });
                    last = over.ending;
                    self.say_or_keep(over.farewell);
                    self.show_connections();
                    for (_, joining) in std::mem::take(&mut self.waiting) {
                        self.join(joining);
                    }
                }
                () = sleep_until(deadline), if waits => self.refuse_late(),
            }
        }
        Ended { ending: last, told: self.told, farewells: self.farewells, _messages: messages }
    }

    fn next_deadline(&self) -> Instant {
        self.waiting.iter().map(|(until, _)| *until).min().unwrap_or_else(Instant::now)
    }

    /// Those that have waited long enough for what may hang.
    fn refuse_late(&mut self) {
        let now = Instant::now();
        for (_, joining) in self.waiting.extract_if(.., |(until, _)| *until <= now).collect::<Vec<_>>() {
            self.refuse(joining, Refusal::ServiceUnavailable);
        }
    }

    /// A connection that was logged out of alone is answered now, the session when it is over.
    fn say_or_keep(&mut self, farewell: Option<Farewell>) {
        let is_last = self.connections.is_empty() && self.waiting.is_empty();
        let goes_on = !is_last && !self.commands.state.ending.get();
        match farewell {
            Some(farewell) if goes_on => _ = tokio::task::spawn_local(farewell.say()),
            farewell => self.farewells.extend(farewell),
        }
    }

    fn take(&mut self, message: SessionMessage) {
        match message {
            SessionMessage::Abort { units, done } => {
                let running = self.commands.abort_units(&units);
                tokio::task::spawn_local(async move {
                    for task in running {
                        // An error means that it ended otherwise.
                        let _ = task.await;
                    }
                    // Whoever asked may have gone itself.
                    let _ = done.send(());
                });
            }
            SessionMessage::Drop { done } => {
                self.told.push(done);
                self.commands.state.ending.set(true);
                self.ask_all(|| Errand::Drop);
            }
            SessionMessage::LogOut { done } => {
                self.told.push(done);
                self.leaving = true;
                self.ask_all(|| Errand::LogOut);
            }
            SessionMessage::Changed { lun, sense } => {
                if let Some(link) = self.commands.state.open_links().first() {
                    link.ask(Errand::Tell(lun, sense));
                }
            }
            SessionMessage::Join(joining) => self.join(*joining),
        }
    }

    fn ask_all(&self, errand: impl Fn() -> Errand) {
        self.commands.state.open_links().iter().for_each(|link| link.ask(errand()));
    }

    /// Let a connection in. One that has the number of another takes its place (RFC 7143 section 6.3.4).
    fn join(&mut self, joining: Joining) {
        let state = Rc::clone(&self.commands.state);
        if let Some(former) = state.link(joining.login.cid) {
            former.ask(Errand::Drop);
            return self.waiting.push((Instant::now() + self.patience.login, joining));
        }
        let full = self.connections.len() >= state.parameters.max_connections as usize;
        if full || self.leaving || state.ending.get() {
            let refusal = if full { Refusal::TooManyConnections } else { Refusal::SessionDoesNotExist };
            return self.refuse(joining, refusal);
        }
        let Joining { stream, login, came_by, over } = joining;
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let answer = {
            let window = state.window.borrow();
            login.admitted(window.exp_cmd_sn(), window.max_cmd_sn())
        };
        let parameters = Parameters {
            header_digest: login.outcome.parameters.header_digest,
            data_digest: login.outcome.parameters.data_digest,
            initiator_max_recv: login.outcome.parameters.initiator_max_recv,
            our_max_recv: login.outcome.parameters.our_max_recv,
            ..state.parameters.clone()
        };
        let connected = came_by.connected(login.outcome.account.clone());
        let link = Link::new(login.cid, connected.clone(), parameters, &state.window, login.stat_sn);
        state.links.borrow_mut().push(Rc::clone(&link));
        let commands = Commands { link, ..self.commands.clone() };
        let text = TextExchange::new(&commands, came_by);
        let connection = Connection::new(stream, commands, text, self.patience);
        let limit = self.patience.login;
        // Measured again once it is among those whom a change of access drops, as a session is.
        self.show_connections();
        let initiator = &state.nexus.initiator_name;
        let may_stay = self.commands.registry.still_admits(initiator, &connected, &self.commands.target);
        let answer = if may_stay { answer } else { login.refused(Refusal::Forbidden) };
        self.connections.spawn_local(async move {
            let ending = match super::send_within(&connection.stream, &answer, limit).await {
                Ok(()) if may_stay => connection.run().await,
                Ok(()) => connection.give_up(Ending::Dropped).await,
                Err(error) => connection.give_up(error.into()).await,
            };
            drop(over);
            ending
        });
    }

    fn refuse(&self, joining: Joining, refusal: Refusal) {
        let Joining { stream, login, over, .. } = joining;
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        let (answer, limit) = (login.refused(refusal), self.patience.login);
        tokio::task::spawn_local(async move {
            // It is refused whether it hears of it or not.
            let _ = super::send_within(&stream, &answer, limit).await;
            drop(over);
        });
    }

    fn show_connections(&self) {
        let connections =
            self.commands.state.open_links().iter().map(|link| link.connected.clone()).collect();
        self.commands.registry.set_connections(self.commands.session, connections);
    }
}
