//! Breaches of the protocol by name, and what comes of each.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use iscsi_target::limits;
use iscsi_target::pdu::{BHS_BYTES, opcode, padding};

use super::initiator::{Initiator, NODE, TARGET, header, names, put, write_cdb};

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
    // The target may have closed the connection already; what it said before is still read.
    let _ = initiator.stream.write_all(bytes);
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

pub const WRONG_AMOUNT: End = End::Failed(2, Some((0x0c, 0x0d)));
pub const UNEXPECTED: End = End::Failed(2, Some((0x0c, 0x0c)));
pub const SOLICITED: &str = "InitialR2T=Yes\0ImmediateData=No\0";

/// A case in full feature phase: its name, the keys of its login, what is sent, and all that comes of it.
pub type Case = (&'static str, &'static str, fn(&mut Initiator), &'static [End]);

pub const CASES: &[Case] = &[
    ("an opcode that is reserved", "", |i| offer(i, header(0x1c, 0x80, 1), &[1; 100]), &[End::Rejected(5)]),
    ("an opcode of targets", "", |i| offer(i, header(opcode::R2T, 0x80, 1), &[]), &[End::Rejected(5)]),
    (
        "a SNACK at error recovery level 0",
        "",
        |i| offer(i, header(opcode::SNACK, 0x80, 1), &[]),
        &[End::Rejected(3)],
    ),
    (
        "a login in full feature phase",
        "",
        |i| offer(i, header(0x40 | opcode::LOGIN, 0x87, 1), names(NODE, Some(TARGET)).as_bytes()),
        &[PROTOCOL_ERROR, End::Dropped],
    ),
    ("data of a task that is not there", "", |i| data_out(i, 0x999, 7, (0, 0), true, &[1; 512]), &[]),
    (
        "data under a tag that is no R2T's",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt ^ 0x5555, (0, 0), true, &[1; 8192]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "data that overlaps what came before",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, 0), false, &[1; 8192]);
            data_out(i, tag, ttt, (1, 4096), true, &[2; 8192]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "more data than was asked for",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, 0), false, &[1; 65_536]);
            data_out(i, tag, ttt, (1, 65_536), true, &[2; 65_536]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "an offset beyond all numbers",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, u32::MAX - 3), true, &[1; 8192]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "an R2T answered with nothing, for long",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            (0..5000).for_each(|sn| data_out(i, tag, ttt, (sn, 0), false, &[]));
            data_out(i, tag, ttt, (5000, 0), true, &[]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "an R2T answered twice",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, 0), true, &[0; 65_536]);
            data_out(i, tag, ttt, (0, 0), true, &[0; 65_536]);
        },
        &[End::Good],
    ),
    (
        "immediate data where none was agreed",
        SOLICITED,
        |i| _ = command(i, 0xa0, 512, &write_cdb(0, 512), &[1; 512]),
        &[UNEXPECTED],
    ),
    (
        "unsolicited data where none was agreed",
        SOLICITED,
        |i| {
            let tag = command(i, 0x20, 4096, &write_cdb(0, 4096), &[]);
            data_out(i, tag, u32::MAX, (0, 0), true, &[1; 4096]);
        },
        &[UNEXPECTED],
    ),
    (
        "unsolicited data beyond the first burst",
        "InitialR2T=No\0FirstBurstLength=4096\0",
        |i| {
            let tag = command(i, 0x20, 65_536, &write_cdb(0, 65_536), &[]);
            data_out(i, tag, u32::MAX, (0, 0), true, &[1; 8192]);
        },
        &[UNEXPECTED],
    ),
    (
        "data for a command that writes nothing",
        "",
        |i| _ = command(i, 0x80, 0, &[0; 6], &[1; 4096]),
        &[UNEXPECTED],
    ),
    (
        "a data segment longer than was agreed",
        "",
        |i| {
            let mut pdu = header(opcode::SCSI_COMMAND, 0x80, 1);
            pdu[5..8].fill(0xff);
            offer_bytes(i, &pdu);
        },
        &[End::Dropped],
    ),
    (
        "the longest additional headers there can be",
        "",
        |i| {
            let mut pdu = header(0x40 | opcode::TEXT, 0x80, 1);
            put(&mut pdu, 20, u32::MAX);
            pdu[4] = 255;
            offer_bytes(i, &pdu);
            offer_bytes(i, &[0x5a; 1020]);
        },
        &[End::Rejected(9)],
    ),
    (
        "the longest CDB there can be",
        "",
        |i| {
            let mut pdu = header(opcode::SCSI_COMMAND, 0x80, 1);
            put(&mut pdu, 24, i.cmd_sn);
            i.cmd_sn += 1;
            pdu[4] = 255;
            pdu[32] = 0x7f;
            offer_bytes(i, &pdu);
            let mut segment = [0x5a; 1020];
            segment[..2].copy_from_slice(&1017u16.to_be_bytes());
            (segment[2], segment[3]) = (1, 0);
            offer_bytes(i, &segment);
        },
        &[End::Failed(2, Some((0x20, 0)))],
    ),
    (
        "a header digest that is wrong",
        "HeaderDigest=CRC32C\0",
        |i| {
            offer_bytes(i, &header(0x40 | opcode::NOP_OUT, 0x80, 1));
            offer_bytes(i, &[1, 2, 3, 4]);
        },
        &[End::Dropped],
    ),
    (
        "a command number behind the window, and one beyond it",
        "",
        |i| {
            let sn = i.cmd_sn;
            for wrong in [sn.wrapping_sub(1), sn + limits::QUEUE_DEPTH, sn ^ 1 << 31] {
                i.cmd_sn = wrong;
                command(i, 0x80, 0, &[0; 6], &[]);
            }
            i.cmd_sn = sn;
        },
        &[],
    ),
    (
        "a task tag that is in use, and one that is none",
        SOLICITED,
        |i| {
            let (tag, _) = asked(i);
            for wrong in [tag, u32::MAX] {
                i.tag = wrong.wrapping_sub(1);
                let mut pdu = header(opcode::SCSI_COMMAND, 0x80, wrong);
                put(&mut pdu, 24, i.cmd_sn);
                // What is rejected has had its turn.
                i.cmd_sn += 1;
                offer(i, pdu, &[]);
            }
        },
        &[PROTOCOL_ERROR, PROTOCOL_ERROR],
    ),
    ("text that is no pairs", "", |i| text(i, 0x80, u32::MAX, b"no pairs\0"), &[End::Rejected(9)]),
    ("text that goes on where none began", "", |i| text(i, 0x80, 77, b"A=1\0"), &[PROTOCOL_ERROR]),
    (
        "every target asked for again and again",
        "",
        |i| text(i, 0x80, u32::MAX, &b"SendTargets=All\0".repeat(4000)),
        &[PROTOCOL_ERROR],
    ),
    (
        "text of more than fits",
        "",
        |i| text(i, 0x80, u32::MAX, &[b'A'; limits::MAX_TEXT_BYTES + 4]),
        &[End::Rejected(0x0a)],
    ),
    (
        "task management that there is none of",
        "",
        |i| _ = i.task_management(0x7f, 0, 1),
        &[End::Answered(opcode::TASK_MANAGEMENT_RESPONSE)],
    ),
    (
        "a logout to recover a connection",
        "",
        |i| offer(i, header(0x40 | opcode::LOGOUT, 0x82, 3), &[]),
        &[End::Answered(opcode::LOGOUT_RESPONSE)],
    ),
    (
        "a CDB of nonsense",
        "",
        |i| _ = command(i, 0x80, 0, &[0xff; 16], &[]),
        &[End::Failed(2, Some((0x20, 0)))],
    ),
    (
        "a transfer of four gigabytes",
        "",
        |i| {
            _ = command(
                i,
                0xc0,
                u32::MAX,
                &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
                &[],
            );
        },
        &[End::Failed(2, Some((0x21, 0)))],
    ),
];

/// A PDU of this opcode that means nothing: `filling` follows the tag, and there is data. What comes of it in full feature phase.
pub fn nonsense(opcode: u8, filling: [u8; 28]) -> (Vec<u8>, &'static [End]) {
    let mut pdu = header(0x40 | opcode, 0x80, 3);
    pdu[7] = 100;
    pdu[20..].copy_from_slice(&filling);
    let ends: &[End] = match opcode {
        // A ping, whatever else it says.
        opcode::NOP_OUT => &[End::Answered(opcode::NOP_IN)],
        opcode::SCSI_COMMAND => &[UNEXPECTED],
        opcode::TASK_MANAGEMENT => &[End::Answered(opcode::TASK_MANAGEMENT_RESPONSE)],
        opcode::LOGIN => &[PROTOCOL_ERROR, End::Dropped],
        opcode::TEXT => &[PROTOCOL_ERROR],
        // Of a task that is not there: passed over (RFC 7143 section 11.5.1).
        opcode::DATA_OUT => &[],
        // For reason 0, to close the session.
        opcode::LOGOUT => &[End::Answered(opcode::LOGOUT_RESPONSE), End::Dropped],
        opcode::SNACK => &[End::Rejected(3)],
        _ => &[End::Rejected(5)],
    };
    ([&pdu[..], &[7; 100]].concat(), ends)
}

/// A PDU of this opcode as the first of a connection, and what comes of it.
pub fn nonsense_first(opcode: u8) -> (Vec<u8>, [End; 2]) {
    // A login that goes on to the stage where it is.
    let status = if opcode == opcode::LOGIN { 0x0200 } else { 0x020b };
    (header(0x40 | opcode, 0x80, 1).to_vec(), [End::Login(status), End::Dropped])
}

/// What is answered to the first bytes of a connection.
pub fn greeted(address: SocketAddr, bytes: &[&[u8]]) -> Vec<End> {
    let mut initiator = Initiator::connect(address);
    bytes.iter().for_each(|bytes| offer_bytes(&mut initiator, bytes));
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
