//! Does the real labsand keep its word to whoever speaks its API? Each test has a daemon, disks and a directory of its
//! own; the daemon is ended by its process id.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use labsan_api::paths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const MEMBER_BYTES: u64 = 32 << 20;
const IQN: &str = "iqn.2026-11.org.labsan:test";
const NODE: &str = "iqn.2026-11.org.example:node1";
const PATIENCE: Duration = Duration::from_secs(20);

struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Daemon {
    fn start(dir: &Path) -> Self {
        write_config(dir, "");
        Self::spawned(dir)
    }

    fn spawned(dir: &Path) -> Self {
        let mut daemon = Self { child: spawn(dir), dir: dir.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(dir.join("s")).is_err() {
            assert!(daemon.child.try_wait().unwrap().is_none(), "labsand ended");
            assert!(Instant::now() < deadline, "labsand does not serve");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let mut stream = UnixStream::connect(self.dir.join("s")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {answer}")))
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, &Value::Null);
        assert_eq!((status, &body["schema_version"]), (200, &json!(1)), "{body}");
        body
    }

    fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", path, &body);
        assert_eq!(status, 200, "{body} gave {answer}");
        answer
    }

    fn refused(&self, method: &str, path: &str, body: Value, code: &str, exit_code: u8) -> Value {
        let (status, answer) = self.call(method, path, &body);
        assert!(status >= 400, "{body} gave {answer}");
        assert_eq!((&answer["code"], &answer["exit_code"]), (&json!(code), &json!(exit_code)), "{answer}");
        answer
    }

    fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("labsand does not stop");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// The array `a`, RAID 1 of two files that it makes, and volume `a/v`.
    fn make_array(&self) {
        self.post(paths::ARRAYS, self.array("a", &["d0.img", "d1.img"]));
        self.post(paths::VOLUMES, json!({"name": "a/v", "size_bytes": 8 << 20}));
    }

    fn array(&self, name: &str, disks: &[&str]) -> Value {
        let disks: Vec<PathBuf> = disks.iter().map(|disk| self.dir.join(disk)).collect();
        json!({"name": name, "level": 1, "disks": disks, "create_size_bytes": MEMBER_BYTES})
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_config(dir: &Path, more: &str) {
    let text = format!(
        "portals = [\"127.0.0.1:0\"]\nscan = [\"*.img\"]\nsocket = \"s\"\nstate_dir = \"state\"\n{more}"
    );
    std::fs::write(dir.join("labsan.toml"), text).unwrap();
}

fn spawn(dir: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_labsand"));
    command.arg("--config").arg(dir.join("labsan.toml"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it says when it does not start, and its exit code.
fn failure_to_start(dir: &Path) -> (i32, String) {
    let output = spawn(dir).wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn target(iqn: &str, rest: &str) -> String {
    format!("/v1/targets/{iqn}{rest}")
}

#[test]
fn the_configuration_of_the_san_survives_a_kill_and_travels_with_the_disks() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(home.path());
    daemon.make_array();
    daemon.post(paths::TARGETS, json!({"iqn": IQN, "alias": "test"}));
    daemon.post(&target(IQN, "/allow"), json!({"initiator": "iqn.2026-11.org.example:*"}));
    let (status, answer) = daemon.call(
        "PUT",
        &target(IQN, "/chap"),
        &json!({"accounts": [{"user": "node", "secret": "a long enough secret"}]}),
    );
    assert_eq!(status, 200, "{answer}");
    let mapped = daemon.post(paths::LUNS, json!({"target": IQN, "volume": "a/v"}));
    assert_eq!(mapped["lun"], 0);
    let targets = daemon.get(paths::TARGETS)["targets"].clone();
    assert!(!targets.to_string().contains("secret"), "{targets}");
    drop(daemon); // SIGKILL

    let daemon = Daemon::start(home.path());
    assert_eq!(daemon.get(paths::TARGETS)["targets"], targets);
    daemon.stop();

    let away = tempfile::tempdir().unwrap();
    for disk in ["d0.img", "d1.img"] {
        std::fs::rename(home.path().join(disk), away.path().join(disk)).unwrap();
    }
    let daemon = Daemon::start(away.path());
    assert_eq!(daemon.get(paths::TARGETS)["targets"], targets);
    assert_eq!(daemon.get(paths::VOLUMES)["volumes"][0]["name"], "a/v");
    daemon.stop();

    // Without its disks the home remembers the target and says why the LUN is not served.
    let daemon = Daemon::start(home.path());
    let lun = &daemon.get(paths::LUNS)["luns"][0];
    assert!(lun["unavailable"].as_str().unwrap().contains("does not run here"), "{lun}");
    daemon.stop();
}

#[test]
fn asking_twice_is_asking_once_and_asking_differently_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_array();
    let again = [
        (paths::ARRAYS.to_owned(), daemon.array("a", &["d0.img", "d1.img"])),
        (paths::VOLUMES.to_owned(), json!({"name": "a/v", "size_bytes": 8 << 20})),
        (paths::TARGETS.to_owned(), json!({"iqn": IQN})),
        (target(IQN, "/allow"), json!({"initiator": "*"})),
        (paths::LUNS.to_owned(), json!({"target": IQN, "volume": "a/v", "lun": 3})),
    ];
    for (path, body) in &again {
        daemon.post(path, body.clone());
        assert_eq!(daemon.post(path, body.clone())["changed"], false, "{path}");
    }
    let post = |path: &str, body, code| daemon.refused("POST", path, body, code, 3);
    post(paths::ARRAYS, daemon.array("a", &["d0.img", "new.img"]), "different");
    post(paths::ARRAYS, daemon.array("b", &["d0.img", "new.img"]), "taken");
    post(paths::VOLUMES, json!({"name": "a/v", "size_bytes": 4 << 20}), "different");
    post(paths::LUNS, json!({"target": IQN, "volume": "a/v", "lun": 4}), "different");
    assert!(!dir.path().join("new.img").exists());

    let delete = |path: &str| daemon.call("DELETE", path, &Value::Null);
    daemon.refused("DELETE", "/v1/volumes/a/v", Value::Null, "in_use", 3);
    daemon.refused("DELETE", "/v1/arrays/a", Value::Null, "in_use", 3);
    for path in [&target(IQN, "/luns/3"), &target(IQN, ""), "/v1/volumes/a/v", "/v1/arrays/a"] {
        let (status, answer) = delete(path);
        assert_eq!((status, &answer["changed"]), (200, &json!(true)), "{path}: {answer}");
        if !path.starts_with("/v1/volumes") {
            assert_eq!(delete(path).1["changed"], false, "{path}");
        }
    }
    assert_eq!(daemon.get(paths::ARRAYS)["arrays"], json!([]));
    daemon.stop();
}

#[test]
fn a_lun_moves_with_its_array_and_its_number_is_not_soon_another_disk() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_array();
    daemon.post(paths::TARGETS, json!({"iqn": IQN}));
    daemon.post(paths::LUNS, json!({"target": IQN, "volume": "a/v"}));
    daemon.post("/v1/arrays/a/stop", json!({}));
    assert!(daemon.get(paths::LUNS)["luns"][0]["unavailable"].is_string());
    let started = daemon.post(paths::START, json!({"scan": true}));
    assert_eq!(started["started"], json!(["a"]), "{started}");
    assert!(daemon.get(paths::LUNS)["luns"][0]["unavailable"].is_null());

    daemon.post(paths::VOLUMES, json!({"name": "a/w", "size_bytes": 4 << 20}));
    daemon.call("DELETE", &target(IQN, "/luns/0"), &Value::Null);
    assert_eq!(daemon.post(paths::LUNS, json!({"target": IQN, "volume": "a/w"}))["lun"], 1);
    daemon.stop();
}

#[test]
fn a_freed_number_rests_across_a_kill_and_an_identity_is_never_had_again() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_array();
    let uuid = |daemon: &Daemon| daemon.get(paths::VOLUMES)["volumes"][0]["uuid"].clone();
    let former = uuid(&daemon);
    daemon.post(paths::TARGETS, json!({"iqn": IQN}));
    daemon.post(paths::LUNS, json!({"target": IQN, "volume": "a/v"}));
    for path in [&target(IQN, "/luns/0"), "/v1/volumes/a/v", &target(IQN, "")] {
        assert_eq!(daemon.call("DELETE", path, &Value::Null).0, 200, "{path}");
    }
    drop(daemon); // SIGKILL

    let daemon = Daemon::start(dir.path());
    daemon.post(paths::VOLUMES, json!({"name": "a/v", "size_bytes": 8 << 20}));
    assert_ne!(uuid(&daemon), former);
    daemon.post(paths::TARGETS, json!({"iqn": IQN}));
    let wish = json!({"target": IQN, "volume": "a/v", "lun": 0});
    let answer = daemon.refused("POST", paths::LUNS, wish, "unsafe", 3);
    let message = answer["message"].as_str().unwrap();
    let (_, left) = message.split_once("rests for another ").unwrap();
    // It was freed within the last second, or a little before.
    assert!(left == "1 h 0 min" || left.starts_with("59 min"), "{message}");
    assert!(answer["hint"].as_str().unwrap().contains("--force"), "{answer}");
    assert_eq!(daemon.post(paths::LUNS, json!({"target": IQN, "volume": "a/v"}))["lun"], 1);
    daemon.call("DELETE", &target(IQN, "/luns/1"), &Value::Null);
    let insisting = json!({"target": IQN, "volume": "a/v", "lun": 0, "force": true});
    assert_eq!(daemon.post(paths::LUNS, insisting)["lun"], 0);
    daemon.stop();

    // How long is the host's affair.
    write_config(dir.path(), "lun_hold = \"0s\"\n");
    let daemon = Daemon::spawned(dir.path());
    daemon.post(paths::VOLUMES, json!({"name": "a/w", "size_bytes": 8 << 20}));
    daemon.call("DELETE", &target(IQN, "/luns/0"), &Value::Null);
    assert_eq!(daemon.post(paths::LUNS, json!({"target": IQN, "volume": "a/w", "lun": 0}))["lun"], 0);
    daemon.stop();
}

#[test]
fn rules_and_luns_of_single_initiators_survive_a_kill_and_go_before_what_they_lead_to() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_array();
    daemon.post(paths::TARGETS, json!({"iqn": IQN}));
    let account = |user| json!({"user": user, "secret": format!("the secret of {user}")});
    daemon.post(&target(IQN, "/chap"), account("one"));
    daemon.post(&target(IQN, "/chap"), account("two"));
    let rule =
        json!({"initiator": NODE, "account": "two", "network": "::ffff:10.0.0.0/104", "portal": "10.0.0.9"});
    daemon.post(&target(IQN, "/allow"), rule.clone());
    daemon.post(paths::LUNS, json!({"target": IQN, "volume": "a/v", "lun": 5, "initiator": NODE}));
    let targets = daemon.get(paths::TARGETS)["targets"].clone();
    assert_eq!(targets[0]["access"]["rules"][0]["network"], "10.0.0.0/8", "{targets}");
    assert_eq!((&targets[0]["luns"], &targets[0]["masks"][0]["luns"][0]["lun"]), (&json!([]), &json!(5)));
    assert!(!targets.to_string().contains("the secret"), "{targets}");
    drop(daemon); // SIGKILL

    let daemon = Daemon::start(dir.path());
    assert_eq!(daemon.get(paths::TARGETS)["targets"], targets);
    let own = target(IQN, &format!("/luns/5?initiator={NODE}"));
    let mask = target(IQN, &format!("/masks/{NODE}"));
    let answer = daemon.refused("DELETE", "/v1/volumes/a/v", Value::Null, "in_use", 3);
    assert!(answer["hint"].as_str().unwrap().ends_with(&format!("--initiator {NODE}")), "{answer}");
    daemon.refused("DELETE", &mask, Value::Null, "in_use", 3);
    daemon.refused("DELETE", &target(IQN, "/chap/two"), Value::Null, "in_use", 3);
    daemon.refused("POST", &target(IQN, "/allow"), json!({"network": "10.0.0.0/8"}), "invalid", 3);
    daemon.refused(
        "POST",
        &target(IQN, "/allow"),
        json!({"initiator": "*", "account": "no"}),
        "not_found",
        4,
    );
    assert_eq!(
        daemon.call("DELETE", &target(IQN, "/luns/5"), &Value::Null).1["changed"],
        false,
        "not of all"
    );
    for (method, path) in [("DELETE", &own), ("DELETE", &mask), ("PUT", &mask)] {
        let (status, answer) = daemon.call(method, path, &Value::Null);
        assert_eq!((status, &answer["changed"]), (200, &json!(true)), "{method} {path}: {answer}");
    }
    daemon.post(&target(IQN, "/deny"), json!({"initiator": NODE}));
    for path in ["/chap/two", ""] {
        assert_eq!(daemon.call("DELETE", &target(IQN, path), &Value::Null).0, 200, "{path}");
    }
    daemon.stop();
}

#[test]
fn files_that_hold_secrets_are_private_and_a_start_says_so_if_one_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    let daemon = Daemon::start(dir.path());
    daemon.make_array();
    daemon.post(paths::TARGETS, json!({"iqn": IQN}));
    daemon.post(&target(IQN, "/chap"), json!({"user": "node", "secret": "a long enough secret"}));
    assert_eq!((mode("state"), mode("state/san.json")), (0o700, 0o600));
    // The arrays carry the secrets too.
    assert_eq!((mode("d0.img"), mode("d1.img")), (0o600, 0o600));
    let noted =
        |daemon: &Daemon| daemon.get(paths::STATUS)["notes"].to_string().contains("others could read");
    daemon.stop();
    let copy = dir.path().join("state/san.json");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644)).unwrap();
    let daemon = Daemon::start(dir.path());
    assert!(noted(&daemon) && mode("state/san.json") == 0o600);
    daemon.stop();
    let daemon = Daemon::start(dir.path());
    assert!(!noted(&daemon));
    // A secret in the wrong place is not quoted.
    for (method, path, body) in [
        ("POST", "/chap", json!({"user": "node", "secret": 123_456_789_012_u64})),
        ("PUT", "/chap", json!({"accounts": [{"user": "node", "secret": "hunter-two!"}]})),
        ("PUT", "/chap", json!({"accounts": [{"user": "node", "secret": ["correct horse"]}]})),
    ] {
        let answer = daemon.refused(method, &target(IQN, path), body, "invalid", 3).to_string();
        for secret in ["123456789012", "hunter-two!", "correct horse"] {
            assert!(!answer.contains(secret), "{answer}");
        }
    }
    daemon.stop();
}

#[test]
fn an_array_that_cannot_be_made_leaves_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    // A file system on the last disk is found only after the first one was made.
    let mut foreign = vec![0; usize::try_from(MEMBER_BYTES).unwrap()];
    foreign[4086..4096].copy_from_slice(b"SWAPSPACE2");
    std::fs::write(dir.path().join("foreign.img"), &foreign).unwrap();
    let answer =
        daemon.refused("POST", paths::ARRAYS, daemon.array("a", &["d0.img", "foreign.img"]), "foreign", 3);
    assert!(answer["message"].as_str().unwrap().contains("swap"), "{answer}");
    assert!(!dir.path().join("d0.img").exists());
    assert_eq!(std::fs::read(dir.path().join("foreign.img")).unwrap(), foreign);
    daemon.stop();
}

#[test]
fn a_change_that_cannot_be_written_everywhere_did_not_happen_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.make_array();
    // The arrays take the new document first; then the host's copy cannot be written.
    let obstacle = dir.path().join("state/.san.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    daemon.refused("POST", paths::TARGETS, json!({"iqn": IQN}), "io", 4);
    assert_eq!(daemon.get(paths::TARGETS)["targets"], json!([]));
    drop(daemon);
    std::fs::remove_dir(&obstacle).unwrap();
    let daemon = Daemon::start(dir.path());
    assert_eq!(daemon.get(paths::TARGETS)["targets"], json!([]), "the array kept what was refused");
    daemon.post(paths::TARGETS, json!({"iqn": IQN}));
    daemon.stop();
}

#[test]
fn requests_that_make_no_sense_are_refused_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.refused("GET", "/v2/everything", Value::Null, "invalid", 3);
    daemon.refused("POST", paths::TARGETS, json!({"iqn": IQN, "colour": "blue"}), "invalid", 3);
    daemon.refused("POST", paths::TARGETS, json!({"iqn": "disk1"}), "invalid", 3);
    daemon.refused("DELETE", &target(IQN, "/luns/many"), Value::Null, "invalid", 3);
    daemon.refused("DELETE", "/v1/sessions/9", Value::Null, "not_found", 4);
    daemon.refused("POST", &target(IQN, "/allow"), json!({"initiator": "*"}), "not_found", 4);
    daemon.refused("POST", "/v1/arrays/x/fail", json!({"disk": "/d"}), "not_found", 4);
    daemon.stop();
}

/// Closing a socket with something unread in it resets the connection, and may take the answer along.
#[test]
fn an_answer_arrives_even_if_the_body_comes_late_and_nobody_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    for path in [paths::STATUS, "/v2/everything"] {
        let mut stream = UnixStream::connect(dir.path().join("s")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\r\n\r\n")
            .unwrap();
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(b"null").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("schema_version"), "{path}: {answer}");
    }
    daemon.stop();
}

#[test]
fn events_can_be_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let wait = std::thread::scope(|scope| {
        let wait = scope.spawn(|| daemon.get("/v1/events?after=0&wait_seconds=15"));
        std::thread::sleep(Duration::from_millis(100));
        daemon.make_array();
        wait.join().unwrap()
    });
    assert_eq!(wait["events"][0]["event"], "NewArray", "{wait}");
    daemon.stop();
}

#[test]
fn a_stop_does_not_wait_for_those_who_wait_for_events() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let mut waiting = UnixStream::connect(dir.path().join("s")).unwrap();
    write!(waiting, "GET /v1/events?wait_seconds=55 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    daemon.stop();
}

#[test]
fn there_is_one_labsand_and_a_dead_ones_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let (code, said) = failure_to_start(dir.path());
    assert_eq!(code, 4);
    assert!(said.contains("another labsand") && said.contains(&daemon.child.id().to_string()), "{said}");
    daemon.get(paths::STATUS);
    drop(daemon);
    assert!(dir.path().join("s").exists(), "a kill leaves the socket");
    Daemon::start(dir.path()).stop();
    assert!(!dir.path().join("s").exists(), "a stop removes it");
}

#[test]
fn a_bad_configuration_is_named_by_its_line() {
    let dir = tempfile::tempdir().unwrap();
    for (line, part) in
        [("colour = 1\n", "line 5"), ("log = \"a=b=c\"\n", "log"), ("socket_group = \"no-such\"\n", "group")]
    {
        write_config(dir.path(), line);
        let (code, said) = failure_to_start(dir.path());
        assert_eq!(code, 4, "{said}");
        assert!(said.contains(part), "{said}");
    }
    std::fs::write(dir.path().join("s"), b"mine").unwrap();
    write_config(dir.path(), "");
    let (code, said) = failure_to_start(dir.path());
    assert!(code == 4 && said.contains("is no socket"), "{said}");
    assert_eq!(std::fs::read(dir.path().join("s")).unwrap(), b"mine");
}
