//! Do CHAP secrets stay where they belong? Everything is logged, clients log in with right and wrong secrets, requests go
//! wrong; and then nothing that anybody can read holds one.

use anyhow::{Result, ensure};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use system_tests::process::{Finished, run};
use system_tests::{IQN, Kind, Lab, MIB, tools};

const RIGHT: &str = "rightsecret-4711";
const OTHER: &str = "othersecret-4712";
const WRONG: &str = "wrongsecret-4713";
const TARGETS: &str = "targetsecret-4714";
const MISPLACED: &str = "misplacedsecret-4715";
const LIMIT: Duration = Duration::from_secs(60);

fn secret_file(lab: &Lab, secret: &str, mode: u32) -> Result<PathBuf> {
    let path = lab.dir().join(format!("{secret}.file"));
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(&path)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    writeln!(file, "{secret}")?;
    // The file's name is not the secret, but a log may well name the file.
    let plain = lab.dir().join(format!("file{mode:o}-{}", secret.len()));
    std::fs::rename(&path, &plain)?;
    Ok(plain)
}

/// What qemu's initiator says of the LUN, as this user.
fn look(lab: &Lab, user: &str, secret: &str, rest: &str) -> Result<Finished> {
    let url = format!("iscsi://{user}%{secret}@{}/{IQN}/0{rest}", lab.daemon.portal());
    run(Command::new(tools::need("qemu-img")?).args(["info", &url]), LIMIT)
}

/// A request whose body is not what it should be.
fn misplaced(lab: &Lab) -> Result<()> {
    let body = format!("{{\"accounts\": [\"{MISPLACED}\"], \"mutual\": \"{MISPLACED}\"}}");
    let mut stream = UnixStream::connect(lab.daemon.socket())?;
    write!(
        stream,
        "PUT /v1/targets/{IQN}/chap HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("makes no sense"), "{answer}");
    Ok(())
}

#[test]
fn no_log_and_no_answer_holds_a_secret() -> Result<()> {
    let mut lab = Lab::stopped(Kind::Files, 2, 64 * MIB)?;
    lab.daemon.set_log("trace")?;
    let config = std::fs::read_to_string(lab.daemon.config_path().unwrap_or_default())?;
    ensure!(config.contains("log = \"trace\""), "{config}");
    lab.daemon.start()?;
    lab.create_array("1", 2)?;
    lab.export_volume("v", "16MiB", 0)?;
    let mut said = String::new();
    let mut raidctl = |lab: &Lab, words: &[&str], code: i32| -> Result<Finished> {
        let finished = lab.daemon.raidctl(words)?.expect_code(code)?;
        said.push_str(&finished.stdout);
        said.push_str(&finished.stderr);
        Ok(finished)
    };
    let file = |secret, mode| {
        Ok::<_, anyhow::Error>(secret_file(&lab, secret, mode)?.to_string_lossy().into_owned())
    };
    let (right, targets) = (file(RIGHT, 0o600)?, file(TARGETS, 0o600)?);
    let chap = ["target", "chap", IQN, "--user", "node1", "--secret-file", &right];
    let quiet =
        raidctl(&lab, &[&chap[..], &["--mutual", "san", "--mutual-secret-file", &targets]].concat(), 0)?;
    ensure!(!quiet.stderr.contains("others may read"), "{}", quiet.transcript());
    let other = file(OTHER, 0o644)?;
    let words = ["target", "chap", IQN, "--add", "--user", "node2", "--secret-file", &other];
    raidctl(&lab, &words, 0)?.expect_said("others may read it: chmod 600")?;
    // Both ways with one secret.
    let same = ["target", "chap", IQN, "--add", "--user", "node3", "--secret-file", &targets];
    raidctl(&lab, &same, 3)?.expect_said("must differ")?;
    misplaced(&lab)?;

    look(&lab, "node1", RIGHT, "")?.ok()?;
    look(&lab, "node2", OTHER, "")?.ok()?;
    look(&lab, "node1", RIGHT, &format!("?target_user=san&target_password={TARGETS}"))?.ok()?;
    for (user, secret) in [("node1", WRONG), ("node1", OTHER), ("nobody", RIGHT)] {
        ensure!(look(&lab, user, secret, "")?.code != Some(0), "{user}");
    }
    for words in [&["target", "list"][..], &["session", "list"], &["status"], &["events"], &["lun", "list"]] {
        raidctl(&lab, words, 0)?;
        raidctl(&lab, &[words, &["--json"]].concat(), 0)?;
    }
    lab.daemon.kill();
    lab.daemon.start()?;
    look(&lab, "node1", RIGHT, "")?.ok()?;
    lab.daemon.stop()?;

    let log = lab.daemon.log();
    ensure!(log.contains("authentication failed") && log.contains("makes no sense"), "it was not all logged");
    for secret in [RIGHT, OTHER, WRONG, TARGETS, MISPLACED] {
        // Logs may show bytes as they are, in hex, or as a list of numbers.
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let list = secret.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
        for form in [secret.to_owned(), hex, list] {
            ensure!(!log.contains(&form), "the log has {form}");
            ensure!(!said.contains(&form), "raidctl said {form}");
        }
    }
    Ok(())
}
