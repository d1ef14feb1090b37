//! Vital product data (SPC-4, SBC-3). Identity is the same on every path and never changes.

use block_io::{BlockDevice, DeviceInfo};

use super::capacity::blocks;
use super::inquiry::VENDOR;
use super::medium::{MAX_COMPARE_BLOCKS, MAX_TRANSFER_BYTES};
use super::thin::threshold_exponent;
use super::zeroing::{MAX_UNMAP_BYTES, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BYTES};
use super::{LuIdentity, Nexus, copy, write_atomic};

/// Pages there are.
const PAGES: [u8; 8] = [0x00, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2];

/// Longest serial number that fits a T10 vendor designator beside the vendor.
const MAX_SERIAL_BYTES: usize = 247;

/// Granularity at which unmapping pays: ESXi takes none above 1 MiB.
const UNMAP_GRANULARITY_BYTES: u32 = 64 << 10;

pub(crate) fn page(
    number: u8,
    identity: &LuIdentity,
    device: &dyn BlockDevice,
    nexus: &Nexus,
    is_thin: bool,
) -> Option<Vec<u8>> {
    let info = &device.info();
    let body = match number {
        0x00 => PAGES.to_vec(),
        0x80 => identity.serial.bytes().take(MAX_SERIAL_BYTES).collect(),
        0x83 => identification(identity, nexus),
        0x86 => extended(),
        0x8f => copy::third_party_page(),
        0xb0 => block_limits(info, write_atomic::limits(device)),
        0xb1 => block_characteristics(info),
        0xb2 => provisioning(info, is_thin),
        _ => return None,
    };
    let mut data = vec![0x00, number];
    data.extend_from_slice(&(body.len() as u16).to_be_bytes());
    data.extend_from_slice(&body);
    Some(data)
}

/// A designation descriptor (SPC-4).
fn designator(code_set: u8, association: u8, kind: u8, bytes: &[u8]) -> Vec<u8> {
    // PROTOCOL IDENTIFIER iSCSI (5) and PIV where a port is meant.
    let (protocol, piv) = if association == 0 { (0, 0) } else { (0x50, 0x80) };
    let mut descriptor = vec![protocol | code_set, piv | association << 4 | kind, 0, bytes.len() as u8];
    descriptor.extend_from_slice(bytes);
    descriptor
}

/// NAA type 3 (locally assigned): 60 bits of the volume's UUID.
pub(crate) fn naa(identity: &LuIdentity) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&identity.uuid.as_bytes()[8..]);
    bytes[0] = 0x30 | bytes[0] & 0x0f;
    bytes
}

fn identification(identity: &LuIdentity, nexus: &Nexus) -> Vec<u8> {
    let mut vendor = VENDOR.to_vec();
    // The designator's length is one byte.
    vendor.extend(identity.serial.bytes().take(MAX_SERIAL_BYTES));
    let mut port = format!("{},t,0x{:04x}", nexus.target_name, nexus.target_portal_group).into_bytes();
    port.push(0);
    port.resize(port.len().next_multiple_of(4), 0);
    // A target's port is a target port group of its own, with the same number.
    let port_number = u32::from(nexus.relative_target_port).to_be_bytes();
    [
        designator(1, 0, 3, &naa(identity)),
        designator(2, 0, 1, &vendor),
        designator(1, 1, 4, &port_number),
        designator(1, 1, 5, &port_number),
        designator(3, 1, 8, &port),
    ]
    .concat()
}

/// Extended INQUIRY data: SIMPLE, ORDERED and HEAD OF QUEUE are supported, no protection.
fn extended() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 0x07;
    body
}

fn blocks_of(bytes: u64, info: &DeviceInfo) -> u32 {
    u32::try_from(bytes / u64::from(info.logical_block_bytes)).unwrap_or(u32::MAX)
}

fn block_limits(info: &DeviceInfo, atomic: write_atomic::AtomicLimits) -> Vec<u8> {
    let mut body = vec![0; 60];
    let mut put = |at: usize, value: u32| body[at - 4..at].copy_from_slice(&value.to_be_bytes());
    put(8, blocks_of(MAX_TRANSFER_BYTES, info));
    // The stripe width, if it is one command's worth.
    let stripe = u64::from(info.optimal_write_bytes);
    put(12, blocks_of(if stripe <= MAX_TRANSFER_BYTES { stripe } else { 0 }, info));
    if info.discard {
        put(20, blocks_of(MAX_UNMAP_BYTES, info));
        put(24, MAX_UNMAP_DESCRIPTORS);
        put(28, blocks_of(UNMAP_GRANULARITY_BYTES.into(), info));
        put(32, 0x8000_0000);
    }
    put(44, atomic.longest);
    put(48, atomic.grain);
    put(52, atomic.grain);
    body[32..40].copy_from_slice(&(u64::from(blocks_of(MAX_WRITE_SAME_BYTES, info))).to_be_bytes());
    body[1] = MAX_COMPARE_BLOCKS;
    let granularity = (info.physical_block_bytes / info.logical_block_bytes.max(1)) as u16;
    body[2..4].copy_from_slice(&granularity.to_be_bytes());
    body
}

/// Not rotating: what is below a RAID array has no one speed. WABEREQ: after SANITIZE BLOCK ERASE reads are good.
fn block_characteristics(info: &DeviceInfo) -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 1;
    if info.discard {
        body[3] = 0x40;
    }
    body
}

/// LBPU, LBPWS, LBPWS10 and LBPRZ where unmapping works; unmapped blocks read as zeros. THRESHOLD EXPONENT where there are
/// thresholds.
fn provisioning(info: &DeviceInfo, is_thin: bool) -> Vec<u8> {
    let mut body = vec![0; 4];
    if is_thin {
        body[0] = threshold_exponent(blocks(info), info.logical_block_bytes);
    }
    if info.discard {
        body[1] = 0xe4;
        body[2] = 2;
    }
    body
}
