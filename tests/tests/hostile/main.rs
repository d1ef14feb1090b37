//! Initiators that break the protocol, at the daemon as it runs, over an array: does each breach end in a Reject, an error or
//! a dropped connection, does somebody honest keep their I/O all the while, and is nothing left behind?
//!
//! What is sent, and the end that each has, is what `iscsi-target`'s own tests say of a server over memory.

#![allow(unreachable_pub)]

#[path = "../../../iscsi-target/tests/support/breach.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod breach;
#[path = "../../../iscsi-target/tests/support/cases.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod cases;
#[path = "../../../iscsi-target/tests/support/honest.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod honest;
#[path = "../../../iscsi-target/tests/support/initiator.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod initiator;

mod hogs;
mod slow;
mod stage;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use system_tests::Seed;

use breach::{End, ends, greeted, offer_bytes};
use cases::{CASES, ends_of, login_breaches, nonsense, nonsense_first};
use initiator::{Initiator, NODE, Pace, TARGET};
use slow::Slow;
use stage::Stage;

const BOTH: [Pace; 2] = [Pace::AtOnce, Pace::ByteByByte];

#[test]
fn the_daemon_gives_every_breach_its_end_and_others_their_io() -> Result<()> {
    let stage = Stage::new()?;
    // Their time runs while the others have theirs.
    let slow = Slow::begin(stage.address());
    named(&stage)?;
    every_opcode(&stage)?;
    logins(&stage)?;
    hogs::more_data_than_there_is_memory(&stage)?;
    slow.end()?;
    stage.everybody_else_goes_on("after the slow ones")?;
    // Last: these keep everybody else from logging in.
    slow::a_crowd_of_half_open_logins(&stage)?;
    stage.close()
}

/// Somebody who is let in, and has not done anything yet.
fn logged_in(address: SocketAddr, keys: &str) -> Result<Initiator> {
    let mut initiator = Initiator::connect(address);
    let status = initiator.log_in(NODE, Some(TARGET), keys).err();
    ensure!(status.is_none(), "the login was refused: {status:04x?}");
    Ok(initiator)
}

/// Every case in full feature phase, at once and byte by byte.
fn named(stage: &Stage) -> Result<()> {
    for pace in BOTH {
        for case in CASES {
            let ends = ends_of(stage.address(), case, pace);
            ensure!(ends == case.3, "{}, {pace:?}: {ends:?} instead of {:?}", case.0, case.3);
        }
        stage.everybody_else_goes_on("after the named breaches")?;
    }
    // The unit's first blocks are what they write to: nothing that was spoilt has been written.
    let (written, _) = logged_in(stage.address(), "")?.read(0, 256 << 10);
    ensure!(written.iter().all(|byte| *byte == 0), "what was refused has been written");
    Ok(())
}

/// All 64, before a login and after it.
fn every_opcode(stage: &Stage) -> Result<()> {
    let mut seed = Seed::from_env(7143);
    for code in 0..64 {
        for pace in BOTH {
            let (pdu, expected) = nonsense_first(code);
            let ends = greeted(stage.address(), &[pdu], pace);
            ensure!(ends == expected, "opcode {code:#x} before a login: {ends:?}");
        }
        let mut initiator = logged_in(stage.address(), "")?;
        let mut filling = [0; 28];
        filling.copy_from_slice(&seed.bytes(28));
        let (pdu, expected) = nonsense(code, filling);
        offer_bytes(&mut initiator, &pdu);
        let ends = ends(&mut initiator, expected.len());
        ensure!(ends == expected, "opcode {code:#x} after a login: {ends:?} instead of {expected:?}");
    }
    stage.everybody_else_goes_on("after every opcode")
}

fn logins(stage: &Stage) -> Result<()> {
    for pace in BOTH {
        for (name, requests, expected) in login_breaches() {
            let mut ends = greeted(stage.address(), &requests, pace);
            ends.retain(|end| *end != End::Login(0));
            ensure!(ends == expected, "{name}, {pace:?}: {ends:?} instead of {expected:?}");
        }
    }
    stage.everybody_else_goes_on("after the logins")
}
