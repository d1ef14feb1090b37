//! What is the SAN made of, besides volumes? Targets, who may use them, and which volume is which LUN.
//!
//! The document travels in every array's config slots and in the host's state directory; all copies are whole, and
//! the one with the highest generation counts ([`super::merge`]), but for persistent reservations ([`super::records`]).
//! Fields of a newer labsan are carried along.

use std::collections::BTreeMap;

use labsan_api::Secret;
use labsan_api::target::PathState;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::access::AccessRecord;
use super::hold::Moment;
use super::records::{NamedPort, Records, named_ports};

/// The newest meaning of the document that this labsan knows.
pub(crate) const SCHEMA: u32 = 3;

/// Where the port numbers of targets without one begin; far more than there are targets lie on either side.
const UNNUMBERED_PORTS: u16 = 0x8000;

/// The SAN's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SanDocument {
    /// Version of the document's meaning.
    pub(crate) schema: u32,
    /// Which SAN; made once, kept for good.
    pub(crate) san_uuid: Uuid,
    /// Counts the changes, but for those of reservations.
    pub(crate) generation: u64,
    /// By name.
    pub(crate) targets: Vec<TargetRecord>,
    /// Persistent reservations; of an array's copy, those of its own volumes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) reservations: Records,
    /// Numbers that LUNs of deleted targets had, by the targets' names: who makes one anew is talking to the same nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) departed: BTreeMap<String, Vec<FreedRecord>>,
    /// Fields of a newer labsan.
    #[serde(flatten)]
    pub(crate) other: BTreeMap<String, Value>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TargetRecord {
    /// Its iSCSI name.
    pub(crate) iqn: String,
    /// For people.
    #[serde(default)]
    pub(crate) alias: String,
    /// Who may log in.
    #[serde(default)]
    pub(crate) access: AccessRecord,
    /// How initiators prove who they are; without accounts CHAP is not asked for.
    #[serde(default)]
    pub(crate) chap: Chap,
    /// What initiators may do through it.
    #[serde(default)]
    pub(crate) state: PathState,
    /// The number of its port, by which initiators tell it from other targets of the same volume; kept for good. 0 in
    /// documents that were written before there were any.
    #[serde(default)]
    pub(crate) port: u16,
    /// By number.
    #[serde(default)]
    pub(crate) luns: Vec<LunRecord>,
    /// Where the search for a free number begins: past every number used so far, so that a removed LUN's number
    /// is not soon another disk to a node that still remembers it.
    #[serde(default)]
    pub(crate) next_lun: u16,
    /// Initiators that see LUNs of their own instead, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) masks: Vec<MaskRecord>,
    /// Numbers that LUNs had until lately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) freed: Vec<FreedRecord>,
    /// Fields of a newer labsan.
    #[serde(flatten)]
    pub(crate) other: BTreeMap<String, Value>,
}

/// CHAP both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chap {
    /// Initiators log in as one of these.
    #[serde(default)]
    pub(crate) accounts: Vec<Account>,
    /// The target proves itself as this.
    #[serde(default)]
    pub(crate) mutual: Option<Account>,
}

/// A user and the secret. CHAP needs the secret itself on both sides, not a hash of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    /// The user's name.
    pub(crate) user: String,
    /// The secret.
    pub(crate) secret: Secret,
}

/// One LUN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LunRecord {
    /// Its number.
    pub(crate) lun: u16,
    /// The array that holds the volume.
    pub(crate) array_uuid: Uuid,
    /// The volume.
    pub(crate) volume_uuid: Uuid,
    /// Writes are refused.
    #[serde(default)]
    pub(crate) read_only: bool,
    /// Fields of a newer labsan.
    #[serde(flatten)]
    pub(crate) other: BTreeMap<String, Value>,
}

/// What one initiator sees of a target instead of its LUNs; nothing at all while there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MaskRecord {
    /// Its name.
    pub(crate) initiator: String,
    /// By number.
    #[serde(default)]
    pub(crate) luns: Vec<LunRecord>,
    /// As a target's.
    #[serde(default)]
    pub(crate) next_lun: u16,
    /// Fields of a newer labsan.
    #[serde(flatten)]
    pub(crate) other: BTreeMap<String, Value>,
}

/// A number that meant a volume until lately.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FreedRecord {
    /// The number.
    pub(crate) lun: u16,
    /// What it meant.
    pub(crate) volume_uuid: Uuid,
    /// To this initiator; none: to all that have no LUNs of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) initiator: Option<String>,
    /// Until when.
    #[serde(flatten)]
    pub(crate) at: Moment,
    /// Fields of a newer labsan.
    #[serde(flatten)]
    pub(crate) other: BTreeMap<String, Value>,
}

/// Why a copy of the document cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    /// Not a document.
    #[error("the SAN's configuration there cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer labsan.
    #[error(
        "the SAN's configuration there was written by a newer labsan (schema {found}, this one knows {SCHEMA})"
    )]
    Newer {
        /// Its schema.
        found: u32,
    },
}

impl SanDocument {
    /// The configuration of a SAN that has nothing yet.
    pub(crate) fn empty(san_uuid: Uuid) -> Self {
        Self {
            schema: 1,
            san_uuid,
            generation: 0,
            targets: Vec::new(),
            reservations: Records::new(),
            departed: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// Read a copy. `null` is what an array carries that was never part of a SAN.
    pub(crate) fn from_json(value: Value) -> Result<Option<Self>, DocumentError> {
        if value.is_null() {
            return Ok(None);
        }
        let document: Self = serde_json::from_value(value)?;
        if document.schema == 0 || document.schema > SCHEMA {
            return Err(DocumentError::Newer { found: document.schema });
        }
        Ok(Some(document))
    }

    /// The same but for reservations, and for what depends on them?
    pub(crate) fn same_configuration(&self, other: &Self) -> bool {
        let without = |document: &Self| Self { reservations: Records::new(), schema: 0, ..document.clone() };
        without(self) == without(other)
    }

    /// The version that a labsan must know to serve it rightly. One that does not know rules would lose them with its next
    /// change; one that does not know masks would show initiators LUNs that are not for them; one that does not know of SANITIZE would
    /// let them write to a unit that the next labsan goes on to overwrite.
    pub(crate) fn needed_schema(&self) -> u32 {
        let has_new = |target: &TargetRecord| !target.access.rules.is_empty() || !target.masks.is_empty();
        let is_sanitizing = |record: &Value| record.get("sanitize").is_some();
        match self.targets.iter().any(has_new) {
            _ if self.reservations.values().any(is_sanitizing) => 3,
            true => 2,
            false => 1,
        }
    }

    /// Does it hold secrets?
    pub(crate) fn has_secrets(&self) -> bool {
        let has = |target: &TargetRecord| !target.chap.accounts.is_empty() || target.chap.mutual.is_some();
        self.targets.iter().any(has)
    }

    /// Times that lie ahead are those of a clock that was set back since: the earliest that is sure is now.
    pub(crate) fn settle_times(&mut self, now: &Moment) {
        let freed = self.targets.iter_mut().flat_map(|target| &mut target.freed);
        for freed in freed.chain(self.departed.values_mut().flatten()) {
            freed.at.settle(now);
        }
    }

    /// The target of this name.
    pub(crate) fn target(&self, iqn: &str) -> Option<&TargetRecord> {
        self.targets.iter().find(|target| target.iqn == iqn)
    }

    /// The number of a target's port. One without a number has its own range, by its place in the list.
    pub(crate) fn port(&self, target: &TargetRecord) -> u16 {
        if target.port != 0 {
            return target.port;
        }
        let before = self.targets.iter().take_while(|other| other.iqn != target.iqn);
        let place = before.filter(|other| other.port == 0).count() as u16;
        // Those that had a place before they were numbered keep it.
        let has = |number: &u16| self.targets.iter().any(|other| other.port == *number);
        (UNNUMBERED_PORTS..=u16::MAX)
            .filter(|number| !has(number))
            .nth(place.into())
            .unwrap_or(UNNUMBERED_PORTS)
    }

    /// The number of a new target's port. Registrations outlive their target: they have the number that they name when a target
    /// of its name is made again, and until then nobody has it. Else the lowest that is free.
    pub(crate) fn port_for(&self, iqn: &str) -> u16 {
        let free = |number: u16| !self.targets.iter().any(|target| self.port(target) == number);
        let named: Vec<NamedPort> = named_ports(&self.reservations).collect();
        let own = named.iter().find(|port| port.target.eq_ignore_ascii_case(iqn) && free(port.number));
        if let Some(own) = own.filter(|own| own.number != 0) {
            return own.number;
        }
        let unnamed = |number: &u16| !named.iter().any(|port| port.number == *number);
        (1..UNNUMBERED_PORTS).find(|number| free(*number) && unnamed(number)).unwrap_or(0)
    }

    /// Give targets without a number the one that their place has given them so far, for good: it must not change when
    /// another target goes. Was there one?
    pub(crate) fn number_ports(&mut self) -> bool {
        let ports: Vec<u16> = self.targets.iter().map(|target| self.port(target)).collect();
        let unnumbered = self.targets.iter().any(|target| target.port == 0);
        for (target, port) in self.targets.iter_mut().zip(ports) {
            target.port = port;
        }
        unnumbered
    }

    /// Every place where the volume is mapped, and for whom.
    pub(crate) fn mappings(
        &self,
        volume: Uuid,
    ) -> impl Iterator<Item = (&TargetRecord, Option<&str>, &LunRecord)> {
        let luns = self.targets.iter().flat_map(|t| t.all_luns().map(move |(whose, lun)| (t, whose, lun)));
        luns.filter(move |(.., lun)| lun.volume_uuid == volume)
    }
}

impl TargetRecord {
    /// What this initiator sees instead of the target's LUNs, if it has LUNs of its own.
    pub(crate) fn mask(&self, initiator: &str) -> Option<&MaskRecord> {
        self.masks.iter().find(|mask| mask.initiator == initiator)
    }

    /// Every LUN, and whose it is; `None`: of all that have none of their own.
    pub(crate) fn all_luns(&self) -> impl Iterator<Item = (Option<&str>, &LunRecord)> {
        let common = self.luns.iter().map(|lun| (None, lun));
        common.chain(
            self.masks
                .iter()
                .flat_map(|mask| mask.luns.iter().map(move |lun| (Some(mask.initiator.as_str()), lun))),
        )
    }
}
