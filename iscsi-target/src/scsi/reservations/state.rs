//! What is registered and reserved, who may do what, and RESERVE, RELEASE and CLEAR.

use super::order::{Action, Order};
use crate::scsi::cdb::Cdb;
use crate::scsi::command_table::Class;
use crate::scsi::{Failure, Nexus, Sense, Status};

/// An I_T nexus as registrations know it. Names are in lower case, for iSCSI names that differ in case only are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItNexus {
    /// InitiatorName.
    pub initiator_name: String,
    /// ISID: with the name, the initiator port.
    pub isid: [u8; 6],
    /// The target's name.
    pub target_name: String,
    /// TargetPortalGroupTag: with the name, the target port.
    pub portal_group: u16,
}

/// A target port through which a logical unit is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortName {
    /// The target's name.
    pub target_name: String,
    /// TargetPortalGroupTag.
    pub portal_group: u16,
    /// Relative target port identifier.
    pub relative: u16,
}

impl From<&Nexus> for ItNexus {
    fn from(nexus: &Nexus) -> Self {
        Self {
            initiator_name: nexus.initiator_name.to_ascii_lowercase(),
            isid: nexus.isid,
            target_name: nexus.target_name.to_ascii_lowercase(),
            portal_group: nexus.target_portal_group,
        }
    }
}

impl ItNexus {
    /// Is it this one? Without making a copy: every command under a reservation asks.
    pub fn is(&self, nexus: &Nexus) -> bool {
        self.isid == nexus.isid
            && self.portal_group == nexus.target_portal_group
            && self.initiator_name.eq_ignore_ascii_case(&nexus.initiator_name)
            && self.target_name.eq_ignore_ascii_case(&nexus.target_name)
    }

    /// The same initiator port at another target port.
    pub(super) fn at(&self, port: &PortName) -> Self {
        let target_name = port.target_name.to_ascii_lowercase();
        Self { target_name, portal_group: port.portal_group, ..self.clone() }
    }
}

/// Types of a reservation (SPC-4 table 67).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    /// The type of this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrantsOnly,
            6 => Self::ExclusiveAccessRegistrantsOnly,
            7 => Self::WriteExclusiveAllRegistrants,
            8 => Self::ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// Its name in SPC-4.
    pub fn name(self) -> &'static str {
        match self {
            Self::WriteExclusive => "Write Exclusive",
            Self::ExclusiveAccess => "Exclusive Access",
            Self::WriteExclusiveRegistrantsOnly => "Write Exclusive, Registrants Only",
            Self::ExclusiveAccessRegistrantsOnly => "Exclusive Access, Registrants Only",
            Self::WriteExclusiveAllRegistrants => "Write Exclusive, All Registrants",
            Self::ExclusiveAccessAllRegistrants => "Exclusive Access, All Registrants",
        }
    }

    fn exclusive_access(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// Every registrant is a holder.
    pub fn all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Registrants have a holder's rights, and are told when it ends.
    pub(super) fn registrants_share(self) -> bool {
        self as u8 >= 5
    }
}

/// A nexus and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Who.
    pub nexus: ItNexus,
    /// Relative target port identifier of its target port.
    pub relative_target_port: u16,
    /// The reservation key; not 0.
    pub key: u64,
}

/// A reservation of the logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its type.
    pub kind: Kind,
    /// Who holds it; none for the all-registrants types, where all who are registered do.
    pub holder: Option<ItNexus>,
}

/// What is so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// PRGENERATION: counts orders that change registrations, from 0 at power on.
    pub generation: u32,
    /// In the order they came.
    pub registrations: Vec<Registration>,
    /// The one reservation there may be.
    pub reservation: Option<Reservation>,
    /// APTPL of the last registration: all of this survives a power loss.
    pub persists: bool,
}

/// What an order may need to know beside the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around<'a> {
    /// Target ports through which the unit is reached.
    pub(crate) ports: &'a [PortName],
    /// Nexuses that are logged in.
    pub(crate) known: &'a [ItNexus],
    /// There is a place where APTPL can be kept.
    pub(crate) can_persist: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) next: Reservations,
    /// Unit attentions to raise.
    pub(crate) told: Vec<(ItNexus, Sense)>,
    /// Nexuses whose commands must be over before the order is answered (PREEMPT AND ABORT).
    pub(crate) aborted: Vec<ItNexus>,
}

impl Outcome {
    pub(super) fn quiet(next: Reservations) -> Self {
        Self { next, told: Vec::new(), aborted: Vec::new() }
    }
}

/// How RESERVE and RELEASE of SPC-2 fare beside registrations (SPC-4 clause 5.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Legacy {
    /// GOOD, and nothing is done.
    Ignored,
    /// RESERVATION CONFLICT.
    Conflict,
    /// As SPC-2 has it.
    Processed,
}

pub(super) const CONFLICT: Failure = Failure::Status(Status::ReservationConflict);

impl Reservations {
    fn registration(&self, nexus: &Nexus) -> Option<&Registration> {
        self.registrations.iter().find(|registration| registration.nexus.is(nexus))
    }

    pub(super) fn key_of(&self, nexus: &ItNexus) -> Option<u64> {
        self.registrations.iter().find(|registration| registration.nexus == *nexus).map(|found| found.key)
    }

    /// Does this nexus hold the reservation?
    pub fn is_held_by(&self, nexus: &ItNexus) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| match &reservation.holder {
            Some(holder) => holder == nexus,
            None => self.key_of(nexus).is_some(),
        })
    }

    /// May this nexus send a command of this class?
    pub(crate) fn admits(&self, nexus: &Nexus, class: Class, cdb: Cdb<'_>) -> bool {
        let Some(reservation) = &self.reservation else { return true };
        if class.passes(cdb, reservation.kind.exclusive_access()) {
            return true;
        }
        match &reservation.holder {
            Some(holder) if holder.is(nexus) => true,
            _ => reservation.kind.registrants_share() && self.registration(nexus).is_some(),
        }
    }

    pub(crate) fn legacy(&self, nexus: &Nexus) -> Legacy {
        let registered = self.registration(nexus).is_some();
        let holds = self.reservation.as_ref().is_some_and(|reservation| {
            let holder = reservation.holder.as_ref().is_some_and(|holder| holder.is(nexus));
            holder || (registered && reservation.kind.registrants_share())
        });
        match (holds, self.registrations.is_empty()) {
            (true, _) => Legacy::Ignored,
            (false, false) => Legacy::Conflict,
            (false, true) => Legacy::Processed,
        }
    }

    /// Carry out an order of PERSISTENT RESERVE OUT.
    pub(crate) fn apply(&self, from: &Nexus, order: &Order, around: Around<'_>) -> Result<Outcome, Failure> {
        if let Action::Register(register) = &order.action {
            return self.register(from, order.key, register, around);
        }
        let own = ItNexus::from(from);
        // All other orders are for registrants, who must name their key (SPC-4 clause 5.12.2).
        if self.key_of(&own) != Some(order.key) {
            return Err(CONFLICT);
        }
        match &order.action {
            Action::Register(_) => Err(Sense::INVALID_FIELD.into()),
            Action::Move(to) => self.move_to(&own, to, around),
            Action::Reserve => self.reserve(own, order),
            Action::Release => self.release(&own, order),
            Action::Clear => Ok(self.clear(&own)),
            Action::Preempt { victim, abort } => self.preempt(&own, *victim, *abort, order),
        }
    }

    /// The next state, with PRGENERATION counted.
    pub(super) fn counted(&self) -> Self {
        Self { generation: self.generation.wrapping_add(1), ..self.clone() }
    }

    /// Registrants but one, each to be told the same.
    pub(super) fn tell_others(&self, but: &ItNexus, sense: Sense) -> Vec<(ItNexus, Sense)> {
        let others = self.registrations.iter().map(|registration| &registration.nexus);
        others.filter(|nexus| *nexus != but).map(|nexus| (nexus.clone(), sense)).collect()
    }

    /// RESERVE (SPC-4 clause 5.12.9).
    fn reserve(&self, own: ItNexus, order: &Order) -> Result<Outcome, Failure> {
        let kind = order.kind()?;
        match &self.reservation {
            None => {
                let holder = (!kind.all_registrants()).then_some(own);
                let reservation = Some(Reservation { kind, holder });
                Ok(Outcome::quiet(Self { reservation, ..self.clone() }))
            }
            // The holder may say it again.
            Some(there) if there.kind == kind && self.is_held_by(&own) => Ok(Outcome::quiet(self.clone())),
            Some(_) => Err(CONFLICT),
        }
    }

    /// RELEASE (SPC-4 clause 5.12.11.2).
    fn release(&self, own: &ItNexus, order: &Order) -> Result<Outcome, Failure> {
        let Some(there) = self.reservation.as_ref().filter(|_| self.is_held_by(own)) else {
            return Ok(Outcome::quiet(self.clone()));
        };
        if order.kind().ok() != Some(there.kind) {
            return Err(Sense::INVALID_RELEASE.into());
        }
        let told = match there.kind.registrants_share() {
            true => self.tell_others(own, Sense::RESERVATIONS_RELEASED),
            false => Vec::new(),
        };
        Ok(Outcome { told, ..Outcome::quiet(Self { reservation: None, ..self.clone() }) })
    }

    /// CLEAR (SPC-4 clause 5.12.11.6).
    fn clear(&self, own: &ItNexus) -> Outcome {
        let told = self.tell_others(own, Sense::RESERVATIONS_PREEMPTED);
        let next = Self { registrations: Vec::new(), reservation: None, ..self.counted() };
        Outcome { told, ..Outcome::quiet(next) }
    }
}
