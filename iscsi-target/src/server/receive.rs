//! Bytes off the socket. A staging buffer takes what one receive brings: many small PDUs, or the start of a large
//! one. The rest of a large data segment goes straight to its place, with the staging buffer behind it in the same
//! system call.

use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::limits::STAGING_BYTES;

/// Received and not yet used.
#[derive(Debug)]
pub(crate) struct Staging {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Staging {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; STAGING_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// What is there.
    pub(crate) fn staged(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Use the first `count` bytes up.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count.min(self.end - self.start);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Move as many bytes as there are, and as fit, into `target`.
    pub(crate) fn copy_to(&mut self, target: &mut [u8]) -> usize {
        let count = target.len().min(self.end - self.start);
        target[..count].copy_from_slice(&self.bytes[self.start..self.start + count]);
        self.consume(count);
        count
    }

    /// Receive what there is. 0: the initiator closed the connection.
    pub(crate) fn poll_fill(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.compact();
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(Pin::new(stream).poll_read(context, &mut room))?;
        let count = room.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }

    /// Receive into `target` first and into the staging buffer (which is empty) what comes after it. Gives the bytes
    /// that went to `target`; 0: the initiator closed the connection.
    pub(crate) fn poll_fill_behind(
        &mut self,
        stream: &TcpStream,
        target: &mut [u8],
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.staged().is_empty(), "what is staged comes before what is received");
        loop {
            let mut room = [IoSliceMut::new(target), IoSliceMut::new(&mut self.bytes)];
            match stream.try_read_vectored(&mut room) {
                Ok(count) => {
                    let direct = count.min(target.len());
                    (self.start, self.end) = (0, count - direct);
                    return Poll::Ready(Ok(direct));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_read_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Make room at the end: a PDU's header may not be split by the end of the buffer.
    fn compact(&mut self) {
        if self.start > 0 && self.bytes.len() - self.end < STAGING_BYTES / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}
