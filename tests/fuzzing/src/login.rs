//! Logins: any requests in any order, with and without CHAP, and the text they carry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use iscsi_target::chap::{Account, Algorithm, Challenge, ChapPolicy, Secret, decode_binary, encode_binary};
use iscsi_target::limits;
use iscsi_target::login::parameters::{DEFAULT_MAX_RECV, Parameters};
use iscsi_target::login::{Answer, Authority, Machine, Outcome, Refusal, SessionKind};
use iscsi_target::names::is_iscsi_name;
use iscsi_target::pdu::request;
use iscsi_target::text::Pairs;
use zerocopy::FromZeros;

use crate::input::Input;

pub(crate) const OPEN: &str = "iqn.2026-11.org.labsan:open";
/// Whoever comes here is sent elsewhere, unless it joins a session.
pub(crate) const MOVED: &str = "iqn.2026-11.org.labsan:moved";
pub(crate) const GUARDED: &str = "iqn.2026-11.org.labsan:guarded";
/// In the byte beside the flags of a request.
pub(crate) const JOINS: u8 = 7;
const SECRET: &[u8] = b"the node's secret";
const RANDOM: [u8; 33] = [0x5a; 33];

const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3261);

struct Desk;

impl Authority for Desk {
    fn admit(&self, initiator: &str, target: &str) -> Result<ChapPolicy, Refusal> {
        assert!(is_iscsi_name(initiator));
        match target {
            OPEN | MOVED => Ok(ChapPolicy::default()),
            GUARDED => Ok(ChapPolicy {
                accounts: vec![Account { name: "node".into(), secret: Secret::new(SECRET) }],
                mutual: Some(Account { name: "san".into(), secret: Secret::new("the san's secret") }),
            }),
            _ => Err(Refusal::NotFound),
        }
    }

    fn discovery(&self) -> ChapPolicy {
        ChapPolicy::default()
    }

    fn portal_group_tag(&self) -> u16 {
        1
    }

    fn elsewhere(&self, _: &str, _: [u8; 6], target: &str) -> Option<SocketAddr> {
        (target == MOVED).then_some(ELSEWHERE)
    }
}

/// What proves the node to the one challenge that there is here.
pub(crate) fn right_response(algorithm: Algorithm) -> String {
    let challenge = Challenge::new(algorithm, &RANDOM);
    encode_binary(&algorithm.respond(challenge.identifier, &Secret::new(SECRET), &challenge.bytes))
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    text(bytes);
    let mut machine = Machine::new(&Desk, || RANDOM);
    let mut sent: Vec<u8> = Vec::new();
    let mut steps = 0;
    let mut joins = false;
    while !input.is_empty() {
        let mut header = request::Login::new_zeroed();
        header.flags = input.u8();
        let how = input.u8();
        header.version_min = u8::from(how == 0xff);
        // A connection that joins a session, from its first request on.
        header.tsih = u16::from(how & 0x0f == JOINS).into();
        joins |= how & 0x0f == JOINS;
        let data = input.part();
        sent.extend_from_slice(data);
        steps += 1;
        // A refusal ends it.
        let Ok(answer) = machine.step(&header, data) else { return };
        assert!(steps <= limits::MAX_LOGIN_EXCHANGES, "a login without end");
        if let Some(address) = answer.moved_to {
            assert!(address == ELSEWHERE && header.tsih.get() == 0 && answer.outcome.is_none());
            assert_eq!(answer.text, b"TargetAddress=127.0.0.1:3261\0");
            return;
        }
        check(&header, &answer);
        if let Some(outcome) = answer.outcome {
            return concluded(&outcome, &sent, joins);
        }
    }
}

fn text(bytes: &[u8]) {
    let Ok(pairs) = Pairs::parse(bytes) else { return };
    let encoded = pairs.encode();
    assert!(encoded.len() <= bytes.len() + 1, "longer than what it was read from");
    assert_eq!(Pairs::parse(&encoded).as_ref(), Ok(&pairs));
    for (key, value) in pairs.iter() {
        assert!((1..=63).contains(&key.len()) && !value.contains('\0') && pairs.get(key).is_some());
        if let Some(binary) = decode_binary(value) {
            assert!(binary.len() < value.len());
            assert_eq!(decode_binary(&encode_binary(&binary)), Some(binary));
        }
    }
}

/// T, C, CSG, NSG of an answer are what was asked for or less, and its text fits what any initiator takes.
fn check(header: &request::Login, answer: &Answer) {
    let (asked, given) = (header.flags, answer.flags);
    assert_eq!(given >> 2 & 3, asked >> 2 & 3, "the current stage");
    assert_eq!(given & 0x70, 0, "C, and what is reserved");
    assert!(given & 0x80 == 0 || (asked & 0x80 != 0 && asked & 3 == given & 3 && given & 3 > given >> 2 & 3));
    assert_eq!(answer.outcome.is_some(), given & 0x83 == 0x83);
    assert!(answer.text.len() <= DEFAULT_MAX_RECV as usize, "{} bytes of answers", answer.text.len());
    Pairs::parse(&answer.text).expect("what is sent can be read");
}

fn concluded(outcome: &Outcome, sent: &[u8], joins: bool) {
    assert!(is_iscsi_name(&outcome.initiator));
    let Parameters { initiator_max_recv, our_max_recv, max_burst, first_burst, max_outstanding_r2t, .. } =
        outcome.parameters;
    assert!((512..=0x00ff_ffff).contains(&initiator_max_recv));
    assert!([DEFAULT_MAX_RECV, limits::MAX_RECV_DATA_SEGMENT].contains(&our_max_recv));
    assert!((512..=limits::MAX_BURST).contains(&max_burst));
    assert!(first_burst <= max_burst && (512..=limits::FIRST_BURST).contains(&first_burst));
    assert_eq!(max_outstanding_r2t, limits::MAX_OUTSTANDING_R2T);
    assert!(outcome.parameters.time_to_wait_s <= 3600 && outcome.parameters.time_to_retain_s <= 3600);
    match &outcome.kind {
        SessionKind::Normal { target } if target == GUARDED => {
            let sent = String::from_utf8_lossy(sent).to_ascii_lowercase();
            let known = [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha3_256];
            let proved = known.into_iter().any(|algorithm| {
                let right = right_response(algorithm);
                // As hex, or in base64, which is not looked into.
                sent.contains(&right[2..]) || sent.contains("chap_r=0b")
            });
            assert!(proved, "nobody gets in without the secret");
        }
        SessionKind::Normal { target } => assert!(target == OPEN || (target == MOVED && joins)),
        SessionKind::Discovery => {}
    }
}
