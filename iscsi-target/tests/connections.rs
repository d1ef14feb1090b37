//! Sessions of several connections (RFC 7143 sections 4.2.2 and 4.4.3).

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iscsi_target::access::{AccessPolicy, AccessRule};
use iscsi_target::pdu::opcode;
use iscsi_target::server::{Patience, Portal, ServerConfig};
use support::{Bench, Initiator, NODE, Pdu, TARGET, gated, gated_with, header, put, write_cdb};

const ISID: [u8; 6] = [0x80, 0, 0, 0, 0, 1];

/// A session that may have this many connections, by its first.
fn leading(bench: &Bench, connections: u32) -> Initiator {
    let mut initiator = Initiator::connect(bench.address);
    initiator.isid = ISID;
    initiator.cid = 1;
    let keys = format!("MaxConnections={connections}\0InitialR2T=Yes\0ImmediateData=Yes\0");
    let answer = initiator.log_in(NODE, Some(TARGET), &keys).unwrap();
    assert_eq!(answer.text()["MaxConnections"], connections.min(8).to_string());
    initiator.tsih = u16::from_be_bytes([answer.header[14], answer.header[15]]);
    initiator
}

fn try_to_join(address: SocketAddr, tsih: u16, cid: u16) -> Result<(Initiator, Pdu), u16> {
    let mut initiator = Initiator::connect(address);
    (initiator.isid, initiator.tsih, initiator.cid) = (ISID, tsih, cid);
    initiator.tag = u32::from(cid) << 16;
    let answer = initiator.log_in(NODE, Some(TARGET), "DataDigest=CRC32C,None\0")?;
    Ok((initiator, answer))
}

fn join(first: &Initiator, bench: &Bench, cid: u16) -> Initiator {
    let (mut initiator, answer) = try_to_join(bench.address, first.tsih, cid).unwrap();
    assert_eq!(u16::from_be_bytes([answer.header[14], answer.header[15]]), first.tsih);
    assert_eq!(answer.u32(28), first.cmd_sn, "ExpCmdSN is the session's");
    assert_eq!(bench.registry.sessions().len(), 1);
    initiator.cmd_sn = first.cmd_sn;
    initiator
}

fn event(pdu: Option<Pdu>) -> u8 {
    let pdu = pdu.unwrap();
    assert_eq!(pdu.opcode(), opcode::ASYNC_MESSAGE, "{pdu:02x?}");
    pdu.header[36]
}

#[test]
fn commands_have_one_order_over_all_connections_and_answers_one_each() {
    let bench = Bench::new();
    let mut one = leading(&bench, 4);
    let mut two = join(&one, &bench, 2);
    let mut three = join(&one, &bench, 3);
    assert_eq!(bench.registry.sessions()[0].connections.len(), 3);
    for round in 0..20 {
        let first = one.cmd_sn;
        // They come from the last to the first, with data, and one that is no command.
        (three.cmd_sn, two.cmd_sn) = (first + 2, first + 1);
        let late = three.command(0xa0, 512, &write_cdb(0, 512), &[round + 1; 512]);
        let mut text = header(opcode::TEXT, 0x80, 5);
        put(&mut text, 20, u32::MAX);
        put(&mut text, 24, two.cmd_sn);
        two.send(text, b"SendTargets=\0");
        assert!(three.ping().is_empty() && two.ping().is_empty(), "they wait for the first");
        let due = one.command(0x80, 0, &[0; 16], &[]);
        assert_eq!(one.expect(opcode::SCSI_RESPONSE).tag(), due);
        assert!(two.expect(opcode::TEXT_RESPONSE).data.starts_with(b"TargetName="));
        let response = three.expect(opcode::SCSI_RESPONSE);
        assert_eq!((response.tag(), response.header[3]), (late, 0));
        assert_eq!(bench.device.contents()[0], round + 1);
        one.cmd_sn = first + 3;
    }
    // Each connection has a StatSN of its own.
    let before = one.next_response().u32(24);
    two.cmd_sn = one.cmd_sn;
    two.next_response();
    two.next_response();
    one.cmd_sn = two.cmd_sn;
    assert_eq!(one.next_response().u32(24), before + 1);
}

#[test]
fn data_goes_by_the_connection_of_its_command() {
    let bench = Bench::new();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let tag = one.command(0xa0, 1024, &write_cdb(0, 1024), &[]);
    let r2t = one.expect(opcode::R2T);
    two.data_out(tag, r2t.u32(20), 0, 0, true, &[9; 1024]);
    let reject = two.expect(opcode::REJECT);
    assert_eq!(reject.header[2], 4, "protocol error");
    one.data_out(tag, r2t.u32(20), 0, 0, true, &[5; 1024]);
    let response = one.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (tag, 0));
    assert_eq!(bench.device.contents()[..1024], [5; 1024]);
    assert!(two.ping().is_empty());
}

/// The beginning of a write with immediate data, which the target has seen when this returns; and the rest of it.
fn half_a_write(initiator: &mut Initiator, tag: u32) -> [u8; 256] {
    let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 7);
    put(&mut ping, 20, u32::MAX);
    put(&mut ping, 24, initiator.cmd_sn);
    let mut write = header(opcode::SCSI_COMMAND, 0xa0, tag);
    write[6] = 2;
    put(&mut write, 20, 512);
    put(&mut write, 24, initiator.cmd_sn);
    write[32..48].copy_from_slice(&write_cdb(0, 512));
    // At once, so that they are parsed together.
    initiator.stream.write_all(&[&ping[..], &write, &[6; 256]].concat()).unwrap();
    initiator.expect(opcode::NOP_IN);
    [6; 256]
}

#[test]
fn of_one_number_or_tag_by_two_connections_one_is_a_command() {
    let bench = Bench::new();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    // The number comes anew, whole, while the data of the first is on its way.
    let rest = half_a_write(&mut one, 0x100);
    let tag = two.command(0x80, 0, &[0; 16], &[]);
    assert_eq!(two.expect(opcode::SCSI_RESPONSE).tag(), tag);
    one.stream.write_all(&rest).unwrap();
    one.cmd_sn = two.cmd_sn;
    assert!(one.ping().is_empty(), "it has come already");
    // And the tag, by an immediate command that waits for its data.
    let rest = half_a_write(&mut one, 0x200);
    let mut write = header(0x40 | opcode::SCSI_COMMAND, 0xa0, 0x200);
    put(&mut write, 20, 512);
    put(&mut write, 24, two.cmd_sn);
    write[32..48].copy_from_slice(&write_cdb(1, 512));
    two.send(write, &[]);
    let ttt = two.expect(opcode::R2T).u32(20);
    one.stream.write_all(&rest).unwrap();
    assert_eq!(one.expect(opcode::REJECT).header[2], 4, "protocol error");
    two.data_out(0x200, ttt, 0, 0, true, &[8; 512]);
    let response = two.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (0x200, 0));
    assert_eq!(bench.device.contents()[..1024], [[0; 512], [8; 512]].concat());
    // What was rejected has had its turn.
    two.cmd_sn += 1;
    assert_eq!(two.next_response().header[3], 0);
}

#[test]
fn early_data_has_room_for_one_text_of_each_connection() {
    let bench = Bench::new();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let due = one.cmd_sn;
    for early in 1..=6 {
        let mut ping = header(opcode::NOP_OUT, 0x80, early);
        put(&mut ping, 20, u32::MAX);
        put(&mut ping, 24, due + early);
        two.send(ping, &[0x5a; 32 << 10]);
    }
    for _ in 0..2 {
        assert_eq!(two.expect(opcode::REJECT).header[2], 0x0a, "out of resources");
    }
    assert!(two.ping().is_empty());
    one.command(0x80, 0, &[0; 16], &[]);
    one.expect(opcode::SCSI_RESPONSE);
    for early in 1..=4 {
        assert_eq!(two.expect(opcode::NOP_IN).tag(), early);
    }
    // Those that were rejected have had their turn, and the room is free again.
    one.cmd_sn = due + 7;
    assert_eq!(one.next_response().header[3], 0);
}

#[test]
fn a_lost_connection_ends_its_commands_and_not_the_session() {
    let (bench, gate) = gated();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let mut reserve = [0; 16];
    reserve[0] = 0x16;
    two.command(0x80, 0, &reserve, &[]);
    assert_eq!(two.expect(opcode::SCSI_RESPONSE).header[3], 0);
    // One command runs, one waits for data; one of the other connection runs too.
    two.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    two.command(0xa0, 65_536, &write_cdb(0, 65_536), &[]);
    two.expect(opcode::R2T);
    one.cmd_sn = two.cmd_sn;
    let own = one.command(0xa0, 512, &write_cdb(8, 512), &[3; 512]);
    assert!(one.ping().is_empty());
    drop(two);
    gate.open.store(true, Ordering::SeqCst);
    let response = one.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (own, 0));
    bench.eventually("one connection is left", || bench.registry.sessions()[0].connections.len() == 1);
    bench.eventually("all buffers are back", || bench.pool.used_bytes() == 0);
    assert_eq!(one.ready(), None);
    let mut other = Initiator::connect(bench.address);
    other.log_in_untold("iqn.2026-11.com.example:other", Some(TARGET), "").unwrap();
    assert_eq!(other.next_response().header[3], 0x18, "the session holds its reservation");
}

#[test]
fn logout_closes_the_connection_that_is_named_or_all() {
    let bench = Bench::new();
    let mut one = leading(&bench, 4);
    let mut two = join(&one, &bench, 2);
    let mut three = join(&one, &bench, 3);
    assert_eq!(one.log_out(1, 9).header[2], 1, "no such connection");
    assert_eq!(one.log_out(1, 2).header[2], 0);
    assert!(two.receive().is_none());
    bench.eventually("two are left", || bench.registry.sessions()[0].connections.len() == 2);
    assert_eq!(three.log_out(1, 3).header[2], 0);
    assert!(three.receive().is_none());
    bench.eventually("one is left", || bench.registry.sessions()[0].connections.len() == 1);
    let mut four = join(&one, &bench, 2);
    assert_eq!(one.log_out(0, 0).header[2], 0);
    assert!(one.receive().is_none() && four.receive().is_none());
    bench.eventually("the session is gone", || bench.registry.sessions().is_empty());
}

/// Whoever is told that a connection is closed may send its commands again by another one.
#[test]
fn a_logout_of_another_connection_is_answered_when_that_is_over() {
    let (bench, gate) = gated();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    two.command(0xa0, 512, &write_cdb(0, 512), &[1; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    one.cmd_sn = two.cmd_sn;
    one.send_logout(1, 2);
    assert!(two.receive().is_none(), "it is closed");
    assert!(one.ping().is_empty(), "and not answered: its write still runs");
    gate.open.store(true, Ordering::SeqCst);
    let answer = one.expect(opcode::LOGOUT_RESPONSE);
    assert_eq!((answer.tag(), answer.header[2]), (78, 0));
    assert_eq!(gate.inner.contents()[0], 1, "the old write never comes after the answer");
    assert_eq!(one.write(0, &[2; 512], 512, 512).header[3], 0);
}

#[test]
fn nor_is_one_of_a_connection_that_was_lost_answered_before_its_commands_are_over() {
    let (bench, gate) = gated();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    two.command(0xa0, 512, &write_cdb(0, 512), &[1; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    one.cmd_sn = two.cmd_sn;
    drop(two);
    // What has happened before the first of these is seen by the second: one worker serves both connections.
    assert!(one.ping().is_empty() && one.ping().is_empty());
    one.send_logout(1, 2);
    assert!(one.ping().is_empty(), "its write still runs");
    gate.open.store(true, Ordering::SeqCst);
    let answer = one.expect(opcode::LOGOUT_RESPONSE);
    assert_eq!((answer.tag(), answer.header[2]), (78, 0));
    assert_eq!(gate.inner.contents()[0], 1);
}

#[test]
fn what_holds_for_the_session_is_not_negotiated_again() {
    let bench = Bench::new();
    let one = leading(&bench, 2);
    let joining = |key: &str| {
        let mut initiator = Initiator::connect(bench.address);
        (initiator.isid, initiator.tsih, initiator.cid) = (ISID, one.tsih, 2);
        initiator.log_in(NODE, Some(TARGET), &format!("{key}\0")).map(|_| ())
    };
    for key in [
        "MaxConnections=2",
        "InitialR2T=Yes",
        "ImmediateData=Yes",
        "MaxBurstLength=65536",
        "FirstBurstLength=65536",
        "DefaultTime2Wait=2",
        "DefaultTime2Retain=0",
        "MaxOutstandingR2T=1",
        "DataPDUInOrder=Yes",
        "DataSequenceInOrder=Yes",
        "ErrorRecoveryLevel=0",
        "TaskReporting=RFC3720",
        "iSCSIProtocolLevel=1",
    ] {
        assert_eq!(joining(key), Err(0x0200), "{key}");
    }
    for key in [
        "MaxRecvDataSegmentLength=65536",
        "HeaderDigest=None",
        "DataDigest=None",
        "OFMarker=No",
        "SessionType=Normal",
    ] {
        assert_eq!(joining(key), Ok(()), "{key}");
        bench.eventually("it is gone again", || bench.registry.sessions()[0].connections.len() == 1);
    }
}

/// Connection reinstatement (RFC 7143 section 6.3.4).
#[test]
fn a_connection_with_the_number_of_another_takes_its_place_when_that_is_over() {
    let (bench, gate) = gated();
    let mut one = leading(&bench, 1);
    one.command(0xa0, 512, &write_cdb(0, 512), &[1; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    let (address, tsih) = (bench.address, one.tsih);
    let again = std::thread::spawn(move || try_to_join(address, tsih, 1).unwrap().0);
    assert_eq!(event(one.receive()), 3);
    assert!(one.receive().is_none());
    assert!(!again.is_finished(), "its write still runs");
    gate.open.store(true, Ordering::SeqCst);
    let mut new = again.join().unwrap();
    new.cmd_sn = one.cmd_sn;
    assert_eq!(new.write(0, &[2; 512], 512, 512).header[3], 0);
    assert_eq!(gate.inner.contents()[0], 2, "the old write never comes after the new");
    let sessions = bench.registry.sessions();
    assert_eq!((sessions.len(), sessions[0].tsih), (1, tsih), "it is the same session");
}

#[test]
fn who_may_not_join_is_refused() {
    let portal = |group| Portal { address: "127.0.0.1:0".parse().unwrap(), group };
    let bench = Bench::with(|config| config.portals = vec![portal(1), portal(2)]);
    let elsewhere = bench.server.as_ref().unwrap().portals()[1].address;
    let mut one = leading(&bench, 2);
    let refused = |address, tsih, cid| try_to_join(address, tsih, cid).map(|_| ()).unwrap_err();
    assert_eq!(refused(bench.address, one.tsih.wrapping_add(5), 2), 0x020a);
    assert_eq!(refused(elsewhere, one.tsih, 2), 0x0208, "the session is with another portal group");
    let mut stranger = Initiator::connect(bench.address);
    (stranger.isid, stranger.tsih, stranger.cid) = ([0x80, 0, 0, 0, 0, 2], one.tsih, 2);
    let answer = stranger.log_in(NODE, Some(TARGET), "").map(|_| ());
    assert_eq!(answer, Err(0x020a), "another initiator port");
    let mut two = join(&one, &bench, 2);
    assert_eq!(refused(bench.address, one.tsih, 3), 0x0206);
    assert!(one.ping().is_empty() && two.ping().is_empty());
    assert_eq!(bench.registry.sessions().len(), 1);
}

#[test]
fn the_end_of_a_session_is_told_to_every_connection() {
    let bench = Bench::new();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let id = bench.registry.sessions()[0].id;
    let ending = bench.in_background(move |registry| async move { registry.log_session_out(id).await });
    assert_eq!((event(one.receive()), event(two.receive())), (1, 1));
    assert_eq!(two.log_out(0, 0).header[2], 0);
    assert!(two.receive().is_none() && one.receive().is_none());
    assert!(ending.join().unwrap());
    // Reinstatement ends all of them.
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let mut again = leading(&bench, 1);
    assert_eq!((event(one.receive()), event(two.receive())), (3, 3));
    assert!(one.receive().is_none() && two.receive().is_none());
    assert_eq!(again.ready(), None);
    assert_eq!(bench.registry.sessions().len(), 1);
}

/// Let the node in by this portal alone, or by all.
fn allow(bench: &Bench, portal: Option<&str>) {
    let portal = portal.map(|portal| portal.parse().unwrap());
    let rules = vec![AccessRule { portal, ..AccessRule::initiator(NODE) }];
    bench.registry.set_access(TARGET, AccessPolicy { rules, loopback_only: true }).unwrap();
}

/// Two portals of one group.
fn two_portals(config: &mut ServerConfig) {
    let portal = |address: &str| Portal { address: address.parse().unwrap(), group: 1 };
    config.portals = vec![portal("127.0.0.1:0"), portal("127.0.0.2:0")];
}

/// It was let in when it logged in, and then had to wait for another connection's end.
#[test]
fn a_connection_that_waits_to_join_is_measured_by_what_holds_when_it_does() {
    let (bench, gate) = gated_with(two_portals);
    let other = bench.server.as_ref().unwrap().portals()[1].address;
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    two.command(0xa0, 512, &write_cdb(0, 512), &[1; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    let tsih = one.tsih;
    let again = std::thread::spawn(move || try_to_join(other, tsih, 2).map(|_| ()));
    assert_eq!(event(two.receive()), 3, "it waits from here on");
    allow(&bench, Some("127.0.0.1"));
    gate.open.store(true, Ordering::SeqCst);
    assert_eq!(again.join().unwrap(), Err(0x0202));
    one.cmd_sn = two.cmd_sn;
    assert!(one.ping().is_empty());
    bench.eventually("one is left", || bench.registry.sessions()[0].connections.len() == 1);
}

#[test]
fn every_connection_of_a_session_is_one_that_is_let_in() {
    let bench = Bench::with(two_portals);
    let other = bench.server.as_ref().unwrap().portals()[1].address;
    allow(&bench, Some("127.0.0.1"));
    let one = leading(&bench, 4);
    assert_eq!(try_to_join(other, one.tsih, 2).map(|_| ()).unwrap_err(), 0x0202);
    allow(&bench, None);
    let (two, _) = try_to_join(other, one.tsih, 2).unwrap();
    let locals = || -> Vec<SocketAddr> {
        let sessions = bench.registry.sessions();
        sessions[0].connections.iter().map(|connection| connection.local).collect()
    };
    assert_eq!(locals(), [bench.address, other]);
    assert!(bench.registry.shut_out(TARGET).is_empty());
    allow(&bench, Some("127.0.0.1"));
    assert_eq!(bench.registry.shut_out(TARGET).len(), 1, "by its second connection");
    drop(two);
    bench.eventually("one is left", || locals().len() == 1);
    assert!(bench.registry.shut_out(TARGET).is_empty());
}

/// A task management function by number of command; its tag.
fn immediate_function(by: &mut Initiator, function: u8, tag: u32, ref_cmd_sn: u32) -> u32 {
    let own = by.next_tag();
    let mut request = header(0x40 | opcode::TASK_MANAGEMENT, 0x80 | function, own);
    put(&mut request, 20, tag);
    put(&mut request, 24, by.cmd_sn);
    put(&mut request, 32, ref_cmd_sn);
    by.send(request, &[]);
    own
}

const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const WARM_RESET: u8 = 6;

/// RFC 7143 section 11.5.1: it must be considered received, or those after it would wait for good.
#[test]
fn a_command_that_was_aborted_before_it_came_has_had_its_turn() {
    let bench = Bench::new();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let lost = one.cmd_sn;
    two.cmd_sn = lost + 1;
    let later = two.command(0xa0, 512, &write_cdb(1, 512), &[2; 512]);
    assert!(two.ping().is_empty(), "it waits");
    immediate_function(&mut two, ABORT_TASK, 77, lost + 2);
    assert_eq!(two.expect(opcode::TASK_MANAGEMENT_RESPONSE).header[2], 1, "not sent before the function");
    immediate_function(&mut two, ABORT_TASK, 77, lost + 1);
    assert_eq!(two.expect(opcode::TASK_MANAGEMENT_RESPONSE).header[2], 1, "that number is another command's");
    immediate_function(&mut two, ABORT_TASK, 77, lost);
    assert_eq!(two.expect(opcode::TASK_MANAGEMENT_RESPONSE).header[2], 0);
    let response = two.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (later, 0));
    // It comes after all, and is none any more.
    one.command(0xa0, 512, &write_cdb(0, 512), &[1; 512]);
    assert!(one.ping().is_empty());
    assert_eq!(bench.device.contents()[..1024], [[0; 512], [2; 512]].concat());
}

#[test]
fn a_tag_that_is_free_again_has_no_turn_by_its_former_number() {
    let (bench, gate) = gated();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let missing = one.cmd_sn;
    two.cmd_sn = missing + 1;
    let tag = two.command(0xa0, 512, &write_cdb(1, 512), &[1; 512]);
    immediate_function(&mut two, ABORT_TASK, tag, missing + 1);
    assert_eq!(two.expect(opcode::TASK_MANAGEMENT_RESPONSE).header[2], 0);
    // The tag comes anew, with a number that is not due when the former one is.
    (two.cmd_sn, two.tag) = (missing + 3, tag - 1);
    assert_eq!(two.command(0xa0, 512, &write_cdb(2, 512), &[2; 512]), tag);
    assert!(two.ping().is_empty());
    one.command(0x80, 0, &[0; 16], &[]);
    one.expect(opcode::SCSI_RESPONSE);
    assert!(two.ping().is_empty() && !gate.waiting.load(Ordering::SeqCst), "its number has not come");
    gate.open.store(true, Ordering::SeqCst);
    one.cmd_sn = missing + 2;
    one.command(0x80, 0, &[0; 16], &[]);
    let mut tags =
        vec![one.expect(opcode::SCSI_RESPONSE).tag() >> 16, two.expect(opcode::SCSI_RESPONSE).tag()];
    tags.sort_unstable();
    assert_eq!(tags, [0, tag]);
}

#[test]
fn a_function_for_a_task_set_waits_for_the_commands_before_it_and_leaves_those_after_it() {
    let (bench, gate) = gated();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let first = one.cmd_sn;
    two.cmd_sn = first + 1;
    let function = immediate_function(&mut two, ABORT_TASK_SET, u32::MAX, 0);
    let after = two.command(0xa0, 512, &write_cdb(2, 512), &[2; 512]);
    assert!(two.ping().is_empty(), "the command before it has not come");
    one.command(0xa0, 512, &write_cdb(1, 512), &[1; 512]);
    bench.eventually("they run", || gate.waiting.load(Ordering::SeqCst));
    one.cmd_sn = first + 2;
    // It is handed from the one to the other, and carried out there.
    assert!(one.ping().is_empty() && two.ping().is_empty() && two.ping().is_empty());
    gate.open.store(true, Ordering::SeqCst);
    let mut answers = [two.receive().unwrap(), two.receive().unwrap()].map(|pdu| (pdu.opcode(), pdu.tag()));
    answers.sort_unstable();
    assert_eq!(answers, [(opcode::SCSI_RESPONSE, after), (opcode::TASK_MANAGEMENT_RESPONSE, function)]);
    one.cmd_sn = first + 2;
    assert!(one.ping().is_empty(), "the one before it was aborted");
}

/// RFC 7143 section 4.2.3.3: the numbers up to a reset of the target may be taken for received.
#[test]
fn a_reset_of_the_target_waits_for_no_command() {
    let bench = Bench::new();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let first = one.cmd_sn;
    two.cmd_sn = first + 1;
    two.command(0xa0, 512, &write_cdb(1, 512), &[1; 512]);
    two.cmd_sn = first + 4;
    immediate_function(&mut two, WARM_RESET, u32::MAX, 0);
    assert_eq!(two.expect(opcode::TASK_MANAGEMENT_RESPONSE).header[2], 0);
    one.command(0xa0, 512, &write_cdb(0, 512), &[1; 512]);
    // What is no command has its turn all the same.
    one.cmd_sn = first + 2;
    let mut ping = header(opcode::NOP_OUT, 0x80, 55);
    put(&mut ping, 20, u32::MAX);
    put(&mut ping, 24, one.cmd_sn);
    one.send(ping, &[]);
    assert_eq!(one.expect(opcode::NOP_IN).tag(), 55);
    assert!(one.ping().is_empty(), "but once");
    assert_eq!(two.next_response().header[3], 2, "29/03: it was reset");
    assert_eq!(bench.device.contents()[..1024], [0; 1024]);
}

const UNAVAILABLE: u16 = 0x0301;

/// Initiators give up and come again; without an end each of them would keep a connection.
#[test]
fn who_waits_for_what_hangs_is_refused_in_the_end() {
    let patience = Patience { login: Duration::from_millis(300), ..Patience::default() };
    let (bench, gate) = gated_with(|config| config.patience = patience);
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    two.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    // In the place of a connection, and of the session.
    assert_eq!(try_to_join(bench.address, one.tsih, 2).err(), Some(UNAVAILABLE));
    one.cmd_sn = two.cmd_sn;
    assert!(one.ping().is_empty(), "the session goes on");
    let again = |bench: &Bench| {
        let mut again = Initiator::connect(bench.address);
        again.isid = ISID;
        again.log_in_untold(NODE, Some(TARGET), "").map(|_| again)
    };
    assert_eq!(again(&bench).err(), Some(UNAVAILABLE));
    gate.open.store(true, Ordering::SeqCst);
    bench.eventually("the former session is over", || bench.registry.sessions().is_empty());
    assert_eq!(gate.inner.contents()[0], 9);
    assert_eq!(again(&bench).unwrap().ready(), None);
}

#[test]
fn nobody_joins_a_session_that_was_asked_to_log_out() {
    let bench = Bench::with(|config| config.patience = Patience { logout_s: 3600, ..Patience::default() });
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let id = bench.registry.sessions()[0].id;
    let ending = bench.in_background(move |registry| async move { registry.log_session_out(id).await });
    assert_eq!([event(one.receive()), event(two.receive())], [1, 1]);
    assert_eq!(two.log_out(1, 2).header[2], 0);
    assert_eq!(try_to_join(bench.address, one.tsih, 2).err(), Some(0x020a), "there is no such session");
    assert_eq!(one.log_out(0, 0).header[2], 0);
    assert!(ending.join().unwrap());
}

/// Its connection was there before the stop, so it is not turned away at the door.
#[test]
fn nobody_logs_in_to_a_server_that_stops() {
    let mut bench = Bench::new();
    let mut late = Initiator::connect(bench.address);
    let mut early = leading(&bench, 1);
    let server = bench.server.take().unwrap();
    let stopping = bench.in_background(move |_| server.shut_down());
    assert_eq!(event(early.receive()), 1);
    assert_eq!(late.log_in_untold(NODE, Some(TARGET), "").err(), Some(UNAVAILABLE));
    assert_eq!(early.log_out(0, 0).header[2], 0);
    stopping.join().unwrap();
    assert!(bench.registry.sessions().is_empty());
}

#[test]
fn a_function_does_not_outlive_the_connection_that_it_came_by() {
    let bench = Bench::new();
    let mut one = leading(&bench, 2);
    let mut two = join(&one, &bench, 2);
    let first = one.cmd_sn;
    two.cmd_sn = first + 1;
    immediate_function(&mut two, 5, u32::MAX, 0);
    assert!(two.ping().is_empty(), "it waits");
    drop(two);
    bench.eventually("it is gone", || bench.registry.sessions()[0].connections.len() == 1);
    let (mut two, _) = try_to_join(bench.address, one.tsih, 2).unwrap();
    assert_eq!(one.next_response().header[3], 0, "nor is anything reset");
    two.cmd_sn = one.cmd_sn;
    assert!(two.ping().is_empty());
    assert_eq!(two.next_response().header[3], 0);
}
