//! How sessions begin, what they are told, and how they end.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use iscsi_target::pdu::opcode;
use iscsi_target::registry::AccessPolicy;
use iscsi_target::scsi::{LogicalUnit, LuIdentity, LuOptions};
use iscsi_target::server::{Patience, Portal};
use support::{BEGUN, Bench, Initiator, LUN_BYTES, NODE, Pdu, TARGET, header, put, write_cdb};

/// Nobody is asked whether he is there in a test of something else.
fn endless() -> Patience {
    let hour = Duration::from_secs(3600);
    Patience { login: hour, silence: hour, answer: hour, data: hour, memory: hour, logout_s: 3600 }
}

fn portals(addresses: &[(&str, u16)]) -> Vec<Portal> {
    let portal = |(address, group): &(&str, u16)| Portal { address: address.parse().unwrap(), group: *group };
    addresses.iter().map(portal).collect()
}

/// Portals, as the system has chosen their ports.
fn addresses(bench: &Bench) -> Vec<SocketAddr> {
    bench.server.as_ref().unwrap().portals().iter().map(|portal| portal.address).collect()
}

/// Does this machine have IPv6?
fn has_ipv6(what: &str) -> bool {
    let listens = std::net::TcpListener::bind("[::1]:0");
    if let Err(error) = &listens {
        fixtures::report::skipped(what, &format!("no IPv6 on loopback: {error}"));
    }
    listens.is_ok()
}

fn log_in_at(address: SocketAddr, isid: u8) -> (Initiator, Pdu) {
    let mut initiator = Initiator::connect(address);
    initiator.isid = [0x80, 0, 0, 0, 0, isid];
    let answer = initiator.log_in_untold(NODE, Some(TARGET), "").unwrap();
    (initiator, answer)
}

fn discover(address: SocketAddr) -> Initiator {
    let mut initiator = Initiator::connect(address);
    initiator.log_in(NODE, None, "").unwrap();
    initiator
}

/// The event and the parameters of an asynchronous message.
fn event(pdu: &Pdu) -> (u8, [u16; 3]) {
    assert_eq!(pdu.opcode(), opcode::ASYNC_MESSAGE, "{pdu:02x?}");
    assert_eq!(pdu.tag(), u32::MAX);
    let parameter = |at: usize| u16::from_be_bytes([pdu.header[at], pdu.header[at + 1]]);
    (pdu.header[36], [parameter(38), parameter(40), parameter(42)])
}

#[test]
fn a_login_to_a_session_that_is_not_there_is_refused() {
    let bench = Bench::new();
    let there = bench.login("");
    let tsih = bench.registry.sessions()[0].tsih;
    let join = |tsih| {
        let mut initiator = Initiator::connect(bench.address);
        initiator.isid = [0x80, 0, 0, 0, 0, 1];
        initiator.cid = 1;
        initiator.tsih = tsih;
        initiator.log_in(NODE, Some(TARGET), "").map(|_| ()).unwrap_err()
    };
    assert_eq!(join(tsih.wrapping_add(7)), 0x020a);
    assert_eq!(join(tsih), 0x0206, "it is there, but has all the connections it may have");
    assert_eq!(bench.registry.sessions().len(), 1);
    drop(there);
}

#[test]
fn a_session_is_told_of_the_start_and_one_that_comes_again_is_not() {
    let bench = Bench::new();
    let (mut first, _) = log_in_at(bench.address, 1);
    assert_eq!([first.ready(), first.ready()], [Some(BEGUN), None]);
    let (mut again, _) = log_in_at(bench.address, 1);
    assert_eq!(again.ready(), None);
    let (mut elsewhere, _) = log_in_at(bench.address, 2);
    assert_eq!(elsewhere.ready(), None, "nor under another ISID");
    let mut another = Initiator::connect(bench.address);
    another.log_in_untold("iqn.2026-11.com.example:another", Some(TARGET), "").unwrap();
    assert_eq!(another.ready(), Some(BEGUN), "another initiator");
}

/// All sessions end, the asking one too, when it has its answer (RFC 7143 section 11.5.1).
#[test]
fn a_cold_reset_ends_every_session_and_answers_first() {
    let bench = Bench::new();
    let (mut asks, mut other) = (bench.login(""), log_in_at(bench.address, 2).0);
    let tag = asks.task_management(7, 0, 0);
    let answer = asks.expect(opcode::TASK_MANAGEMENT_RESPONSE);
    assert_eq!((answer.tag(), answer.header[2]), (tag, 0));
    for ended in [&mut asks, &mut other] {
        assert_eq!(ended.receive().map(|pdu| event(&pdu).0), Some(3));
        assert!(ended.receive().is_none());
    }
    bench.eventually("no session is left", || bench.registry.sessions().is_empty());
}

#[test]
fn of_logins_of_one_nexus_at_the_same_time_one_stays() {
    let bench = Bench::with(|config| config.patience = endless());
    let address = bench.address;
    let logins: Vec<_> = (0..16).map(|_| std::thread::spawn(move || log_in_at(address, 1).0)).collect();
    let initiators: Vec<Initiator> = logins.into_iter().map(|login| login.join().unwrap()).collect();
    bench.eventually("one session is left", || bench.registry.sessions().len() == 1);
    let peer = bench.registry.sessions()[0].connections[0].peer;
    for mut initiator in initiators {
        if initiator.stream.local_addr().unwrap() == peer {
            assert!(initiator.ping().is_empty());
        } else {
            assert_eq!(initiator.receive().map(|pdu| event(&pdu).0), Some(3));
            assert!(initiator.receive().is_none());
        }
    }
}

#[test]
fn another_portal_group_is_another_port_of_the_target() {
    let bench = Bench::with(|config| config.portals = portals(&[("127.0.0.1:0", 1), ("127.0.0.1:0", 2)]));
    let [one, two] = addresses(&bench)[..] else { panic!() };
    let (mut first, answer) = log_in_at(one, 1);
    assert_eq!(answer.text()["TargetPortalGroupTag"], "1");
    let (mut second, answer) = log_in_at(two, 1);
    assert_eq!(answer.text()["TargetPortalGroupTag"], "2");
    assert!(first.ping().is_empty() && second.ping().is_empty(), "neither is the other's former self");
    let (mut third, _) = log_in_at(two, 1);
    assert_eq!(second.receive().map(|pdu| event(&pdu).0), Some(3));
    assert!(first.ping().is_empty() && third.ping().is_empty());
    assert_eq!(bench.registry.sessions().len(), 2);
}

#[test]
fn a_silent_initiator_is_asked_and_then_given_up_with_all_it_held() {
    let patience =
        Patience { silence: Duration::from_millis(300), answer: Duration::from_millis(300), ..endless() };
    let bench = Bench::with(|config| config.patience = patience);
    let mut silent = bench.login("InitialR2T=Yes\0ImmediateData=No\0");
    let mut reserve = [0; 16];
    reserve[0] = 0x16;
    silent.command(0x80, 0, &reserve, &[]);
    assert_eq!(silent.expect(opcode::SCSI_RESPONSE).header[3], 0);
    silent.command(0xa0, 65_536, &write_cdb(0, 65_536), &[]);
    silent.expect(opcode::R2T);
    let asked = silent.expect(opcode::NOP_IN);
    assert_eq!(asked.tag(), u32::MAX);
    assert_ne!(asked.u32(20), u32::MAX, "it wants an answer");
    assert!(silent.receive().is_none(), "closed");
    bench.eventually("the session is gone", || bench.registry.sessions().is_empty());
    bench.eventually("so is its task", || bench.pool.used_bytes() == 0);
    let mut other = Initiator::connect(bench.address);
    other.log_in(NODE, Some(TARGET), "").unwrap();
    assert_eq!(other.ready(), None, "the reservation went with the session");
}

#[test]
fn whoever_answers_stays() {
    let patience = Patience { silence: Duration::from_millis(50), ..endless() };
    let bench = Bench::with(|config| config.patience = patience);
    let mut initiator = bench.login("");
    for _ in 0..3 {
        let asked = initiator.expect(opcode::NOP_IN);
        let mut answer = header(0x40 | opcode::NOP_OUT, 0x80, u32::MAX);
        put(&mut answer, 20, asked.u32(20));
        put(&mut answer, 24, initiator.cmd_sn);
        initiator.send(answer, &[]);
    }
    assert_eq!(bench.registry.sessions().len(), 1);
}

#[test]
fn whoever_asks_nothing_in_discovery_is_let_go() {
    let short = Duration::from_millis(50);
    let bench =
        Bench::with(|config| config.patience = Patience { silence: short, answer: short, ..endless() });
    assert!(discover(bench.address).receive().is_none(), "closed, without a NOP-In");
    bench.eventually("the session is gone", || bench.registry.sessions().is_empty());
}

#[test]
fn a_session_is_asked_to_log_out_before_it_is_dropped() {
    let bench = Bench::with(|config| config.patience = Patience { logout_s: 77, ..endless() });
    let mut initiator = bench.login("");
    let id = bench.registry.sessions()[0].id;
    let ending = bench.in_background(move |registry| async move { registry.log_session_out(id).await });
    assert_eq!(event(&initiator.receive().unwrap()), (1, [0, 0, 77]));
    // It may still finish what it has begun.
    assert_eq!(initiator.write(0, &[5; 512], 512, 512).header[3], 0);
    assert!(!ending.is_finished(), "it is waited for");
    assert_eq!(initiator.log_out(0, 0).header[2], 0);
    assert!(initiator.receive().is_none());
    assert!(ending.join().unwrap());
    assert!(bench.registry.sessions().is_empty());
}

#[test]
fn whoever_does_not_log_out_is_dropped_and_told_so() {
    let bench = Bench::with(|config| config.patience = Patience { logout_s: 1, ..endless() });
    let mut initiator = Initiator::connect(bench.address);
    initiator.cid = 9;
    initiator.log_in(NODE, Some(TARGET), "DefaultTime2Wait=5\0").unwrap();
    let id = bench.registry.sessions()[0].id;
    let ending = bench.in_background(move |registry| async move { registry.log_session_out(id).await });
    assert_eq!(event(&initiator.receive().unwrap()), (1, [0, 0, 1]));
    assert_eq!(event(&initiator.receive().unwrap()), (2, [9, 5, 0]), "CID, Time2Wait, Time2Retain");
    assert!(initiator.receive().is_none());
    assert!(ending.join().unwrap());
}

#[test]
fn a_session_that_is_dropped_is_told_and_not_waited_for() {
    let bench = Bench::with(|config| config.patience = endless());
    let mut initiator = bench.login("");
    let id = bench.registry.sessions()[0].id;
    let ending = bench.in_background(move |registry| async move { registry.drop_session(id).await });
    assert_eq!(event(&initiator.receive().unwrap()), (3, [0, 2, 0]));
    assert!(initiator.receive().is_none());
    assert!(ending.join().unwrap());
    // One that takes nothing any more: what is queued for it never gets out.
    let mut deaf = bench.login("");
    let mut read = write_cdb(0, 1 << 20);
    read[0] = 0x28;
    for _ in 0..32 {
        deaf.command(0xc0, 1 << 20, &read, &[]);
    }
    bench.eventually("its responses pile up", || bench.pool.used_bytes() >= 8 << 20);
    let id = bench.registry.sessions()[0].id;
    let ending = bench.in_background(move |registry| async move { registry.drop_session(id).await });
    assert!(ending.join().unwrap());
    assert!(bench.registry.sessions().is_empty());
}

#[test]
fn a_stop_asks_discovery_sessions_too() {
    let mut bench = Bench::with(|config| config.patience = endless());
    let mut initiator = discover(bench.address);
    let server = bench.server.take().unwrap();
    let stopping = bench.in_background(move |_| server.shut_down());
    assert_eq!(event(&initiator.receive().unwrap()).0, 1);
    assert_eq!(initiator.log_out(0, 0).header[2], 0);
    stopping.join().unwrap();
}

fn map(bench: &Bench, lun: u16) {
    let device = block_io::MemoryDevice::new("another", LUN_BYTES);
    let identity = LuIdentity {
        uuid: uuid::Uuid::from_u128(lun.into()),
        serial: lun.to_string(),
        product: "TEST".into(),
    };
    let unit = LogicalUnit::new(std::sync::Arc::new(device), identity, LuOptions::default());
    bench.registry.map_lun(TARGET, lun, unit).unwrap();
}

/// A SCSI event: the first byte pair of its LUN, and its sense.
fn scsi_event(pdu: &Pdu) -> (u16, (u8, u8, u8)) {
    assert_eq!(event(pdu), (0, [0; 3]));
    assert_eq!(pdu.data[..3], [0, 18, 0x70], "the length comes before the sense");
    (u16::from_be_bytes([pdu.header[8], pdu.header[9]]), pdu.sense())
}

#[test]
fn changes_of_luns_are_told_by_message_and_by_unit_attention() {
    const LUNS_CHANGED: (u8, u8, u8) = (6, 0x3f, 0x0e);
    const CAPACITY_CHANGED: (u8, u8, u8) = (6, 0x2a, 0x09);
    let bench = Bench::with(|config| config.patience = endless());
    let (mut initiator, mut discovering) = (bench.login(""), discover(bench.address));
    map(&bench, 3);
    let message = initiator.receive().unwrap();
    assert_eq!(scsi_event(&message), (0, LUNS_CHANGED));
    initiator.command(0x80, 0, &[0; 16], &[]);
    let response = initiator.expect(opcode::SCSI_RESPONSE);
    assert_eq!(response.sense(), LUNS_CHANGED);
    assert_eq!(response.u32(24), message.u32(24).wrapping_add(1), "the message has a StatSN of its own");
    assert_eq!(initiator.ready(), None, "told once by each");
    // REPORT LUNS, which is what an initiator does that has had the message: nothing is left to be told.
    bench.registry.unmap_lun(TARGET, 3).unwrap();
    assert_eq!(scsi_event(&initiator.receive().unwrap()), (0, LUNS_CHANGED));
    let mut report = [0; 16];
    (report[0], report[8]) = (0xa0, 1);
    initiator.command(0xc0, 256, &report, &[]);
    assert_eq!(initiator.expect(opcode::DATA_IN).data.len(), 16, "one LUN");
    assert_eq!(initiator.ready(), None);
    // A change of size is one of its own LUN, under each number that it has.
    let (_, unit) = bench.registry.target(TARGET).unwrap().luns.units().remove(0);
    bench.registry.map_lun(TARGET, 5, unit.clone()).unwrap();
    assert_eq!(scsi_event(&initiator.receive().unwrap()), (0, LUNS_CHANGED));
    assert_eq!(initiator.ready(), Some(LUNS_CHANGED));
    bench.registry.capacity_changed(&unit);
    assert_eq!(scsi_event(&initiator.receive().unwrap()), (0, CAPACITY_CHANGED));
    assert_eq!(scsi_event(&initiator.receive().unwrap()), (5, CAPACITY_CHANGED));
    assert_eq!(initiator.ready(), Some(CAPACITY_CHANGED));
    assert_eq!(initiator.ready(), None);
    assert!(discovering.ping().is_empty(), "who only discovers has no LUNs");
}

#[test]
fn send_targets_says_in_each_kind_of_session_what_it_may() {
    const OTHER: &str = "iqn.2026-11.org.labsan:other";
    let bench = Bench::with(|config| config.portals = portals(&[("127.0.0.1:0", 1), ("127.0.0.1:0", 2)]));
    bench.registry.create_target(OTHER, None).unwrap();
    let everyone = AccessPolicy::of_names(&["*"], true);
    bench.registry.set_access(OTHER, everyone).unwrap();
    let [one, two] = addresses(&bench)[..] else { panic!() };
    let named = |name: &str| format!("TargetName={name}\0TargetAddress={two},2\0TargetAddress={one},1\0");
    let (mut normal, _) = log_in_at(two, 1);
    for own in ["", TARGET, "iqn.2026-11.ORG.labsan:TEST"] {
        assert_eq!(normal.ask(&format!("SendTargets={own}\0")), named(TARGET), "{own:?}");
    }
    assert_eq!(normal.ask("SendTargets=All\0"), "SendTargets=Reject\0");
    assert_eq!(normal.ask(&format!("SendTargets={OTHER}\0")), "");
    let mut discovery = discover(two);
    assert_eq!(discovery.ask("SendTargets=All\0"), named(OTHER) + &named(TARGET));
    assert_eq!(discovery.ask(&format!("SendTargets={OTHER}\0")), named(OTHER));
    assert_eq!(discovery.ask("SendTargets=\0"), "SendTargets=Reject\0");
    assert_eq!(discovery.ask("SendTargets=iqn.2026-11.org.labsan:nothing\0"), "");
}

/// RFC 7143 section 13: keys of use "ALL" may be stated at any time, others only in a login.
#[test]
fn what_an_initiator_states_of_itself_later_holds_from_then_on() {
    let bench = Bench::new();
    let mut initiator = bench.login("");
    let mut segments = || {
        initiator.command(0xc0, 2048, &[0x28, 0, 0, 0, 0, 0, 0, 0, 4, 0], &[]);
        let mut lengths = Vec::new();
        while lengths.iter().sum::<usize>() < 2048 {
            lengths.push(initiator.expect(opcode::DATA_IN).data.len());
        }
        lengths
    };
    assert_eq!(segments(), [2048]);
    assert_eq!(initiator.ask("MaxRecvDataSegmentLength=1024\0InitiatorAlias=one\0"), "");
    let mut segments = || {
        initiator.command(0xc0, 2048, &[0x28, 0, 0, 0, 0, 0, 0, 0, 4, 0], &[]);
        [initiator.expect(opcode::DATA_IN).data.len(), initiator.expect(opcode::DATA_IN).data.len()]
    };
    assert_eq!(segments(), [1024; 2]);
    for (asked, answer) in [
        ("MaxRecvDataSegmentLength=511", "MaxRecvDataSegmentLength=Reject\0"),
        ("MaxBurstLength=512", "MaxBurstLength=Reject\0"),
        ("X-com.example.key=1", "X-com.example.key=NotUnderstood\0"),
    ] {
        assert_eq!(initiator.ask(&format!("{asked}\0")), answer);
    }
    assert_eq!(initiator.next_response().header[3], 0);
}

#[test]
fn ipv6_portals_are_served_and_named_in_brackets() {
    if !has_ipv6("ipv6_portals_are_served_and_named_in_brackets") {
        return;
    }
    let bench = Bench::with(|config| config.portals = portals(&[("127.0.0.1:0", 1), ("[::1]:0", 2)]));
    let [four, six] = addresses(&bench)[..] else { panic!() };
    let expected =
        format!("TargetName={TARGET}\0TargetAddress=[::1]:{},2\0TargetAddress={four},1\0", six.port());
    assert_eq!(discover(six).ask("SendTargets=All\0"), expected);
    let (mut initiator, answer) = log_in_at(six, 1);
    assert_eq!(initiator.ready(), Some(BEGUN));
    assert_eq!(answer.text()["TargetPortalGroupTag"], "2");
    assert_eq!(initiator.write(0, &[6; 4096], 512, 512).header[3], 0);
    assert_eq!(initiator.read(0, 4096).0, [6; 4096]);
}

#[test]
fn wildcards_name_the_address_that_was_come_to() {
    let told = |portal: &str, came_to: &str| {
        let bench = Bench::with(|config| config.portals = portals(&[(portal, 1)]));
        let address = SocketAddr::new(came_to.parse().unwrap(), addresses(&bench)[0].port());
        let answer = discover(address).ask("SendTargets=All\0");
        assert_eq!(answer, format!("TargetName={TARGET}\0TargetAddress={address},1\0"), "{portal}");
    };
    told("0.0.0.0:0", "127.0.0.1");
    if has_ipv6("wildcards_name_the_address_that_was_come_to") {
        told("[::]:0", "::1");
        told("[::]:0", "127.0.0.1");
    }
}
