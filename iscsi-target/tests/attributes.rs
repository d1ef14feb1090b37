//! Task attributes over the wire (SAM-5 clause 8.8): who waits for whom.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering;

use iscsi_target::pdu::opcode;
use support::{Initiator, gated, write_cdb};

const SIMPLE: u8 = 1;
const ORDERED: u8 = 2;
const HEAD_OF_QUEUE: u8 = 3;

/// A write of one block, with its data; its tag.
fn write(initiator: &mut Initiator, attribute: u8, block: u32) -> u32 {
    initiator.command(0xa0 | attribute, 512, &write_cdb(block, 512), &[attribute; 512])
}

#[test]
fn an_ordered_write_splits_the_simple_ones_and_head_of_queue_goes_at_once() {
    let (bench, gate) = gated();
    let mut initiator = bench.login("");
    let come =
        |count| bench.eventually("so many are at the device", || gate.come.load(Ordering::SeqCst) == count);
    let let_go = |number| assert!(gate.let_go.lock().unwrap().insert(number));
    let over = |initiator: &mut Initiator, tag| {
        let response = initiator.expect(opcode::SCSI_RESPONSE);
        assert_eq!((response.tag(), response.header[3]), (tag, 0));
    };
    let first = write(&mut initiator, SIMPLE, 0);
    let second = write(&mut initiator, SIMPLE, 1);
    come(2);
    let ordered = write(&mut initiator, ORDERED, 2);
    let last = write(&mut initiator, SIMPLE, 3);
    let urgent = write(&mut initiator, HEAD_OF_QUEUE, 4);
    // The third at the device is the one that was sent last, and no other comes with it.
    come(3);
    let nobody_else = |initiator: &mut Initiator, count| {
        // What has begun before the first of these is at the device before the second.
        assert!(initiator.ping().is_empty() && initiator.ping().is_empty());
        assert_eq!(gate.come.load(Ordering::SeqCst), count);
    };
    nobody_else(&mut initiator, 3);
    let_go(2);
    over(&mut initiator, urgent);
    assert_eq!(gate.inner.contents()[4 * 512], HEAD_OF_QUEUE);
    // One of those before the ordered one is not all of them.
    let_go(1);
    over(&mut initiator, second);
    nobody_else(&mut initiator, 3);
    let_go(0);
    over(&mut initiator, first);
    come(4);
    nobody_else(&mut initiator, 4);
    let_go(3);
    over(&mut initiator, ordered);
    assert_eq!((gate.inner.contents()[2 * 512], gate.inner.contents()[3 * 512]), (ORDERED, 0));
    come(5);
    let_go(4);
    over(&mut initiator, last);
    assert_eq!(gate.inner.contents()[3 * 512], SIMPLE);
}
