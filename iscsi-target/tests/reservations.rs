//! Persistent reservations between two initiators, over real sockets.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block_io::MemoryDevice;
use iscsi_target::pdu::opcode;
use iscsi_target::registry::AccessPolicy;
use iscsi_target::server::Portal;
use support::{Bench, Initiator, LUN_BYTES, NODE, TARGET, gated, header, put, write_cdb};

const OTHER: &str = "iqn.2026-11.com.example:other";
const CONFLICT: u8 = 0x18;

fn other(bench: &Bench) -> Initiator {
    let mut initiator = Initiator::connect(bench.address);
    initiator.log_in(OTHER, Some(TARGET), "").unwrap();
    initiator
}

fn send_order(from: &mut Initiator, action: u8, kind: u8, keys: (u64, u64)) -> u32 {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, 24);
    let mut list = [keys.0.to_be_bytes(), keys.1.to_be_bytes()].concat();
    list.resize(24, 0);
    from.command(0xa0, 24, &cdb, &list)
}

/// PERSISTENT RESERVE OUT; its status.
fn order(from: &mut Initiator, action: u8, kind: u8, keys: (u64, u64)) -> u8 {
    let tag = send_order(from, action, kind, keys);
    let response = from.expect(opcode::SCSI_RESPONSE);
    assert_eq!(response.tag(), tag);
    response.header[3]
}

#[test]
fn all_target_ports_are_those_of_every_portal_group() {
    let portal = |group| Portal { address: "127.0.0.1:0".parse().unwrap(), group };
    let bench = Bench::with(|config| config.portals = vec![portal(3), portal(4)]);
    let [three, four] = [0, 1].map(|at| bench.server.as_ref().unwrap().portals()[at].address);
    let log_in = |address| {
        let mut initiator = Initiator::connect(address);
        initiator.log_in(NODE, Some(TARGET), "").unwrap();
        initiator
    };
    let (mut by_three, mut by_four) = (log_in(three), log_in(four));
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[8]) = (0x5f, 0, 24);
    let mut list = [0; 24];
    // ALL_TG_PT.
    (list[15], list[20]) = (9, 0x04);
    by_three.command(0xa0, 24, &cdb, &list);
    assert_eq!(by_three.expect(opcode::SCSI_RESPONSE).header[3], 0);
    assert_eq!(order(&mut by_four, 1, 5, (9, 0)), 0, "registered by the other way as well");
    // A target that is made later has the same ways to it.
    bench.registry.create_target("iqn.2026-11.org.labsan:later", None).unwrap();
    let (_, unit) = bench.registry.target(TARGET).unwrap().luns.units().remove(0);
    bench.registry.map_lun("iqn.2026-11.org.labsan:later", 0, Arc::clone(&unit)).unwrap();
    cdb[1] = 6;
    by_three.command(0xa0, 24, &cdb, &list);
    let response = by_three.expect(opcode::SCSI_RESPONSE);
    assert_eq!(response.header[3], 0, "{response:02x?}");
    let mut groups: Vec<_> =
        unit.reservations().registrations.into_iter().map(|one| one.nexus.portal_group).collect();
    groups.sort_unstable();
    assert_eq!(groups, [3, 3, 4, 4]);
}

fn ping(from: &mut Initiator, tag: u32) {
    let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, tag);
    put(&mut ping, 24, from.cmd_sn);
    from.send(ping, &[]);
    assert_eq!(from.expect(opcode::NOP_IN).tag(), tag);
}

#[test]
fn preempt_and_abort_is_answered_when_the_preempted_can_write_no_more() {
    let (bench, gate) = gated();
    let (mut victim, mut winner) = (bench.login(""), other(&bench));
    assert_eq!(order(&mut victim, 6, 0, (0, 1)), 0);
    assert_eq!(order(&mut victim, 1, 5, (1, 0)), 0);
    assert_eq!(order(&mut winner, 6, 0, (0, 2)), 0);
    victim.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    // One that still waits for its data never begins.
    victim.command(0xa0, 512, &write_cdb(8, 512), &[]);
    victim.expect(opcode::R2T);
    let tag = send_order(&mut winner, 5, 5, (2, 1));
    ping(&mut winner, 99);
    assert_eq!(gate.inner.contents()[0], 0, "not answered, for the write is not over");
    gate.open.store(true, Ordering::SeqCst);
    let response = winner.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (tag, 0));
    assert_eq!(gate.inner.contents()[0], 9, "what had begun has ended before the answer");
    // Neither of the two is answered; what comes now meets the reservation.
    let late = victim.command(0xa0, 512, &write_cdb(0, 512), &[7; 512]);
    let response = victim.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (late, CONFLICT));
    assert_eq!(winner.write(0, &[3; 512], 512, 512).header[3], 0);
    assert_eq!((gate.inner.contents()[0], gate.inner.contents()[8 * 512]), (3, 0));
    bench.eventually("all buffers are back", || bench.pool.used_bytes() == 0);
}

/// Nobody's commands are ended by these, but who takes over relies on there being none left.
#[test]
fn what_passed_the_gates_is_over_before_its_end_is_told() {
    for (reserved, action) in [(false, 1), (true, 4)] {
        let (bench, gate) = gated();
        let (mut victim, mut winner) = (bench.login(""), other(&bench));
        assert_eq!(order(&mut victim, 6, 0, (0, 1)), 0);
        assert_eq!(order(&mut winner, 6, 0, (0, 2)), 0);
        if reserved {
            assert_eq!(order(&mut victim, 1, 5, (1, 0)), 0);
        }
        let write = victim.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
        bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
        let tag = send_order(&mut winner, action, 5, (2, 1));
        ping(&mut winner, 99);
        gate.open.store(true, Ordering::SeqCst);
        let response = winner.expect(opcode::SCSI_RESPONSE);
        assert_eq!((response.tag(), response.header[3]), (tag, 0));
        assert_eq!(gate.inner.contents()[0], 9, "it was carried out before");
        let response = victim.expect(opcode::SCSI_RESPONSE);
        assert_eq!((response.tag(), response.header[3]), (write, 0), "and is answered: nobody aborted it");
    }
}

const READ_KEYS: [u8; 10] = [0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0];

fn keys(from: &mut Initiator) -> Vec<u64> {
    from.command(0xc0, 256, &READ_KEYS, &[]);
    let data = from.expect(opcode::DATA_IN).data;
    data[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().unwrap())).collect()
}

/// Who finds a node gone from the list may take over what it wrote to; so it is told only when nothing of it comes any more.
#[test]
fn a_node_is_not_gone_from_the_list_while_its_writes_are_under_way() {
    let (bench, gate) = gated();
    let (mut victim, mut winner) = (bench.login(""), other(&bench));
    let mut witness = Initiator::connect(bench.address);
    witness.log_in("iqn.2026-11.com.example:witness", Some(TARGET), "").unwrap();
    assert_eq!(order(&mut victim, 6, 0, (0, 1)), 0);
    assert_eq!(order(&mut victim, 1, 5, (1, 0)), 0);
    assert_eq!(order(&mut winner, 6, 0, (0, 2)), 0);
    victim.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    send_order(&mut winner, 5, 5, (2, 1));
    ping(&mut winner, 99);
    let asked = witness.command(0xc0, 256, &READ_KEYS, &[]);
    ping(&mut witness, 98);
    gate.open.store(true, Ordering::SeqCst);
    let told = witness.expect(opcode::DATA_IN);
    assert_eq!((told.tag(), &told.data[8..]), (asked, &2u64.to_be_bytes()[..]));
    assert_eq!(gate.inner.contents()[0], 9);
    assert_eq!(winner.expect(opcode::SCSI_RESPONSE).header[3], 0);
}

#[test]
fn who_leaves_the_list_by_itself_has_written_by_then() {
    // REGISTER with no key, and CLEAR.
    for (action, keys) in [(0, (1, 0)), (3, (1, 0))] {
        let (bench, gate) = gated();
        let mut leaving = bench.login("");
        assert_eq!(order(&mut leaving, 6, 0, (0, 1)), 0);
        leaving.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
        bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
        send_order(&mut leaving, action, 0, keys);
        (97..=99).for_each(|tag| ping(&mut leaving, tag));
        gate.open.store(true, Ordering::SeqCst);
        assert_eq!(leaving.expect(opcode::SCSI_RESPONSE).header[3], 0);
        assert_eq!(leaving.expect(opcode::SCSI_RESPONSE).header[3], 0);
        assert_eq!(gate.inner.contents()[0], 9, "action {action}");
    }
}

/// Its order was there before it was preempted, and would have made it a registrant again after.
#[test]
fn an_order_of_the_preempted_that_waits_for_its_turn_never_has_it() {
    let (bench, gate) = gated();
    let (mut victim, mut winner) = (bench.login(""), other(&bench));
    assert_eq!(order(&mut victim, 6, 0, (0, 1)), 0);
    assert_eq!(order(&mut victim, 1, 5, (1, 0)), 0);
    assert_eq!(order(&mut winner, 6, 0, (0, 2)), 0);
    // A write of the winner's makes its first order wait, and all others behind it.
    winner.command(0xa0, 512, &write_cdb(8, 512), &[9; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    let mut second = Initiator::connect(bench.address);
    second.log_in("iqn.2026-11.com.example:second", Some(TARGET), "").unwrap();
    assert_eq!(order(&mut second, 6, 0, (0, 3)), 0);
    let first = send_order(&mut second, 4, 5, (3, 2));
    ping(&mut second, 99);
    let fencing = send_order(&mut second, 5, 5, (3, 1));
    ping(&mut second, 98);
    send_order(&mut victim, 6, 0, (0, 1));
    ping(&mut victim, 97);
    gate.open.store(true, Ordering::SeqCst);
    for tag in [first, fencing] {
        let response = second.expect(opcode::SCSI_RESPONSE);
        assert_eq!((response.tag(), response.header[3]), (tag, 0));
    }
    assert_eq!(keys(&mut second), [3]);
}

/// Each order is queued before the other has been answered; whoever comes second is no registrant any more.
#[test]
fn two_that_preempt_each_other_both_come_to_an_end() {
    let bench = Bench::new();
    let (mut one, mut two) = (bench.login(""), other(&bench));
    for _ in 0..50 {
        let mut tags = Vec::new();
        for _ in 0..4 {
            for (from, own, other) in [(&mut one, 1, 2), (&mut two, 2, 1)] {
                tags.push(send_order(from, 6, 0, (0, own)));
                tags.push(send_order(from, 5, 5, (own, other)));
            }
        }
        // Aborted orders have no answer, so pings tell that the sessions live.
        for (from, tag) in [(&mut one, 1 << 20), (&mut two, 1 << 21)] {
            let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, tag);
            put(&mut ping, 24, from.cmd_sn);
            from.send(ping, &[]);
            while from.receive().expect("the session ended").opcode() != opcode::NOP_IN {}
        }
    }
    drop((one, two));
    bench.eventually("both sessions end: no task waits for good", || bench.registry.sessions().is_empty());
}

#[test]
fn the_same_initiator_port_has_its_registration_again() {
    let bench = Bench::new();
    let mut first = bench.login("");
    assert_eq!(order(&mut first, 6, 0, (0, 1)), 0);
    assert_eq!(order(&mut first, 1, 3, (1, 0)), 0);
    drop(first);
    bench.eventually("it is gone", || bench.registry.sessions().is_empty());
    let mut stranger = other(&bench);
    assert_eq!(stranger.write(0, &[1; 512], 512, 512).header[3], CONFLICT);
    let mut again = bench.login("");
    assert_eq!(again.write(0, &[2; 512], 512, 512).header[3], 0);
    let mut elsewhere = Initiator::connect(bench.address);
    elsewhere.isid = [0x80, 0, 0, 0, 0, 2];
    elsewhere.log_in(NODE, Some(TARGET), "").unwrap();
    assert_eq!(elsewhere.write(0, &[3; 512], 512, 512).header[3], CONFLICT, "another ISID is another port");
    assert_eq!(bench.device.contents()[0], 2);
}

const ELSEWHERE: &str = "iqn.2026-11.org.labsan:elsewhere";

/// The same unit in a second target, and an initiator that is logged in there.
fn by_another_target(bench: &Bench) -> Initiator {
    bench.registry.create_target(ELSEWHERE, None).unwrap();
    let everyone = AccessPolicy::of_names(&["*"], true);
    bench.registry.set_access(ELSEWHERE, everyone).unwrap();
    let unit = bench.registry.target(TARGET).unwrap().luns.units()[0].1.clone();
    bench.registry.map_lun(ELSEWHERE, 0, unit).unwrap();
    let mut initiator = Initiator::connect(bench.address);
    initiator.log_in(OTHER, Some(ELSEWHERE), "").unwrap();
    initiator
}

#[test]
fn a_write_by_a_lun_that_is_gone_is_waited_for_too() {
    let (bench, gate) = gated();
    let mut victim = bench.login("");
    assert_eq!(order(&mut victim, 6, 0, (0, 1)), 0);
    let mut winner = by_another_target(&bench);
    assert_eq!(order(&mut winner, 6, 0, (0, 2)), 0);
    victim.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
    bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
    bench.registry.unmap_lun(TARGET, 0).unwrap();
    let tag = send_order(&mut winner, 5, 5, (2, 1));
    ping(&mut winner, 99);
    assert_eq!(gate.inner.contents()[0], 0, "not answered, for the write is not over");
    gate.open.store(true, Ordering::SeqCst);
    let response = winner.expect(opcode::SCSI_RESPONSE);
    assert_eq!((response.tag(), response.header[3]), (tag, 0));
    assert_eq!(gate.inner.contents()[0], 9, "what had begun has ended before the answer");
}

/// A node that is cut off half-way holds memory. Neither the order to end it nor its end waits for any.
#[test]
fn preempt_and_abort_does_not_wait_for_memory() {
    for reads in [false, true] {
        let inner = MemoryDevice::new("memory", LUN_BYTES);
        let bench = Bench::over(Arc::new(inner.clone()), inner, 1 << 20);
        let (mut victim, mut winner) = (bench.login(""), other(&bench));
        assert_eq!(order(&mut victim, 6, 0, (0, 1)), 0);
        assert_eq!(order(&mut winner, 6, 0, (0, 2)), 0);
        let mut silent = Initiator::connect(bench.address);
        silent.log_in("iqn.2026-11.com.example:silent", Some(TARGET), "").unwrap();
        silent.command(0xa0, 768 << 10, &write_cdb(0, 768 << 10), &[]);
        silent.expect(opcode::R2T);
        let mut cdb = write_cdb(0, 512 << 10);
        if reads {
            cdb[0] = 0x28;
            victim.command(0xc0, 512 << 10, &cdb, &[]);
        } else {
            victim.command(0xa0, 512 << 10, &cdb, &[]);
        }
        bench.eventually("the victim waits for memory, and all others behind it", || {
            bench.pool.try_take(1).is_none()
        });
        assert_eq!(order(&mut winner, 5, 5, (2, 1)), 0);
    }
}
