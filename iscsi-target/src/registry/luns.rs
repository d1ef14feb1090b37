//! Which LUNs does a target have, and for whom? Whoever's LUNs change is told, and nobody else.

use std::sync::Arc;

use super::{RegistryError, SessionInfo, SessionMessage, Target, TargetRegistry, lock};
use crate::scsi::{LogicalUnit, Sense};

impl TargetRegistry {
    /// Give a target a logical unit.
    pub fn map_lun(&self, name: &str, lun: u16, unit: Arc<LogicalUnit>) -> Result<(), RegistryError> {
        self.map_lun_for(name, None, lun, unit)
    }

    /// The same for one initiator, which then sees only what is its own; with `None` for all others.
    pub fn map_lun_for(
        &self,
        name: &str,
        whose: Option<&str>,
        lun: u16,
        unit: Arc<LogicalUnit>,
    ) -> Result<(), RegistryError> {
        let target = self.target(name)?;
        let taken = RegistryError::LunTaken { target: target.name.clone(), lun };
        // The first LUN of its own takes the others from it.
        let masked = whose.is_some_and(|initiator| target.luns.mask(initiator));
        let inserted = target.luns.insert_for(whose, lun, unit);
        if masked || inserted.is_ok() {
            self.tell_of_luns(&target, whose);
        }
        inserted.map_err(|_| taken)
    }

    /// Take a logical unit away. Commands under way in it end by themselves; the initiators are told.
    pub fn unmap_lun(&self, name: &str, lun: u16) -> Result<Arc<LogicalUnit>, RegistryError> {
        self.unmap_lun_for(name, None, lun)
    }

    /// The same for one initiator.
    pub fn unmap_lun_for(
        &self,
        name: &str,
        whose: Option<&str>,
        lun: u16,
    ) -> Result<Arc<LogicalUnit>, RegistryError> {
        let target = self.target(name)?;
        let missing = RegistryError::NoLun { target: target.name.clone(), lun };
        let removed = target.luns.remove_for(whose, lun).ok_or(missing)?;
        self.tell_of_luns(&target, whose);
        Ok(removed)
    }

    /// From now on this initiator sees only LUNs of its own, of which there are none yet.
    pub fn mask_luns(&self, name: &str, initiator: &str) -> Result<(), RegistryError> {
        let target = self.target(name)?;
        if target.luns.mask(initiator) {
            self.tell_of_luns(&target, Some(initiator));
        }
        Ok(())
    }

    /// From now on this initiator sees what all see. What it had of its own is given back.
    pub fn unmask_luns(&self, name: &str, initiator: &str) -> Result<Vec<Arc<LogicalUnit>>, RegistryError> {
        let target = self.target(name)?;
        let unmasked = target.luns.unmask(initiator);
        if unmasked.changed {
            self.tell(&target, |session| {
                let is_it = session.initiator.eq_ignore_ascii_case(initiator);
                is_it.then_some((0, Sense::LUNS_CHANGED)).into_iter().collect()
            });
        }
        Ok(unmasked.units)
    }

    /// The unit's device has grown or shrunk: every initiator that reaches it is told.
    pub fn capacity_changed(&self, unit: &LogicalUnit) {
        unit.capacity_changed();
        for target in self.targets() {
            self.tell(&target, |session| {
                let luns = target.luns.addresses_of(&session.initiator, unit);
                luns.into_iter().map(|lun| (lun, Sense::CAPACITY_CHANGED)).collect()
            });
        }
    }

    /// Those who see this map of the target have other LUNs than before.
    fn tell_of_luns(&self, target: &Target, whose: Option<&str>) {
        self.tell(target, |session| {
            let sees = target.luns.is_seen_by(whose, &session.initiator);
            sees.then_some((0, Sense::LUNS_CHANGED)).into_iter().collect()
        });
    }

    /// An initiator with nothing to do would not meet the unit attention for long: a message lets it look at once. The unit
    /// attention stays for those that do not listen.
    fn tell(&self, target: &Target, what: impl Fn(&SessionInfo) -> Vec<(u64, Sense)>) {
        for session in lock(&self.sessions).values() {
            if session.info.target.as_ref() != Some(&target.name) {
                continue;
            }
            for (lun, sense) in what(&session.info) {
                // Full: it has much else to hear.
                let _ = session.mailbox.try_send(SessionMessage::Changed { lun, sense });
            }
        }
    }
}
