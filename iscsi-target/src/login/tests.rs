//! Logins as initiators do them, and as they should not.

use zerocopy::FromZeros;

use super::*;
use crate::chap::Secret;

struct Desk {
    policy: ChapPolicy,
    algorithms: Vec<Algorithm>,
    elsewhere: Option<SocketAddr>,
}

impl Authority for Desk {
    fn admit(&self, initiator: &str, target: &str) -> Result<ChapPolicy, Refusal> {
        match target {
            "iqn.2026-11.org.labsan:t" if initiator.ends_with(":good") => Ok(self.policy.clone()),
            "iqn.2026-11.org.labsan:t" => Err(Refusal::Forbidden),
            _ => Err(Refusal::NotFound),
        }
    }

    fn discovery(&self) -> ChapPolicy {
        ChapPolicy::default()
    }

    fn portal_group_tag(&self) -> u16 {
        7
    }

    fn elsewhere(&self, initiator: &str, isid: [u8; 6], target: &str) -> Option<SocketAddr> {
        assert_eq!((initiator, target), ("iqn.2026-11.com.example:good", "iqn.2026-11.org.labsan:t"));
        assert_eq!(isid, ISID);
        self.elsewhere
    }

    fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }
}

const ISID: [u8; 6] = [0x80, 1, 2, 3, 4, 5];
const NAMES: &str = "InitiatorName=iqn.2026-11.com.example:good\0TargetName=iqn.2026-11.org.labsan:t\0";

fn open() -> Desk {
    Desk { policy: ChapPolicy::default(), algorithms: Algorithm::ALL.to_vec(), elsewhere: None }
}

fn with_chap() -> Desk {
    let accounts = vec![Account { name: "node".into(), secret: Secret::new("node's secret") }];
    let mutual = Some(Account { name: "san".into(), secret: Secret::new("the san's secret") });
    Desk { policy: ChapPolicy { accounts, mutual }, ..open() }
}

fn random() -> [u8; 33] {
    [0x5a; 33]
}

fn step(machine: &mut Machine, flags: u8, text: &str) -> Result<Answer, Refusal> {
    let mut header = request::Login::new_zeroed();
    header.flags = flags;
    header.isid = ISID;
    machine.step(&header, text.as_bytes())
}

fn pairs(answer: &Answer) -> Pairs {
    Pairs::parse(&answer.text).unwrap()
}

/// T bit, current and next stage.
fn to(current: u8, next: u8) -> u8 {
    TRANSIT | current << 2 | next
}

#[test]
fn straight_to_full_feature() {
    let desk = open();
    let mut machine = Machine::new(&desk, random);
    let text =
        format!("{NAMES}HeaderDigest=CRC32C,None\0MaxRecvDataSegmentLength=131072\0FirstBurstLength=65536\0");
    let answer = step(&mut machine, to(OPERATIONAL, FULL_FEATURE), &text).unwrap();
    assert_eq!(answer.flags, to(OPERATIONAL, FULL_FEATURE));
    assert_eq!(pairs(&answer).get("TargetPortalGroupTag"), Some("7"));
    assert_eq!(pairs(&answer).get("HeaderDigest"), Some("CRC32C"));
    assert!(pairs(&answer).get("MaxRecvDataSegmentLength").is_some());
    let outcome = answer.outcome.unwrap();
    assert_eq!(outcome.kind, SessionKind::Normal { target: "iqn.2026-11.org.labsan:t".into() });
    assert!(outcome.parameters.header_digest && outcome.parameters.initial_r2t);
    assert_eq!(outcome.parameters.initiator_max_recv, 131_072);
}

#[test]
fn security_stage_without_authentication_as_open_iscsi_does_it() {
    let desk = open();
    let mut machine = Machine::new(&desk, random);
    let answer = step(&mut machine, to(SECURITY, OPERATIONAL), &format!("{NAMES}AuthMethod=None\0")).unwrap();
    assert_eq!((answer.flags, pairs(&answer).get("AuthMethod")), (to(SECURITY, OPERATIONAL), Some("None")));
    let answer = step(&mut machine, to(OPERATIONAL, FULL_FEATURE), "InitialR2T=No\0").unwrap();
    assert!(!answer.outcome.unwrap().parameters.initial_r2t);
}

fn chap(machine: &mut Machine, algorithm: Algorithm, secret: &str, extra: &str) -> Result<Answer, Refusal> {
    let offer = format!("{NAMES}AuthMethod=CHAP,None\0");
    let answer = step(machine, to(SECURITY, OPERATIONAL), &offer)?;
    assert_eq!((answer.flags, pairs(&answer).get("AuthMethod")), (SECURITY, Some("CHAP")));
    let answer = step(machine, SECURITY << 2, &format!("CHAP_A={}\0", algorithm as u8))?;
    let challenge = decode_binary(pairs(&answer).get("CHAP_C").unwrap()).unwrap();
    let identifier: u8 = pairs(&answer).get("CHAP_I").unwrap().parse().unwrap();
    let response = algorithm.respond(identifier, &Secret::new(secret), &challenge);
    let text = format!("CHAP_N=node\0CHAP_R={}\0{extra}", encode_binary(&response));
    step(machine, to(SECURITY, OPERATIONAL), &text)
}

#[test]
fn chap_with_every_algorithm_both_ways() {
    let desk = with_chap();
    for algorithm in [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha3_256] {
        let mut machine = Machine::new(&desk, random);
        let answer = chap(&mut machine, algorithm, "node's secret", "CHAP_I=9\0CHAP_C=0x010203\0").unwrap();
        assert_eq!(answer.flags, to(SECURITY, OPERATIONAL));
        let ours = algorithm.respond(9, &Secret::new("the san's secret"), &[1, 2, 3]);
        assert_eq!(pairs(&answer).get("CHAP_R"), Some(encode_binary(&ours).as_str()));
        assert_eq!(pairs(&answer).get("CHAP_N"), Some("san"));
        assert!(step(&mut machine, to(OPERATIONAL, FULL_FEATURE), "").unwrap().outcome.is_some());
    }
}

#[test]
fn nobody_gets_past_chap_without_the_secret() {
    let desk = with_chap();
    let refused = Err(Refusal::AuthenticationFailure);
    assert_eq!(chap(&mut Machine::new(&desk, random), Algorithm::Md5, "wrong", ""), refused);
    // Skipping the stage, or offering nothing.
    let machine = &mut Machine::new(&desk, random);
    assert_eq!(step(machine, to(OPERATIONAL, FULL_FEATURE), NAMES), refused);
    let machine = &mut Machine::new(&desk, random);
    assert_eq!(step(machine, to(SECURITY, FULL_FEATURE), &format!("{NAMES}AuthMethod=None\0")), refused);
    // Asking to move on before the response gets no T bit, and sending ours back gets nothing.
    let machine = &mut Machine::new(&desk, random);
    let answer =
        step(machine, to(SECURITY, FULL_FEATURE), &format!("{NAMES}AuthMethod=CHAP\0CHAP_A=5\0")).unwrap();
    assert!(answer.flags & TRANSIT == 0 && answer.outcome.is_none());
    let reflected = pairs(&answer).get("CHAP_C").unwrap().to_owned();
    let good = Algorithm::Md5.respond(0x5a, &Secret::new("node's secret"), &[0x5a; 32]);
    let text = format!("CHAP_N=node\0CHAP_R={}\0CHAP_I=1\0CHAP_C={reflected}\0", encode_binary(&good));
    assert_eq!(step(machine, to(SECURITY, FULL_FEATURE), &text), refused);
}

#[test]
fn an_algorithm_that_is_not_allowed_gets_nobody_in() {
    let desk = Desk { algorithms: vec![Algorithm::Sha256, Algorithm::Sha3_256], ..with_chap() };
    let offer = |list: &str| {
        let mut machine = Machine::new(&desk, random);
        let text = format!("{NAMES}AuthMethod=CHAP\0CHAP_A={list}\0");
        step(&mut machine, to(SECURITY, OPERATIONAL), &text)
    };
    assert_eq!(offer("5,6"), Err(Refusal::AuthenticationFailure));
    assert_eq!(pairs(&offer("5,7,8").unwrap()).get("CHAP_A"), Some("7"));
    assert_eq!(pairs(&offer("8,7,5").unwrap()).get("CHAP_A"), Some("8"));
}

#[test]
fn the_same_secret_both_ways_gets_nobody_in() {
    let mut desk = with_chap();
    desk.policy.mutual = Some(Account { name: "san".into(), secret: Secret::new("node's secret") });
    for extra in ["", "CHAP_I=9\0CHAP_C=0x010203\0"] {
        let refused = chap(&mut Machine::new(&desk, random), Algorithm::Md5, "node's secret", extra);
        assert_eq!(refused, Err(Refusal::AuthenticationFailure));
    }
}

#[test]
fn half_a_demand_for_proof_and_one_that_cannot_be_met_are_refused() {
    let mut desk = with_chap();
    let refused = Err(Refusal::AuthenticationFailure);
    for extra in ["CHAP_I=9\0", "CHAP_C=0x01\0", "CHAP_I=256\0CHAP_C=0x01\0", "CHAP_I=9\0CHAP_C=0x\0"] {
        let machine = &mut Machine::new(&desk, random);
        assert_eq!(chap(machine, Algorithm::Sha1, "node's secret", extra), refused, "{extra}");
    }
    desk.policy.mutual = None;
    let machine = &mut Machine::new(&desk, random);
    assert_eq!(chap(machine, Algorithm::Sha1, "node's secret", "CHAP_I=9\0CHAP_C=0x01\0"), refused);
    assert!(chap(&mut Machine::new(&desk, random), Algorithm::Sha1, "node's secret", "").is_ok());
}

#[test]
fn names_are_those_of_rfc_3722_however_they_are_written() {
    let desk = open();
    let log_in = |initiator: &str, target: &str| {
        let text = format!("InitiatorName={initiator}\0TargetName={target}\0");
        step(&mut Machine::new(&desk, random), to(OPERATIONAL, FULL_FEATURE), &text)
    };
    let target = "iqn.2026-11.org.labsan:t";
    let outcome =
        log_in("IQN.2026-11.com.Example:GOOD", "iqn.2026-11.ORG.labsan:T").unwrap().outcome.unwrap();
    assert_eq!(outcome.initiator, "iqn.2026-11.com.example:good");
    assert_eq!(outcome.kind, SessionKind::Normal { target: target.into() });
    assert_eq!(log_in("eui.02004567A425678", target), Err(Refusal::InitiatorError));
    assert_eq!(log_in("iqn.2026-11.com.example:bäd", target), Err(Refusal::InitiatorError));
    assert_eq!(log_in("iqn.2026-11.com.example:good", "a target"), Err(Refusal::NotFound));
}

#[test]
fn refusals_carry_the_rfcs_codes() {
    let desk = open();
    let first = |flags, text: &str| step(&mut Machine::new(&desk, random), flags, text).unwrap_err();
    let go = to(OPERATIONAL, FULL_FEATURE);
    let target = "TargetName=iqn.2026-11.org.labsan:t\0";
    assert_eq!(first(go, target), Refusal::MissingParameter);
    assert_eq!(first(go, "InitiatorName=iqn.2026-11.com.example:good\0"), Refusal::MissingParameter);
    assert_eq!(first(go, &format!("InitiatorName=bad name\0{target}")), Refusal::InitiatorError);
    assert_eq!(
        first(go, &format!("InitiatorName=iqn.2026-11.com.example:evil\0{target}")),
        Refusal::Forbidden
    );
    let elsewhere = NAMES.replace(":t\0", ":other\0");
    assert_eq!(first(go, &elsewhere), Refusal::NotFound);
    assert_eq!(first(go, &format!("{NAMES}SessionType=Odd\0")), Refusal::SessionTypeUnsupported);
    assert_eq!(first(go, &format!("{NAMES}InitialR2T=No\0InitialR2T=Yes\0")), Refusal::InitiatorError);
    assert_eq!(first(go, &format!("{NAMES}MaxBurstLength=1\0")), Refusal::InitiatorError);
    assert_eq!(first(to(OPERATIONAL, 2), NAMES), Refusal::InitiatorError);
    assert_eq!(first(to(OPERATIONAL, OPERATIONAL), NAMES), Refusal::InitiatorError);
    assert_eq!(first(go | CONTINUE, NAMES), Refusal::InitiatorError);
    assert_eq!(first(FULL_FEATURE << 2, NAMES), Refusal::InitiatorError);
    let mut header = request::Login::new_zeroed();
    header.version_min = 1;
    let refused = Machine::new(&desk, random).step(&header, NAMES.as_bytes());
    assert_eq!(refused, Err(Refusal::UnsupportedVersion));
}

#[test]
fn thousands_of_unknown_keys_are_not_answered_beyond_what_an_initiator_takes() {
    let desk = open();
    let ask = |count: usize| {
        let keys: String = (0..count).map(|number| format!("X{number}=1\0")).collect();
        step(&mut Machine::new(&desk, random), to(OPERATIONAL, FULL_FEATURE), &(NAMES.to_owned() + &keys))
    };
    assert!(ask(400).unwrap().text.len() <= DEFAULT_MAX_RECV as usize);
    assert_eq!(ask(5_000), Err(Refusal::InitiatorError));
}

#[test]
fn text_may_come_in_parts_but_not_without_end() {
    let desk = open();
    let mut machine = Machine::new(&desk, random);
    let (head, tail) = NAMES.split_at(30);
    let answer = step(&mut machine, OPERATIONAL << 2 | CONTINUE, head).unwrap();
    assert_eq!((answer.flags, answer.text.len()), (OPERATIONAL << 2, 0));
    assert!(step(&mut machine, to(OPERATIONAL, FULL_FEATURE), tail).unwrap().outcome.is_some());
    let mut machine = Machine::new(&desk, random);
    let refused = (0..100).find_map(|_| step(&mut machine, OPERATIONAL << 2 | CONTINUE, "X=1\0").err());
    assert_eq!(refused, Some(Refusal::InitiatorError));
}

#[test]
fn a_leading_login_is_sent_elsewhere_before_anything_is_proved() {
    let address = Some("[2001:db8::2]:3261".parse().unwrap());
    let desk = Desk { elsewhere: address, ..with_chap() };
    for flags in [to(SECURITY, OPERATIONAL), to(OPERATIONAL, FULL_FEATURE)] {
        let answer =
            step(&mut Machine::new(&desk, random), flags, &format!("{NAMES}AuthMethod=CHAP\0")).unwrap();
        assert_eq!((answer.status(), answer.moved_to, answer.flags), (0x0101, address, 0));
        assert_eq!(answer.text, b"TargetAddress=[2001:db8::2]:3261\0", "without a portal group tag");
        assert_eq!(answer.outcome, None);
    }
    // Once all of the text is there, and not before.
    let mut machine = Machine::new(&desk, random);
    let (head, tail) = NAMES.split_at(60);
    assert_eq!(step(&mut machine, OPERATIONAL << 2 | CONTINUE, head).unwrap().status(), 0);
    assert_eq!(step(&mut machine, to(OPERATIONAL, FULL_FEATURE), tail).unwrap().moved_to, address);
}

#[test]
fn who_may_not_log_in_or_does_not_lead_a_session_of_a_target_is_not_sent_elsewhere() {
    let desk = Desk { elsewhere: Some("192.0.2.2:3260".parse().unwrap()), ..open() };
    let go = to(OPERATIONAL, FULL_FEATURE);
    let first = |text: &str| step(&mut Machine::new(&desk, random), go, text);
    assert_eq!(first(&NAMES.replace(":good", ":evil")), Err(Refusal::Forbidden));
    assert_eq!(first(&NAMES.replace(":t\0", ":other\0")), Err(Refusal::NotFound));
    let discovery = NAMES.to_owned() + "SessionType=Discovery\0";
    assert!(first(&discovery).unwrap().outcome.is_some());
    let mut joining = request::Login::new_zeroed();
    (joining.flags, joining.isid, joining.tsih) = (go, ISID, 7.into());
    let answer = Machine::new(&desk, random).step(&joining, NAMES.as_bytes()).unwrap();
    assert!(answer.moved_to.is_none() && answer.outcome.is_some());
}
