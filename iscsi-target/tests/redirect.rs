//! Portals that send initiators elsewhere, over real sockets: who is sent, where, and who is not.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iscsi_target::access::{AccessPolicy, AccessRule};
use iscsi_target::chap::{Account, ChapPolicy, Secret};
use iscsi_target::redirect::health::Thresholds;
use iscsi_target::redirect::policy::Policy;
use iscsi_target::redirect::{Place, Redirect};
use iscsi_target::server::{Portal, ServerConfig, TargetServer};
use support::{Bench, Initiator, NODE, Pdu, TARGET, names};

const MOVED: u16 = 0x0101;
const FORBIDDEN: u16 = 0x0202;
const NO_TARGET: u16 = 0x0203;
const ELSEWHERE: &str = "192.0.2.7:3260";

/// Addresses that are taken for healthy.
fn redirect(policy: Policy, places: &[(SocketAddr, bool)]) -> Arc<Redirect> {
    let place = |(address, ours): &(SocketAddr, bool)| Place { address: *address, weight: 1, ours: *ours };
    let places = places.iter().map(place).collect();
    let redirect = Redirect::new(policy, places, Thresholds { rise: 1, fall: 1 }, 0);
    for index in 0..redirect.places().len() {
        redirect.checked(index, Ok(None), Instant::now(), 0);
    }
    redirect
}

/// A bench whose portal sends initiators to an address of somebody else.
fn bench() -> (Bench, Arc<Redirect>) {
    let redirect = redirect(Policy::Fixed, &[(ELSEWHERE.parse().unwrap(), false)]);
    let shared = Arc::clone(&redirect);
    let bench = Bench::with(|config| {
        config.redirects = BTreeMap::from([(0, shared)]);
        // Longer than the initiator waits: a connection that is closed was not closed by that.
        config.patience.login = Duration::from_secs(3600);
    });
    (bench, redirect)
}

/// The bench's targets behind one more address, which sends initiators to these.
fn beside(bench: &Bench, redirect: Arc<Redirect>) -> (TargetServer, SocketAddr) {
    let portal: Portal = "127.0.0.1:0".parse::<SocketAddr>().unwrap().into();
    let config = ServerConfig {
        redirects: BTreeMap::from([(0, redirect)]),
        ..ServerConfig::new(vec![portal], bench.pool.clone())
    };
    let server = TargetServer::start(config, Arc::clone(&bench.registry), &bench.workers).unwrap();
    let address = server.portals()[0].address;
    (server, address)
}

fn status(answer: &Pdu) -> u16 {
    u16::from_be_bytes([answer.header[36], answer.header[37]])
}

/// The answer to the first request of a login as this node.
fn knock(address: SocketAddr, node: &str, flags: u8) -> (Initiator, Pdu) {
    let mut initiator = Initiator::connect(address);
    let answer = initiator.login_answer(flags, &names(node, Some(TARGET)));
    (initiator, answer)
}

/// Where it is sent; nowhere if it is let in.
fn sent_to(address: SocketAddr, node: &str) -> Option<String> {
    let (_, answer) = knock(address, node, 0x87);
    match status(&answer) {
        0 => None,
        MOVED => Some(answer.text()["TargetAddress"].clone()),
        other => panic!("{other:04x}"),
    }
}

#[test]
fn a_leading_login_is_sent_to_another_address_and_the_connection_closed() {
    let (bench, redirect) = bench();
    let account = Account { name: "node".into(), secret: Secret::new("a secret of ours") };
    bench.registry.set_chap(TARGET, ChapPolicy { accounts: vec![account], mutual: None }).unwrap();
    // From the security stage, before anything is proved, as from the operational one.
    for flags in [0x81, 0x87] {
        let (mut initiator, answer) = knock(bench.address, NODE, flags);
        assert_eq!((status(&answer), answer.header[1]), (MOVED, 0));
        assert_eq!(answer.data, format!("TargetAddress={ELSEWHERE}\0").into_bytes());
        assert_eq!(answer.header[14..16], [0, 0], "no TSIH");
        assert_eq!(initiator.stream.read(&mut [0]).unwrap(), 0, "closed");
    }
    assert!(bench.registry.sessions().is_empty());
    assert_eq!(redirect.info().places[0].sent, 2);
}

#[test]
fn who_is_not_let_in_is_refused_and_learns_no_address() {
    let (bench, redirect) = bench();
    let refused = |node: &str, target: &str| {
        let mut initiator = Initiator::connect(bench.address);
        let answer = initiator.login_answer(0x87, &names(node, Some(target)));
        assert_eq!(answer.data, b"");
        status(&answer)
    };
    assert_eq!(refused("iqn.2026-11.com.stranger:node", TARGET), FORBIDDEN);
    assert_eq!(refused(NODE, "iqn.2026-11.org.labsan:other"), NO_TARGET);
    let rule = |network: &str, portal: &str| AccessRule {
        network: Some(network.parse().unwrap()),
        portal: Some(portal.parse().unwrap()),
        ..AccessRule::initiator(NODE)
    };
    let allow = |rule| {
        let policy = AccessPolicy { rules: vec![rule], loopback_only: false };
        bench.registry.set_access(TARGET, policy).unwrap();
    };
    allow(rule("10.0.0.0/8", "127.0.0.1"));
    assert_eq!(refused(NODE, TARGET), FORBIDDEN, "from that network");
    allow(rule("127.0.0.0/8", "127.0.0.9"));
    assert_eq!(refused(NODE, TARGET), FORBIDDEN, "by that portal");
    assert_eq!(redirect.info().places[0].sent, 0);
    allow(rule("127.0.0.0/8", "127.0.0.1"));
    assert_eq!(sent_to(bench.address, NODE).as_deref(), Some(ELSEWHERE));
}

#[test]
fn discovery_is_answered_where_it_came() {
    let (bench, redirect) = bench();
    let mut initiator = Initiator::connect(bench.address);
    initiator.log_in(NODE, None, "").unwrap();
    let told = initiator.ask("SendTargets=All\0");
    assert_eq!(told, format!("TargetName={TARGET}\0TargetAddress={},1\0", bench.address));
    assert_eq!((redirect.info().places[0].sent, redirect.info().served_here), (0, 0));
}

#[test]
fn a_connection_that_joins_a_session_is_served_where_that_is() {
    // To a portal of this server whoever has a session here would be sent as well.
    let neighbour = "127.0.0.9:3260".parse().unwrap();
    let redirect = redirect(Policy::Fixed, &[(neighbour, true)]);
    let shared = Arc::clone(&redirect);
    let bench = Bench::with(|config| config.redirects = BTreeMap::from([(0, shared)]));
    redirect.checked(0, Err("it does not answer".into()), Instant::now(), 0);
    // Served here, for there was nowhere else to go.
    let mut leading = bench.login("MaxConnections=4\0");
    assert_eq!(redirect.info().served_here, 1);
    redirect.checked(0, Ok(None), Instant::now(), 0);
    let mut joining = Initiator::connect(bench.address);
    (joining.isid, joining.cid, joining.tsih) = (leading.isid, 1, bench.registry.sessions()[0].tsih);
    joining.log_in(NODE, Some(TARGET), "").unwrap();
    assert!(leading.ping().is_empty() && joining.ping().is_empty());
    assert_eq!(bench.registry.sessions()[0].connections.len(), 2);
    assert_eq!(redirect.info().places[0].sent, 0);
    let mut again = Initiator::connect(bench.address);
    again.isid = leading.isid;
    assert_eq!(
        again.log_in(NODE, Some(TARGET), "").err(),
        Some(MOVED),
        "to take the session's place it leads"
    );
}

#[test]
fn a_session_whose_former_self_is_here_is_not_sent_to_another_host() {
    let (bench, redirect) = bench();
    redirect.checked(0, Err("it does not answer".into()), Instant::now(), 0);
    let former = bench.login("");
    redirect.checked(0, Ok(None), Instant::now(), 0);
    let again = bench.login("");
    drop(former);
    bench.eventually("it takes the place of its former self", || bench.registry.sessions().len() == 1);
    assert_eq!(redirect.info().places[0].sent, 0);
    drop(again);
    bench.eventually("it is gone", || bench.registry.sessions().is_empty());
    let mut initiator = Initiator::connect(bench.address);
    initiator.isid = [0x80, 0, 0, 0, 0, 1];
    assert_eq!(initiator.log_in(NODE, Some(TARGET), "").err(), Some(MOVED));
}

#[test]
fn a_login_that_comes_to_the_address_chosen_is_served_there() {
    let bench = Bench::new();
    // Its own address is known only when it listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = free.local_addr().unwrap();
    drop(free);
    let both = redirect(Policy::RoundRobin, &[(own, true), (bench.address, true)]);
    let config = ServerConfig {
        redirects: BTreeMap::from([(0, both)]),
        ..ServerConfig::new(vec![own.into()], bench.pool.clone())
    };
    let _server = TargetServer::start(config, Arc::clone(&bench.registry), &bench.workers).unwrap();
    let elsewhere = Some(bench.address.to_string());
    let turns: Vec<_> = (0..4).map(|_| sent_to(own, NODE)).collect();
    assert_eq!(turns, [None, elsewhere.clone(), None, elsewhere]);
}

#[test]
fn nobody_is_sent_to_a_portal_that_its_rules_do_not_open() {
    let bench = Bench::new();
    let closed = "127.0.0.9:3260".parse().unwrap();
    let (_server, portal) = beside(&bench, redirect(Policy::Fixed, &[(closed, true), (bench.address, true)]));
    assert_eq!(sent_to(portal, NODE), Some(closed.to_string()));
    let portal_rule = Some("127.0.0.1".parse().unwrap());
    let rules = vec![AccessRule { portal: portal_rule, ..AccessRule::initiator(NODE) }];
    bench.registry.set_access(TARGET, AccessPolicy { rules, loopback_only: false }).unwrap();
    assert_eq!(sent_to(portal, NODE), Some(bench.address.to_string()));
}

#[test]
fn logins_go_where_the_fewest_sessions_are_by_the_address_of_their_leading_connection() {
    let bench = Bench::with(|config| {
        let portal = |address: &str| address.parse::<SocketAddr>().unwrap().into();
        config.portals = vec![portal("127.0.0.1:0"), portal("127.0.0.2:0")];
    });
    let portals = bench.server.as_ref().unwrap().portals();
    let [one, two] = [portals[0].address, portals[1].address];
    let (_server, portal) = beside(&bench, redirect(Policy::LeastSessions, &[(one, true), (two, true)]));
    let log_in = |address: SocketAddr, isid: u8| {
        let mut initiator = Initiator::connect(address);
        initiator.isid = [0x80, 0, 0, 0, 1, isid];
        initiator.log_in(NODE, Some(TARGET), "").unwrap();
        initiator
    };
    // Each with an ISID of its own, sent somewhere and gone there.
    let knock = |isid: u8| {
        let mut initiator = Initiator::connect(portal);
        initiator.isid = [0x80, 0, 0, 0, 1, isid];
        let answer = initiator.login_answer(0x87, &names(NODE, Some(TARGET)));
        assert_eq!(status(&answer), MOVED);
        answer.text()["TargetAddress"].parse::<SocketAddr>().unwrap()
    };
    let there = [log_in(one, 1), log_in(one, 2)];
    assert_eq!([knock(3), knock(4)], [two, two]);
    let arrived = [log_in(two, 3), log_in(two, 4)];
    assert_eq!(knock(5), one, "two each");
    drop((there, arrived));
}
