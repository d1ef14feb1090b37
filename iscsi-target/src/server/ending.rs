//! How a connection ends, how its session does, and who is told when it is over.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::link::Link;
use crate::limits;
use crate::pdu::frame::FrameError;
use crate::pdu::response::Plain;
use crate::registry::SessionMessage;

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

/// A connection that is over: none of its commands runs any more.
pub(super) struct Over {
    pub(super) ending: Ending,
    pub(super) farewell: Option<Farewell>,
}

/// A session that is over. Whoever asked for its end is told only when it has left the registry too: a new session
/// of the same nexus must not meet its former self there.
pub(super) struct Ended {
    pub(super) ending: Ending,
    pub(super) told: Vec<oneshot::Sender<()>>,
    pub(super) farewells: Vec<Farewell>,
    /// Kept so that those who still wait in it are told no sooner than the others.
    pub(super) _messages: mpsc::Receiver<SessionMessage>,
}

impl Ended {
    /// The session is gone from everywhere.
    pub(super) async fn tell(self) {
        futures_util::future::join_all(self.farewells.into_iter().map(Farewell::say)).await;
        for told in self.told {
            // Whoever asked may have gone itself.
            let _ = told.send(());
        }
    }
}

/// The answer to a logout. It says that it is over (RFC 7143 section 11.14): that no command can change data any more, and
/// that what the session had reserved is free.
pub(super) struct Farewell {
    stream: TcpStream,
    link: Rc<Link>,
    answer: Plain,
}

impl Farewell {
    pub(super) fn new(stream: TcpStream, link: Rc<Link>, answer: Plain) -> Self {
        Self { stream, link, answer }
    }

    /// Send it, to whoever still listens.
    pub(super) async fn say(self) {
        self.link.closed.set(false);
        self.link.send(&self.answer, Bytes::new());
        let limit = Duration::from_secs(limits::LOGOUT_GRACE_S.into());
        // It may have gone without waiting for the answer.
        let _ = tokio::time::timeout(limit, self.flush()).await;
    }

    async fn flush(&self) -> io::Result<()> {
        while !self.link.queue.borrow_mut().flush(&self.stream)? {
            self.stream.writable().await?;
        }
        Ok(())
    }
}
