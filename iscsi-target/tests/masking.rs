//! Initiators that see different LUNs of one target: resets and aborts reach what their sender sees, under every number.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block_io::{Buffer, Durability, MemoryDevice};
use iscsi_target::pdu::opcode;
use iscsi_target::scsi::{LogicalUnit, LuIdentity, LuOptions};
use support::{Bench, Initiator, TARGET, gated, header, put, write_cdb};

const MASKED: &str = "iqn.2026-11.com.example:masked";
const CLEAR_TASK_SET: u8 = 4;
const UNIT_RESET: u8 = 5;
const WARM_RESET: u8 = 6;
const COLD_RESET: u8 = 7;

/// An initiator with a name of its own.
fn masked(bench: &Bench) -> Initiator {
    let mut initiator = Initiator::connect(bench.address);
    initiator.isid[5] = 7;
    initiator.log_in(MASKED, Some(TARGET), "").unwrap();
    initiator
}

fn another_unit() -> Arc<LogicalUnit> {
    unit_of(8)
}

fn unit_of(uuid: u128) -> Arc<LogicalUnit> {
    let identity =
        LuIdentity { uuid: uuid::Uuid::from_u128(uuid), serial: "8".into(), product: "TEST".into() };
    LogicalUnit::new(Arc::new(MemoryDevice::new("another", 1 << 20)), identity, LuOptions::default())
}

fn put_first_byte(unit: &LogicalUnit, value: u8) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(unit.device().write(0, vec![value; 512].into(), Durability::Durable)).unwrap();
}

fn first_byte(unit: &LogicalUnit) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (buffer, result) = runtime.block_on(unit.device().read(0, Buffer::zeroed(512)));
    result.unwrap();
    buffer[0]
}

#[test]
fn a_reset_does_not_reach_what_its_sender_does_not_see() {
    for function in [CLEAR_TASK_SET, UNIT_RESET, WARM_RESET, COLD_RESET] {
        let (bench, gate) = gated();
        bench.registry.map_lun_for(TARGET, Some(MASKED), 0, another_unit()).unwrap();
        let mut node = bench.login("");
        let mut masked = masked(&bench);
        let write = node.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
        bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
        // The same number is another unit here.
        let tag = masked.task_management(function, 0, 0);
        let answer = masked.expect(opcode::TASK_MANAGEMENT_RESPONSE);
        assert_eq!(
            (answer.tag(), answer.header[2]),
            (tag, 0),
            "function {function}: nothing to be waited for"
        );
        gate.open.store(true, Ordering::SeqCst);
        let ended = node.expect(opcode::SCSI_RESPONSE);
        assert_eq!((ended.tag(), ended.header[3]), (write, 0), "function {function} ended another's write");
        node.command(0x80, 0, &[0; 6], &[]);
        assert_eq!(
            node.expect(opcode::SCSI_RESPONSE).header[3],
            0,
            "function {function}: nor is it told of any"
        );
    }
}

#[test]
fn a_reset_reaches_the_unit_under_the_numbers_that_others_see() {
    for function in [UNIT_RESET, WARM_RESET] {
        let (bench, gate) = gated();
        let (_, unit) = bench.registry.target(TARGET).unwrap().luns.units().remove(0);
        bench.registry.map_lun_for(TARGET, Some(MASKED), 9, unit).unwrap();
        let mut node = bench.login("");
        let mut masked = masked(&bench);
        node.command(0xa0, 512, &write_cdb(0, 512), &[9; 512]);
        bench.eventually("the write runs", || gate.waiting.load(Ordering::SeqCst));
        let tag = masked.task_management(function, 9 << 48, 0);
        let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, 99);
        put(&mut ping, 24, masked.cmd_sn);
        masked.send(ping, &[]);
        assert_eq!(masked.expect(opcode::NOP_IN).tag(), 99, "function {function} has to wait for the write");
        gate.open.store(true, Ordering::SeqCst);
        let answer = masked.expect(opcode::TASK_MANAGEMENT_RESPONSE);
        assert_eq!((answer.tag(), answer.header[2]), (tag, 0));
        let next = node.command(0x80, 0, &[0; 6], &[]);
        let mut told = node.expect(opcode::SCSI_RESPONSE);
        if told.tag() != next {
            // A write that was just ending when the reset came has a response.
            told = node.expect(opcode::SCSI_RESPONSE);
        }
        assert_eq!((told.tag(), told.sense()), (next, (6, 0x29, 3)), "function {function}");
        assert_eq!(gate.inner.contents()[0], 9);
        // Where it has no unit, there is nothing to reset.
        let tag = masked.task_management(UNIT_RESET, 0, 0);
        let answer = masked.expect(opcode::TASK_MANAGEMENT_RESPONSE);
        assert_eq!((answer.tag(), answer.header[2]), (tag, 2));
    }
}

/// An initiator that has asked to write, and not sent all, must not write to another disk that has got the number.
#[test]
fn data_on_its_way_does_not_go_to_another_unit_under_the_same_number() {
    let bench = Bench::new();
    let mut node = bench.login("");
    let wanting = |node: &mut Initiator| {
        let tag = node.command(0xa0, 1024, &write_cdb(0, 1024), &[9; 512]);
        (tag, node.expect(opcode::R2T).u32(20))
    };
    let (tag, transfer_tag) = wanting(&mut node);
    bench.registry.unmap_lun(TARGET, 0).unwrap();
    let another = another_unit();
    bench.registry.map_lun(TARGET, 0, Arc::clone(&another)).unwrap();
    assert_eq!([told(&mut node).1, told(&mut node).1], [LUNS_CHANGED, LUNS_CHANGED], "by message");
    assert_eq!([node.ready(), node.ready()], [Some(LUNS_CHANGED), None], "who scans meets it first");
    node.data_out(tag, transfer_tag, 0, 512, true, &[9; 512]);
    let ended = node.expect(opcode::SCSI_RESPONSE);
    assert_eq!((ended.tag(), ended.sense()), (tag, LUNS_CHANGED));
    assert_eq!(first_byte(&another), 0, "the new unit has none of it");
    assert_eq!(bench.device.contents()[0], 0, "nor has the old one");
    // Nor does what needs no data: WRITE SAME with NDOB, which came before its turn.
    let mut zero = [0; 16];
    (zero[0], zero[1], zero[13]) = (0x93, 1, 8);
    node.cmd_sn += 1;
    let waiting = node.command(0x80, 0, &zero, &[]);
    assert!(node.ping().is_empty());
    bench.registry.unmap_lun(TARGET, 0).unwrap();
    let third = unit_of(9);
    put_first_byte(&third, 6);
    bench.registry.map_lun(TARGET, 0, Arc::clone(&third)).unwrap();
    assert_eq!([told(&mut node).1, told(&mut node).1], [LUNS_CHANGED, LUNS_CHANGED], "by message");
    node.cmd_sn -= 2;
    assert_eq!(node.ready(), Some(LUNS_CHANGED), "the one that it waited for");
    let ended = node.expect(opcode::SCSI_RESPONSE);
    assert_eq!((ended.tag(), ended.sense()), (waiting, LUNS_CHANGED));
    node.cmd_sn += 1;
    assert_eq!(first_byte(&third), 6);
    let another = third;
    // Nor is the new unit read, or flushed, for the old one.
    for cdb in [&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        node.cmd_sn += 1;
        let (flags, expected) = if cdb[0] == 0x28 { (0xc0, 512) } else { (0x80, 0) };
        let waiting = node.command(flags, expected, cdb, &[]);
        assert!(node.ping().is_empty());
        bench.registry.unmap_lun(TARGET, 0).unwrap();
        bench.registry.map_lun(TARGET, 0, unit_of(u128::from(cdb[0]))).unwrap();
        assert_eq!([told(&mut node).1, told(&mut node).1], [LUNS_CHANGED, LUNS_CHANGED], "by message");
        node.cmd_sn -= 2;
        assert_eq!(node.ready(), Some(LUNS_CHANGED), "the one that it waited for");
        let ended = node.expect(opcode::SCSI_RESPONSE);
        assert_eq!((ended.tag(), ended.sense()), (waiting, LUNS_CHANGED));
        node.cmd_sn += 1;
    }
    bench.registry.unmap_lun(TARGET, 0).unwrap();
    bench.registry.map_lun(TARGET, 0, Arc::clone(&another)).unwrap();
    assert_eq!([told(&mut node).1, told(&mut node).1], [LUNS_CHANGED, LUNS_CHANGED]);
    while node.ready().is_some() {}
    // The same unit with other rights is the same unit.
    let (tag, transfer_tag) = wanting(&mut node);
    bench.registry.unmap_lun(TARGET, 0).unwrap();
    bench.registry.map_lun(TARGET, 0, another.view(LuOptions::default())).unwrap();
    assert_eq!([told(&mut node).1, told(&mut node).1], [LUNS_CHANGED, LUNS_CHANGED]);
    assert_eq!(node.ready(), Some(LUNS_CHANGED));
    node.data_out(tag, transfer_tag, 0, 512, true, &[9; 512]);
    let ended = node.expect(opcode::SCSI_RESPONSE);
    assert_eq!((ended.tag(), ended.header[3]), (tag, 0));
    assert_eq!(first_byte(&another), 9);
}

const LUNS_CHANGED: (u8, u8, u8) = (6, 0x3f, 0x0e);
const CAPACITY_CHANGED: (u8, u8, u8) = (6, 0x2a, 0x09);

/// The next PDU is a message about LUNs: which one it names, and what of it.
fn told(initiator: &mut Initiator) -> (u16, (u8, u8, u8)) {
    let message = initiator.expect(opcode::ASYNC_MESSAGE);
    assert_eq!(message.header[36], 0, "a SCSI event");
    (u16::from_be_bytes([message.header[8], message.header[9]]), message.sense())
}

#[test]
fn messages_of_luns_go_only_to_those_who_see_them() {
    let bench = Bench::new();
    let (mut node, mut masked) = (bench.login(""), masked(&bench));
    let (_, common) = bench.registry.target(TARGET).unwrap().luns.units().remove(0);
    let own = another_unit();
    // A LUN of its own takes the others from it: one change, and to it alone.
    bench.registry.map_lun_for(TARGET, Some(MASKED), 9, Arc::clone(&own)).unwrap();
    assert_eq!(told(&mut masked), (0, LUNS_CHANGED));
    assert_eq!(node.ready(), None);
    bench.registry.capacity_changed(&common);
    assert_eq!(told(&mut node), (0, CAPACITY_CHANGED), "and nothing before");
    assert_eq!([node.ready(), node.ready()], [Some(CAPACITY_CHANGED), None]);
    bench.registry.map_lun(TARGET, 3, Arc::clone(&own)).unwrap();
    assert_eq!(told(&mut node), (0, LUNS_CHANGED));
    assert_eq!([node.ready(), node.ready()], [Some(LUNS_CHANGED), None]);
    bench.registry.capacity_changed(&own);
    assert_eq!(told(&mut masked), (9, CAPACITY_CHANGED), "nothing of LUN 3, and under its own number");
    assert_eq!(told(&mut node), (3, CAPACITY_CHANGED));
    bench.registry.unmap_lun_for(TARGET, Some(MASKED), 9).unwrap();
    assert_eq!(told(&mut masked), (0, LUNS_CHANGED), "it has none left that could tell it");
    bench.registry.unmask_luns(TARGET, MASKED).unwrap();
    assert_eq!(told(&mut masked), (0, LUNS_CHANGED));
    assert_eq!([masked.ready(), masked.ready()], [Some(LUNS_CHANGED), None]);
    bench.registry.unmap_lun(TARGET, 3).unwrap();
    assert_eq!((told(&mut masked), told(&mut node)), ((0, LUNS_CHANGED), (0, LUNS_CHANGED)));
    assert_eq!(bench.registry.sessions().len(), 2);
}

#[test]
fn who_sees_the_same_luns_as_before_is_told_of_nothing() {
    let bench = Bench::new();
    let mut masked = masked(&bench);
    let (_, common) = bench.registry.target(TARGET).unwrap().luns.units().remove(0);
    bench.registry.mask_luns(TARGET, MASKED).unwrap();
    assert_eq!(told(&mut masked), (0, LUNS_CHANGED));
    bench.registry.mask_luns(TARGET, MASKED).unwrap();
    bench.registry.map_lun_for(TARGET, Some(MASKED), 0, Arc::clone(&common)).unwrap();
    assert_eq!(told(&mut masked), (0, LUNS_CHANGED));
    assert_eq!([masked.ready(), masked.ready()], [Some(LUNS_CHANGED), None]);
    bench.registry.unmask_luns(TARGET, MASKED).unwrap();
    assert_eq!(masked.ready(), None);
    bench.registry.capacity_changed(&common);
    assert_eq!(told(&mut masked), (0, CAPACITY_CHANGED), "nothing came of the masks in between");
    assert_eq!([masked.ready(), masked.ready()], [Some(CAPACITY_CHANGED), None]);
}
