//! What the status screen says, letter by letter.

use labsan_api::array::{Activity, ActivityKind, ArrayState, Member, MemberState, Step};
use labsan_api::volume::Mapping;
use uuid::Uuid;

use super::*;

fn member(slot: Option<u32>, state: MemberState, path: Option<&str>) -> Member {
    Member {
        slot,
        path: path.map(Into::into),
        state,
        read_errors: 0,
        write_errors: 0,
        corrected_errors: 0,
        reason: None,
    }
}

fn demo(state: ArrayState) -> Array {
    let path = |n: u32| format!("/demo/disk{n}.img");
    let mut members: Vec<Member> =
        (0..3).map(|n| member(Some(n), MemberState::InSync, Some(&path(n)))).collect();
    members.push(member(None, MemberState::Spare, Some(&path(3))));
    Array {
        name: "demo".into(),
        uuid: Uuid::from_u128(1),
        level: 5,
        state,
        chunk_bytes: 64 << 10,
        policy: "bitmap".into(),
        size_bytes: 512 << 20,
        used_bytes: 256 << 20,
        members,
        activity: None,
        events: 12,
        dirty_regions: 0,
        journal_bytes: 0,
        lost_bytes: 0,
        what_happened: Vec::new(),
        next: Vec::new(),
    }
}

fn lun0() -> Volume {
    Volume {
        name: "demo/lun0".parse().unwrap(),
        uuid: Uuid::from_u128(2),
        size_bytes: 256 << 20,
        write_cache: false,
        physical_block_bytes: None,
        mapped: vec![Mapping {
            target: "iqn.2026-11.org.labsan:demo".into(),
            initiator: None,
            lun: 0,
            read_only: true,
        }],
    }
}

fn status(arrays: Vec<Array>, refused: Vec<RefusedArray>) -> Status {
    Status {
        version: "0.1.0".into(),
        san_uuid: Uuid::from_u128(3),
        uptime_seconds: 3700,
        engine: "io_uring".into(),
        portals: vec!["127.0.0.1:3260".into()],
        memory_used_bytes: 0,
        memory_limit_bytes: 512 << 20,
        volumes: if arrays.is_empty() { Vec::new() } else { vec![lun0()] },
        arrays,
        refused,
        targets: Vec::new(),
        sessions: Vec::new(),
        notes: Vec::new(),
    }
}

#[test]
fn all_well() {
    let status = status(vec![demo(ArrayState::Optimal)], Vec::new());
    assert_eq!(
        screen(&status, &Naming::default()),
        "  array: demo\n\
         \x20 state: optimal\n\
         \x20 level: RAID 5, 3 disks, chunk 64 KiB, policy bitmap\n\
         \x20  size: 512 MiB, 256 MiB in volumes\n\
         \x20 disks:\n\
         \x20   SLOT  STATE    READ  WRITE  FIXED  DISK\n\
         \x20   0     in sync     0      0      0  /demo/disk0.img\n\
         \x20   1     in sync     0      0      0  /demo/disk1.img\n\
         \x20   2     in sync     0      0      0  /demo/disk2.img\n\
         \x20   -     spare       0      0      0  /demo/disk3.img\n\
         volumes:\n\
         \x20   NAME          SIZE  LUN\n\
         \x20   demo/lun0  256 MiB  0 of iqn.2026-11.org.labsan:demo (read-only)\n\
         \n\
         sessions: none\n\
         portals: 127.0.0.1:3260\n\
         labsand 0.1.0, up 1 h 1 min, engine io_uring, buffers 0 B of 512 MiB\n"
    );
    assert_eq!(status.exit_code(), labsan_api::ExitCode::Ok);
}

#[test]
fn what_is_wrong_comes_with_what_to_type_on_this_daemon() {
    let mut array = demo(ArrayState::Rebuilding);
    array.members[1].state = MemberState::Failed;
    array.members[1].slot = None;
    array.members[1].write_errors = 3;
    array.members[1].reason = Some("input/output error".into());
    array.what_happened = vec!["/demo/disk1.img failed: input/output error".into()];
    array.next = vec![Step {
        why: "take the failed disk off".into(),
        command: "raidctl array remove demo /demo/disk1.img".into(),
    }];
    array.activity = Some(Activity {
        kind: ActivityKind::Rebuild,
        done_bytes: 64 << 20,
        total_bytes: 256 << 20,
        bytes_per_second: 64 << 20,
    });
    let status = status(vec![array], Vec::new());
    let text = screen(&status, &Naming { socket: Some("/s".into()) });
    for line in [
        "  state: rebuilding\n",
        " status: /demo/disk1.img failed: input/output error\n",
        " action: take the failed disk off:\n             raidctl --socket /s array remove demo /demo/disk1.img\n",
        "running: rebuild 25.0 % (64 MiB of 256 MiB), 64 MiB/s, 3 s left\n",
        "    -     failed      0      3      0  /demo/disk1.img  (input/output error)\n",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert_eq!(status.exit_code(), labsan_api::ExitCode::Degraded);
}

#[test]
fn an_array_that_was_refused_is_shown_first_and_makes_it_unusable() {
    let refused = RefusedArray {
        name: Some("old".into()),
        uuid: Uuid::from_u128(7),
        disks: vec!["/x/a".into()],
        reason: "2 of 4 disks are here".into(),
        next: vec![Step {
            why: "connect the others and start it".into(),
            command: "raidctl array start --scan".into(),
        }],
    };
    let status = status(vec![demo(ArrayState::Optimal)], vec![refused]);
    let text = screen(&status, &Naming::default());
    assert!(text.starts_with("  array: old\n  state: not started\n"), "{text}");
    assert!(text.contains("raidctl array start --scan") && text.contains("    /x/a\n"), "{text}");
    assert_eq!(status.exit_code(), labsan_api::ExitCode::Unusable);
}

#[test]
fn an_empty_box_says_how_to_begin() {
    let status = status(Vec::new(), Vec::new());
    assert!(
        screen(&status, &Naming::default())
            .starts_with("no arrays. Make one:\n    raidctl array create NAME")
    );
    assert_eq!(status.exit_code(), labsan_api::ExitCode::Ok);
}
