//! Who asks for more memory than there is.

use anyhow::{Result, ensure};
use iscsi_target::limits;
use iscsi_target::pdu::opcode;
use system_tests::MIB;

use crate::breach::{command, data_out};
use crate::initiator::{Initiator, write_cdb};
use crate::logged_in;
use crate::stage::{MEMORY_BYTES, Stage};

/// A write; a few of them fill the memory to the last byte, if nobody keeps them from it.
const WRITE_BYTES: u32 = 4 << 20;
const BURST_BYTES: u32 = 1 << 20;
const TASK_SET_FULL: u8 = 0x28;

/// As many writes as a session may have, all of whose data is sent but for the last burst. Those that there is no memory for
/// are turned away; the others hold theirs, and somebody else goes on beside them.
pub fn more_data_than_there_is_memory(stage: &Stage) -> Result<()> {
    let mut hog = logged_in(stage.address(), "InitialR2T=Yes\0ImmediateData=No\0MaxBurstLength=1048576\0")?;
    for _ in 0..limits::QUEUE_DEPTH {
        command(&mut hog, 0xa0, WRITE_BYTES, &write_cdb(0, WRITE_BYTES as usize), &[]);
    }
    let (mut held, mut turned_away) = (0, 0);
    while held + turned_away < limits::QUEUE_DEPTH {
        let Some(pdu) = hog.receive() else { break };
        match pdu.opcode() {
            opcode::R2T if pdu.u32(40) + BURST_BYTES == WRITE_BYTES => held += 1,
            opcode::R2T => burst(&mut hog, pdu.tag(), pdu.u32(20), pdu.u32(40)),
            opcode::SCSI_RESPONSE => {
                ensure!(pdu.header[3] == TASK_SET_FULL, "{pdu:02x?}");
                turned_away += 1;
            }
            _ => {}
        }
    }
    // Half of the memory, and then its share.
    let fit = u32::try_from(MEMORY_BYTES / u64::from(WRITE_BYTES))? * 5 / 8;
    ensure!(
        held + turned_away == limits::QUEUE_DEPTH && (1..=fit).contains(&held),
        "{held} are held, {turned_away} turned away, in {} MiB",
        MEMORY_BYTES / MIB
    );
    stage.everybody_else_goes_on("beside a hog")?;
    drop(hog);
    stage.everybody_else_goes_on("after a hog")
}

/// What an R2T asks for.
fn burst(hog: &mut Initiator, tag: u32, ttt: u32, offset: u32) {
    let piece = vec![0x5a; limits::MAX_RECV_DATA_SEGMENT as usize];
    let pieces = BURST_BYTES / limits::MAX_RECV_DATA_SEGMENT;
    for number in 0..pieces {
        let at = offset + number * limits::MAX_RECV_DATA_SEGMENT;
        data_out(hog, tag, ttt, (number, at), number + 1 == pieces, &piece);
    }
}
