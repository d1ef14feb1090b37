//! A small iSCSI initiator, for what libiscsi's tools cannot say: PERSISTENT RESERVE OUT with any key, by a node that is cut
//! off and comes back as itself. It knows nothing of labsan's own code.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const HEADER_BYTES: usize = 48;
/// GOOD.
pub const GOOD: u8 = 0x00;
/// RESERVATION CONFLICT.
pub const CONFLICT: u8 = 0x18;
const CHECK_CONDITION: u8 = 0x02;

/// A node: a name and an ISID of its own.
#[derive(Debug)]
pub struct Initiator {
    stream: TcpStream,
    cmd_sn: u32,
    lun: u16,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// SCSI status.
    pub status: u8,
    /// Sense key, code and qualifier.
    pub sense: (u8, u8, u8),
    /// What it read.
    pub data: Vec<u8>,
}

/// Service actions of PERSISTENT RESERVE OUT.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Order {
    Register = 0,
    Reserve = 1,
    Release = 2,
    Clear = 3,
    Preempt = 4,
    PreemptAndAbort = 5,
    RegisterAndIgnore = 6,
}

impl Initiator {
    /// Logs in as `iqn.2026-11.com.example:NAME`; the same name is the same initiator port.
    ///
    /// # Errors
    /// When the target does not let it in.
    pub fn log_in(portal: &str, target: &str, lun: u16, name: &str) -> Result<Self> {
        let stream = TcpStream::connect(portal)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut initiator = Self { stream, cmd_sn: 1, lun };
        let text = format!("InitiatorName=iqn.2026-11.com.example:{name}\0TargetName={target}\0");
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&[0x43, 0x87]);
        header[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, 1]);
        header[24..28].copy_from_slice(&initiator.cmd_sn.to_be_bytes());
        initiator.send(header, text.as_bytes())?;
        let (answer, _) = initiator.receive()?;
        ensure!(answer[0] == 0x23 && answer[36..38] == [0, 0], "the login was refused: {answer:02x?}");
        Ok(initiator)
    }

    fn send(&mut self, mut header: [u8; HEADER_BYTES], data: &[u8]) -> Result<()> {
        header[5..8].copy_from_slice(&u32::try_from(data.len())?.to_be_bytes()[1..]);
        let mut bytes = [&header[..], data].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Ok(self.stream.write_all(&bytes)?)
    }

    fn receive(&mut self) -> Result<([u8; HEADER_BYTES], Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).context("the target closed the connection")?;
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; length.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        data.truncate(length);
        Ok((header, data))
    }

    /// Sends a command with its data and waits for its end. Data goes along at once: 8 KiB at most.
    pub fn command(&mut self, cdb: &[u8], data_out: &[u8], data_in: u32) -> Result<Ended> {
        let mut header = [0; HEADER_BYTES];
        let direction = if data_out.is_empty() { 0x40 } else { 0x20 };
        header[..2].copy_from_slice(&[0x01, 0x80 | direction]);
        header[8..10].copy_from_slice(&self.lun.to_be_bytes());
        header[16..20].copy_from_slice(&self.cmd_sn.to_be_bytes());
        let expected = if data_out.is_empty() { data_in } else { u32::try_from(data_out.len())? };
        header[20..24].copy_from_slice(&expected.to_be_bytes());
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.cmd_sn += 1;
        self.send(header, data_out)?;
        let mut data = Vec::new();
        loop {
            let (header, segment) = self.receive()?;
            match header[0] & 0x3f {
                0x25 => {
                    data.extend_from_slice(&segment);
                    if header[1] & 1 != 0 {
                        return Ok(Ended { status: header[3], sense: (0, 0, 0), data });
                    }
                }
                0x21 => {
                    let byte = |at: usize| segment.get(at + 2).copied().unwrap_or(0);
                    let sense = (byte(2) & 15, byte(12), byte(13));
                    return Ok(Ended { status: header[3], sense, data });
                }
                // Pings and requests of the target: whoever does not answer is only dropped later.
                0x20 | 0x32 => {}
                other => bail!("a PDU that was not asked for: {other:02x}"),
            }
        }
    }

    /// The same, once all that waits to be told has been told.
    fn past_attentions(&mut self, cdb: &[u8], data_out: &[u8], data_in: u32) -> Result<Ended> {
        loop {
            let ended = self.command(cdb, data_out, data_in)?;
            if ended.status != CHECK_CONDITION || ended.sense.0 != 6 {
                return Ok(ended);
            }
        }
    }

    /// Unit attentions (code and qualifier) until there are no more.
    pub fn attentions(&mut self) -> Result<Vec<(u8, u8)>> {
        let mut told = Vec::new();
        loop {
            let ended = self.command(&[0x00, 0, 0, 0, 0, 0], &[], 0)?;
            if ended.status == GOOD {
                return Ok(told);
            }
            ensure!(ended.sense.0 == 6, "TEST UNIT READY: {ended:?}");
            told.push((ended.sense.1, ended.sense.2));
        }
    }

    /// PERSISTENT RESERVE OUT.
    pub fn order(&mut self, order: Order, kind: u8, keys: (u64, u64), persists: bool) -> Result<Ended> {
        let mut list = [keys.0.to_be_bytes(), keys.1.to_be_bytes()].concat();
        list.extend_from_slice(&[0, 0, 0, 0, u8::from(persists), 0, 0, 0]);
        let cdb = [0x5f, order as u8, kind, 0, 0, 0, 0, 0, 24, 0];
        self.past_attentions(&cdb, &list, 0)
    }

    /// PERSISTENT RESERVE OUT that must end well.
    pub fn done(&mut self, order: Order, kind: u8, keys: (u64, u64), persists: bool) -> Result<()> {
        let ended = self.order(order, kind, keys, persists)?;
        ensure!(ended.status == GOOD, "{order:?}: {ended:?}");
        Ok(())
    }

    /// READ KEYS.
    pub fn keys(&mut self) -> Result<Vec<u64>> {
        let body = self.read_in(0)?;
        Ok(body
            .chunks_exact(8)
            .map(|key| key.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)))
            .collect())
    }

    /// READ RESERVATION: key and type.
    pub fn reservation(&mut self) -> Result<Option<(u64, u8)>> {
        let body = self.read_in(1)?;
        let key = || body[..8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        Ok((!body.is_empty()).then(|| (key(), body[13])))
    }

    fn read_in(&mut self, action: u8) -> Result<Vec<u8>> {
        let cdb = [0x5e, action, 0, 0, 0, 0, 0, 16, 0, 0];
        let ended = self.past_attentions(&cdb, &[], 4096)?;
        ensure!(ended.status == GOOD && ended.data.len() >= 8, "PERSISTENT RESERVE IN: {ended:?}");
        Ok(ended.data[8..].to_vec())
    }

    /// WRITE(10) of one block; its status.
    pub fn write(&mut self, block: u8, value: u8) -> Result<u8> {
        let cdb = [0x2a, 0, 0, 0, 0, block, 0, 0, 1, 0];
        Ok(self.past_attentions(&cdb, &[value; 512], 0)?.status)
    }

    /// READ(10) of one block; its status and first byte.
    pub fn read(&mut self, block: u8) -> Result<(u8, Option<u8>)> {
        let cdb = [0x28, 0, 0, 0, 0, block, 0, 0, 1, 0];
        let ended = self.past_attentions(&cdb, &[], 512)?;
        Ok((ended.status, ended.data.first().copied()))
    }
}
