//! Who gets in, over real sockets: by name, account, network and portal; and who hears of what.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use iscsi_target::access::{AccessPolicy, AccessRule};
use iscsi_target::chap::{Account, Algorithm, ChapPolicy, Secret};
use iscsi_target::pdu::opcode;
use iscsi_target::server::{ServerConfig, TargetServer};
use support::{Bench, Initiator, NODE, TARGET, header, put};

const FORBIDDEN: u16 = 0x0202;
const UNPROVED: u16 = 0x0201;

/// The bench's targets behind one more listening address.
fn listen(bench: &Bench, portal: &str) -> Option<(TargetServer, u16)> {
    let address: SocketAddr = portal.parse().unwrap();
    let config = ServerConfig::new(vec![address.into()], bench.pool.clone());
    let server = TargetServer::start(config, Arc::clone(&bench.registry), &bench.workers).ok()?;
    let port = server.portals()[0].address.port();
    Some((server, port))
}

fn allow(bench: &Bench, rules: Vec<AccessRule>) {
    bench.registry.set_access(TARGET, AccessPolicy { rules, loopback_only: false }).unwrap();
}

fn log_in(address: SocketAddr, node: &str) -> Result<(), u16> {
    Initiator::connect(address).log_in(node, Some(TARGET), "").map(|_| ())
}

/// What discovery names to NODE there.
fn discover(address: SocketAddr) -> String {
    let mut initiator = Initiator::connect(address);
    initiator.log_in(NODE, None, "").unwrap();
    let mut text = header(opcode::TEXT, 0x80, 5);
    put(&mut text, 20, u32::MAX);
    put(&mut text, 24, initiator.cmd_sn);
    initiator.send(text, b"SendTargets=All\0");
    String::from_utf8(initiator.expect(opcode::TEXT_RESPONSE).data).unwrap()
}

#[test]
fn a_rule_for_a_portal_opens_that_address_alone() {
    let bench = Bench::new();
    let (_server, port) = listen(&bench, "0.0.0.0:0").unwrap();
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), port);
    let portal = Some("127.0.0.2".parse().unwrap());
    allow(&bench, vec![AccessRule { portal, ..AccessRule::initiator(NODE) }]);
    assert_eq!(log_in(at("127.0.0.2"), NODE), Ok(()));
    assert_eq!(log_in(at("127.0.0.1"), NODE), Err(FORBIDDEN));
    assert_eq!(log_in(at("127.0.0.2"), "iqn.2026-11.com.example:other"), Err(FORBIDDEN));
    assert!(discover(at("127.0.0.2")).contains(TARGET));
    assert_eq!(discover(at("127.0.0.1")), "", "who cannot get in here does not hear of it here");
    let portal = Some(format!("127.0.0.2:{port}").parse().unwrap());
    allow(&bench, vec![AccessRule { portal, ..AccessRule::initiator(NODE) }]);
    assert_eq!(log_in(at("127.0.0.2"), NODE), Ok(()));
    let portal = Some(format!("127.0.0.2:{}", port ^ 1).parse().unwrap());
    allow(&bench, vec![AccessRule { portal, ..AccessRule::initiator(NODE) }]);
    assert_eq!(log_in(at("127.0.0.2"), NODE), Err(FORBIDDEN));
}

#[test]
fn a_rule_for_a_network_sees_through_mapped_addresses() {
    let bench = Bench::new();
    // Where there is no IPv6, the IPv4 address is the same test without the mapping.
    let (_server, port) = listen(&bench, "[::]:0").or_else(|| listen(&bench, "0.0.0.0:0")).unwrap();
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), port);
    for (network, lets_in) in
        [("127.0.0.0/8", true), ("127.0.0.1", true), ("10.0.0.0/8", false), ("::/0", false)]
    {
        let network = Some(network.parse().unwrap());
        allow(&bench, vec![AccessRule { network, ..AccessRule::initiator("*") }]);
        assert_eq!(log_in(address, NODE).is_ok(), lets_in, "{network:?}");
        assert_eq!(discover(address).contains(TARGET), lets_in, "{network:?}");
    }
}

#[test]
fn an_initiator_bound_to_an_account_gets_in_by_no_other() {
    let bench = Bench::new();
    let account =
        |name: &str| Account { name: name.into(), secret: Secret::new(format!("the secret of {name}")) };
    let chap = ChapPolicy { accounts: vec![account("one"), account("two")], mutual: None };
    bench.registry.set_chap(TARGET, chap).unwrap();
    let log_in_as = |name: &str| {
        let mut initiator = Initiator::connect(bench.address);
        initiator
            .log_in_with_chap(Algorithm::Sha256, name, &format!("the secret of {name}"))
            .map(|_| initiator)
    };
    allow(&bench, vec![AccessRule::initiator(NODE)]);
    assert!(log_in_as("one").is_ok() && log_in_as("two").is_ok());
    allow(&bench, vec![AccessRule { account: Some("one".into()), ..AccessRule::initiator(NODE) }]);
    let session = log_in_as("one").unwrap();
    bench.eventually("the session", || !bench.registry.sessions().is_empty());
    assert_eq!(bench.registry.sessions()[0].connections[0].account.as_deref(), Some("one"));
    assert_eq!(log_in_as("two").err(), Some(UNPROVED));
    assert_eq!(log_in(bench.address, NODE), Err(UNPROVED), "nor without CHAP");
    assert!(discover(bench.address).contains(TARGET), "it may be let in");
    // Whom a change shuts out is known by the account too.
    bench.eventually("the refused are gone", || bench.registry.sessions().len() == 1);
    assert!(bench.registry.shut_out(TARGET).is_empty());
    allow(&bench, vec![AccessRule { account: Some("two".into()), ..AccessRule::initiator(NODE) }]);
    assert_eq!(bench.registry.shut_out(TARGET).len(), 1);
    drop(session);
    // The account is gone, the rule is still there: it must not open the door.
    bench.registry.set_chap(TARGET, ChapPolicy::default()).unwrap();
    assert_eq!(log_in(bench.address, NODE), Err(FORBIDDEN));
}

#[test]
fn a_portal_that_no_rule_opens_is_not_told() {
    let bench = Bench::with(|config| {
        let portal = |address: &str| address.parse::<SocketAddr>().unwrap().into();
        config.portals = vec![portal("127.0.0.1:0"), portal("127.0.0.2:0")];
    });
    let portals = bench.server.as_ref().unwrap().portals();
    let [one, two] = [portals[0].address, portals[1].address];
    let told = || {
        let text = discover(one);
        [one, two].map(|address| text.contains(&format!("TargetAddress={address},1\0")))
    };
    allow(&bench, vec![AccessRule::initiator(NODE)]);
    assert_eq!(told(), [true, true]);
    let rule = |network: Option<&str>, portal: &str| AccessRule {
        network: network.map(|network| network.parse().unwrap()),
        portal: Some(portal.parse().unwrap()),
        ..AccessRule::initiator(NODE)
    };
    allow(&bench, vec![rule(None, "127.0.0.1")]);
    assert_eq!(told(), [true, false]);
    // Where it would come from by another portal is not known here.
    allow(&bench, vec![rule(None, "127.0.0.1"), rule(Some("10.0.0.0/8"), "127.0.0.2")]);
    assert_eq!(told(), [true, true]);
}
