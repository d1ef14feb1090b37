//! iSCSI TransportIDs (SPC-4 clause 7.6.4.6): an initiator device (format 00b) or one of its ports (01b).

use super::state::{ItNexus, PortName};
use crate::names;

/// Between the name and the ISID.
const SEPARATOR: &str = ",i,0x";
const HEADER_BYTES: usize = 4;
const ISCSI: u8 = 0x05;
const WITH_ISID: u8 = 0x40;

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransportId {
    /// Its iSCSI name, in lower case.
    pub(crate) name: String,
    /// Which port; none for the device.
    pub(crate) isid: Option<[u8; 6]>,
}

impl TransportId {
    /// The initiator port of a nexus.
    pub(super) fn of(nexus: &ItNexus) -> Self {
        Self { name: nexus.initiator_name.clone(), isid: Some(nexus.isid) }
    }

    /// This initiator at a target port.
    pub(super) fn nexus(&self, isid: [u8; 6], port: &PortName) -> ItNexus {
        ItNexus {
            initiator_name: self.name.clone(),
            isid,
            target_name: port.target_name.to_ascii_lowercase(),
            portal_group: port.portal_group,
        }
    }

    /// Its bytes: NUL-terminated, padded to four, 24 at least.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (format, isid) = match self.isid {
            Some(isid) => (WITH_ISID, format!("{SEPARATOR}{}", hex::encode(isid))),
            None => (0, String::new()),
        };
        let mut text = format!("{}{isid}\0", self.name).into_bytes();
        text.resize(text.len().next_multiple_of(4).max(20), 0);
        let mut bytes = vec![format | ISCSI, 0];
        bytes.extend_from_slice(&(text.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&text);
        bytes
    }

    /// The first of these bytes, and how many it takes. `None` if it is none that can be understood.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let header: [u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let field = bytes.get(HEADER_BYTES..HEADER_BYTES + length)?;
        if header[0] & 0x3f != ISCSI || length % 4 != 0 {
            return None;
        }
        let end = field.iter().position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(&field[..end]).ok()?.to_ascii_lowercase();
        let (name, isid) = match header[0] & 0xc0 {
            0 => (text.as_str(), None),
            WITH_ISID => {
                let (name, digits) = text.split_once(SEPARATOR)?;
                (name, Some(hex::decode(digits).ok()?.try_into().ok()?))
            }
            _ => return None,
        };
        names::is_iscsi_name(name).then(|| (Self { name: name.to_owned(), isid }, HEADER_BYTES + length))
    }

    /// All of a list that is nothing but TransportIDs.
    pub(super) fn parse_all(mut bytes: &[u8]) -> Option<Vec<Self>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let (id, taken) = Self::parse(bytes)?;
            all.push(id);
            bytes = &bytes[taken..];
        }
        Some(all)
    }
}
