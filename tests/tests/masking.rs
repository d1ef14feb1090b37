//! Do nodes that see a volume under numbers of their own share it as one disk, and do others see nothing of it? With the real
//! daemon, by raidctl's words.

use anyhow::{Result, ensure};
use system_tests::initiator::{CONFLICT, GOOD, Initiator, Order};
use system_tests::{IQN, Kind, Lab, MIB};

/// Write exclusive, registrants only.
const REGISTRANTS: u8 = 5;
const NO_UNIT: (u8, u8, u8) = (5, 0x25, 0);

fn name(node: &str) -> String {
    format!("iqn.2026-11.com.example:{node}")
}

fn node(lab: &Lab, node: &str, lun: u16) -> Result<Initiator> {
    Initiator::log_in(lab.daemon.portal(), IQN, lun, node)
}

/// REPORT LUNS.
fn luns(node: &mut Initiator) -> Result<Vec<u8>> {
    let list = node.command(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[], 256)?;
    ensure!(list.status == GOOD, "{list:?}");
    Ok(list.data[8..].chunks_exact(8).map(|lun| lun[1]).collect())
}

fn ready(node: &mut Initiator) -> Result<(u8, (u8, u8, u8))> {
    let ended = node.command(&[0; 6], &[], 0)?;
    Ok((ended.status, ended.sense))
}

#[test]
fn two_nodes_share_a_volume_under_different_numbers_and_a_third_sees_nothing() -> Result<()> {
    let mut lab = Lab::new(Kind::Files, 3, 64 * MIB)?;
    lab.create_array("5", 3)?;
    let raidctl = |lab: &Lab, words: &[&str]| lab.daemon.raidctl(words)?.ok();
    raidctl(&lab, &["volume", "create", "lab/quorum", "--size", "16MiB"])?;
    raidctl(&lab, &["target", "create", IQN])?;
    for node in ["a", "b", "c"] {
        raidctl(&lab, &["target", "allow", IQN, "--initiator", &name(node), "--network", "127.0.0.0/8"])?;
    }
    for (node, lun) in [("a", "0"), ("b", "5")] {
        raidctl(&lab, &["lun", "map", IQN, "lab/quorum", "--lun", lun, "--initiator", &name(node)])?;
    }
    raidctl(&lab, &["lun", "mask", IQN, &name("c")])?;
    lab.daemon.raidctl(&["lun", "list"])?.ok()?.expect_said(&name("b"))?;
    ensure!(node(&lab, "stranger", 0).is_err());

    ensure!(ready(&mut node(&lab, "b", 0)?)?.1 == NO_UNIT, "its number there is another");
    let (mut a, mut b, mut c) = (node(&lab, "a", 0)?, node(&lab, "b", 5)?, node(&lab, "c", 0)?);
    ensure!((luns(&mut a)?, luns(&mut b)?, luns(&mut c)?) == (vec![0], vec![5], vec![]));
    ensure!(ready(&mut c)?.1 == NO_UNIT);
    ensure!(a.write(0, 1)? == GOOD && b.read(0)? == (GOOD, Some(1)));
    for (node, key) in [(&mut a, 1), (&mut b, 2)] {
        node.done(Order::RegisterAndIgnore, 0, (0, key), true)?;
    }
    a.done(Order::Reserve, REGISTRANTS, (1, 0), false)?;
    b.done(Order::Preempt, REGISTRANTS, (2, 1), false)?;
    ensure!(a.write(0, 9)? == CONFLICT && b.write(0, 2)? == GOOD);

    // Everything is so again after a power cut, also while a common LUN comes.
    lab.daemon.kill();
    lab.daemon.start()?;
    raidctl(&lab, &["volume", "create", "lab/common", "--size", "16MiB"])?;
    let (mut a, mut b, mut c) = (node(&lab, "a", 0)?, node(&lab, "b", 5)?, node(&lab, "c", 0)?);
    raidctl(&lab, &["lun", "map", IQN, "lab/common", "--lun", "0"])?;
    ensure!(a.write(0, 9)? == CONFLICT && b.read(0)? == (GOOD, Some(2)) && b.keys()? == [2]);
    ensure!(ready(&mut c)?.1 == NO_UNIT && luns(&mut c)?.is_empty());

    // Access goes before what it leads to, and takes effect at once.
    let refused = lab.daemon.raidctl(&["volume", "delete", "lab/quorum", "--yes"])?.expect_code(3)?;
    refused.expect_said(&format!("--initiator {}", name("a")))?;
    lab.daemon.raidctl(&["lun", "unmap", IQN, "5", "--initiator", &name("b")])?.expect_code(3)?;
    raidctl(&lab, &["lun", "unmap", IQN, "5", "--initiator", &name("b"), "--yes"])?;
    ensure!(ready(&mut b)?.1 == NO_UNIT && luns(&mut b)?.is_empty(), "nor does it see the common one");
    raidctl(&lab, &["lun", "unmask", IQN, &name("c")])?;
    ensure!(luns(&mut c)? == [0] && c.write(0, 3)? == GOOD);
    raidctl(&lab, &["target", "deny", IQN, &name("c"), "--drop-sessions"])?;
    ensure!(ready(&mut c).is_err(), "its session has ended");
    ensure!(node(&lab, "c", 0).is_err() && ready(&mut a).is_ok(), "and nobody else's");
    // What is asked of whoever logs in from now on is asked of those who are in only if that is meant.
    let secret = lab.dir().join("secret");
    std::fs::write(&secret, "sixteen-or-more-of-them")?;
    let secret = secret.to_string_lossy();
    let chap = ["target", "chap", IQN, "--user", "u", "--secret-file", &secret];
    raidctl(&lab, &chap)?;
    ensure!(ready(&mut a).is_ok() && node(&lab, "b", 0).is_err());
    raidctl(&lab, &[&chap[..], &["--drop-sessions"]].concat())?;
    ensure!(ready(&mut a).is_err(), "it has proved nothing");
    Ok(())
}
