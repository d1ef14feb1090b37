//! Do clusters that fence by persistent reservations keep their data? Two nodes, one of them cut off, and a daemon that is
//! killed at the worst moments.

use anyhow::{Context, Result, ensure};
use block_io::file::{FileDevice, OpenOptions};
use block_io::runtime::{EngineChoice, WorkerPool, detect};
use raid_core::array::{AssembleOptions, Environment, MemberDevice, assemble};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;
use system_tests::initiator::{CONFLICT, GOOD, Initiator, Order};
use system_tests::{IQN, Kind, Lab, MIB, report};

/// Write exclusive, registrants only: Windows' and fence_scsi's.
const REGISTRANTS: u8 = 5;
const A: u64 = 0xa1;
const B: u64 = 0xb2;

fn lab() -> Result<Lab> {
    let lab = Lab::new(Kind::Files, 3, 64 * MIB)?;
    lab.create_array("5", 3)?;
    lab.export_volume("quorum", "32MiB", 0)?;
    Ok(lab)
}

fn node(lab: &Lab, name: &str) -> Result<Initiator> {
    Initiator::log_in(lab.daemon.portal(), IQN, 0, name)
}

/// As a power cut would end it, and up again.
fn power_cut(lab: &mut Lab) -> Result<()> {
    lab.daemon.kill();
    lab.daemon.start()
}

/// The sequence of [MS-CSVP] and of the validation tests: clear, register, reserve; a challenger; a defender that
/// removes it, then one that does not; and the power fails in between.
#[test]
fn a_windows_cluster_arbitrates_across_power_cuts() -> Result<()> {
    let mut lab = lab()?;
    let mut owner = node(&lab, "a")?;
    owner.done(Order::RegisterAndIgnore, 0, (0, 0x99), true)?;
    owner.done(Order::Clear, 0, (0x99, 0), false)?;
    owner.done(Order::RegisterAndIgnore, 0, (0, A), true)?;
    owner.done(Order::Reserve, REGISTRANTS, (A, 0), false)?;
    ensure!(owner.reservation()? == Some((A, REGISTRANTS)));
    ensure!(owner.write(0, 1)? == GOOD);

    let mut challenger = node(&lab, "b")?;
    ensure!(
        challenger.write(1, 2)? == CONFLICT && challenger.read(0)? == (GOOD, Some(1)),
        "no registrant yet"
    );
    challenger.done(Order::RegisterAndIgnore, 0, (0, B), true)?;
    ensure!(challenger.order(Order::Reserve, REGISTRANTS, (B, 0), false)?.status == CONFLICT);
    ensure!(challenger.keys()? == [A, B]);
    // The defender is alive: it takes the challenger's registration away within its three seconds.
    owner.done(Order::Preempt, REGISTRANTS, (A, B), false)?;
    ensure!(challenger.attentions()? == [(0x2a, 5)], "registrations preempted");
    ensure!(challenger.keys()? == [A] && challenger.write(1, 2)? == CONFLICT, "the challenge is lost");

    power_cut(&mut lab)?;
    let (mut owner, mut challenger) = (node(&lab, "a")?, node(&lab, "b")?);
    ensure!(challenger.reservation()? == Some((A, REGISTRANTS)) && challenger.write(1, 2)? == CONFLICT);
    ensure!(owner.keys()? == [A] && owner.write(0, 3)? == GOOD, "the same port has its registration again");

    // Now the owner is cut off, and does not defend.
    drop(owner);
    challenger.done(Order::RegisterAndIgnore, 0, (0, B), true)?;
    power_cut(&mut lab)?;
    let mut challenger = node(&lab, "b")?;
    ensure!(challenger.keys()? == [A, B]);
    challenger.done(Order::Preempt, REGISTRANTS, (B, A), false)?;
    power_cut(&mut lab)?;
    let (mut owner, mut challenger) = (node(&lab, "a")?, node(&lab, "b")?);
    ensure!(owner.write(0, 9)? == CONFLICT, "the former owner is fenced, also across a power cut");
    ensure!(challenger.reservation()? == Some((B, REGISTRANTS)) && challenger.write(0, 4)? == GOOD);
    ensure!(owner.read(0)? == (GOOD, Some(4)));

    challenger.done(Order::Release, REGISTRANTS, (B, 0), false)?;
    challenger.done(Order::Clear, 0, (B, 0), false)?;
    lab.daemon.stop()?;
    lab.daemon.start()?;
    let mut owner = node(&lab, "a")?;
    ensure!(owner.keys()?.is_empty() && owner.reservation()?.is_none() && owner.write(0, 5)? == GOOD);
    Ok(())
}

/// What fence_scsi does: TEST UNIT READY, register, reserve type 5, read the keys; a fenced node's key is preempted and its
/// commands aborted; unfencing registers it again.
#[test]
fn fence_scsi_fences_a_node_that_is_cut_off() -> Result<()> {
    let mut lab = lab()?;
    let (mut good, mut bad) = (node(&lab, "a")?, node(&lab, "b")?);
    for (node, key) in [(&mut good, A), (&mut bad, B)] {
        node.attentions()?;
        node.done(Order::RegisterAndIgnore, 0, (0, key), false)?;
        if node.reservation()?.is_none() {
            node.done(Order::Reserve, REGISTRANTS, (key, 0), false)?;
        }
        ensure!(node.keys()?.contains(&key) && node.write(0, 1)? == GOOD);
    }
    good.done(Order::PreemptAndAbort, REGISTRANTS, (A, B), false)?;
    ensure!(good.keys()? == [A]);
    ensure!(bad.write(0, 9)? == CONFLICT, "it does not know yet that it is fenced");
    ensure!(good.read(0)? == (GOOD, Some(1)) && good.write(0, 2)? == GOOD);
    // Unfenced: registered again, after its restart.
    drop(bad);
    let mut bad = node(&lab, "b")?;
    ensure!(bad.write(0, 9)? == CONFLICT);
    bad.done(Order::RegisterAndIgnore, 0, (0, B), false)?;
    ensure!(bad.write(0, 3)? == GOOD);
    // The other way round: the holder is the one to be fenced.
    drop(good);
    bad.done(Order::PreemptAndAbort, REGISTRANTS, (B, A), false)?;
    ensure!(bad.reservation()? == Some((B, REGISTRANTS)));
    ensure!(node(&lab, "a")?.write(0, 9)? == CONFLICT);
    // Nobody asked for it to survive.
    power_cut(&mut lab)?;
    let mut bad = node(&lab, "b")?;
    ensure!(bad.keys()?.is_empty() && node(&lab, "a")?.write(0, 4)? == GOOD);
    Ok(())
}

fn registrations(lab: &Lab, words: &[&str]) -> Result<Value> {
    Ok(lab.daemon.json(&[&["pr", "list"], words].concat())?["volumes"][0].clone())
}

#[test]
fn raidctl_shows_orphans_and_purges_them() -> Result<()> {
    let mut lab = lab()?;
    lab.daemon.raidctl(&["pr", "list"])?.ok()?.expect_said("nobody is registered")?;
    let (mut a, mut b) = (node(&lab, "a")?, node(&lab, "b")?);
    a.done(Order::RegisterAndIgnore, 0, (0, A), true)?;
    a.done(Order::Reserve, REGISTRANTS, (A, 0), false)?;
    b.done(Order::RegisterAndIgnore, 0, (0, B), true)?;
    drop(a);
    lab.daemon
        .raidctl(&["pr", "list", "lab/quorum"])?
        .ok()?
        .expect_said("logged in")?
        .expect_said("survives")?;
    system_tests::process::wait_for("an orphan", std::time::Duration::from_secs(20), || {
        let listed = registrations(&lab, &[&format!("{IQN}#0")])?;
        let one = &listed["registrations"][0];
        ensure!(listed["reservation"]["type"] == 5 && one["holder"] == true, "{listed}");
        ensure!(listed["registrations"][1]["logged_in"] == true, "{listed}");
        Ok((one["logged_in"] == false).then_some(()))
    })?;
    lab.daemon.raidctl(&["pr", "purge", "lab/quorum", "--key", "a1"])?.expect_code(3)?;
    lab.daemon.raidctl(&["pr", "purge", "lab/quorum", "--key", "dead", "--yes"])?.expect_code(4)?;
    lab.daemon.raidctl(&["pr", "purge", "lab/quorum", "--key", "a1", "--yes"])?.ok()?;
    ensure!(b.attentions()? == [(0x2a, 4)], "what was reserved is free");
    ensure!(b.keys()? == [B] && b.reservation()?.is_none());
    power_cut(&mut lab)?;
    ensure!(node(&lab, "b")?.keys()? == [B], "purged for good");
    // Not mapped any more, and still kept.
    lab.daemon.raidctl(&["lun", "unmap", IQN, "0", "--yes"])?.ok()?;
    ensure!(registrations(&lab, &[])?["registrations"][0]["key"] == "0x00000000000000b2");
    lab.daemon.raidctl(&["pr", "purge", "lab/quorum", "--key", "0xb2", "--yes"])?.ok()?;
    lab.daemon.raidctl(&["lun", "map", IQN, "lab/quorum", "--lun", "0"])?.ok()?;
    ensure!(node(&lab, "b")?.keys()?.is_empty());
    Ok(())
}

/// A host whose file system is full or read-only fences as ever: what counts is on the array. A change of the targets, which
/// has to be in both places, is refused meanwhile, and takes nothing of it away.
#[test]
fn fencing_does_not_depend_on_the_hosts_file_system() -> Result<()> {
    let mut lab = lab()?;
    let (mut a, mut b) = (node(&lab, "a")?, node(&lab, "b")?);
    b.done(Order::RegisterAndIgnore, 0, (0, B), true)?;
    let obstacle = lab.dir().join("state/.san.json.new");
    // What was registered is just being written there, maybe.
    system_tests::process::wait_for("the host's copy", std::time::Duration::from_secs(20), || {
        Ok(std::fs::create_dir(&obstacle).ok())
    })?;
    let create = ["target", "create", "iqn.2026-11.org.labsan:other"];
    a.done(Order::RegisterAndIgnore, 0, (0, A), true)?;
    a.done(Order::Reserve, REGISTRANTS, (A, 0), false)?;
    lab.daemon.raidctl(&create)?.expect_code(4)?;
    a.done(Order::Preempt, REGISTRANTS, (A, B), false)?;
    power_cut(&mut lab)?;
    let (mut a, mut b) = (node(&lab, "a")?, node(&lab, "b")?);
    ensure!(a.reservation()? == Some((A, REGISTRANTS)) && a.keys()? == [A] && b.write(0, 9)? == CONFLICT);
    std::fs::remove_dir(&obstacle)?;
    lab.daemon.raidctl(&create)?.ok()?;
    let started = Instant::now();
    for _ in 0..20 {
        a.done(Order::Release, REGISTRANTS, (A, 0), false)?;
        a.done(Order::Reserve, REGISTRANTS, (A, 0), false)?;
    }
    let each = started.elapsed() / 40;
    report::figure(&format!("a reservation that survives power loss: {} ms each", each.as_millis()));
    power_cut(&mut lab)?;
    ensure!(node(&lab, "a")?.reservation()? == Some((A, REGISTRANTS)));
    Ok(())
}

/// A LUN that is taken away and given back is the disk it was, to those who were kept out too. An array that stops is like a
/// power cut. A volume that is deleted takes everything along.
#[test]
fn registrations_stay_while_the_volume_is_there() -> Result<()> {
    let mut lab = lab()?;
    let (mut a, mut b) = (node(&lab, "a")?, node(&lab, "b")?);
    a.done(Order::RegisterAndIgnore, 0, (0, A), false)?;
    a.done(Order::Reserve, REGISTRANTS, (A, 0), false)?;
    let raidctl = |lab: &Lab, words: &[&str]| lab.daemon.raidctl(words)?.ok();
    raidctl(&lab, &["lun", "unmap", IQN, "0", "--yes"])?;
    ensure!(b.write(0, 9)? != GOOD, "the LUN is not there");
    ensure!(registrations(&lab, &[])?["reservation"]["type"] == 5, "and still registered with");
    raidctl(&lab, &["lun", "map", IQN, "lab/quorum", "--lun", "0"])?;
    ensure!(b.write(0, 9)? == CONFLICT && a.write(0, 1)? == GOOD, "mapped again");
    raidctl(&lab, &["target", "delete", IQN, "--yes"])?;
    raidctl(&lab, &["target", "create", IQN])?;
    raidctl(&lab, &["target", "allow", IQN, "*"])?;
    raidctl(&lab, &["lun", "map", IQN, "lab/quorum", "--lun", "0"])?;
    let (mut a, mut b) = (node(&lab, "a")?, node(&lab, "b")?);
    ensure!(b.write(0, 9)? == CONFLICT && a.write(0, 1)? == GOOD, "in a target that was made anew");

    let restart = |lab: &Lab| -> Result<()> {
        raidctl(lab, &["array", "stop", "lab", "--yes"])?;
        raidctl(lab, &["array", "start", &lab.disk(0), &lab.disk(1), &lab.disk(2)])?;
        Ok(())
    };
    restart(&lab)?;
    let mut a = node(&lab, "a")?;
    ensure!(a.keys()?.is_empty() && b.write(0, 2)? == GOOD, "nobody asked that it survive");
    a.done(Order::RegisterAndIgnore, 0, (0, A), true)?;
    a.done(Order::Reserve, REGISTRANTS, (A, 0), false)?;
    restart(&lab)?;
    ensure!(b.write(0, 9)? == CONFLICT && a.write(0, 3)? == GOOD && a.keys()? == [A]);
    power_cut(&mut lab)?;

    raidctl(&lab, &["lun", "unmap", IQN, "0", "--yes"])?;
    raidctl(&lab, &["volume", "delete", "lab/quorum", "--yes"])?;
    lab.daemon.raidctl(&["pr", "list"])?.ok()?.expect_said("nobody is registered")?;
    raidctl(&lab, &["volume", "create", "lab/quorum", "--size", "32MiB"])?;
    let map = ["lun", "map", IQN, "lab/quorum", "--lun", "0"];
    lab.daemon.raidctl(&map)?.expect_code(3)?.expect_said("rests for another")?;
    raidctl(&lab, &[&map[..], &["--force"]].concat())?;
    let mut b = node(&lab, "b")?;
    ensure!(b.keys()?.is_empty() && b.write(0, 4)? == GOOD, "another disk of the same name");
    Ok(())
}

/// A daemon that is killed while registrations change keeps every one that was answered, and no half of one.
#[test]
fn kills_among_orders_lose_none_that_was_answered() -> Result<()> {
    let mut lab = lab()?;
    for round in 1..=5_u64 {
        let portal = lab.daemon.portal().to_owned();
        let orders = std::thread::spawn(move || -> (u64, bool) {
            let mut answered = round << 32;
            let Ok(mut a) = Initiator::log_in(&portal, IQN, 0, "a") else { return (answered, false) };
            while let Ok(ended) = a.order(Order::RegisterAndIgnore, 0, (0, answered + 1), true) {
                if ended.status != GOOD {
                    return (answered, false);
                }
                answered += 1;
            }
            (answered, true)
        });
        std::thread::sleep(std::time::Duration::from_millis(150 * round));
        power_cut(&mut lab)?;
        let (answered, all_good) = orders.join().map_err(|_| anyhow::anyhow!("the orders panicked"))?;
        ensure!(all_good, "an order was refused");
        let keys = node(&lab, "a")?.keys()?;
        // The one that was under way may have happened or not.
        ensure!(
            keys == [answered] || keys == [answered + 1] || (answered == round << 32 && keys.len() <= 1),
            "{answered:x} was answered, {keys:x?} is there"
        );
    }
    Ok(())
}

/// Change what an array that is stopped keeps of reservations.
fn damage_records(lab: &Lab) -> Result<()> {
    let paths = lab.disks.clone();
    let pool = WorkerPool::start(detect(EngineChoice::Threads)?, 1)?;
    let damage = move || async move {
        let mut members = Vec::new();
        for path in paths {
            let device = Arc::new(FileDevice::open(path.clone(), OpenOptions::default())?);
            members.push(MemberDevice { path, device });
        }
        let array =
            assemble(members, AssembleOptions::default(), &Environment { hostname: "x".into() }).await?;
        let (generation, mut san) = array.attachment().await;
        let records = san["reservations"].as_object_mut().context("there is no reservation")?;
        records.values_mut().for_each(|record| record["registrations"][0]["key"] = "no key".into());
        array.set_attachment(generation, san).await?;
        Ok::<_, anyhow::Error>(array.stop().await?)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(pool.call_background(damage));
    pool.shut_down();
    done?
}

/// Nobody knows who may write, so nobody may, until a person says that everybody may.
#[test]
fn a_record_that_cannot_be_read_is_listed_and_can_be_cleared() -> Result<()> {
    let mut lab = lab()?;
    let mut a = node(&lab, "a")?;
    a.done(Order::RegisterAndIgnore, 0, (0, A), true)?;
    a.done(Order::Reserve, REGISTRANTS, (A, 0), false)?;
    lab.daemon.stop()?;
    damage_records(&lab)?;
    lab.daemon.start()?;
    let raidctl = |lab: &Lab, words: &[&str]| lab.daemon.raidctl(words);
    ensure!(node(&lab, "b")?.write(0, 9)? != GOOD, "it is served");
    raidctl(&lab, &["lun", "list"])?.ok()?.expect_said("not served")?;
    let listed = raidctl(&lab, &["pr", "list"])?.ok()?;
    listed.expect_said("a key that is none")?.expect_said("raidctl pr purge lab/quorum --all")?;
    ensure!(registrations(&lab, &["lab/quorum"])?["unreadable"].is_string());
    let by_key = raidctl(&lab, &["pr", "purge", "lab/quorum", "--key", "a1", "--yes"])?;
    by_key.expect_said("a key that is none")?.expect_said("pr purge lab/quorum --all")?;
    raidctl(&lab, &["pr", "purge", "lab/quorum", "--all"])?.expect_code(3)?;
    ensure!(node(&lab, "b")?.write(0, 9)? != GOOD, "nobody confirmed it");
    raidctl(&lab, &["pr", "purge", "lab/quorum", "--all", "--yes"])?.ok()?;
    raidctl(&lab, &["pr", "list"])?.ok()?.expect_said("nobody is registered")?;
    let mut b = node(&lab, "b")?;
    ensure!(b.write(0, 4)? == GOOD, "it is served again");
    power_cut(&mut lab)?;
    let mut b = node(&lab, "b")?;
    ensure!(b.write(0, 5)? == GOOD && b.keys()?.is_empty(), "for good");
    // Also what can be read goes all at once, and each of them is told.
    let mut a = node(&lab, "a")?;
    a.done(Order::RegisterAndIgnore, 0, (0, A), true)?;
    a.done(Order::Reserve, REGISTRANTS, (A, 0), false)?;
    b.done(Order::RegisterAndIgnore, 0, (0, B), true)?;
    raidctl(&lab, &["pr", "purge", "lab/quorum", "--all", "--yes"])?.ok()?.expect_said("2 registration")?;
    ensure!(a.attentions()? == [(0x2a, 5)] && b.keys()?.is_empty() && b.write(0, 6)? == GOOD);
    Ok(())
}
