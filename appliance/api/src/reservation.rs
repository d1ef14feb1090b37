//! Who has registered with a LUN, and who has reserved it? (SCSI persistent reservations, SPC-4.)

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::VolumePath;

/// What one volume's users have registered and reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReservations {
    /// The volume; none if its array is not here.
    pub volume: Option<VolumePath>,
    /// Its identity.
    pub volume_uuid: Uuid,
    /// The reservation, if there is one.
    pub reservation: Option<Reserved>,
    /// It all survives a restart and a power loss (APTPL).
    pub persists: bool,
    /// In the order they came.
    pub registrations: Vec<Registered>,
    /// Why what is kept cannot be read, if it cannot. Nobody knows then who may write, and the volume is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// A reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// Its type's code.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Its type's name.
    pub type_name: String,
}

/// An initiator port that is registered at a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The reservation key, `0x` and 16 hex digits.
    pub key: String,
    /// The initiator's iSCSI name.
    pub initiator: String,
    /// Initiator session id, in hex.
    pub isid: String,
    /// The target's iSCSI name.
    pub target: String,
    /// It holds the reservation.
    pub holder: bool,
    /// It is logged in. One that is not may come back, or may have come back under another ISID and left this one behind.
    pub logged_in: bool,
}

/// Query of `GET /v1/reservations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReservationQuery {
    /// Of this volume only.
    #[serde(default)]
    pub volume: Option<VolumePath>,
}

/// Reply of `GET /v1/reservations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservations {
    /// Volumes that somebody is registered with, or of which that cannot be known, by name.
    pub volumes: Vec<VolumeReservations>,
}

/// A reservation key as people write it: hexadecimal, with or without `0x`; not 0.
pub fn parse_key(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let hex = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|key| hex && *key != 0)
}

/// The same as we write it.
pub fn format_key(key: u64) -> String {
    format!("{key:#018x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hexadecimal() {
        assert_eq!(parse_key("123abc"), Some(0x12_3abc));
        assert_eq!(parse_key("0xFFFFFFFFFFFFFFFF"), Some(u64::MAX));
        assert_eq!(parse_key(&format_key(7)), Some(7));
        assert_eq!(format_key(7), "0x0000000000000007");
        for bad in ["", "0x", "0", "+1", "xyz", "0x10000000000000000"] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
    }
}
