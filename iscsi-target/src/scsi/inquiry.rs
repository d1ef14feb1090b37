//! INQUIRY (SPC-4): what is this logical unit?

use super::cdb::Cdb;
use super::{LuIdentity, Nexus, ScsiResponse, Sense, vpd};
use block_io::BlockDevice;

/// T10 vendor identification, eight characters.
pub(crate) const VENDOR: &[u8; 8] = b"LABSAN  ";

/// Left-justified, padded with spaces, cut to `N`.
pub(crate) fn ascii<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (slot, byte) in field.iter_mut().zip(text.bytes().filter(|byte| (0x20..0x7f).contains(byte))) {
        *slot = byte;
    }
    field
}

/// Standard data or a VPD page. `is_thin`: there are thresholds of provisioning.
pub(crate) fn inquiry(
    cdb: Cdb<'_>,
    identity: &LuIdentity,
    device: &dyn BlockDevice,
    nexus: &Nexus,
    is_thin: bool,
) -> Result<ScsiResponse, Sense> {
    let (vital, page, length) = (cdb.byte(1) & 1 != 0, cdb.byte(2), usize::from(cdb.u16(3)));
    // CMDDT has been obsolete since SPC-3.
    if cdb.byte(1) & 0xfe != 0 || (!vital && page != 0) {
        return Err(Sense::INVALID_FIELD);
    }
    let data = if vital {
        vpd::page(page, identity, device, nexus, is_thin).ok_or(Sense::INVALID_FIELD)?
    } else {
        standard(&identity.product, 0x00)
    };
    Ok(ScsiResponse::parameters(data, length))
}

/// The same of a LUN that is not there: qualifier 011b, type 1Fh.
pub(crate) fn absent(cdb: Cdb<'_>) -> Result<ScsiResponse, Sense> {
    if cdb.byte(1) & 1 != 0 || cdb.byte(2) != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    Ok(ScsiResponse::parameters(standard("", 0x7f), usize::from(cdb.u16(3))))
}

fn standard(product: &str, qualifier_and_type: u8) -> Vec<u8> {
    let mut data = vec![0; 74];
    data[0] = qualifier_and_type;
    data[2] = 0x06; // SPC-4
    data[3] = 0x12; // HISUP, response data format 2
    data[4] = 69;
    data[5] = 0x38; // TPGS: implicit and explicit; 3PC: EXTENDED COPY
    data[7] = 0x02; // CMDQUE
    data[8..16].copy_from_slice(VENDOR);
    data[16..32].copy_from_slice(&ascii::<16>(product));
    data[32..36].copy_from_slice(&ascii::<4>(env!("CARGO_PKG_VERSION")));
    // SAM-5, SPC-4, SBC-3, iSCSI: version descriptors without a revision claimed.
    for (slot, version) in data[58..].chunks_exact_mut(2).zip([0x00a0u16, 0x0460, 0x04c0, 0x0960]) {
        slot.copy_from_slice(&version.to_be_bytes());
    }
    data
}
