//! The login phase as a state machine (RFC 7143 section 6.3): requests in, responses out, no I/O.
//!
//! | stage | an initiator sends | we answer | next |
//! |---|---|---|---|
//! | security (0) | names, AuthMethod | the method | CHAP, or done |
//! | CHAP | CHAP_A | CHAP_A, CHAP_I, CHAP_C | response awaited |
//! | response awaited | CHAP_N, CHAP_R (and its own CHAP_I, CHAP_C) | (CHAP_N, CHAP_R) | done, or refused |
//! | operational (1) | keys | our answers | as often as it likes |
//! | any, done | T bit and next stage | T bit | operational or full feature (3) |
//!
//! A leading login that the portal does not serve itself ends with the first request that has names: status 0101 and TargetAddress.
//!
//! Invariants: nobody reaches the operational stage who has not authenticated where that is demanded; no key is
//! negotiated twice; after a refusal the connection is closed.

pub mod keys;
pub mod parameters;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::chap::{Account, Algorithm, Challenge, ChapPolicy, decode_binary, encode_binary};
use crate::limits;
use crate::names;
use crate::pdu::request;
use crate::text::Pairs;
use parameters::{DEFAULT_MAX_RECV, Parameters};

/// Status-Class and Status-Detail of a refusal (RFC 7143 section 11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Refusal {
    #[error("the initiator broke the login protocol")]
    InitiatorError = 0x0200,
    #[error("authentication failed")]
    AuthenticationFailure = 0x0201,
    #[error("the initiator is not on the target's access list")]
    Forbidden = 0x0202,
    #[error("there is no such target")]
    NotFound = 0x0203,
    #[error("the initiator speaks another version of iSCSI")]
    UnsupportedVersion = 0x0205,
    #[error("there are too many connections")]
    TooManyConnections = 0x0206,
    #[error("a name is missing")]
    MissingParameter = 0x0207,
    #[error("the session is with another portal group")]
    CannotInclude = 0x0208,
    #[error("the session type is not supported")]
    SessionTypeUnsupported = 0x0209,
    #[error("there is no session with this TSIH")]
    SessionDoesNotExist = 0x020a,
    #[error("a PDU came that has no place in a login")]
    InvalidDuringLogin = 0x020b,
    #[error("the target stops, or what the session had under way before is not over")]
    ServiceUnavailable = 0x0301,
    #[error("the target is out of resources")]
    OutOfResources = 0x0302,
}

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;
const TRANSIT: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// What the login needs to know of targets and access.
pub trait Authority {
    /// May this initiator use this target, and what must it prove?
    fn admit(&self, initiator: &str, target: &str) -> Result<ChapPolicy, Refusal>;
    /// What must be proved for discovery.
    fn discovery(&self) -> ChapPolicy;
    /// The target portal group that the connection came in by.
    fn portal_group_tag(&self) -> u16;
    /// The address that an initiator which may use the target is to log in at instead of here, if there is one. Asked once, of
    /// leading logins of normal sessions only.
    fn elsewhere(&self, _initiator: &str, _isid: [u8; 6], _target: &str) -> Option<SocketAddr> {
        None
    }
    /// The CHAP algorithms that may be used.
    fn algorithms(&self) -> &[Algorithm] {
        &Algorithm::ALL
    }
}

/// What kind of session is being opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// Only SendTargets and logout.
    Discovery,
    /// With this target.
    Normal {
        /// Its name.
        target: String,
    },
}

/// Who has logged in, to what, and on which terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// InitiatorName.
    pub initiator: String,
    /// InitiatorAlias, if it was given.
    pub alias: Option<String>,
    /// The CHAP account by which it proved who it is; none where nothing was to be proved.
    pub account: Option<String>,
    /// Discovery, or the target.
    pub kind: SessionKind,
    /// What was negotiated.
    pub parameters: Parameters,
}

/// Our answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// T, C, CSG and NSG for the response's flags.
    pub flags: u8,
    /// Our pairs, encoded.
    pub text: Vec<u8>,
    /// Set when the login is over: full feature phase begins after this response.
    pub outcome: Option<Outcome>,
    /// Set when the login is over and is to begin anew at this address, which the text tells.
    pub moved_to: Option<SocketAddr>,
}

/// Status-Class and Status-Detail of "target moved temporarily" (RFC 7143 section 11.13.5).
const MOVED_TEMPORARILY: u16 = 0x0101;

impl Answer {
    fn new(flags: u8, text: Vec<u8>) -> Self {
        Self { flags, text, outcome: None, moved_to: None }
    }

    /// Without a portal group tag: in a redirection it is left out (RFC 7143 section 13.8).
    fn moved(address: SocketAddr) -> Self {
        let mut pairs = Pairs::new();
        pairs.push("TargetAddress", address.to_string());
        Self { moved_to: Some(address), ..Self::new(0, pairs.encode()) }
    }

    /// Status-Class and Status-Detail.
    pub fn status(&self) -> u16 {
        if self.moved_to.is_some() { MOVED_TEMPORARILY } else { 0 }
    }
}

#[derive(Debug)]
enum Security {
    /// Nothing was demanded, or everything was proved.
    Done,
    /// A method has yet to be chosen.
    Start,
    /// CHAP was chosen, an algorithm has yet to be.
    Chap,
    /// Our challenge is out.
    Challenged(Challenge),
}

struct Names {
    initiator: String,
    alias: Option<String>,
    kind: SessionKind,
    policy: ChapPolicy,
}

/// One login under way.
pub struct Machine<'a> {
    authority: &'a dyn Authority,
    random: fn() -> [u8; 33],
    parameters: Parameters,
    names: Option<Names>,
    security: Security,
    account: Option<String>,
    stage: Option<u8>,
    negotiated: BTreeSet<String>,
    text: Vec<u8>,
    text_pdus: usize,
    exchanges: usize,
    declared: bool,
}

impl<'a> Machine<'a> {
    /// A login that begins. `random` gives challenges.
    pub fn new(authority: &'a dyn Authority, random: fn() -> [u8; 33]) -> Self {
        Self {
            authority,
            random,
            parameters: Parameters::default(),
            names: None,
            security: Security::Start,
            account: None,
            stage: None,
            negotiated: BTreeSet::new(),
            text: Vec::new(),
            text_pdus: 0,
            exchanges: 0,
            declared: false,
        }
    }

    /// Take the next request and its data.
    pub fn step(&mut self, header: &request::Login, data: &[u8]) -> Result<Answer, Refusal> {
        self.exchanges += 1;
        self.text_pdus += 1;
        if self.exchanges > limits::MAX_LOGIN_EXCHANGES || self.text_pdus > limits::MAX_TEXT_PDUS {
            return Err(Refusal::InitiatorError);
        }
        if header.version_min > 0 {
            return Err(Refusal::UnsupportedVersion);
        }
        let (transit, more) = (header.flags & TRANSIT != 0, header.flags & CONTINUE != 0);
        let (current, next) = (header.flags >> 2 & 3, header.flags & 3);
        self.check_stage(current, next, transit, more)?;
        if self.text.len() + data.len() > limits::MAX_TEXT_BYTES {
            return Err(Refusal::InitiatorError);
        }
        self.text.extend_from_slice(data);
        if more {
            return Ok(Answer::new(current << 2, Vec::new()));
        }
        self.text_pdus = 0;
        let pairs = Pairs::parse(&std::mem::take(&mut self.text)).map_err(|_| Refusal::InitiatorError)?;
        let mut answers = Pairs::new();
        if self.names.is_none() {
            let names = self.take_names(&pairs, current, &mut answers)?;
            if let Some(address) = self.elsewhere(header, &names) {
                return Ok(Answer::moved(address));
            }
            self.names = Some(names);
        }
        if header.tsih.get() != 0 && pairs.iter().any(|(key, _)| keys::is_leading_only(key)) {
            // What holds for the session was settled when it began (RFC 7143 section 13, "LO").
            return Err(Refusal::InitiatorError);
        }
        self.negotiate(&pairs, current, &mut answers)?;
        self.conclude(current, next, transit, &answers)
    }

    /// Stages only move forward, and a transition names a later one.
    fn check_stage(&mut self, current: u8, next: u8, transit: bool, more: bool) -> Result<(), Refusal> {
        let expected = self.stage.is_none_or(|stage| stage == current);
        let known = matches!(current, SECURITY | OPERATIONAL);
        let forward = !transit || (next > current && next != 2);
        if !expected || !known || !forward || (transit && more) {
            return Err(Refusal::InitiatorError);
        }
        self.stage = Some(current);
        Ok(())
    }

    /// The first request says who comes, and for what.
    fn take_names(&mut self, pairs: &Pairs, current: u8, answers: &mut Pairs) -> Result<Names, Refusal> {
        let initiator = pairs.get("InitiatorName").ok_or(Refusal::MissingParameter)?;
        let initiator = names::normal(initiator).ok_or(Refusal::InitiatorError)?;
        let kind = match pairs.get("SessionType") {
            Some("Discovery") => SessionKind::Discovery,
            Some("Normal") | None => {
                let target = pairs.get("TargetName").ok_or(Refusal::MissingParameter)?;
                // No target has a name that is none.
                SessionKind::Normal { target: names::normal(target).ok_or(Refusal::NotFound)? }
            }
            Some(_) => return Err(Refusal::SessionTypeUnsupported),
        };
        let policy = match &kind {
            SessionKind::Discovery => self.authority.discovery(),
            SessionKind::Normal { target } => {
                answers.push("TargetPortalGroupTag", self.authority.portal_group_tag().to_string());
                self.authority.admit(&initiator, target)?
            }
        };
        if policy.accounts.is_empty() && current == OPERATIONAL {
            self.security = Security::Done;
        }
        let alias = pairs.get("InitiatorAlias").map(str::to_owned);
        Ok(Names { initiator, alias, kind, policy })
    }

    /// A connection that joins a session belongs where that is. Nothing has to be proved to be sent elsewhere: an initiator should
    /// accept it before security negotiation (RFC 7143 section 11.13.5), and the address is none of the secrets.
    fn elsewhere(&self, header: &request::Login, names: &Names) -> Option<SocketAddr> {
        match &names.kind {
            SessionKind::Normal { target } if header.tsih.get() == 0 => {
                self.authority.elsewhere(&names.initiator, header.isid, target)
            }
            _ => None,
        }
    }

    fn negotiate(&mut self, pairs: &Pairs, current: u8, answers: &mut Pairs) -> Result<(), Refusal> {
        if current == OPERATIONAL && !matches!(self.security, Security::Done) {
            return Err(Refusal::AuthenticationFailure);
        }
        if current == SECURITY {
            self.authenticate(pairs, answers)?;
        }
        let discovery = matches!(self.names, Some(Names { kind: SessionKind::Discovery, .. }));
        for (key, value) in pairs.iter() {
            if key == "AuthMethod" || key.starts_with("CHAP_") {
                continue;
            }
            let stated = matches!(key, "InitiatorName" | "TargetName" | "SessionType" | "InitiatorAlias");
            if !self.negotiated.insert(key.to_owned()) && !stated {
                return Err(Refusal::InitiatorError);
            }
            let answer = keys::negotiate(&mut self.parameters, discovery, key, value)
                .map_err(|_| Refusal::InitiatorError)?;
            if let Some(answer) = answer {
                answers.push(key, answer);
            }
        }
        if current == OPERATIONAL && !self.declared {
            self.declared = true;
            self.parameters.our_max_recv = limits::MAX_RECV_DATA_SEGMENT;
            answers.push("MaxRecvDataSegmentLength", limits::MAX_RECV_DATA_SEGMENT.to_string());
        }
        Ok(())
    }

    /// The security stage (RFC 7143 section 12).
    fn authenticate(&mut self, pairs: &Pairs, answers: &mut Pairs) -> Result<(), Refusal> {
        let Some(names) = &self.names else { return Err(Refusal::MissingParameter) };
        let policy = &names.policy;
        let refused = Refusal::AuthenticationFailure;
        match &self.security {
            Security::Start => {
                // Not offering is offering "None" (an initiator may have nothing to say on security).
                let offered = pairs.get("AuthMethod").unwrap_or("None");
                let wanted = if policy.accounts.is_empty() { "None" } else { "CHAP" };
                if !offered.split(',').any(|method| method == wanted) {
                    return Err(refused);
                }
                if pairs.get("AuthMethod").is_some() {
                    answers.push("AuthMethod", wanted);
                }
                self.security = if wanted == "None" { Security::Done } else { Security::Chap };
                // Some initiators send the algorithms along with the method.
                if pairs.get("CHAP_A").is_some() {
                    return self.authenticate(pairs, answers);
                }
            }
            Security::Chap => {
                let list = pairs.get("CHAP_A").ok_or(refused)?;
                let algorithm = Algorithm::choose(list, self.authority.algorithms()).ok_or(refused)?;
                let challenge = Challenge::new(algorithm, &(self.random)());
                answers.push("CHAP_A", (algorithm as u8).to_string());
                answers.push("CHAP_I", challenge.identifier.to_string());
                answers.push("CHAP_C", encode_binary(&challenge.bytes));
                self.security = Security::Challenged(challenge);
            }
            Security::Challenged(challenge) => {
                check_response(challenge, policy, pairs)?;
                answer_challenge(challenge, policy.mutual.as_ref(), pairs, answers)?;
                self.account = pairs.get("CHAP_N").map(str::to_owned);
                self.security = Security::Done;
            }
            Security::Done => {}
        }
        Ok(())
    }

    /// Grant the transition that was asked for, if nothing stands in its way.
    fn conclude(&mut self, current: u8, next: u8, transit: bool, answers: &Pairs) -> Result<Answer, Refusal> {
        let granted = transit && matches!(self.security, Security::Done);
        let text = answers.encode();
        if text.len() > DEFAULT_MAX_RECV as usize {
            // More than an initiator takes during a login; only thousands of keys that nobody knows come to that.
            return Err(Refusal::InitiatorError);
        }
        if !granted {
            return Ok(Answer::new(current << 2, text));
        }
        self.stage = Some(next);
        let flags = TRANSIT | current << 2 | next;
        if next != FULL_FEATURE {
            return Ok(Answer::new(flags, text));
        }
        let Some(names) = self.names.take() else { return Err(Refusal::MissingParameter) };
        let mut parameters = self.parameters.clone();
        parameters.first_burst = parameters.first_burst.min(parameters.max_burst);
        let outcome = Outcome {
            initiator: names.initiator,
            alias: names.alias,
            account: self.account.take(),
            kind: names.kind,
            parameters,
        };
        Ok(Answer { outcome: Some(outcome), ..Answer::new(flags, text) })
    }
}

fn check_response(challenge: &Challenge, policy: &ChapPolicy, pairs: &Pairs) -> Result<(), Refusal> {
    let refused = Refusal::AuthenticationFailure;
    let name = pairs.get("CHAP_N").ok_or(refused)?;
    let response = pairs.get("CHAP_R").and_then(decode_binary).ok_or(refused)?;
    challenge.verify(policy, name, &response).map(|_| ()).ok_or(refused)
}

/// Prove ourselves, if the initiator asks for it.
fn answer_challenge(
    challenge: &Challenge,
    mutual: Option<&Account>,
    pairs: &Pairs,
    answers: &mut Pairs,
) -> Result<(), Refusal> {
    let (identifier, theirs) = match (pairs.get("CHAP_I"), pairs.get("CHAP_C")) {
        (None, None) => return Ok(()),
        (Some(identifier), Some(theirs)) => (identifier, theirs),
        _ => return Err(Refusal::AuthenticationFailure),
    };
    let account = mutual.ok_or(Refusal::AuthenticationFailure)?;
    let response = challenge.answer(account, identifier, theirs).ok_or(Refusal::AuthenticationFailure)?;
    answers.push("CHAP_N", account.name.clone());
    answers.push("CHAP_R", encode_binary(&response));
    Ok(())
}

#[cfg(test)]
mod tests;
