//! What survives a power loss, as it is kept in the configuration. Keys and ISIDs are hexadecimal text, for people.

use serde::{Deserialize, Serialize};

use super::state::{ItNexus, Kind, Registration, Reservation, Reservations};
use crate::limits::MAX_REGISTRATIONS;

/// Everything that APTPL keeps. PRGENERATION is not among it: it begins at 0 again (SPC-4 clause 5.12.5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationRecord {
    /// In the order they came.
    pub registrations: Vec<RegistrationRecord>,
    /// The reservation, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<ReservedRecord>,
}

/// One registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationRecord {
    /// The reservation key.
    pub key: String,
    /// InitiatorName.
    pub initiator: String,
    /// ISID.
    pub isid: String,
    /// The target's name.
    pub target: String,
    /// TargetPortalGroupTag.
    pub portal_group: u16,
    /// Relative target port identifier.
    pub relative_target_port: u16,
}

/// A reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedRecord {
    /// Its type's code.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Which of the registrations holds it; none for the all-registrants types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<usize>,
}

/// A record that no state has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record that makes no sense: {0}")]
pub struct BadRecord(pub(crate) &'static str);

impl Reservations {
    /// What has to be kept; none if nothing has.
    pub fn record(&self) -> Option<ReservationRecord> {
        if !self.persists || self.registrations.is_empty() {
            return None;
        }
        let registrations = self.registrations.iter().map(RegistrationRecord::from).collect();
        let reservation = self.reservation.as_ref().map(|reservation| ReservedRecord {
            kind: reservation.kind as u8,
            holder: self.registrations.iter().position(|one| Some(&one.nexus) == reservation.holder.as_ref()),
        });
        Some(ReservationRecord { registrations, reservation })
    }

    /// The state after a power loss.
    pub fn restore(record: &ReservationRecord) -> Result<Self, BadRecord> {
        if *record == ReservationRecord::default() {
            return Ok(Self::default());
        }
        if record.registrations.len() > MAX_REGISTRATIONS {
            return Err(BadRecord("too many registrations"));
        }
        let mut registrations: Vec<Registration> = Vec::new();
        for one in &record.registrations {
            let registration = one.registration()?;
            if registrations.iter().any(|other| other.nexus == registration.nexus) {
                return Err(BadRecord("a nexus that is registered twice"));
            }
            registrations.push(registration);
        }
        let reservation = match &record.reservation {
            Some(reserved) => Some(reserved.reservation(&registrations)?),
            None => None,
        };
        Ok(Self { generation: 0, registrations, reservation, persists: true })
    }
}

impl From<&Registration> for RegistrationRecord {
    fn from(registration: &Registration) -> Self {
        let nexus = &registration.nexus;
        Self {
            key: format!("{:016x}", registration.key),
            initiator: nexus.initiator_name.clone(),
            isid: hex::encode(nexus.isid),
            target: nexus.target_name.clone(),
            portal_group: nexus.portal_group,
            relative_target_port: registration.relative_target_port,
        }
    }
}

impl RegistrationRecord {
    fn registration(&self) -> Result<Registration, BadRecord> {
        let key = u64::from_str_radix(&self.key, 16).ok().filter(|key| *key != 0);
        let isid = hex::decode(&self.isid).ok().and_then(|isid| isid.try_into().ok());
        let nexus = ItNexus {
            initiator_name: self.initiator.to_ascii_lowercase(),
            isid: isid.ok_or(BadRecord("an ISID that is none"))?,
            target_name: self.target.to_ascii_lowercase(),
            portal_group: self.portal_group,
        };
        let key = key.ok_or(BadRecord("a key that is none"))?;
        Ok(Registration { nexus, relative_target_port: self.relative_target_port, key })
    }
}

impl ReservedRecord {
    fn reservation(&self, registrations: &[Registration]) -> Result<Reservation, BadRecord> {
        let kind = Kind::from_code(self.kind).ok_or(BadRecord("a type that is none"))?;
        let holder = self.holder.map(|at| registrations.get(at).map(|one| one.nexus.clone()));
        match (kind.all_registrants(), holder) {
            (true, None) if !registrations.is_empty() => Ok(Reservation { kind, holder: None }),
            (false, Some(Some(holder))) => Ok(Reservation { kind, holder: Some(holder) }),
            _ => Err(BadRecord("a reservation without its holder")),
        }
    }
}
