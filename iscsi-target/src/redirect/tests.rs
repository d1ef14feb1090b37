//! What a portal does with those who come, over addresses whose health and sessions change.

use std::time::Duration;

use super::*;
use crate::limits;

const PORTAL: &str = "192.0.2.1:3260";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn nexus(node: u8) -> ItNexus {
    ItNexus {
        initiator_name: format!("iqn.2026-11.com.example:node{node}"),
        isid: [0x80, 0, 0, 0, 0, node],
        target_name: "iqn.2026-11.org.labsan:t".into(),
        portal_group: 1,
    }
}

struct Bench {
    redirect: Arc<Redirect>,
    begin: Instant,
}

impl Bench {
    /// Over these addresses, all of this server or all of others.
    fn new(policy: Policy, addresses: &[&str], ours: bool) -> Self {
        let place = |address: &&str| Place { address: at(address), weight: 1, ours };
        let places = addresses.iter().map(place).collect();
        let redirect = Redirect::new(policy, places, Thresholds { rise: 2, fall: 3 }, 0);
        Self { redirect, begin: Instant::now() }
    }

    fn pass_all(&self) {
        for index in 0..self.redirect.places().len() {
            self.redirect.checked(index, Ok(None), self.begin, 1);
        }
    }

    /// Where this node is sent, so many milliseconds later, if these are logged in.
    fn choose(&self, node: u8, after_ms: u64, sessions: &[(&str, u8)]) -> Option<String> {
        let sessions: Vec<_> = sessions.iter().map(|(address, node)| (at(address), nexus(*node))).collect();
        let now = self.begin + Duration::from_millis(after_ms);
        let arrival = Arrival { nexus: &nexus(node), local: at(PORTAL), now };
        self.redirect.choose(arrival, &sessions, |_| true).map(|address| address.to_string())
    }
}

const A: &str = "192.0.2.2:3260";
const B: &str = "[2001:db8::2]:3260";

fn to(address: &str) -> Option<String> {
    Some(address.to_owned())
}

#[test]
fn an_address_that_was_not_seen_to_work_is_not_used_and_the_portal_serves_if_there_is_no_other() {
    let bench = Bench::new(Policy::Fixed, &[A, B], false);
    assert_eq!(bench.choose(1, 0, &[]), None);
    assert_eq!(bench.redirect.checked(0, Err("refused".into()), bench.begin, 5), Some(Health::Failing));
    assert_eq!(bench.choose(1, 0, &[]), None);
    assert_eq!(bench.redirect.checked(1, Ok(None), bench.begin, 6), Some(Health::Healthy));
    assert_eq!(bench.choose(1, 0, &[]), to(B));
    assert_eq!(bench.redirect.checked(0, Ok(None), bench.begin, 7), None);
    assert_eq!(bench.choose(1, 0, &[]), to(B), "once is not enough to come back");
    assert_eq!(bench.redirect.checked(0, Ok(None), bench.begin, 8), Some(Health::Healthy));
    assert_eq!(bench.choose(1, 0, &[]), to(A));
    let info = bench.redirect.info();
    assert_eq!((info.served_here, info.policy), (2, Policy::Fixed));
    let seen: Vec<_> = info.places.iter().map(|place| (place.health, place.since_unix, place.sent)).collect();
    assert_eq!(seen, [(Health::Healthy, 8, 1), (Health::Healthy, 6, 2)]);
}

#[test]
fn a_portal_may_be_one_of_its_own_addresses() {
    let bench = Bench::new(Policy::RoundRobin, &[A, PORTAL], true);
    bench.pass_all();
    assert_eq!(
        [bench.choose(1, 0, &[]), bench.choose(2, 0, &[]), bench.choose(3, 0, &[])],
        [to(A), None, to(A)]
    );
    let info = bench.redirect.info();
    assert_eq!((info.places[1].sent, info.served_here), (1, 0), "chosen, not for want of another");
}

#[test]
fn nobody_is_sent_where_it_may_not_go_but_everybody_may_stay() {
    let bench = Bench::new(Policy::Fixed, &[A, PORTAL], true);
    bench.pass_all();
    let (node, now) = (nexus(1), bench.begin);
    let choose = |may_go: fn(&Place) -> bool| {
        let arrival = Arrival { nexus: &node, local: at(PORTAL), now };
        bench.redirect.choose(arrival, &[], may_go)
    };
    assert_eq!((choose(|_| true), choose(|_| false)), (Some(at(A)), None));
    let info = bench.redirect.info();
    assert_eq!((info.places[1].sent, info.served_here), (1, 0));
}

#[test]
fn a_burst_is_spread_though_nobody_has_arrived() {
    let bench = Bench::new(Policy::LeastSessions, &[A, B], true);
    bench.pass_all();
    // One is at A already.
    let there = [(A, 9)];
    let sent: Vec<_> = (1..=5).map(|node| bench.choose(node, 0, &there)).collect();
    assert_eq!(sent, [to(B), to(A), to(B), to(A), to(B)]);
}

#[test]
fn who_has_arrived_counts_once() {
    let bench = Bench::new(Policy::LeastSessions, &[A, B], true);
    bench.pass_all();
    assert_eq!([bench.choose(1, 0, &[]), bench.choose(2, 0, &[])], [to(A), to(B)]);
    assert_eq!(bench.choose(3, 100, &[(B, 2), (A, 7)]), to(B), "A has one and one on its way, B one");
}

#[test]
fn who_does_not_come_is_forgotten() {
    let second_after = |after_ms| {
        let bench = Bench::new(Policy::LeastSessions, &[A, B], true);
        bench.pass_all();
        assert_eq!(bench.choose(1, 0, &[(A, 9)]), to(B));
        bench.choose(2, after_ms, &[(A, 9)])
    };
    assert_eq!(second_after(limits::ARRIVAL_MS - 1), to(A));
    assert_eq!(second_after(limits::ARRIVAL_MS), to(B));
}

#[test]
fn a_session_that_comes_again_does_not_count_against_itself() {
    let bench = Bench::new(Policy::LeastSessions, &[A, B], true);
    bench.pass_all();
    assert_eq!(bench.choose(1, 0, &[(A, 1)]), to(A));
    assert_eq!(bench.choose(1, 1, &[]), to(A), "nor on its way");
    assert_eq!(bench.choose(2, 2, &[]), to(B));
}

#[test]
fn a_count_that_was_told_holds_until_the_next_and_those_sent_since_are_added() {
    let bench = Bench::new(Policy::LeastSessions, &[A, B], false);
    let tell = |index, sessions, after_ms| {
        bench.redirect.checked(index, Ok(Some(sessions)), bench.begin + Duration::from_millis(after_ms), 1)
    };
    tell(0, 2, 0);
    tell(1, 4, 0);
    let sent: Vec<_> = (1..=4).map(|node| bench.choose(node, 10, &[])).collect();
    assert_eq!(sent, [to(A), to(A), to(A), to(B)]);
    assert_eq!(bench.choose(5, 20, &[]), to(A), "five each");
    // A count taken right afterwards may have them or not: they are added all the same.
    tell(0, 2, 30);
    assert_eq!(bench.choose(6, 40, &[]), to(B), "A 2 and four on their way, B 4 and one");
    // One taken when they have arrived has them.
    tell(0, 6, 40 + limits::SETTLING_MS);
    tell(1, 7, 40 + limits::SETTLING_MS);
    assert_eq!(bench.choose(7, 50 + limits::SETTLING_MS, &[]), to(A));
    assert_eq!(bench.redirect.info().places[0].told_sessions, Some(6));
}

#[test]
fn those_on_their_way_are_remembered_only_up_to_a_number() {
    let mut underway = Underway::default();
    let now = Instant::now();
    let load = Load::Told { sessions: 0, asked: now };
    for number in 0..limits::MAX_UNDERWAY + 3 {
        let mut who = nexus(0);
        who.initiator_name.push_str(&number.to_string());
        underway.note(who, number % 2, now);
    }
    let count = |to| underway.beside(&load, to, &nexus(0), now);
    assert_eq!(count(0) + count(1), limits::MAX_UNDERWAY as u64);
}
