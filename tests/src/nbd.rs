//! A real initiator (libiscsi, inside qemu-nbd) that acknowledges write by write.
//!
//! qemu-nbd logs in to the LUN and offers it on a socket; the few messages of the NBD protocol that are spoken here
//! (doc/proto.md of the NBD project, "newstyle" handshake, simple replies) carry any bytes, any number of requests at a
//! time, FUA and flush. A reply means that the target has answered the SCSI command.

use crate::process::{Background, mortal, wait_for};
use crate::tools;
use anyhow::{Context, Result, bail, ensure};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(20);
/// Longer than any command may take that is not lost.
const REPLY_LIMIT: Duration = Duration::from_secs(60);

const GREETING: &[u8; 8] = b"NBDMAGIC";
const OPTION: &[u8; 8] = b"IHAVEOPT";
const FIXED_NEWSTYLE_NO_ZEROES: u32 = 3;
const OPT_EXPORT_NAME: u32 = 1;
/// Flush, FUA, write zeroes.
const NEEDED: u64 = 1 << 2 | 1 << 3 | 1 << 6;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const FLAG_FUA: u16 = 1;

/// One qemu-nbd: one iSCSI session. It ends with its guard.
#[derive(Debug)]
pub struct Initiator {
    process: Background,
    socket: PathBuf,
}

impl Initiator {
    /// Logs in to a LUN; the socket and the log get `name` in `dir`.
    ///
    /// # Errors
    /// When the target does not let it in.
    pub fn start(url: &str, dir: &Path, name: &str) -> Result<Self> {
        let socket = dir.join(format!("{name}.nbd"));
        // Its predecessor was killed and left it behind.
        let _ = std::fs::remove_file(&socket);
        let mut command = mortal(&tools::need("qemu-nbd")?);
        // With a cache of its own, QEMU remembers what GET LBA STATUS called deallocated, and a write that ends between the
        // answer and its arrival is forgotten: it returns zeros without asking. With none it asks before each read.
        command.args(["--persistent", "--cache=none", "--format=raw", "--socket"]).arg(&socket).arg(url);
        let process = Background::start(&mut command, &dir.join(format!("{name}.log")))?;
        Ok(Self { process, socket })
    }

    /// Connects to it as soon as it has logged in.
    pub fn connect(&mut self) -> Result<Connection> {
        let stream = wait_for("qemu-nbd to log in", START_LIMIT, || {
            ensure!(self.process.running(), "qemu-nbd ended:\n{}", self.process.output());
            Ok(UnixStream::connect(&self.socket).ok())
        })?;
        Connection::handshake(stream)
    }

    /// SIGKILL: what it had in flight is never sent again.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// What a request asks for.
#[derive(Debug)]
pub enum Request<'a> {
    /// Read so many bytes.
    Read(u32),
    /// Write these; durably (FUA) or as the LUN's cache has it.
    Write(&'a [u8], bool),
    /// Make so many bytes zeros (qemu sends WRITE SAME, with UNMAP where the LUN has it).
    Zero(u32),
    /// SYNCHRONIZE CACHE over the whole LUN.
    Flush,
}

/// The error of a medium that cannot tell.
const EIO: u32 = 5;

/// An open export: requests in, replies out, in any order.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    bytes: u64,
}

impl Connection {
    fn handshake(mut stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(REPLY_LIMIT))?;
        stream.set_write_timeout(Some(REPLY_LIMIT))?;
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).context("no greeting")?;
        ensure!(hello[..8] == *GREETING && hello[8..16] == *OPTION, "not an NBD server: {hello:02x?}");
        let mut answer = FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes().to_vec();
        answer.extend(OPTION);
        answer.extend(OPT_EXPORT_NAME.to_be_bytes());
        // The length of the default export's name.
        answer.extend(0_u32.to_be_bytes());
        stream.write_all(&answer)?;
        let mut export = [0; 10];
        stream.read_exact(&mut export).context("no export")?;
        let (bytes, flags) = (be(&export[..8]), be(&export[8..]));
        ensure!(flags & NEEDED == NEEDED, "the export lacks flush, FUA or zeroing: flags {flags:#x}");
        Ok(Self { stream, bytes })
    }

    /// The LUN's size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sends a request; its reply will carry `handle`. Gives `false` when the server is gone.
    pub fn send(&mut self, handle: u64, offset: u64, request: &Request<'_>) -> Result<bool> {
        let (kind, flags, length, data): (u16, u16, u32, &[u8]) = match *request {
            Request::Read(length) => (0, 0, length, &[]),
            Request::Write(data, fua) => (1, u16::from(fua) * FLAG_FUA, u32::try_from(data.len())?, data),
            Request::Zero(length) => (6, 0, length, &[]),
            Request::Flush => (3, 0, 0, &[]),
        };
        let mut message = REQUEST.to_be_bytes().to_vec();
        message.extend(flags.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message.extend(handle.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(length.to_be_bytes());
        still_there(self.stream.write_all(&message).and_then(|()| self.stream.write_all(data)))
    }

    /// Waits for the next reply: its handle, and the error number (0: done). `None` when the server is gone.
    /// What a read brings must be taken with [`Self::receive_data`] right after.
    pub fn receive(&mut self) -> Result<Option<(u64, u32)>> {
        let mut reply = [0; 16];
        if !still_there(self.stream.read_exact(&mut reply))? {
            return Ok(None);
        }
        ensure!(be(&reply[..4]) == u64::from(REPLY), "not a reply: {reply:02x?}");
        Ok(Some((be(&reply[8..]), u32::try_from(be(&reply[4..8]))?)))
    }

    /// The bytes of a read. Gives `false` when the server is gone.
    pub fn receive_data(&mut self, into: &mut [u8]) -> Result<bool> {
        still_there(self.stream.read_exact(into))
    }

    /// Reads and waits for it. Gives `false` where the target has an error instead of data.
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<bool> {
        ensure!(self.send(0, offset, &Request::Read(u32::try_from(into.len())?))?, "qemu-nbd is gone");
        match self.receive()? {
            Some((0, 0)) => ensure!(self.receive_data(into)?, "qemu-nbd is gone"),
            Some((0, EIO)) => return Ok(false),
            reply => bail!("reading {} bytes at {offset}: {reply:?} (handle, error)", into.len()),
        }
        Ok(true)
    }

    /// Writes durably and waits for it.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        ensure!(self.send(0, offset, &Request::Write(data, true))?, "qemu-nbd is gone");
        match self.receive()? {
            Some((0, 0)) => Ok(()),
            reply => bail!("writing {} bytes at {offset}: {reply:?} (handle, error)", data.len()),
        }
    }
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The end of the other side is an answer; any other failure, and silence, is an error.
fn still_there(outcome: std::io::Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Ok(false),
            _ => Err(error).context("no word from qemu-nbd"),
        },
    }
}
