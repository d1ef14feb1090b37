//! Bytes to the socket. Everything that is ready goes out in one vectored write; data is never copied.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::limits::{
    MAX_IO_SLICES, MAX_QUEUED_OWN_BYTES, MAX_QUEUED_OWN_BYTES_OF_ALL, MAX_QUEUED_RESPONSE_BYTES,
    MIN_QUEUED_OWN_BYTES,
};
use crate::pdu::frame::{Framing, HEAD_ROOM, TAIL_ROOM};
use crate::pdu::{BHS_BYTES, opcode};

/// One PDU on its way out.
#[derive(Debug)]
struct Outgoing {
    head: [u8; HEAD_ROOM],
    head_bytes: u8,
    data: Bytes,
    tail: [u8; TAIL_ROOM],
    tail_bytes: u8,
}

impl Outgoing {
    fn new(header: &[u8; BHS_BYTES], data: Bytes, framing: Framing) -> Self {
        let ((head, head_bytes), (tail, tail_bytes)) =
            (framing.encode_head(header), framing.encode_tail(&data));
        Self { head, head_bytes: head_bytes as u8, data, tail, tail_bytes: tail_bytes as u8 }
    }

    fn parts(&self) -> [&[u8]; 3] {
        [&self.head[..usize::from(self.head_bytes)], &self.data, &self.tail[..usize::from(self.tail_bytes)]]
    }

    /// The data of commands is of the pool, which has a cap of its own.
    fn own_bytes(&self) -> usize {
        let data = if self.head[0] == opcode::DATA_IN { 0 } else { self.data.len() };
        size_of::<Self>() + data
    }

    fn len(&self) -> usize {
        usize::from(self.head_bytes) + self.data.len() + usize::from(self.tail_bytes)
    }
}

/// What all connections have queued that is not of the commands' pool.
static OWN_BYTES_OF_ALL: AtomicUsize = AtomicUsize::new(0);

/// PDUs that wait to be sent, in order.
#[derive(Debug)]
pub(crate) struct SendQueue {
    pdus: VecDeque<Outgoing>,
    /// Bytes of the first one that are out already.
    sent: usize,
    queued_bytes: usize,
    /// Memory of what is queued that is not of the commands' pool.
    own_bytes: usize,
    framing: Framing,
}

impl SendQueue {
    pub(crate) fn new(framing: Framing) -> Self {
        Self { pdus: VecDeque::new(), sent: 0, queued_bytes: 0, own_bytes: 0, framing }
    }

    pub(crate) fn push(&mut self, header: [u8; BHS_BYTES], data: Bytes) {
        let pdu = Outgoing::new(&header, data, self.framing);
        self.queued_bytes += pdu.len();
        self.own_bytes += pdu.own_bytes();
        OWN_BYTES_OF_ALL.fetch_add(pdu.own_bytes(), Ordering::Relaxed);
        self.pdus.push_back(pdu);
    }

    /// An initiator that does not take its responses gets no more commands in.
    pub(crate) fn has_room(&self) -> bool {
        let most = match OWN_BYTES_OF_ALL.load(Ordering::Relaxed) < MAX_QUEUED_OWN_BYTES_OF_ALL {
            true => MAX_QUEUED_OWN_BYTES,
            false => MIN_QUEUED_OWN_BYTES,
        };
        self.queued_bytes < MAX_QUEUED_RESPONSE_BYTES && self.own_bytes < most
    }

    fn has_sent(&mut self, own_bytes: usize) {
        self.own_bytes -= own_bytes;
        OWN_BYTES_OF_ALL.fetch_sub(own_bytes, Ordering::Relaxed);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pdus.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.pdus.clear();
        (self.sent, self.queued_bytes) = (0, 0);
        self.has_sent(self.own_bytes);
    }

    /// Send as much as the socket takes. True if nothing is left.
    pub(crate) fn flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while !self.pdus.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); MAX_IO_SLICES];
                let count = self.gather(&mut slices);
                match stream.try_write_vectored(&slices[..count]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
            };
            self.advance(written);
        }
        Ok(true)
    }

    fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_IO_SLICES]) -> usize {
        let (mut count, mut skip) = (0, self.sent);
        for part in self.pdus.iter().flat_map(Outgoing::parts) {
            let skipped = skip.min(part.len());
            skip -= skipped;
            if skipped == part.len() {
                continue;
            }
            if count == MAX_IO_SLICES {
                break;
            }
            slices[count] = IoSlice::new(&part[skipped..]);
            count += 1;
        }
        count
    }

    fn advance(&mut self, written: usize) {
        self.queued_bytes -= written.min(self.queued_bytes);
        self.sent += written;
        while let Some(first) = self.pdus.front() {
            if self.sent < first.len() {
                break;
            }
            self.sent -= first.len();
            let own_bytes = first.own_bytes();
            self.pdus.pop_front();
            self.has_sent(own_bytes);
        }
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        self.has_sent(self.own_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What all queue is counted together.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

    #[test]
    fn a_partial_write_goes_on_where_it_stopped() {
        let _turn = ONE_AT_A_TIME.lock();
        let mut queue = SendQueue::new(Framing { header_digest: true, data_digest: true });
        queue.push([1; BHS_BYTES], Bytes::from_static(b"hello"));
        queue.push([2; BHS_BYTES], Bytes::new());
        let all: Vec<u8> = queue.pdus.iter().flat_map(Outgoing::parts).flatten().copied().collect();
        assert_eq!(all.len(), 48 + 4 + 5 + 3 + 4 + 48 + 4);
        let mut got = Vec::new();
        while !queue.pdus.is_empty() {
            let step = {
                let mut slices = [IoSlice::new(&[]); MAX_IO_SLICES];
                let count = queue.gather(&mut slices);
                let first: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).take(7).collect();
                got.extend_from_slice(&first);
                first.len()
            };
            queue.advance(step);
        }
        assert_eq!((got, queue.queued_bytes, queue.own_bytes), (all, 0, 0));
    }

    #[test]
    fn what_many_do_not_take_leaves_room_for_small_answers_only() {
        let _turn = ONE_AT_A_TIME.lock();
        let queue = || SendQueue::new(Framing { header_digest: false, data_digest: false });
        let piece = Bytes::from(vec![0; MAX_QUEUED_OWN_BYTES / 2]);
        let before = OWN_BYTES_OF_ALL.load(Ordering::Relaxed);
        let mut deaf: Vec<SendQueue> =
            (0..MAX_QUEUED_OWN_BYTES_OF_ALL / piece.len()).map(|_| queue()).collect();
        deaf.iter_mut().for_each(|queue| queue.push([0; BHS_BYTES], piece.clone()));
        assert!(!deaf[0].has_room(), "all have too much");
        let mut other = queue();
        other.push([0; BHS_BYTES], Bytes::from_static(b"hello"));
        assert!(other.has_room());
        deaf.truncate(1);
        assert!(deaf[0].has_room());
        deaf[0].clear();
        other.advance(BHS_BYTES + 8);
        drop((deaf, other));
        assert_eq!(OWN_BYTES_OF_ALL.load(Ordering::Relaxed), before);
    }
}
