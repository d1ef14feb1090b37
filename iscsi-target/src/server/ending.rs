//! How a connection ends, and who is told when it is over.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::state::State;
use crate::limits;
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
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connection that is over. Whoever asked for its end is told only when the session has left the registry too: a new
/// session of the same nexus must not meet its former self there.
pub(super) struct Ended {
    pub(super) ending: Ending,
    told: Vec<oneshot::Sender<()>>,
    farewell: Option<Farewell>,
    /// Kept so that those who still wait in it are told no sooner than the others.
    _messages: mpsc::Receiver<SessionMessage>,
}

impl Ended {
    pub(super) fn new(
        ending: Ending,
        told: Vec<oneshot::Sender<()>>,
        farewell: Option<Farewell>,
        messages: mpsc::Receiver<SessionMessage>,
    ) -> Self {
        Self { ending, told, farewell, _messages: messages }
    }

    /// The session is gone from everywhere.
    pub(super) async fn tell(self) {
        if let Some(farewell) = self.farewell {
            let limit = Duration::from_secs(limits::LOGOUT_GRACE_S.into());
            // It may have gone without waiting for the answer.
            let _ = tokio::time::timeout(limit, farewell.say()).await;
        }
        for told in self.told {
            // Whoever asked may have gone itself.
            let _ = told.send(());
        }
    }
}

/// The answer to a logout. It says that the session is over (RFC 7143 section 11.14): that nothing of it can change data any
/// more, and that what it had reserved is free.
pub(super) struct Farewell {
    stream: TcpStream,
    state: Rc<State>,
    answer: Plain,
}

impl Farewell {
    pub(super) fn new(stream: TcpStream, state: Rc<State>, answer: Plain) -> Self {
        Self { stream, state, answer }
    }

    async fn say(self) -> io::Result<()> {
        self.state.closed.set(false);
        self.state.send(&self.answer, Bytes::new());
        while !self.state.queue.borrow_mut().flush(&self.stream)? {
            self.stream.writable().await?;
        }
        Ok(())
    }
}
