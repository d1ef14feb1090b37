//! Breaches of the protocol by name, and the end that each has.

use std::net::SocketAddr;

use iscsi_target::limits;
use iscsi_target::pdu::opcode;

use super::breach::{
    End, PROTOCOL_ERROR, asked, command, data_out, ends, login_pdu, offer, offer_bytes, text,
};
use super::initiator::{Initiator, NODE, Pace, TARGET, header, names, put, write_cdb};

/// A part of a text that goes on: the first asks, the others follow under the tag that the target gave.
fn text_goes_on(initiator: &mut Initiator, part: &[u8]) {
    let ttt = if part.starts_with(b"K0=") { u32::MAX } else { 1 };
    text(initiator, 0x40, ttt, part);
}

/// An immediate PDU with additional header segments.
fn additional(initiator: &mut Initiator, opcode: u8, segments: &[u8]) {
    let mut pdu = header(0x40 | opcode, 0x80, 1);
    put(&mut pdu, 24, initiator.cmd_sn);
    pdu[4] = segments.len() as u8 / 4;
    offer_bytes(initiator, &[&pdu[..], segments].concat());
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
        "data that is not the next",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (1, 0), true, &[1; 65_536]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "an R2T answered with the last first",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, 32_768), false, &[1; 32_768]);
            data_out(i, tag, ttt, (1, 0), true, &[1; 32_768]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "an R2T answered without its end",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            data_out(i, tag, ttt, (0, 0), true, &[1; 32_768]);
        },
        &[WRONG_AMOUNT],
    ),
    (
        "an R2T never answered, and then too late",
        SOLICITED,
        |i| {
            let (tag, ttt) = asked(i);
            // ABORT TASK; the data is passed over (RFC 7143 section 11.5.1).
            i.task_management(1, 0, tag);
            data_out(i, tag, ttt, (0, 0), true, &[1; 65_536]);
        },
        &[End::Answered(opcode::TASK_MANAGEMENT_RESPONSE)],
    ),
    (
        "a LUN that is not there",
        "",
        |i| {
            let tag = i.next_tag();
            let mut pdu = header(0x40 | opcode::SCSI_COMMAND, 0x80, tag);
            pdu[8..16].fill(0x3f);
            put(&mut pdu, 24, i.cmd_sn);
            offer(i, pdu, &[]);
        },
        &[End::Failed(2, Some((0x25, 0)))],
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
        "a data segment a little longer than was agreed",
        "",
        |i| {
            let tag = i.next_tag();
            offer(i, header(opcode::NOP_OUT, 0x80, tag), &[1; limits::MAX_RECV_DATA_SEGMENT as usize + 4]);
        },
        &[End::Dropped],
    ),
    (
        "an additional header that ends beyond itself",
        "",
        |i| additional(i, opcode::SCSI_COMMAND, &[0, 200, 1, 0]),
        &[End::Rejected(9)],
    ),
    (
        "an additional header of no length",
        "",
        |i| additional(i, opcode::SCSI_COMMAND, &[0, 0, 1, 0]),
        &[End::Rejected(9)],
    ),
    (
        "an additional header of no known type",
        "",
        |i| additional(i, opcode::SCSI_COMMAND, &[0, 1, 9, 0]),
        &[End::Rejected(9)],
    ),
    (
        "a CDB that goes on in a ping",
        "",
        |i| additional(i, opcode::NOP_OUT, &[0, 5, 1, 0, 1, 2, 3, 4]),
        &[End::Rejected(9)],
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
    (
        "ten thousand keys, of which each part but the last says that it goes on",
        "",
        |i| ten_thousand_keys().chunks(8000).for_each(|part| text_goes_on(i, part)),
        &[
            End::Answered(opcode::TEXT_RESPONSE),
            End::Answered(opcode::TEXT_RESPONSE),
            End::Answered(opcode::TEXT_RESPONSE),
            End::Answered(opcode::TEXT_RESPONSE),
            End::Answered(opcode::TEXT_RESPONSE),
            End::Answered(opcode::TEXT_RESPONSE),
            End::Answered(opcode::TEXT_RESPONSE),
            End::Answered(opcode::TEXT_RESPONSE),
            // The rest of it goes on where nothing is any more.
            End::Rejected(0x0a),
            PROTOCOL_ERROR,
        ],
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

/// One of them on a session of its own: all that comes of it.
pub fn ends_of(address: SocketAddr, (_, keys, act, expected): &Case, pace: Pace) -> Vec<End> {
    let mut initiator = Initiator::connect(address);
    initiator.isid = [0x80, 0, 0, 0, 0, 1];
    initiator.log_in(NODE, Some(TARGET), keys).unwrap();
    initiator.pace = pace;
    act(&mut initiator);
    // It speaks without digests from here on, which is as wrong.
    initiator.digests = (false, false);
    ends(&mut initiator, expected.len())
}

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

/// A breach of a login: its name, the requests, and what comes of them beside answers that ask for more.
pub type LoginBreach = (&'static str, Vec<Vec<u8>>, Vec<End>);

pub fn login_breaches() -> Vec<LoginBreach> {
    let names = names(NODE, Some(TARGET));
    let refused = |status| vec![End::Login(status), End::Dropped];
    let changed = |at: usize, to: &[u8], text: &str| {
        let mut pdu = login_pdu(0x87, text.as_bytes());
        pdu[at..at + to.len()].copy_from_slice(to);
        vec![pdu]
    };
    let mut keys: Vec<Vec<u8>> = ten_thousand_keys().chunks(8000).map(|part| login_pdu(0x44, part)).collect();
    keys.insert(0, login_pdu(0x44, names.as_bytes()));
    keys.push(login_pdu(0x87, b""));
    let mut idle = vec![login_pdu(0x04, names.as_bytes())];
    idle.resize(limits::MAX_LOGIN_EXCHANGES + 1, login_pdu(0x04, b""));
    vec![
        ("a session that is not there", changed(14, &[7], &names), refused(0x020a)),
        ("a version that is not there", changed(3, &[1], &names), refused(0x0205)),
        ("ten thousand keys", keys, refused(0x0200)),
        ("text that never ends", vec![login_pdu(0x44, b""); limits::MAX_TEXT_PDUS + 1], refused(0x0200)),
        ("a login that never ends", idle, refused(0x0200)),
        ("more data than a login may have", changed(5, &[0xff; 3], ""), vec![End::Dropped]),
        ("additional headers", changed(4, &[255], ""), vec![End::Dropped]),
    ]
}

/// 78,890 bytes, every key another.
pub fn ten_thousand_keys() -> Vec<u8> {
    (0..10_000).flat_map(|key| format!("K{key}=1\0").into_bytes()).collect()
}
