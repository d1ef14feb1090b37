//! The login phase on the wire: read requests, let the machine answer, until full feature phase or a refusal.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

use super::portals::CameBy;
use crate::chap::{Algorithm, ChapPolicy};
use crate::login::parameters::DEFAULT_MAX_RECV;
use crate::login::{Answer, Authority, Machine, Outcome, Refusal};
use crate::pdu::response::{LoginResponse, STAT_SN_OFFSET};
use crate::pdu::{BHS_BYTES, Bhs, opcode, padding, request, three_bytes};
use crate::redirect::{Arrival, Place, Redirect};
use crate::registry::TargetRegistry;
use crate::scsi::reservations::ItNexus;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("timed out")]
    TimedOut,
    #[error("sent to {0}")]
    Moved(SocketAddr),
    #[error("nothing was asked for")]
    Nothing,
}

/// A session, or a connection of one, that may begin.
#[derive(Debug)]
pub(super) struct LoggedIn {
    pub(super) outcome: Outcome,
    pub(super) isid: [u8; 6],
    pub(super) tsih: u16,
    /// It is to join the session of that TSIH.
    pub(super) joins: bool,
    pub(super) cid: u16,
    /// CmdSN of the first command.
    pub(super) cmd_sn: u32,
    /// StatSN of the first response.
    pub(super) stat_sn: u32,
    /// The last response, to be sent once the session is entered.
    pub(super) last: Vec<u8>,
    /// What it answers.
    request: request::Login,
}

impl LoggedIn {
    /// The last response, with the numbers of the session that is joined.
    pub(super) fn admitted(&self, exp_cmd_sn: u32, max_cmd_sn: u32) -> Vec<u8> {
        let mut bytes = self.last.clone();
        let at = STAT_SN_OFFSET + 4;
        bytes[at..at + 4].copy_from_slice(&exp_cmd_sn.to_be_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&max_cmd_sn.to_be_bytes());
        bytes
    }

    /// The refusal that takes its place.
    pub(super) fn refused(&self, refusal: Refusal) -> Vec<u8> {
        encode(&self.request, self.stat_sn.wrapping_sub(1), 0, &Err(refusal))
    }
}

/// Access as the registry has it, for an initiator from there that came in here.
pub(super) struct Desk<'a> {
    pub(super) registry: &'a TargetRegistry,
    pub(super) came_by: &'a CameBy,
    pub(super) algorithms: &'a [Algorithm],
    /// Where its portal sends initiators, if it does.
    pub(super) redirect: Option<&'a Redirect>,
}

impl Authority for Desk<'_> {
    fn admit(&self, initiator: &str, target: &str) -> Result<ChapPolicy, Refusal> {
        self.registry.admit(self.came_by.caller(initiator), target)
    }

    fn discovery(&self) -> ChapPolicy {
        // What is named in discovery is only what the initiator may see; the targets ask for proof themselves.
        ChapPolicy::default()
    }

    fn portal_group_tag(&self) -> u16 {
        self.came_by.group()
    }

    fn elsewhere(&self, initiator: &str, isid: [u8; 6], target: &str) -> Option<SocketAddr> {
        let redirect = self.redirect?;
        let target = self.registry.target(target).ok()?;
        let nexus = ItNexus {
            initiator_name: initiator.to_owned(),
            isid,
            target_name: target.name.clone(),
            portal_group: self.came_by.group(),
        };
        // A login takes the place of its former session, and waits for what that has under way, only where that is.
        let is_back = self.registry.has_session_of(&nexus);
        let may_go = |place: &Place| match place.ours {
            true => {
                target.is_open_by(initiator, place.address)
                    && self.came_by.may_reach(place.address.ip(), target.is_loopback_only())
            }
            false => !is_back,
        };
        let sessions = if redirect.counts_sessions() { self.registry.leading() } else { Vec::new() };
        let arrival = Arrival { nexus: &nexus, local: self.came_by.own(), now: Instant::now() };
        redirect.choose(arrival, &sessions, may_go)
    }

    fn algorithms(&self) -> &[Algorithm] {
        self.algorithms
    }
}

fn random() -> [u8; 33] {
    let mut bytes = [0; 33];
    if getrandom::fill(&mut bytes).is_err() {
        // The kernel has no randomness to give: better no login than a challenge that can be foretold.
        unreachable!("getrandom fails only before the kernel is up");
    }
    bytes
}

/// Run a login to its end.
pub(super) async fn log_in(stream: &mut TcpStream, desk: &Desk<'_>) -> Result<LoggedIn, LoginError> {
    let mut machine = Machine::new(desk, random);
    let mut stat_sn: Option<u32> = None;
    loop {
        if stat_sn.is_none() && stream.peek(&mut [0]).await? == 0 {
            // Somebody looked whether this portal can be reached.
            return Err(LoginError::Nothing);
        }
        let (header, data) = read_request(stream).await?;
        let login: request::Login = header.view();
        let sn = stat_sn.unwrap_or(login.exp_stat_sn.get());
        let result = check(&header, &login, desk.registry).and_then(|()| machine.step(&login, &data));
        match result {
            Err(refusal) => {
                let bytes = encode(&login, sn, 0, &Err(refusal));
                stream.write_all(&bytes).await?;
                return Err(refusal.into());
            }
            Ok(answer) => {
                let done = answer.outcome.is_some();
                let asked = login.tsih.get();
                let tsih = match (done, asked) {
                    (false, _) => 0,
                    (true, 0) => desk.registry.next_tsih(),
                    (true, _) => asked,
                };
                let bytes = encode(&login, sn, tsih, &Ok(&answer));
                stat_sn = Some(sn.wrapping_add(1));
                if let Some(address) = answer.moved_to {
                    stream.write_all(&bytes).await?;
                    return Err(LoginError::Moved(address));
                }
                if let Some(outcome) = answer.outcome {
                    return Ok(LoggedIn {
                        outcome,
                        isid: login.isid,
                        tsih,
                        joins: asked != 0,
                        request: login,
                        cid: login.cid.get(),
                        cmd_sn: login.cmd_sn.get(),
                        stat_sn: sn.wrapping_add(1),
                        last: bytes,
                    });
                }
                stream.write_all(&bytes).await?;
            }
        }
    }
}

fn check(header: &Bhs, login: &request::Login, registry: &TargetRegistry) -> Result<(), Refusal> {
    if header.opcode() != opcode::LOGIN {
        return Err(Refusal::InvalidDuringLogin);
    }
    match login.tsih.get() {
        0 => Ok(()),
        // Whether it is this initiator's is asked when it has shown who it is.
        tsih if registry.has_tsih(tsih) => Ok(()),
        _ => Err(Refusal::SessionDoesNotExist),
    }
}

/// A request and its data. Lengths are those that hold before anything was negotiated.
async fn read_request(stream: &mut TcpStream) -> io::Result<(Bhs, Vec<u8>)> {
    let mut header = Bhs::new_zeroed();
    stream.read_exact(header.as_mut_bytes()).await?;
    let length = header.data_bytes();
    if length > DEFAULT_MAX_RECV as usize || header.total_ahs_length != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a login request that is too long"));
    }
    let mut data = vec![0; length + padding(length)];
    stream.read_exact(&mut data).await?;
    data.truncate(length);
    Ok((header, data))
}

fn encode(login: &request::Login, stat_sn: u32, tsih: u16, result: &Result<&Answer, Refusal>) -> Vec<u8> {
    let (flags, text, status) = match result {
        Ok(answer) => (answer.flags, &answer.text[..], answer.status()),
        Err(refusal) => (0, &[][..], *refusal as u16),
    };
    let [status_class, status_detail] = status.to_be_bytes();
    let header = LoginResponse {
        opcode: opcode::LOGIN_RESPONSE,
        flags,
        version_max: 0,
        version_active: 0,
        total_ahs_length: 0,
        data_segment_length: three_bytes(text.len()),
        isid: login.isid,
        tsih: U16::new(tsih),
        initiator_task_tag: login.initiator_task_tag,
        reserved: [0; 4],
        stat_sn: U32::new(stat_sn),
        exp_cmd_sn: login.cmd_sn,
        max_cmd_sn: U32::new(login.cmd_sn.get().wrapping_add(crate::limits::QUEUE_DEPTH - 1)),
        status_class,
        status_detail,
        reserved2: [0; 10],
    };
    let mut bytes = Vec::with_capacity(BHS_BYTES + text.len() + 3);
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(text);
    bytes.resize(bytes.len() + padding(text.len()), 0);
    bytes
}
