//! A small initiator, blocking and blunt: it does what it is told, right or wrong.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crc_fast::{CrcAlgorithm, checksum};
use iscsi_target::chap::{Algorithm, Secret, decode_binary, encode_binary};
use iscsi_target::pdu::{BHS_BYTES, opcode, padding};

pub const TARGET: &str = "iqn.2026-11.org.labsan:test";
pub const NODE: &str = "iqn.2026-11.com.example:node";
/// What a nexus is told of the start.
pub const BEGUN: (u8, u8, u8) = (6, 0x29, 0);

/// A PDU as it came.
#[derive(Clone, Debug)]
pub struct Pdu {
    pub header: [u8; BHS_BYTES],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.header[at..at + 4].try_into().unwrap())
    }

    pub fn tag(&self) -> u32 {
        self.u32(16)
    }

    pub fn text(&self) -> HashMap<String, String> {
        let text = String::from_utf8(self.data.clone()).unwrap();
        text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    /// Key, ASC and ASCQ of a SCSI response's sense.
    pub fn sense(&self) -> (u8, u8, u8) {
        (self.data[4] & 15, self.data[14], self.data[15])
    }
}

/// How what may be wrong is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    AtOnce,
    /// Each byte a segment of its own.
    ByteByByte,
}

pub struct Initiator {
    pub pace: Pace,
    pub stream: TcpStream,
    pub cmd_sn: u32,
    pub tag: u32,
    pub isid: [u8; 6],
    pub tsih: u16,
    pub cid: u16,
    pub digests: (bool, bool),
    pub stat_sn: Option<u32>,
}

/// A header with the fields most PDUs have.
pub fn header(opcode: u8, flags: u8, tag: u32) -> [u8; BHS_BYTES] {
    let mut header = [0; BHS_BYTES];
    header[0] = opcode;
    header[1] = flags;
    header[16..20].copy_from_slice(&tag.to_be_bytes());
    header
}

pub fn put(header: &mut [u8; BHS_BYTES], at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    (checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

impl Initiator {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        // A server that does not answer fails the test instead of hanging it.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            pace: Pace::AtOnce,
            stream,
            cmd_sn: 1,
            tag: 0,
            isid: [0x80, 0, 0, 0, 0, 9],
            tsih: 0,
            cid: 0,
            digests: (false, false),
            stat_sn: None,
        }
    }

    pub fn send(&mut self, mut header: [u8; BHS_BYTES], data: &[u8]) {
        header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut bytes = header.to_vec();
        if self.digests.0 {
            bytes.extend_from_slice(&crc(&header));
        }
        let mut segment = data.to_vec();
        segment.resize(data.len() + padding(data.len()), 0);
        bytes.extend_from_slice(&segment);
        if self.digests.1 && !data.is_empty() {
            bytes.extend_from_slice(&crc(&segment));
        }
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next PDU; `None` once the target has closed the connection.
    pub fn receive(&mut self) -> Option<Pdu> {
        let mut header = [0; BHS_BYTES];
        self.stream.read_exact(&mut header).ok()?;
        let mut digest = [0; 4];
        if self.digests.0 {
            self.stream.read_exact(&mut digest).unwrap();
            assert_eq!(digest, crc(&header), "header digest");
        }
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; length + padding(length)];
        self.stream.read_exact(&mut data).unwrap();
        if self.digests.1 && length > 0 {
            self.stream.read_exact(&mut digest).unwrap();
            assert_eq!(digest, crc(&data), "data digest");
        }
        data.truncate(length);
        Some(Pdu { header, data })
    }

    pub fn expect(&mut self, opcode: u8) -> Pdu {
        let pdu = self.receive().expect("the target closed the connection");
        assert_eq!(pdu.opcode(), opcode, "{pdu:02x?}");
        pdu
    }

    fn login_request(&mut self, flags: u8, text: &str) -> Result<Pdu, u16> {
        let answer = self.login_answer(flags, text);
        match u16::from_be_bytes([answer.header[36], answer.header[37]]) {
            0 => Ok(answer),
            status => Err(status),
        }
    }

    /// What answers a login request, whatever its status.
    pub fn login_answer(&mut self, flags: u8, text: &str) -> Pdu {
        let mut header = header(0x40 | opcode::LOGIN, flags, 1);
        header[8..14].copy_from_slice(&self.isid);
        header[14..16].copy_from_slice(&self.tsih.to_be_bytes());
        header[20..22].copy_from_slice(&self.cid.to_be_bytes());
        put(&mut header, 24, self.cmd_sn);
        self.send(header, text.as_bytes());
        self.expect(opcode::LOGIN_RESPONSE)
    }

    /// Straight to full feature phase. Of a session, LUN 0's unit attention that tells of the start is met, if it is the first.
    pub fn log_in(&mut self, node: &str, target: Option<&str>, keys: &str) -> Result<Pdu, u16> {
        let answer = self.log_in_untold(node, target, keys)?;
        if target.is_some() && self.tsih == 0 {
            let begun = self.ready();
            assert!(matches!(begun, None | Some(BEGUN | (5, 0x25, 0))), "{begun:02x?}");
        }
        Ok(answer)
    }

    /// The same with nothing met yet.
    pub fn log_in_untold(&mut self, node: &str, target: Option<&str>, keys: &str) -> Result<Pdu, u16> {
        let text = names(node, target) + keys;
        let answer = self.login_request(0x87, &text)?;
        self.digests = (
            answer.text().get("HeaderDigest").is_some_and(|v| v == "CRC32C"),
            answer.text().get("DataDigest").is_some_and(|v| v == "CRC32C"),
        );
        Ok(answer)
    }

    /// The same where the target may have no room: none if it closes the connection.
    pub fn try_log_in(&mut self, node: &str, target: &str) -> Option<Pdu> {
        let mut header = header(0x40 | opcode::LOGIN, 0x87, 1);
        header[8..14].copy_from_slice(&self.isid);
        let text = names(node, Some(target));
        header[7] = text.len() as u8;
        let mut bytes = [&header[..], text.as_bytes()].concat();
        bytes.resize(bytes.len() + padding(text.len()), 0);
        self.stream.write_all(&bytes).ok()?;
        self.receive()
    }

    /// With one-way CHAP.
    pub fn log_in_with_chap(&mut self, algorithm: Algorithm, name: &str, secret: &str) -> Result<Pdu, u16> {
        self.login_request(0x81, &(names(NODE, Some(TARGET)) + "AuthMethod=CHAP\0"))?;
        let challenge = self.login_request(0x00, &format!("CHAP_A={}\0", algorithm as u8))?.text();
        let bytes = decode_binary(&challenge["CHAP_C"]).unwrap();
        let response = algorithm.respond(challenge["CHAP_I"].parse().unwrap(), &Secret::new(secret), &bytes);
        let text = format!("CHAP_N={name}\0CHAP_R={}\0", encode_binary(&response));
        self.login_request(0x81, &text)?;
        self.login_request(0x87, "")
    }

    pub fn next_tag(&mut self) -> u32 {
        self.tag += 1;
        self.tag
    }

    /// Send a SCSI command; its tag.
    pub fn command(&mut self, flags: u8, expected: u32, cdb: &[u8], immediate: &[u8]) -> u32 {
        let tag = self.next_tag();
        let mut header = header(opcode::SCSI_COMMAND, flags, tag);
        put(&mut header, 20, expected);
        put(&mut header, 24, self.cmd_sn);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.send(header, immediate);
        tag
    }

    pub fn data_out(&mut self, tag: u32, ttt: u32, data_sn: u32, offset: u32, last: bool, data: &[u8]) {
        let mut header = header(opcode::DATA_OUT, if last { 0x80 } else { 0 }, tag);
        put(&mut header, 20, ttt);
        put(&mut header, 36, data_sn);
        put(&mut header, 40, offset);
        self.send(header, data);
    }

    /// Write with R2Ts, `segment` bytes a PDU, after `immediate` bytes of immediate data. The SCSI response.
    pub fn write(&mut self, block: u32, data: &[u8], immediate: usize, segment: usize) -> Pdu {
        let cdb = write_cdb(block, data.len());
        let tag = self.command(0xa0, data.len() as u32, &cdb, &data[..immediate]);
        loop {
            let pdu = self.receive().expect("the target closed the connection");
            if pdu.opcode() != opcode::R2T {
                assert_eq!((pdu.opcode(), pdu.tag()), (opcode::SCSI_RESPONSE, tag), "{pdu:02x?}");
                return pdu;
            }
            let (ttt, offset, length) = (pdu.u32(20), pdu.u32(40) as usize, pdu.u32(44) as usize);
            let burst = &data[offset..offset + length];
            for (data_sn, piece) in burst.chunks(segment).enumerate() {
                let at = offset + data_sn * segment;
                let last = at + piece.len() == offset + length;
                self.data_out(tag, ttt, data_sn as u32, at as u32, last, piece);
            }
        }
    }

    /// Read; all the data and the number of PDUs it came in.
    pub fn read(&mut self, block: u32, length: usize) -> (Vec<u8>, usize) {
        let mut cdb = write_cdb(block, length);
        cdb[0] = 0x28;
        self.command(0xc0, length as u32, &cdb, &[]);
        let (mut data, mut pdus) = (Vec::new(), 0);
        loop {
            let pdu = self.expect(opcode::DATA_IN);
            assert_eq!((pdu.u32(36), pdu.u32(40) as usize), (pdus as u32, data.len()), "DataSN, offset");
            data.extend_from_slice(&pdu.data);
            pdus += 1;
            if pdu.header[1] & 1 != 0 {
                assert_eq!(pdu.header[3], 0, "status");
                return (data, pdus);
            }
        }
    }

    /// Is the connection still served? Whatever came before the echo is given back.
    pub fn ping(&mut self) -> Vec<Pdu> {
        let tag = self.next_tag();
        let mut ping = header(0x40 | opcode::NOP_OUT, 0x80, tag);
        put(&mut ping, 20, u32::MAX);
        put(&mut ping, 24, self.cmd_sn);
        self.send(ping, &[]);
        let mut before = Vec::new();
        loop {
            let pdu = self.receive().expect("the target closed the connection");
            if pdu.opcode() == opcode::NOP_IN && pdu.tag() == tag {
                return before;
            }
            before.push(pdu);
        }
    }

    /// TEST UNIT READY; its sense if it is not.
    pub fn ready(&mut self) -> Option<(u8, u8, u8)> {
        let tag = self.command(0x80, 0, &[0; 16], &[]);
        let response = self.expect(opcode::SCSI_RESPONSE);
        assert_eq!(response.tag(), tag);
        (response.header[3] != 0).then(|| response.sense())
    }

    /// The response to one more TEST UNIT READY.
    pub fn next_response(&mut self) -> Pdu {
        self.command(0x80, 0, &[0; 16], &[]);
        self.expect(opcode::SCSI_RESPONSE)
    }

    /// A text request, in its turn; the answer.
    pub fn ask(&mut self, request: &str) -> String {
        let mut text = header(opcode::TEXT, 0x80, 5);
        put(&mut text, 20, u32::MAX);
        put(&mut text, 24, self.cmd_sn);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(text, request.as_bytes());
        String::from_utf8(self.expect(opcode::TEXT_RESPONSE).data).unwrap()
    }

    /// Ask to log out for this reason, with tag 78, and wait for nothing.
    pub fn send_logout(&mut self, reason: u8, cid: u16) {
        let mut logout = header(0x40 | opcode::LOGOUT, 0x80 | reason, 78);
        logout[20..22].copy_from_slice(&cid.to_be_bytes());
        put(&mut logout, 24, self.cmd_sn);
        self.send(logout, &[]);
    }

    /// Log out for this reason; the response.
    pub fn log_out(&mut self, reason: u8, cid: u16) -> Pdu {
        self.send_logout(reason, cid);
        self.receive().expect("the target closed the connection")
    }

    pub fn task_management(&mut self, function: u8, lun: u64, referenced: u32) -> u32 {
        let tag = self.next_tag();
        let mut header = header(0x40 | opcode::TASK_MANAGEMENT, 0x80 | function, tag);
        header[8..16].copy_from_slice(&lun.to_be_bytes());
        put(&mut header, 20, referenced);
        put(&mut header, 24, self.cmd_sn);
        self.send(header, &[]);
        tag
    }
}

pub fn names(node: &str, target: Option<&str>) -> String {
    match target {
        Some(target) => format!("InitiatorName={node}\0TargetName={target}\0"),
        None => format!("InitiatorName={node}\0SessionType=Discovery\0"),
    }
}

/// WRITE(10) of `length` bytes.
pub fn write_cdb(block: u32, length: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x2a;
    cdb[2..6].copy_from_slice(&block.to_be_bytes());
    cdb[7..9].copy_from_slice(&((length / 512) as u16).to_be_bytes());
    cdb
}
