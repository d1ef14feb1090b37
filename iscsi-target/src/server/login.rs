//! The login phase on the wire: read requests, let the machine answer, until full feature phase or a refusal.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromZeros, IntoBytes};

use crate::access::Caller;
use crate::chap::ChapPolicy;
use crate::login::parameters::DEFAULT_MAX_RECV;
use crate::login::{Answer, Authority, Machine, Outcome, Refusal};
use crate::pdu::response::LoginResponse;
use crate::pdu::{BHS_BYTES, Bhs, opcode, padding, request, three_bytes};
use crate::registry::TargetRegistry;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("timed out")]
    TimedOut,
}

/// A session that may begin.
pub(super) struct LoggedIn {
    pub(super) outcome: Outcome,
    pub(super) isid: [u8; 6],
    pub(super) tsih: u16,
    /// CmdSN of the first command.
    pub(super) cmd_sn: u32,
    /// StatSN of the first response.
    pub(super) stat_sn: u32,
    /// The last response, to be sent once the session is entered.
    pub(super) last: Vec<u8>,
}

/// Access as the registry has it, for an initiator from there that came in here.
pub(super) struct Desk<'a> {
    pub(super) registry: &'a TargetRegistry,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) portal_group_tag: u16,
}

impl Authority for Desk<'_> {
    fn admit(&self, initiator: &str, target: &str) -> Result<ChapPolicy, Refusal> {
        self.registry.admit(Caller { initiator, peer: self.peer, local: self.local }, target)
    }

    fn discovery(&self) -> ChapPolicy {
        // What is named in discovery is only what the initiator may see; the targets ask for proof themselves.
        ChapPolicy::default()
    }

    fn portal_group_tag(&self) -> u16 {
        self.portal_group_tag
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
        let (header, data) = read_request(stream).await?;
        let login: request::Login = header.view();
        let sn = stat_sn.unwrap_or(login.exp_stat_sn.get());
        let result = check(&header, &login).and_then(|()| machine.step(&login, &data));
        match result {
            Err(refusal) => {
                let bytes = encode(&login, sn, 0, &Err(refusal));
                stream.write_all(&bytes).await?;
                return Err(refusal.into());
            }
            Ok(answer) => {
                let done = answer.outcome.is_some();
                let tsih = if done { desk.registry.next_tsih() } else { 0 };
                let bytes = encode(&login, sn, tsih, &Ok(&answer));
                stat_sn = Some(sn.wrapping_add(1));
                if let Some(outcome) = answer.outcome {
                    return Ok(LoggedIn {
                        outcome,
                        isid: login.isid,
                        tsih,
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

fn check(header: &Bhs, login: &request::Login) -> Result<(), Refusal> {
    if header.opcode() != opcode::LOGIN {
        return Err(Refusal::InvalidDuringLogin);
    }
    // A session of one connection cannot be joined.
    if login.tsih.get() != 0 {
        return Err(Refusal::SessionDoesNotExist);
    }
    Ok(())
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
        Ok(answer) => (answer.flags, &answer.text[..], 0),
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
