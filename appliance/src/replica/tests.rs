//! Reservations over several arrays and hosts: whose copy of them counts, and what an order waits for.

use std::path::Path;

use labsan_api::target::LunPlace;

use super::*;
use crate::ops::{assembly, targets};
use crate::san::plan::plan;
use crate::world::{
    BLOCK_ERASE, Disk, EXIT_FAILURE_MODE, GOOD, Host, Node, PATIENCE, PREEMPT, REGISTER, REGISTER_FOR_NOW,
    RESERVE, disks, on_the_background_worker, until,
};
use crate::{change, state_file};

const NOT_KEPT: (u8, (u8, u8, u8)) = (2, (4, 0x44, 0));
const SANITIZE_FAILED: (u8, (u8, u8, u8)) = (2, (3, 0x31, 3));

/// The keys that a place keeps of a volume.
fn keys(document: Option<&SanDocument>, array: &Array) -> Vec<String> {
    let volume = array.volume("v").unwrap().uuid();
    let record = document.and_then(|document| document.reservations.get(&volume));
    let registrations = record.and_then(|record| record["registrations"].as_array());
    registrations.into_iter().flatten().map(|one| one["key"].as_str().unwrap()[12..].to_owned()).collect()
}

async fn carried_keys(array: &Array) -> Vec<String> {
    keys(carried(array).await.unwrap().as_ref(), array)
}

fn host_keys(directory: &Path, array: &Array) -> Vec<String> {
    keys(state_file::load(directory).unwrap().as_ref(), array)
}

#[test]
fn what_an_array_brings_along_outlasts_an_order_that_comes_before_it_was_looked_at() {
    on_the_background_worker(async |workers, dir| {
        let (ours, theirs) = (disks("a"), disks("b"));
        let elsewhere = Host::new(&workers, dir.join("elsewhere"));
        std::fs::create_dir(dir.join("elsewhere")).unwrap();
        let array = elsewhere.create("b", &theirs).await;
        let iqn = elsewhere.target("theirs").await;
        elsewhere.map(&iqn, "b").await;
        assert_eq!(elsewhere.node(&array, "n").order(REGISTER, (0, 0xb)).await, GOOD);
        elsewhere.stop("b").await;

        let host = Host::new(&workers, dir.clone());
        let a = host.create("a", &ours).await;
        let own = host.target("ours").await;
        host.map(&own, "a").await;
        // The start of the arrays that were found with it takes its time; a node registers meanwhile.
        let b = host.connect(&theirs).await;
        assert_eq!(host.node(&a, "n").order(REGISTER, (0, 0xa)).await, GOOD);
        assembly::take_along(&host.daemon, std::slice::from_ref(&b)).await.unwrap();
        let document = host.daemon.document();
        assert!(document.target(&iqn).is_some(), "its target is gone");
        assert_eq!(
            (keys(Some(&document), &a), keys(Some(&document), &b)),
            (vec!["000a".into()], vec!["000b".into()])
        );
        assert_eq!(host.node(&b, "n").keys().await.1, [0xb]);
    });
}

/// An array was on another host, where nodes changed its reservations, and comes back to the SAN it is of; one of the two
/// hosts has changed the configuration more often.
fn comes_back(changes_here: usize, changes_there: usize) {
    on_the_background_worker(async move |workers, dir| {
        let (here, there) = (dir.join("here"), dir.join("there"));
        std::fs::create_dir(&here).unwrap();
        std::fs::create_dir(&there).unwrap();
        let (disks_a, disks_b) = (disks("a"), disks("b"));
        let host = Host::new(&workers, here.clone());
        let (a, b) = (host.create("a", &disks_a).await, host.create("b", &disks_b).await);
        let iqn = host.target("t").await;
        for (name, array) in [("a", &a), ("b", &b)] {
            host.map(&iqn, name).await;
            assert_eq!(host.node(array, "fenced").order(REGISTER, (0, 0xf)).await, GOOD);
            assert_eq!(host.node(array, "fenced").order(RESERVE, (0xf, 0)).await, GOOD);
        }
        host.stop("b").await;

        let other = Host::new(&workers, there);
        let b = other.start(&disks_b).await;
        assert_eq!(other.daemon.document().san_uuid, host.daemon.document().san_uuid);
        for (host, array, key) in [(&other, &b, 0xb), (&host, &a, 0xa)] {
            let node = host.node(array, "n");
            assert_eq!(node.order(REGISTER, (0, key)).await, GOOD);
            assert_eq!(node.order(PREEMPT, (key, 0xf)).await, GOOD);
        }
        for (host, changes) in [(&host, changes_here), (&other, changes_there)] {
            for number in 0..changes {
                host.target(&format!("t{number}")).await;
            }
        }
        let generations = (host.daemon.document().generation, other.daemon.document().generation);
        assert_eq!(generations.0 > generations.1, changes_here > changes_there, "{generations:?}");
        other.stop("b").await;

        let b = host.start(&disks_b).await;
        let generation = host.daemon.document().generation;
        assert_eq!(generation, generations.0.max(generations.1), "the newest configuration");
        let said = |host: &Host, a: &Array, b: &Array| {
            let document = host.daemon.document();
            (keys(Some(&document), a), keys(Some(&document), b))
        };
        let expected = (vec!["000a".to_owned()], vec!["000b".to_owned()]);
        assert_eq!(said(&host, &a, &b), expected);
        assert_eq!((carried_keys(&a).await, carried_keys(&b).await), expected);
        // The live units too: who was fenced, there or here, stays out.
        for (array, key) in [(&a, 0xa), (&b, 0xb)] {
            assert_eq!(host.node(array, "n").keys().await.1, [key]);
            assert!(!host.unit(array).reservations().registrations.iter().any(|one| one.key == 0xf));
        }
        host.stop("a").await;
        host.stop("b").await;

        // And at the next start of the daemon.
        let again = Host::new(&workers, here.clone());
        let kept = state_file::load(&here).unwrap().unwrap();
        change::follow(&again.daemon, &plan(None, &kept)).await.unwrap();
        again.daemon.state().document = kept;
        let (a, b) = (again.connect(&disks_a).await, again.connect(&disks_b).await);
        assembly::take_along(&again.daemon, &[a.clone(), b.clone()]).await.unwrap();
        assert_eq!(said(&again, &a, &b), expected);
    });
}

#[test]
fn an_array_that_comes_back_to_a_newer_configuration_knows_its_reservations_best() {
    comes_back(9, 0);
}

#[test]
fn an_array_that_comes_back_with_a_newer_configuration_undoes_no_others_reservations() {
    comes_back(0, 9);
}

#[test]
fn a_preempt_waits_for_no_other_array() {
    on_the_background_worker(async |workers, dir| {
        let (disks_a, disks_b) = (disks("a"), disks("b"));
        let host = Host::new(&workers, dir);
        let (a, b) = (host.create("a", &disks_a).await, host.create("b", &disks_b).await);
        let iqn = host.target("t").await;
        host.map(&iqn, "a").await;
        host.map(&iqn, "b").await;
        let (node, fenced) = (host.node(&a, "n"), host.node(&a, "fenced"));
        assert_eq!(fenced.order(REGISTER, (0, 0xf)).await, GOOD);
        assert_eq!(fenced.order(RESERVE, (0xf, 0)).await, GOOD);
        assert_eq!(node.order(REGISTER, (0, 0xa)).await, GOOD);

        disks_b.iter().for_each(|disk| disk.hang(true));
        let (other, daemon) = (host.node(&b, "n"), Arc::clone(&host.daemon));
        let hangs = [
            tokio::task::spawn_local(async move { other.order(REGISTER, (0, 0xb)).await == GOOD }),
            tokio::task::spawn_local(async move {
                let request =
                    labsan_api::target::CreateTarget { iqn: "iqn.2026-11.org.labsan:u".into(), alias: None };
                targets::create(&daemon, request).await.is_ok()
            }),
        ];
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let preempted = tokio::time::timeout(PATIENCE, node.order(PREEMPT, (0xa, 0xf))).await;
        assert_eq!(preempted.expect("it waits for the other array"), GOOD);
        assert_eq!(carried_keys(&a).await, ["000a"]);
        assert!(hangs.iter().all(|task| !task.is_finished()), "nothing hung");
    });
}

#[test]
fn fencing_goes_on_without_the_hosts_copy_which_follows() {
    on_the_background_worker(async |workers, dir| {
        let state = dir.join("state");
        std::fs::create_dir(&state).unwrap();
        let host = Host::new(&workers, state.clone());
        let a = host.create("a", &disks("a")).await;
        let iqn = host.target("t").await;
        host.map(&iqn, "a").await;
        std::fs::rename(&state, dir.join("away")).unwrap();
        let (node, fenced) = (host.node(&a, "n"), host.node(&a, "fenced"));
        for (node, key) in [(&fenced, 0xf), (&node, 0xa)] {
            assert_eq!(node.order(REGISTER, (0, key)).await, GOOD);
        }
        assert_eq!(node.order(PREEMPT, (0xa, 0xf)).await, GOOD);
        assert_eq!(carried_keys(&a).await, ["000a"], "durable where it counts");
        assert!(!state.exists());
        std::fs::rename(dir.join("away"), &state).unwrap();
        until("the host's copy does not follow", || host_keys(&state, &a) == ["000a"]).await;
    });
}

/// Whoever is registered with the array as it runs now knows nothing of such an order.
#[test]
fn an_order_from_before_the_array_stopped_is_refused() {
    on_the_background_worker(async |workers, dir| {
        let disks_a = disks("a");
        let host = Host::new(&workers, dir);
        let a = host.create("a", &disks_a).await;
        let iqn = host.target("t").await;
        host.map(&iqn, "a").await;
        let late = Node::of(host.unit(&a), "late");
        host.stop("a").await;
        assert_eq!(late.order(REGISTER, (0, 0xe)).await, NOT_KEPT);
        let a = host.start(&disks_a).await;
        assert_eq!(late.order(REGISTER, (0, 0xe)).await, NOT_KEPT);
        assert!(carried_keys(&a).await.is_empty());
        assert_eq!(host.node(&a, "n").order(REGISTER, (0, 0xa)).await, GOOD);
    });
}

/// A change of the configuration takes its time, on an array whose disks are slow.
#[test]
fn a_change_of_the_configuration_undoes_no_order_that_came_meanwhile() {
    on_the_background_worker(async |workers, dir| {
        let disks_a = disks("a");
        let host = Host::new(&workers, dir.clone());
        let (a, b) = (host.create("a", &disks_a).await, host.create("b", &disks("b")).await);
        let iqn = host.target("t").await;
        host.map(&iqn, "b").await;
        disks_a.iter().for_each(|disk| disk.hang(true));
        let daemon = Arc::clone(&host.daemon);
        let change = tokio::task::spawn_local(async move {
            let request =
                labsan_api::target::CreateTarget { iqn: "iqn.2026-11.org.labsan:u".into(), alias: None };
            targets::create(&daemon, request).await.unwrap();
        });
        // It has the document that it will write, and waits for the first array.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(host.node(&b, "n").order(REGISTER, (0, 0xb)).await, GOOD);
        assert!(!change.is_finished());
        disks_a.iter().for_each(|disk| disk.hang(false));
        change.await.unwrap();
        for document in
            [Some(host.daemon.document()), carried(&b).await.unwrap(), state_file::load(&dir).unwrap()]
        {
            assert_eq!(keys(document.as_ref(), &b), ["000b"]);
            assert_eq!(document.unwrap().targets.len(), 2);
        }
        assert!(carried(&a).await.unwrap().unwrap().reservations.is_empty(), "those of another array");
    });
}

/// As many as they like, under the longest names.
#[test]
fn whatever_initiators_register_they_can_be_fenced_and_the_configuration_changed() {
    on_the_background_worker(async |workers, dir| {
        let host = Host::new(&workers, dir);
        let a = host.create("a", &disks("a")).await;
        let iqn = host.target("t").await;
        let volumes = ["v", "w", "x"];
        let mut refused = Vec::new();
        for name in volumes {
            host.volume(&a, name).await;
            host.map_volume(&iqn, "a", name).await;
            let unit = host.daemon.targets.unit_of(&a.volume(name).unwrap()).unwrap();
            for number in 0..256_u64 {
                let node = Node::of(Arc::clone(&unit), &format!("{number:0>190}"));
                match node.order(REGISTER, (0, number + 1)).await {
                    GOOD => continue,
                    answer => refused.push((name, number, answer)),
                }
                // Whoever is in can still do what takes no room.
                let first = Node::of(Arc::clone(&unit), &format!("{:0>190}", 0));
                assert_eq!(first.order(REGISTER, (1, 1000)).await, GOOD);
                assert_eq!(first.order(RESERVE, (1000, 0)).await, GOOD);
                break;
            }
        }
        let full = (2, (5, 0x55, 4));
        let told: Vec<_> = refused.iter().map(|(name, _, answer)| (*name, *answer)).collect();
        assert_eq!(told, volumes.map(|name| (name, full)));
        assert!(
            refused[0].1 > 64 && refused[1].1 == refused[0].1 && (1..refused[0].1).contains(&refused[2].1),
            "{refused:?}"
        );
        for number in 0..64 {
            host.target(&format!("new{number}")).await;
            host.map_volume(&format!("iqn.2026-11.org.labsan:new{number}"), "a", "v").await;
        }
        let unit = host.unit(&a);
        let first = Node::of(Arc::clone(&unit), &format!("{:0>190}", 0));
        assert_eq!(first.order(PREEMPT, (1000, 2)).await, GOOD);
        assert_eq!(
            Node::of(unit, &format!("{:0>190}", 300)).order(REGISTER, (0, 7)).await,
            GOOD,
            "there is room again"
        );
    });
}

#[test]
fn the_generation_goes_on_while_the_power_does() {
    on_the_background_worker(async |workers, dir| {
        let disks_a = disks("a");
        let host = Host::new(&workers, dir);
        let a = host.create("a", &disks_a).await;
        let iqn = host.target("t").await;
        host.map(&iqn, "a").await;
        for key in 1..=3 {
            assert_eq!(host.node(&a, "n").order(REGISTER, (0, key)).await, GOOD);
        }
        host.stop("a").await;
        let a = host.start(&disks_a).await;
        assert_eq!(host.node(&a, "n").keys().await, (3, vec![3]));
        assert_eq!(host.node(&a, "n").order(REGISTER, (0, 0)).await, GOOD);
        // Nobody is registered, so that nobody keeps the unit.
        targets::unmap(&host.daemon, &iqn, 0, LunPlace::default()).await.unwrap();
        host.map(&iqn, "a").await;
        assert_eq!(host.node(&a, "n").keys().await, (4, vec![]));
    });
}

#[test]
fn a_target_that_is_made_again_has_the_number_that_its_registrations_name() {
    on_the_background_worker(async |workers, dir| {
        let host = Host::new(&workers, dir);
        let a = host.create("a", &disks("a")).await;
        let port = |iqn: &str| {
            let document = host.daemon.document();
            document.target(iqn).map(|target| document.port(target))
        };
        let iqn = host.target("t").await;
        host.map(&iqn, "a").await;
        let node = host.node(&a, "n");
        for persists in [true, false] {
            let registered = if persists { REGISTER } else { REGISTER_FOR_NOW };
            assert_eq!(node.order(registered, (0, 1)).await, GOOD);
            targets::delete(&host.daemon, &iqn).await.unwrap();
            let other = host.target("other").await;
            assert_eq!(port(&other), Some(2), "the number is not free");
            host.target("t").await;
            assert_eq!(port(&iqn), Some(1));
            host.map(&iqn, "a").await;
            targets::delete(&host.daemon, &other).await.unwrap();
        }
    });
}

/// A SANITIZE whose record is on the disks, though they refused it and whatever came then.
async fn sanitize_in_doubt(node: &Node, disks: &[Disk]) {
    disks.iter().for_each(|disk| disk.fail_writes(1));
    assert_eq!(node.sanitize(BLOCK_ERASE).await, NOT_KEPT);
    disks.iter().for_each(Disk::mend);
    assert_eq!(node.read().await, SANITIZE_FAILED, "the next start may find it");
}

/// Before anybody is let in again: the next start must not begin with it, over what was written since.
#[test]
fn a_sanitize_that_may_be_on_the_disks_is_taken_back_there_before_it_is_forgotten() {
    on_the_background_worker(async |workers, dir| {
        let (here, there) = (dir.join("here"), dir.join("there"));
        std::fs::create_dir(&here).unwrap();
        std::fs::create_dir(&there).unwrap();
        let disks_a = disks("a");
        let host = Host::new(&workers, here);
        let a = host.create("a", &disks_a).await;
        let iqn = host.target("t").await;
        host.map(&iqn, "a").await;
        let node = host.node(&a, "n");
        sanitize_in_doubt(&node, &disks_a).await;
        let found = async |name: &str| {
            let directory = there.join(name);
            std::fs::create_dir(&directory).unwrap();
            let array = Host::new(&workers, directory).connect(&disks_a.each_ref().map(Disk::copy)).await;
            carried(&array).await.unwrap().unwrap().reservations
        };
        assert_eq!(found("before").await.len(), 1, "it is not there at all");
        assert_eq!(node.sanitize(EXIT_FAILURE_MODE).await, GOOD);
        assert_eq!(node.read().await, GOOD);
        assert!(found("after").await.is_empty(), "the next start would sanitize");
    });
}

#[test]
fn what_sanitize_has_closed_is_not_opened_by_mapping_it_anew() {
    on_the_background_worker(async |workers, dir| {
        let disks_a = disks("a");
        let host = Host::new(&workers, dir);
        let a = host.create("a", &disks_a).await;
        let iqn = host.target("t").await;
        host.map(&iqn, "a").await;
        sanitize_in_doubt(&host.node(&a, "n"), &disks_a).await;
        targets::unmap(&host.daemon, &iqn, 0, LunPlace::default()).await.unwrap();
        host.map(&iqn, "a").await;
        let node = host.node(&a, "n");
        assert_eq!(node.read().await, SANITIZE_FAILED);
        assert_eq!(node.sanitize(EXIT_FAILURE_MODE).await, GOOD);
        assert_eq!(node.read().await, GOOD);
    });
}
