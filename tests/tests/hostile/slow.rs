//! Who says nothing, or little: logins that never end, an R2T that is never answered. The daemon's own limits end them.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use iscsi_target::limits;
use iscsi_target::pdu::{BHS_BYTES, opcode};
use system_tests::process::wait_for;

use crate::breach::{End, asked, login_pdu, next, offer_bytes};
use crate::cases::SOLICITED;
use crate::initiator::{Initiator, NODE, TARGET, names};
use crate::stage::Stage;

/// A byte is sent so often.
const NOW_AND_THEN: Duration = Duration::from_millis(100);
/// The daemon says or does something every 15 seconds.
const PATIENCE: Duration = Duration::from_secs(40);
/// More than fit in the time for a login, ten times over.
const DRIPS: usize = 1500;

/// Those that have begun.
pub struct Slow {
    threads: Vec<(&'static str, JoinHandle<Vec<End>>)>,
}

impl Slow {
    /// All at the same time.
    pub fn begin(address: SocketAddr) -> Self {
        let request = login_pdu(0x04, names(NODE, Some(TARGET)).as_bytes());
        let half = |length: usize| {
            let request = request.clone();
            std::thread::spawn(move || said(address, &request[..length]))
        };
        let threads = vec![
            ("a connection that says nothing", half(0)),
            ("a byte of a login", half(1)),
            ("a login without its text", half(BHS_BYTES)),
            ("a login without its last byte", half(request.len() - 1)),
            ("a login that goes no further", half(request.len())),
            ("a login of a byte now and then", std::thread::spawn(move || dripped(address))),
            ("an R2T that is never answered", std::thread::spawn(move || unanswered(address))),
        ];
        Self { threads }
    }

    /// Each has been dropped.
    pub fn end(self) -> Result<()> {
        for (name, thread) in self.threads {
            let ends = thread.join().map_err(|_| anyhow!("{name}: it is not dropped"))?;
            let before: &[End] = match name {
                "a login that goes no further" => &[End::Login(0)],
                // It is asked whether it is still there, and told that its connection is dropped.
                "an R2T that is never answered" => {
                    &[End::Answered(opcode::NOP_IN), End::Answered(opcode::ASYNC_MESSAGE)]
                }
                _ => &[],
            };
            ensure!(ends == [before, &[End::Dropped]].concat(), "{name}: {ends:?}");
        }
        Ok(())
    }
}

fn until_dropped(initiator: &mut Initiator) -> Vec<End> {
    initiator.stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut ends = Vec::new();
    while ends.last() != Some(&End::Dropped) {
        ends.push(next(initiator).0);
    }
    ends
}

fn said(address: SocketAddr, bytes: &[u8]) -> Vec<End> {
    let mut initiator = Initiator::connect(address);
    offer_bytes(&mut initiator, bytes);
    until_dropped(&mut initiator)
}

/// A request of which there is always more to come.
fn dripped(address: SocketAddr) -> Vec<End> {
    let mut stream = Initiator::connect(address).stream;
    stream.set_read_timeout(Some(NOW_AND_THEN)).expect("a socket");
    for byte in login_pdu(0x87, &[b'A'; 4000]).into_iter().take(DRIPS) {
        let sent = stream.write_all(&[byte]).is_ok();
        match stream.read(&mut [0]) {
            Err(error) if sent && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(0) | Err(_) => return vec![End::Dropped],
            Ok(_) => return vec![End::Good],
        }
    }
    Vec::new()
}

fn unanswered(address: SocketAddr) -> Vec<End> {
    let mut initiator = Initiator::connect(address);
    // Its session is not to be taken over by the others'.
    initiator.isid[5] = 77;
    initiator.log_in(NODE, Some(TARGET), SOLICITED).expect("a login");
    asked(&mut initiator);
    until_dropped(&mut initiator)
}

/// As many as there may be, and then more: who is in already notices nothing, and when they are gone others get in.
pub fn a_crowd_of_half_open_logins(stage: &Stage) -> Result<()> {
    let mut crowd: Vec<Initiator> = (0..limits::MAX_LOGINS + 40)
        .map(|number| {
            let mut initiator = Initiator::connect(stage.address());
            offer_bytes(&mut initiator, &login_pdu(0x87, b"")[..number % BHS_BYTES]);
            initiator
        })
        .collect();
    let turned_away = crowd.pop().map(|mut last| next(&mut last).0);
    ensure!(turned_away == Some(End::Dropped), "beyond the limit: {turned_away:?}");
    stage.everybody_else_goes_on("beside a crowd of half-open logins")?;
    drop(crowd);
    wait_for("logins to be possible again", Duration::from_secs(20), || {
        Ok(Initiator::connect(stage.address()).try_log_in(NODE, TARGET))
    })?;
    stage.everybody_else_goes_on("after a crowd of half-open logins")
}
