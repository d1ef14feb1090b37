//! PDUs: headers, additional headers, digests, data and its padding, as they come off a connection and as they are sent.

use crc_fast::{CrcAlgorithm, checksum};
use iscsi_target::limits;
use iscsi_target::pdu::frame::{FrameError, Framing, HEAD_ROOM, TAIL_ROOM};
use iscsi_target::pdu::{BHS_BYTES, Bhs, opcode, padding, request, response, three_bytes};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::input::Input;

/// Additional headers are at most 255 words.
const LONGEST_HEAD: usize = BHS_BYTES + 255 * 4 + 4;

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.u8();
    let framing = Framing { header_digest: flags & 1 != 0, data_digest: flags & 2 != 0 };
    let max = [8192, 512, limits::MAX_RECV_DATA_SEGMENT, 0x00ff_ffff][usize::from(flags >> 2 & 3)];
    match flags & 0x10 {
        0 => received(framing, max, input.rest().to_vec(), flags & 0x20 != 0),
        _ => sent(framing, &mut input),
    }
}

fn digest(bytes: &[u8]) -> [u8; 4] {
    (checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

/// A stream of PDUs, cut where it is cut. With `mend`, digests are put right first, so that what follows is seen too.
fn received(framing: Framing, max: u32, mut stream: Vec<u8>, mend: bool) {
    let mut at = 0;
    loop {
        if mend {
            mend_head(framing, &mut stream[at..]);
        }
        let rest = &stream[at..];
        let (header, head) = match framing.head(rest, max) {
            Ok(Some(found)) => found,
            Ok(None) => {
                assert!(rest.len() < LONGEST_HEAD, "a whole header is not seen");
                return;
            }
            Err(FrameError::HeaderDigest) => {
                assert!(framing.header_digest && !mend, "a digest that is right");
                return;
            }
            Err(FrameError::TooLong) => {
                let (header, _) = Bhs::read_from_prefix(rest).unwrap();
                assert!(header.data_bytes() > max as usize);
                return;
            }
        };
        assert!(head <= rest.len() && head <= LONGEST_HEAD && header.data_bytes() <= max as usize);
        assert_eq!(header.as_bytes(), &rest[..BHS_BYTES]);
        for cut in [0, BHS_BYTES - 1, BHS_BYTES, head - 1] {
            assert_eq!(framing.head(&rest[..cut.min(head - 1)], max).map(|found| found.is_some()), Ok(false));
        }
        views(&header);
        let length = header.data_bytes();
        let tail = framing.tail_bytes(length);
        assert!(tail <= TAIL_ROOM && (length + tail).is_multiple_of(4));
        at += head;
        if stream.len() < at + length + tail {
            return;
        }
        let (data, end) = stream[at..].split_at_mut(length);
        if mend && framing.data_digest && length > 0 {
            let sum = digest(&[data, &end[..padding(length)]].concat());
            end[padding(length)..tail].copy_from_slice(&sum);
        }
        let intact = framing.is_intact(data, &end[..tail]);
        assert!(intact || (framing.data_digest && length > 0 && !mend));
        at += length + tail;
    }
}

fn mend_head(framing: Framing, rest: &mut [u8]) {
    let Ok((header, _)) = Bhs::read_from_prefix(rest) else { return };
    let whole = BHS_BYTES + header.ahs_bytes();
    if framing.header_digest && rest.len() >= whole + 4 {
        let sum = digest(&rest[..whole]);
        rest[whole..whole + 4].copy_from_slice(&sum);
    }
}

/// A header is its bytes, whatever it is looked at as.
fn views(header: &Bhs) {
    fn same<T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned>(header: &Bhs) {
        assert_eq!(header.view::<T>().as_bytes(), header.as_bytes());
    }
    match header.opcode() {
        opcode::SCSI_COMMAND => same::<request::ScsiCommand>(header),
        opcode::TASK_MANAGEMENT => same::<request::TaskManagement>(header),
        opcode::DATA_OUT => same::<request::DataOut>(header),
        opcode::TEXT => same::<request::Text>(header),
        opcode::LOGIN => same::<request::Login>(header),
        opcode::LOGOUT => same::<request::Logout>(header),
        opcode::NOP_OUT => same::<request::NopOut>(header),
        opcode::SCSI_RESPONSE => same::<response::ScsiResponse>(header),
        opcode::DATA_IN => same::<response::DataIn>(header),
        opcode::R2T => same::<response::R2t>(header),
        opcode::LOGIN_RESPONSE => same::<response::LoginResponse>(header),
        _ => same::<response::Plain>(header),
    }
}

/// What is sent can be received, and one bit that flips on the way is noticed where there are digests.
fn sent(framing: Framing, input: &mut Input<'_>) {
    let mut header: [u8; BHS_BYTES] = input.array();
    let flipped = usize::from(input.u16());
    let data = input.rest();
    header[4] = 0;
    header[5..8].copy_from_slice(&three_bytes(data.len()));
    let ((head, head_bytes), (tail, tail_bytes)) = (framing.encode_head(&header), framing.encode_tail(data));
    assert!(head_bytes <= HEAD_ROOM && tail_bytes <= TAIL_ROOM);
    let mut wire = [&head[..head_bytes], data, &tail[..tail_bytes]].concat();
    let (found, end) = framing.head(&wire, 0x00ff_ffff).unwrap().unwrap();
    assert_eq!((found.as_bytes(), end), (&header[..], head_bytes));
    assert_eq!(framing.tail_bytes(data.len()), tail_bytes);
    assert!(framing.is_intact(&wire[end..end + data.len()], &wire[end + data.len()..]));
    received(framing, 0x00ff_ffff, wire.clone(), false);
    let bit = flipped % (wire.len() * 8);
    wire[bit / 8] ^= 1 << (bit % 8);
    if bit / 8 < head_bytes {
        // Flipped in the lengths, the digest is looked for elsewhere, perhaps beyond what is here.
        let found = framing.head(&wire, 0x00ff_ffff);
        assert!(!framing.header_digest || !matches!(found, Ok(Some(_))) || bit / 8 == 4, "bit {bit}");
    } else if framing.data_digest {
        assert!(!framing.is_intact(&wire[end..end + data.len()], &wire[end + data.len()..]), "bit {bit}");
    }
}
