//! What comes over the wire: digests, additional header segments, data in any order, and what there is not at error
//! recovery level 0.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;

use iscsi_target::chap::{Account, Algorithm, ChapPolicy, Secret};
use iscsi_target::pdu::opcode;
use support::{Bench, Initiator, NODE, Pdu, TARGET, header, put, write_cdb};

const DATA_DIGEST_ERROR: u8 = 2;
const SNACK_REJECT: u8 = 3;
const PROTOCOL_ERROR: u8 = 4;
const COMMAND_NOT_SUPPORTED: u8 = 5;
const INVALID_PDU_FIELD: u8 = 9;

/// The reason of a Reject, which has the header that was rejected as its data.
fn rejected(pdu: &Pdu, header: &[u8; 48]) -> u8 {
    assert_eq!((pdu.opcode(), pdu.tag()), (opcode::REJECT, u32::MAX), "{pdu:02x?}");
    assert_eq!(pdu.data, header);
    pdu.header[2]
}

/// The header of the initiator's next command.
fn command(initiator: &mut Initiator, flags: u8, expected: u32, cdb: &[u8; 16]) -> [u8; 48] {
    let tag = initiator.next_tag();
    let mut command = header(opcode::SCSI_COMMAND, flags, tag);
    put(&mut command, 20, expected);
    put(&mut command, 24, initiator.cmd_sn);
    initiator.cmd_sn += 1;
    command[32..48].copy_from_slice(cdb);
    command
}

/// Send a PDU with additional header segments, without digests.
fn send_with_segments(initiator: &mut Initiator, header: &mut [u8; 48], segments: &[u8], data: &[u8]) {
    header[4] = (segments.len() / 4) as u8;
    header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    initiator.stream.write_all(&[&header[..], segments, data].concat()).unwrap();
}

#[test]
fn digests_are_agreed_on_one_by_one() {
    let bench = Bench::new();
    let offers =
        [("None", false), ("CRC32C", true), ("CRC32C,None", true), ("None,CRC32C", false), ("", false)];
    for (header, header_digest) in offers {
        for (data, data_digest) in offers {
            let key = |name, offer: &str| {
                if offer.is_empty() { String::new() } else { format!("{name}={offer}\0") }
            };
            let mut initiator = bench.login(&(key("HeaderDigest", header) + &key("DataDigest", data)));
            assert_eq!(initiator.digests, (header_digest, data_digest), "{header:?} {data:?}");
            // The digests of both directions are checked, ours by the initiator.
            let bytes: Vec<u8> = (0..66_048u32).map(|at| (at >> 3) as u8).collect();
            assert_eq!(initiator.write(8, &bytes, 512, 8192).header[3], 0);
            assert!(initiator.read(8, bytes.len()).0 == bytes);
            let session = bench.registry.sessions().pop().unwrap();
            assert_eq!((session.header_digest, session.data_digest), (header_digest, data_digest));
        }
    }
}

#[test]
fn a_header_digest_that_does_not_match_ends_the_connection() {
    let bench = Bench::new();
    let mut initiator = bench.login("HeaderDigest=CRC32C\0");
    assert!(initiator.ping().is_empty());
    let mut wrong = command(&mut initiator, 0xa0, 512, &write_cdb(0, 512)).to_vec();
    wrong[5..8].copy_from_slice(&[0, 2, 0]);
    wrong.extend_from_slice(&[1, 2, 3, 4]);
    wrong.extend_from_slice(&[9; 512]);
    initiator.stream.write_all(&wrong).unwrap();
    assert!(initiator.receive().is_none(), "where the next PDU begins nobody knows");
    bench.eventually("the session is gone", || bench.registry.sessions().is_empty());
    assert_eq!(bench.device.contents()[0], 0);
}

#[test]
fn a_data_digest_that_does_not_match_spoils_the_command_after_its_last_data() {
    let bench = Bench::new();
    let mut initiator = bench.login("DataDigest=CRC32C\0ImmediateData=No\0InitialR2T=Yes\0");
    let tag = initiator.command(0xa0, 1024, &write_cdb(0, 1024), &[]);
    let r2t = initiator.expect(opcode::R2T);
    let mut data_out = header(opcode::DATA_OUT, 0, tag);
    put(&mut data_out, 20, r2t.u32(20));
    data_out[6] = 2;
    let mut bytes = data_out.to_vec();
    bytes.extend_from_slice(&[7; 512]);
    bytes.extend_from_slice(&[1, 2, 3, 4]);
    initiator.stream.write_all(&bytes).unwrap();
    assert_eq!(rejected(&initiator.receive().unwrap(), &data_out), DATA_DIGEST_ERROR);
    assert!(initiator.ping().is_empty(), "the rest of the data is waited for");
    initiator.data_out(tag, r2t.u32(20), 1, 512, true, &[7; 512]);
    let response = initiator.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3], response.sense()), (tag, 2, (0x0b, 0x47, 0x05)));
    assert_eq!(initiator.write(8, &[3; 512], 0, 512).header[3], 0, "the session goes on");
    assert!(bench.device.contents()[..1024].iter().all(|byte| *byte == 0), "nothing was written");
    bench.eventually("all buffers are back", || bench.pool.used_bytes() == 0);
}

#[test]
fn a_command_whose_data_digest_does_not_match_is_rejected_and_the_session_ends() {
    let bench = Bench::new();
    for opcode in [opcode::SCSI_COMMAND, opcode::NOP_OUT, opcode::TEXT] {
        let mut initiator = bench.login("DataDigest=CRC32C\0");
        let mut wrong = command(&mut initiator, 0xa0, 512, &write_cdb(0, 512));
        wrong[0] = opcode;
        wrong[6] = 2;
        initiator.stream.write_all(&[&wrong[..], &[9; 512], &[1, 2, 3, 4]].concat()).unwrap();
        assert_eq!(rejected(&initiator.receive().unwrap(), &wrong), DATA_DIGEST_ERROR);
        assert!(initiator.receive().is_none(), "its CmdSN is missing for good");
        bench.eventually("the session is gone", || bench.registry.sessions().is_empty());
    }
    // One that has no place among the commands is only discarded.
    let mut initiator = bench.login("DataDigest=CRC32C\0");
    let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 5);
    put(&mut ping, 24, initiator.cmd_sn);
    ping[7] = 4;
    initiator.stream.write_all(&[&ping[..], &[9; 4], &[1, 2, 3, 4]].concat()).unwrap();
    assert_eq!(rejected(&initiator.receive().unwrap(), &ping), DATA_DIGEST_ERROR);
    assert!(initiator.ping().is_empty());
    assert_eq!(bench.device.contents()[0], 0);
    bench.eventually("all buffers are back", || bench.pool.used_bytes() == 0);
}

const LONG_CDB: [u8; 20] = [0, 17, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const READ_512: [u8; 8] = [0, 5, 2, 0, 0, 0, 2, 0];

#[test]
fn long_cdbs_and_data_both_ways_are_answered_with_check_condition() {
    const INVALID_OPCODE: (u8, u8, u8) = (5, 0x20, 0);
    let bench = Bench::new();
    let mut initiator = bench.login("InitialR2T=No\0ImmediateData=Yes\0");
    let mut variable = [0; 16];
    (variable[0], variable[7]) = (0x7f, 24);
    let (read_and_write, write) = (0xe0, 0xa0);
    let both = [&LONG_CDB[..], &READ_512].concat();
    for (flags, cdb, segments, unread) in [
        (write, variable, &LONG_CDB[..], 0),
        (write, write_cdb(0, 512), &LONG_CDB, 0),
        (read_and_write, write_cdb(0, 512), &READ_512, 512),
        (read_and_write, variable, &both, 512),
        (read_and_write, write_cdb(0, 512), &[], 0),
    ] {
        let mut command = command(&mut initiator, flags, 512, &cdb);
        send_with_segments(&mut initiator, &mut command, segments, &[9; 512]);
        let response = initiator.expect(opcode::SCSI_RESPONSE);
        assert_eq!((response.header[3], response.sense()), (2, INVALID_OPCODE), "{segments:?}");
        // Underflow of all that was to be written, and of all that was to be read.
        let read_flag = if unread > 0 { 0x08 } else { 0 };
        assert_eq!((response.header[1], response.u32(44)), (0x80 | 0x02 | read_flag, 512), "{segments:?}");
        assert_eq!(response.u32(40), unread);
    }
    // Unsolicited data that follows such a command is passed over before it is answered.
    let mut unfinished = command(&mut initiator, 0x20, 1024, &variable);
    send_with_segments(&mut initiator, &mut unfinished, &LONG_CDB, &[9; 512]);
    assert!(initiator.ping().is_empty());
    let tag = u32::from_be_bytes(unfinished[16..20].try_into().unwrap());
    initiator.data_out(tag, u32::MAX, 0, 512, true, &[9; 512]);
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).sense(), INVALID_OPCODE);
    assert_eq!(initiator.ready(), None, "the session goes on");
    assert_eq!(bench.device.contents()[0], 0);
    bench.eventually("all buffers are back", || bench.pool.used_bytes() == 0);
}

#[test]
fn malformed_header_segments_are_rejected_and_hold_nobody_up() {
    let bench = Bench::new();
    let mut initiator = bench.login("");
    let twice = [READ_512, READ_512].concat();
    for (flags, segments) in [
        (0xa0, &[0xff, 0xff, 1, 0][..]),
        (0xa0, &[0, 0, 0, 0]),
        (0xa0, &[0, 5, 9, 0, 0, 0, 0, 0]),
        (0xe0, &twice),
        // Only one way, so nothing is read beside.
        (0xa0, &READ_512),
        (0xa0, &[0xee; 1020]),
    ] {
        let mut wrong = command(&mut initiator, flags, 512, &write_cdb(0, 512));
        send_with_segments(&mut initiator, &mut wrong, segments, &[9; 512]);
        assert_eq!(rejected(&initiator.receive().unwrap(), &wrong), INVALID_PDU_FIELD);
        assert_eq!(initiator.ready(), None, "the next command does not wait for the one that was rejected");
    }
    // Only commands have segments.
    for code in [opcode::NOP_OUT, opcode::TEXT, opcode::LOGOUT, opcode::TASK_MANAGEMENT, opcode::DATA_OUT] {
        let mut wrong = header(0x40 | code, 0x80, 3);
        put(&mut wrong, 24, initiator.cmd_sn);
        send_with_segments(&mut initiator, &mut wrong, &LONG_CDB, &[]);
        assert_eq!(rejected(&initiator.receive().unwrap(), &wrong), INVALID_PDU_FIELD);
    }
    assert_eq!(initiator.ready(), None);
    assert_eq!(bench.device.contents()[0], 0);
}

#[test]
fn a_rejected_command_that_came_early_leaves_no_hole() {
    let bench = Bench::new();
    let mut initiator = bench.login("");
    let first = command(&mut initiator, 0x80, 0, &[0; 16]);
    let mut wrong = command(&mut initiator, 0x80, 0, &[0; 16]);
    send_with_segments(&mut initiator, &mut wrong, &[0, 0, 0, 0], &[]);
    assert_eq!(rejected(&initiator.receive().unwrap(), &wrong), INVALID_PDU_FIELD);
    let third = initiator.command(0x80, 0, &[0; 16], &[]);
    assert!(initiator.ping().is_empty(), "the first one is missing yet");
    initiator.send(first, &[]);
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).header[16..20], first[16..20]);
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).tag(), third);
}

#[test]
fn data_comes_in_any_order_where_that_was_agreed() {
    let bench = Bench::new();
    let keys = "DataPDUInOrder=No\0DataSequenceInOrder=No\0InitialR2T=No\0ImmediateData=Yes\0\
                FirstBurstLength=4096\0MaxBurstLength=4096\0";
    let mut initiator = Initiator::connect(bench.address);
    let agreed = initiator.log_in(NODE, Some(TARGET), keys).unwrap().text();
    assert_eq!((&agreed["DataPDUInOrder"][..], &agreed["DataSequenceInOrder"][..]), ("No", "No"));
    let data: Vec<u8> = (0..8192u32).map(|at| (at >> 4) as u8).collect();
    let piece = |at: usize| &data[at..at + 1024];
    let tag = initiator.command(0x20, 8192, &write_cdb(0, 8192), piece(0));
    for (data_sn, at) in [3072, 1024, 2048].into_iter().enumerate() {
        initiator.data_out(tag, u32::MAX, data_sn as u32, at as u32, data_sn == 2, piece(at));
    }
    let r2t = initiator.expect(opcode::R2T);
    assert_eq!((r2t.u32(40), r2t.u32(44)), (4096, 4096));
    for (data_sn, at) in [7168, 4096, 6144, 5120].into_iter().enumerate() {
        initiator.data_out(tag, r2t.u32(20), data_sn as u32, at as u32, data_sn == 3, piece(at));
    }
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).header[3], 0);
    assert!(bench.device.contents()[..8192] == data);
    // A gap, and the same piece twice.
    for pieces in [[7168, 4096, 6144, 6144], [4096, 5120, 7168, 7168]] {
        let tag = initiator.command(0xa0, 8192, &write_cdb(0, 8192), &[0xee; 4096]);
        let r2t = initiator.expect(opcode::R2T);
        for (data_sn, at) in pieces.into_iter().enumerate() {
            initiator.data_out(tag, r2t.u32(20), data_sn as u32, at, data_sn == 3, &[0xee; 1024]);
        }
        let response = initiator.expect(opcode::SCSI_RESPONSE);
        assert_eq!((response.header[3], response.sense()), (2, (0x0b, 0x0c, 0x0d)));
    }
    assert!(bench.device.contents()[..8192] == data, "nothing of those was written");
    // In order, unless both say otherwise.
    for keys in ["", "DataPDUInOrder=Yes\0"] {
        let mut initiator = bench.login(keys);
        let tag = initiator.command(0xa0, 2048, &write_cdb(0, 2048), &[]);
        let r2t = initiator.expect(opcode::R2T);
        initiator.data_out(tag, r2t.u32(20), 0, 1024, false, &[0xee; 1024]);
        initiator.data_out(tag, r2t.u32(20), 1, 0, true, &[0xee; 1024]);
        assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).sense(), (0x0b, 0x0c, 0x0d), "{keys:?}");
    }
}

#[test]
fn what_is_of_higher_recovery_levels_is_refused_and_the_session_goes_on() {
    let bench = Bench::new();
    let mut initiator = Initiator::connect(bench.address);
    initiator.cid = 4;
    let agreed = initiator.log_in(NODE, Some(TARGET), "ErrorRecoveryLevel=2\0").unwrap().text();
    assert_eq!(agreed["ErrorRecoveryLevel"], "0");
    // Data/R2T, status, DataACK, R-Data.
    for kind in 0..4 {
        let mut snack = header(opcode::SNACK, 0x80 | kind, 3);
        put(&mut snack, 44, 1);
        initiator.send(snack, &[]);
        assert_eq!(rejected(&initiator.receive().unwrap(), &snack), SNACK_REJECT, "{kind}");
    }
    // TASK REASSIGN.
    initiator.task_management(8, 0, 1);
    assert_eq!(initiator.expect(opcode::TASK_MANAGEMENT_RESPONSE).header[2], 4);
    // A connection that is to be recovered, and one that is not there.
    assert_eq!(initiator.log_out(2, 4).header[2], 2);
    assert_eq!(initiator.log_out(1, 5).header[2], 1);
    let unknown = initiator.log_out(3, 4);
    assert_eq!((unknown.opcode(), unknown.header[2]), (opcode::REJECT, INVALID_PDU_FIELD));
    assert_eq!(initiator.ready(), None);
    assert_eq!(initiator.log_out(1, 4).header[2], 0, "closing the one connection there is ends the session");
    assert!(initiator.receive().is_none());
    bench.eventually("the session is gone", || bench.registry.sessions().is_empty());
}

#[test]
fn pdus_that_have_no_place_are_rejected_and_hold_nobody_up() {
    let bench = Bench::new();
    let mut discovering = Initiator::connect(bench.address);
    discovering.log_in(NODE, None, "").unwrap();
    let refused = command(&mut discovering, 0x80, 0, &[0; 16]);
    discovering.send(refused, &[]);
    assert_eq!(rejected(&discovering.receive().unwrap(), &refused), COMMAND_NOT_SUPPORTED);
    assert!(discovering.ask("SendTargets=All\0").starts_with("TargetName="));
    // A tag that is in use.
    let mut initiator = bench.login("InitialR2T=Yes\0ImmediateData=No\0");
    let tag = initiator.command(0xa0, 512, &write_cdb(0, 512), &[]);
    let r2t = initiator.expect(opcode::R2T);
    let mut again = command(&mut initiator, 0x80, 0, &[0; 16]);
    put(&mut again, 16, tag);
    initiator.send(again, &[]);
    assert_eq!(rejected(&initiator.receive().unwrap(), &again), PROTOCOL_ERROR);
    assert_eq!(initiator.ready(), None);
    initiator.data_out(tag, r2t.u32(20), 0, 0, true, &[4; 512]);
    assert_eq!(initiator.expect(opcode::SCSI_RESPONSE).header[3], 0);
    // An opcode that is none.
    initiator.send(header(0x40 | 0x1c, 0x80, 9), &[]);
    assert_eq!(initiator.expect(opcode::REJECT).header[2], COMMAND_NOT_SUPPORTED);
    assert_eq!(initiator.ready(), None);
}

#[test]
fn algorithms_that_are_not_allowed_get_nobody_in() {
    let bench = Bench::with(|config| config.algorithms = vec![Algorithm::Sha256, Algorithm::Sha3_256]);
    let accounts = vec![Account { name: "user".into(), secret: Secret::new("a long secret") }];
    bench.registry.set_chap(TARGET, ChapPolicy { accounts, mutual: None }).unwrap();
    let log_in = |algorithm| {
        Initiator::connect(bench.address).log_in_with_chap(algorithm, "user", "a long secret").map(|_| ())
    };
    assert_eq!((log_in(Algorithm::Md5), log_in(Algorithm::Sha1)), (Err(0x0201), Err(0x0201)));
    assert_eq!((log_in(Algorithm::Sha256), log_in(Algorithm::Sha3_256)), (Ok(()), Ok(())));
}
