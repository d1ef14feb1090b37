//! REGISTER, REGISTER AND IGNORE EXISTING KEY, REGISTER AND MOVE (SPC-4 clauses 5.12.7 and 5.12.8).

use super::order::{Move, Register};
use super::state::{Around, CONFLICT, ItNexus, Outcome, PortName, Registration, Reservation, Reservations};
use super::transport_id::TransportId;
use crate::limits::MAX_REGISTRATIONS;
use crate::scsi::{Failure, Nexus, Sense};

impl Reservations {
    pub(super) fn register(
        &self,
        from: &Nexus,
        key: u64,
        order: &Register,
        around: Around<'_>,
    ) -> Result<Outcome, Failure> {
        if order.persists && !around.can_persist {
            return Err(Sense::INVALID_PARAMETER.into());
        }
        let own = ItNexus::from(from);
        let ports = ports_of(from, order.all_target_ports, around);
        // ALL_TG_PT: as if the order had come through each of the ports.
        let meant: Vec<(ItNexus, u16)> = ports.iter().map(|port| (own.at(port), port.relative)).collect();
        let keys = || meant.iter().map(|(nexus, _)| self.key_of(nexus));
        if !order.ignores_key && keys().any(|registered| registered.unwrap_or(0) != key) {
            return Err(CONFLICT);
        }
        // SPC-4 table 63: others are registered with oneself, not afterwards.
        if order.others.is_some() && self.key_of(&own).is_some() {
            return Err(Sense::INVALID_FIELD.into());
        }
        if order.new_key == 0 {
            return Ok(self.unregister_all(&meant, order.persists));
        }
        let mut next = Self { persists: order.persists, ..self.counted() };
        for (nexus, relative) in &meant {
            next.set_key(nexus, *relative, order.new_key)?;
        }
        for id in order.others.iter().flatten() {
            for port in &ports {
                next.register_other(self, id, port, order.new_key, around)?;
            }
        }
        Ok(Outcome::quiet(next))
    }

    fn unregister_all(&self, meant: &[(ItNexus, u16)], persists: bool) -> Outcome {
        if meant.iter().all(|(nexus, _)| self.key_of(nexus).is_none()) {
            // Nothing was registered and nothing shall be.
            return Outcome::quiet(self.clone());
        }
        let mut outcome = Outcome::quiet(Self { persists, ..self.counted() });
        for (nexus, _) in meant {
            let told = outcome.next.unregister(nexus);
            outcome.told.extend(told);
        }
        // One of its own ports is not told of what another did.
        outcome.told.retain(|(nexus, _)| !meant.iter().any(|(own, _)| own == nexus));
        outcome
    }

    /// Take a registration away, and the reservation that goes with it (SPC-4 clause 5.12.11.3).
    fn unregister(&mut self, nexus: &ItNexus) -> Vec<(ItNexus, Sense)> {
        let held = self.is_held_by(nexus);
        self.registrations.retain(|registration| registration.nexus != *nexus);
        let Some(reservation) = self.reservation.as_ref().filter(|_| held) else { return Vec::new() };
        let kind = reservation.kind;
        if kind.all_registrants() && !self.registrations.is_empty() {
            return Vec::new();
        }
        self.reservation = None;
        match kind.registrants_share() {
            true => self.tell_others(nexus, Sense::RESERVATIONS_RELEASED),
            false => Vec::new(),
        }
    }

    fn set_key(&mut self, nexus: &ItNexus, relative_target_port: u16, key: u64) -> Result<(), Sense> {
        if let Some(there) = self.registrations.iter_mut().find(|there| there.nexus == *nexus) {
            (there.key, there.relative_target_port) = (key, relative_target_port);
            return Ok(());
        }
        if self.registrations.len() >= MAX_REGISTRATIONS {
            return Err(Sense::NO_ROOM_TO_REGISTER);
        }
        self.registrations.push(Registration { nexus: nexus.clone(), relative_target_port, key });
        Ok(())
    }

    /// SPEC_I_PT: a port that is named is registered, if none of its nexuses was `before`.
    fn register_other(
        &mut self,
        before: &Self,
        id: &TransportId,
        port: &PortName,
        key: u64,
        around: Around<'_>,
    ) -> Result<(), Sense> {
        let isids = match id.isid {
            Some(isid) => vec![isid],
            // A device without a port stands for all of its ports that are known (SPC-4 clause 7.6.4.6).
            None => self.isids_of(&id.name, around),
        };
        if isids.is_empty() {
            return Err(Sense::INVALID_PARAMETER);
        }
        for isid in isids {
            let nexus = id.nexus(isid, port);
            if before.key_of(&nexus).is_some() {
                // It would keep its key while the sender takes it for changed (SPC-4 clause 5.13.7, table 67).
                return Err(Sense::INVALID_PARAMETER);
            }
            self.set_key(&nexus, port.relative, key)?;
        }
        Ok(())
    }

    fn isids_of(&self, name: &str, around: Around<'_>) -> Vec<[u8; 6]> {
        let registered = self.registrations.iter().map(|registration| &registration.nexus);
        let all = around.known.iter().chain(registered);
        let mut isids: Vec<_> = all.filter(|nexus| nexus.initiator_name == name).map(|n| n.isid).collect();
        isids.sort_unstable();
        isids.dedup();
        isids
    }

    pub(super) fn move_to(
        &self,
        own: &ItNexus,
        order: &Move,
        around: Around<'_>,
    ) -> Result<Outcome, Failure> {
        let Some(there) = &self.reservation else { return Err(Sense::INVALID_FIELD.into()) };
        if there.holder.as_ref() != Some(own) {
            // Also for the all-registrants types, where nothing can be moved.
            return Err(CONFLICT);
        }
        if order.new_key == 0 || (order.persists && !around.can_persist) {
            return Err(Sense::INVALID_PARAMETER.into());
        }
        let here = |port: &&PortName| {
            port.relative == order.relative_target_port
                && port.target_name.eq_ignore_ascii_case(&own.target_name)
        };
        let isid = order.to.isid.ok_or(Sense::INVALID_PARAMETER)?;
        // Portal groups share the number: of several the one is meant by which that initiator is here, else the sender's own.
        let is_here = |port: &&PortName| around.known.contains(&order.to.nexus(isid, port));
        let is_own = |port: &&PortName| port.portal_group == own.portal_group;
        let ports = || around.ports.iter().filter(here);
        let port = ports().find(is_here).or_else(|| ports().find(is_own)).or_else(|| ports().next());
        let port = port.ok_or(Sense::INVALID_PARAMETER)?;
        let to = order.to.nexus(isid, port);
        if to == *own {
            return Err(Sense::INVALID_PARAMETER.into());
        }
        let mut next = Self { persists: order.persists, ..self.counted() };
        if order.unregister {
            next.registrations.retain(|registration| registration.nexus != *own);
        }
        next.set_key(&to, port.relative, order.new_key)?;
        next.reservation = Some(Reservation { kind: there.kind, holder: Some(to) });
        Ok(Outcome::quiet(next))
    }
}

/// The port the order came through, or all that lead to the unit.
fn ports_of(from: &Nexus, all: bool, around: Around<'_>) -> Vec<PortName> {
    let own = PortName {
        target_name: from.target_name.to_ascii_lowercase(),
        portal_group: from.target_portal_group,
        relative: from.relative_target_port,
    };
    let mut ports = vec![own];
    if all {
        for port in around.ports {
            let same = |known: &PortName| {
                known.portal_group == port.portal_group
                    && known.target_name.eq_ignore_ascii_case(&port.target_name)
            };
            if !ports.iter().any(same) {
                ports.push(port.clone());
            }
        }
    }
    ports
}
