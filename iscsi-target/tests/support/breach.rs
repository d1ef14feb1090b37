//! What is sent though it is wrong, and what comes of it.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use iscsi_target::pdu::{BHS_BYTES, opcode, padding};

use super::initiator::{Initiator, Pace, header, put, write_cdb};

/// What became of a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Reject, with its reason.
    Rejected(u8),
    /// A SCSI status that is not GOOD, with ASC and ASCQ where there is sense data.
    Failed(u8, Option<(u8, u8)>),
    /// A SCSI command that went well.
    Good,
    /// A login response with this status.
    Login(u16),
    /// Another PDU.
    Answered(u8),
    /// The connection was closed.
    Dropped,
}

pub const PING: u32 = 0xfeed;
/// Of what is sent byte by byte, so many are: a header and more.
const SINGLE_BYTES: usize = 100;
pub const PROTOCOL_ERROR: End = End::Rejected(4);

/// Send what may no longer be wanted.
pub fn offer(initiator: &mut Initiator, mut header: [u8; BHS_BYTES], data: &[u8]) {
    header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len() + padding(data.len()), 0);
    offer_bytes(initiator, &bytes);
}

pub fn offer_bytes(initiator: &mut Initiator, bytes: &[u8]) {
    let singly = match initiator.pace {
        Pace::AtOnce => 0,
        Pace::ByteByByte => bytes.len().min(SINGLE_BYTES),
    };
    let (first, rest) = bytes.split_at(singly);
    // The target may have closed the connection already; what it said before is still read.
    for byte in first {
        let _ = initiator.stream.write_all(&[*byte]);
    }
    let _ = initiator.stream.write_all(rest);
}

/// The next PDU. A target that neither answers nor closes fails the test.
pub fn next(initiator: &mut Initiator) -> (End, [u8; BHS_BYTES]) {
    let mut header = [0; BHS_BYTES];
    let mut whole = |bytes: &mut [u8]| match initiator.stream.read_exact(bytes) {
        Ok(()) => true,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("the target neither answers nor closes the connection")
        }
        Err(_) => false,
    };
    if !whole(&mut header) {
        return (End::Dropped, header);
    }
    let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
    let mut data = vec![0; length + padding(length)];
    if !whole(&mut data) {
        return (End::Dropped, header);
    }
    let end = match header[0] {
        opcode::REJECT => End::Rejected(header[2]),
        opcode::SCSI_RESPONSE if header[3] == 0 => End::Good,
        opcode::SCSI_RESPONSE => End::Failed(header[3], (length > 15).then(|| (data[14], data[15]))),
        opcode::LOGIN_RESPONSE => End::Login(u16::from_be_bytes([header[36], header[37]])),
        other => End::Answered(other),
    };
    (end, header)
}

/// Everything that comes until the connection is closed, or until it is shown to be alive, and at least so much.
pub fn ends(initiator: &mut Initiator, least: usize) -> Vec<End> {
    let mut ends = Vec::new();
    while ends.len() < least && ends.last() != Some(&End::Dropped) {
        ends.push(next(initiator).0);
    }
    if ends.last() == Some(&End::Dropped) {
        return ends;
    }
    let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, PING);
    put(&mut ping, 20, u32::MAX);
    put(&mut ping, 24, initiator.cmd_sn);
    offer(initiator, ping, &[]);
    loop {
        let (end, header) = next(initiator);
        if end == End::Answered(opcode::NOP_IN) && header[16..20] == PING.to_be_bytes() {
            return ends;
        }
        ends.push(end);
        if end == End::Dropped {
            return ends;
        }
    }
}

pub fn command(initiator: &mut Initiator, flags: u8, expected: u32, cdb: &[u8], data: &[u8]) -> u32 {
    let tag = initiator.next_tag();
    let mut pdu = header(opcode::SCSI_COMMAND, flags, tag);
    put(&mut pdu, 20, expected);
    put(&mut pdu, 24, initiator.cmd_sn);
    initiator.cmd_sn = initiator.cmd_sn.wrapping_add(1);
    pdu[32..32 + cdb.len()].copy_from_slice(cdb);
    offer(initiator, pdu, data);
    tag
}

/// A write of 64 KiB that has been asked for its data: its tag, and that of the R2T.
pub fn asked(initiator: &mut Initiator) -> (u32, u32) {
    let tag = command(initiator, 0xa0, 65_536, &write_cdb(0, 65_536), &[]);
    let r2t = initiator.expect(opcode::R2T);
    (tag, r2t.u32(20))
}

pub fn text(initiator: &mut Initiator, flags: u8, ttt: u32, data: &[u8]) {
    let mut pdu = header(0x40 | opcode::TEXT, flags, 0x7e);
    put(&mut pdu, 20, ttt);
    put(&mut pdu, 24, initiator.cmd_sn);
    offer(initiator, pdu, data);
}

pub fn data_out(initiator: &mut Initiator, tag: u32, ttt: u32, numbers: (u32, u32), last: bool, data: &[u8]) {
    let mut pdu = header(opcode::DATA_OUT, if last { 0x80 } else { 0 }, tag);
    put(&mut pdu, 20, ttt);
    put(&mut pdu, 36, numbers.0);
    put(&mut pdu, 40, numbers.1);
    offer(initiator, pdu, data);
}

/// What is answered to the first bytes of a connection.
pub fn greeted(address: SocketAddr, parts: &[Vec<u8>], pace: Pace) -> Vec<End> {
    let mut initiator = Initiator::connect(address);
    initiator.pace = pace;
    parts.iter().for_each(|bytes| offer_bytes(&mut initiator, bytes));
    let mut ends = Vec::new();
    while ends.last() != Some(&End::Dropped) {
        ends.push(next(&mut initiator).0);
    }
    ends
}

pub fn login_pdu(flags: u8, text: &[u8]) -> Vec<u8> {
    let mut pdu = header(0x40 | opcode::LOGIN, flags, 1);
    pdu[5..8].copy_from_slice(&(text.len() as u32).to_be_bytes()[1..]);
    let mut bytes = [&pdu[..], text].concat();
    bytes.resize(bytes.len() + padding(text.len()), 0);
    bytes
}
