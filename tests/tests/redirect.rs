//! Do initiators go where a portal sends them, and are they served when that is gone? libiscsi's tools against two real daemons,
//! whose LUNs differ in size so that it shows which of them answered.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use system_tests::initiator::Initiator;
use system_tests::process::{run, wait_for};
use system_tests::{IQN, Kind, Lab, MIB, tools};

const LIMIT: Duration = Duration::from_secs(60);
const HERE: u64 = 16 * MIB;
const THERE: u64 = 24 * MIB;

/// A daemon that serves one LUN of this size, with this at the end of its configuration.
fn serve(size: u64, tables: impl FnOnce(&str) -> String) -> Result<Lab> {
    let mut lab = Lab::stopped(Kind::Files, 2, 64 * MIB)?;
    let path = lab.daemon.config_path().context("no configuration")?;
    let mut file = OpenOptions::new().append(true).open(path)?;
    write!(file, "{}", tables(lab.daemon.portal()))?;
    lab.daemon.start()?;
    lab.create_array("1", 2)?;
    lab.export_volume("v", &format!("{}MiB", size / MIB), 0)?;
    Ok(lab)
}

/// How large the LUN is that a tool finds by the URL of this daemon's portal.
fn size_seen(lab: &Lab) -> Result<u64> {
    let url = lab.daemon.url(IQN, 0);
    let told = run(Command::new(tools::need("iscsi-readcapacity16")?).args(["-s", &url]), LIMIT)?.ok()?;
    told.stdout.trim().parse().with_context(|| told.transcript())
}

/// What raidctl shows of the address of this index.
fn place(lab: &Lab, index: usize) -> Result<Value> {
    let portals = lab.daemon.json(&["portal", "list"])?;
    Ok(portals["portals"][0]["redirect"]["addresses"][index].clone())
}

fn until(lab: &Lab, index: usize, what: &str, so: impl Fn(&Value) -> bool) -> Result<()> {
    wait_for(what, LIMIT, || Ok(so(&place(lab, index)?).then_some(())))
}

#[test]
fn initiators_follow_a_redirection_and_are_served_where_they_came_while_the_address_is_gone() -> Result<()> {
    let mut there = serve(THERE, |_| String::new())?;
    let other = there.daemon.portal().to_owned();
    let here = serve(HERE, |own| {
        format!(
            "[[redirect]]\nportal = \"{own}\"\npolicy = \"fixed\"\naddresses = [\"{other}\", \"{own}\"]\n\
             interval = \"1s\"\ntimeout = \"1s\"\nrise = 1\nfall = 2\n"
        )
    })?;
    let is = |health: &'static str| move |place: &Value| place["health"] == health;
    until(&here, 0, "the other to be healthy", is("healthy"))?;
    ensure!(size_seen(&here)? == THERE, "it was not sent there");
    ensure!(size_seen(&there)? == THERE);
    let (inquiry, list) = (tools::need("iscsi-inq")?, tools::need("iscsi-ls")?);
    run(Command::new(inquiry).arg(here.daemon.url(IQN, 0)), LIMIT)?.ok()?.expect_said("labsan")?;
    let portal = format!("iscsi://{}", here.daemon.portal());
    // Discovery is answered here, and names this portal; who then logs in is sent on.
    let listed =
        run(Command::new(list).args(["-s", &portal]), LIMIT)?.ok()?.expect_said(here.daemon.portal())?;
    // It takes the number of the last block for the size, and rounds down.
    ensure!(listed.stdout.contains(&format!("(Size:{}M)", THERE / MIB - 1)), "{}", listed.transcript());
    ensure!(place(&here, 0)?["sent"].as_u64() >= Some(3) && place(&here, 1)?["sent"] == 0);

    there.daemon.kill();
    until(&here, 0, "the other to be failing", is("failing"))?;
    ensure!(size_seen(&here)? == HERE, "it is served where it came");
    here.daemon.raidctl(&["portal", "list"])?.ok()?.expect_said("cannot connect")?;
    here.daemon.raidctl(&["events"])?.ok()?.expect_said("AddressFailing")?;

    there.daemon.start()?;
    until(&here, 0, "the other to be healthy again", is("healthy"))?;
    ensure!(size_seen(&here)? == THERE);
    Ok(())
}

/// A web server that answers every request with this many sessions, or, beyond a million, that it is not well.
fn tell(sessions: &Arc<AtomicU64>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let sessions = Arc::clone(sessions);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let sessions = sessions.load(Ordering::SeqCst);
            let status = if sessions < 1_000_000 { "200 OK" } else { "503 Service Unavailable" };
            let body = format!("{{\"sessions\": {sessions}}}");
            let length = body.len();
            let _ = write!(&stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        }
    });
    Ok(port)
}

#[test]
fn logins_go_where_the_fewest_sessions_are_as_health_checks_tell_them() -> Result<()> {
    let there = serve(THERE, |_| String::new())?;
    let other = there.daemon.portal().to_owned();
    let sessions = Arc::new(AtomicU64::new(5));
    let port = tell(&sessions)?;
    let here = serve(HERE, |own| {
        format!(
            "[[redirect]]\nportal = \"{own}\"\npolicy = \"least-sessions\"\naddresses = [\"{own}\", \"{other}\"]\n\
             health = \"http:{port}/sessions\"\ninterval = \"1s\"\ntimeout = \"1s\"\nrise = 1\nfall = 1\n"
        )
    })?;
    for index in [0, 1] {
        until(&here, index, "both to be healthy", |place| place["health"] == "healthy")?;
    }
    ensure!(place(&here, 1)?["sessions"] == 5);
    // None here, five there.
    let _session = Initiator::log_in(here.daemon.portal(), IQN, 0, "one")?;
    ensure!(size_seen(&here)? == HERE && place(&here, 0)?["sessions"] == 1);
    sessions.store(0, Ordering::SeqCst);
    until(&here, 1, "the next count", |place| place["sessions"] == 0)?;
    ensure!(size_seen(&here)? == THERE, "one here, none there");
    sessions.store(1_000_000, Ordering::SeqCst);
    for index in [0, 1] {
        until(&here, index, "both to be failing", |place| place["health"] == "failing")?;
    }
    here.daemon.raidctl(&["portal", "list"])?.ok()?.expect_said("it answers with HTTP status 503")?;
    ensure!(size_seen(&here)? == HERE, "it can be sent nowhere");
    Ok(())
}
