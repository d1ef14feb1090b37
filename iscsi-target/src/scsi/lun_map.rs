//! One target's logical units: which LUN is which to whom (`lun_views`), and what answers where there is none.
//!
//! A nexus is known to the units that it sees, and to no others: only they tell it of changes, and only by them is it kept
//! waiting. What is reserved, reset or aborted in a unit is so under every number and in every map.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use block_io::BufferPool;
use uuid::Uuid;

use super::cdb::Cdb;
use super::command_table::{self, Command, DataOut, Operation};
use super::copy::{self, CopyResults};
use super::lun_views::{Numbers, Views};
use super::ports::TargetPort;
use super::{Failure, LogicalUnit, Nexus, ScsiCommand, ScsiResponse, Sense, Status, inquiry};
use crate::limits::MAX_AWAY;

/// The LUN is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("LUN {0} is in use")]
pub struct LunTaken(pub u16);

/// An initiator sees the common LUNs again.
#[derive(Debug, Default)]
pub struct Unmasked {
    /// What it had of its own.
    pub units: Vec<Arc<LogicalUnit>>,
    /// They were others than the common ones.
    pub changed: bool,
}

/// Which unit each number means.
type Inventory = Vec<(u16, Uuid)>;

/// What a nexus saw when it was lost.
#[derive(Debug)]
struct Seen {
    nexus: Nexus,
    inventory: Inventory,
    /// Its initiator was told of what has changed since, under another ISID.
    is_told: bool,
}

/// LUNs by number, shared by all workers.
#[derive(Debug)]
pub struct LunMap {
    target: String,
    views: RwLock<Views>,
    nexuses: Mutex<HashSet<Nexus>>,
    /// Units that were taken away.
    gone: Mutex<VecDeque<(Uuid, Weak<LogicalUnit>)>>,
    /// Which LUNs they saw that were lost.
    seen: Mutex<VecDeque<Seen>>,
    pub(super) copies: CopyResults,
    port: Arc<TargetPort>,
}

/// The number in an eight-byte LUN (SAM-5 clause 4.7): peripheral device and flat space addressing, one level.
fn number(lun: u64) -> Option<u16> {
    let first = (lun >> 48) as u16;
    if lun & 0xffff_ffff_ffff != 0 {
        return None;
    }
    match first >> 14 {
        // Peripheral: bus 0, eight bits.
        0 if first >> 8 == 0 => Some(first),
        1 => Some(first & 0x3fff),
        _ => None,
    }
}

/// The eight bytes of a number.
fn address(lun: u16) -> [u8; 8] {
    let first = if lun < 256 { lun } else { 0x4000 | lun };
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&first.to_be_bytes());
    bytes
}

/// The answer to a command that was not carried out.
fn refused(unit: Option<&LogicalUnit>, data_out_wanted: u64, failure: Failure) -> ScsiResponse {
    let response = match failure {
        Failure::Status(status) => ScsiResponse::with_status(status),
        Failure::Check(sense) => ScsiResponse {
            sense: sense.encode(unit.is_some_and(LogicalUnit::descriptor_sense)),
            ..ScsiResponse::with_status(Status::CheckCondition)
        },
    };
    ScsiResponse { data_out_wanted, ..response }
}

impl LunMap {
    /// No LUNs yet, behind port 1.
    pub fn new(target: &str) -> Self {
        Self::behind(target, 1)
    }

    /// No LUNs yet, behind the port of this number.
    pub fn behind(target: &str, port: u16) -> Self {
        Self {
            target: target.to_owned(),
            views: RwLock::default(),
            nexuses: Mutex::default(),
            gone: Mutex::default(),
            seen: Mutex::default(),
            copies: CopyResults::default(),
            port: TargetPort::new(target, port),
        }
    }

    fn nexuses(&self) -> MutexGuard<'_, HashSet<Nexus>> {
        self.nexuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port by which all of them are reached.
    pub fn port(&self) -> &Arc<TargetPort> {
        &self.port
    }

    fn views(&self) -> RwLockReadGuard<'_, Views> {
        self.views.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn views_mut(&self) -> RwLockWriteGuard<'_, Views> {
        self.views.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unit(&self, nexus: &Nexus, lun: u64) -> Option<Arc<LogicalUnit>> {
        self.views().of(&nexus.initiator_name).unit(number(lun)?).cloned()
    }

    /// Every LUN and its unit, as those see them who have no LUNs of their own.
    pub fn units(&self) -> Vec<(u16, Arc<LogicalUnit>)> {
        self.views().map(None).map(Numbers::units).unwrap_or_default()
    }

    /// Every LUN that is an initiator's own, and its unit.
    pub fn units_of(&self, initiator: &str) -> Vec<(u16, Arc<LogicalUnit>)> {
        self.views().map(Some(initiator)).map(Numbers::units).unwrap_or_default()
    }

    /// Every LUN that this nexus sees, and its unit.
    fn units_seen(&self, nexus: &Nexus) -> Vec<(u16, Arc<LogicalUnit>)> {
        self.views().of(&nexus.initiator_name).units()
    }

    /// The units of all maps, once for each number.
    pub fn all_units(&self) -> Vec<Arc<LogicalUnit>> {
        self.views().all().cloned().collect()
    }

    /// Give a number to a unit; the initiators are told.
    pub fn insert(&self, lun: u16, unit: Arc<LogicalUnit>) -> Result<(), LunTaken> {
        self.insert_for(None, lun, unit)
    }

    /// The same in the map of one initiator, which then sees its own map alone; of `None` it is the common one.
    pub fn insert_for(&self, whose: Option<&str>, lun: u16, unit: Arc<LogicalUnit>) -> Result<(), LunTaken> {
        if let Some(initiator) = whose {
            self.mask(initiator);
        }
        let told_by_itself = {
            let mut views = self.views_mut();
            let is_free = views.map(whose).is_some_and(|numbers| numbers.unit(lun).is_none());
            if !is_free || lun >= 0x4000 {
                return Err(LunTaken(lun));
            }
            let is_anew = self.starts_anew(&unit);
            for nexus in self.affected(&views, whose) {
                if is_anew { unit.begin(&nexus) } else { unit.meet(&nexus) }
            }
            unit.join(&self.port);
            views.map_mut(whose).is_some_and(|numbers| numbers.insert(lun, unit))
        };
        // A unit that nobody knew yet has nothing to tell, unless it stands where another one stood.
        self.inventory_changed(whose, Some(lun).filter(|_| !told_by_itself));
        tracing::debug!(target_name = %self.target, lun, whose, "LUN mapped");
        Ok(())
    }

    /// Take a number away; the initiators are told by the units that are left.
    pub fn remove(&self, lun: u16) -> Option<Arc<LogicalUnit>> {
        self.remove_for(None, lun)
    }

    /// The same in the map of one initiator.
    pub fn remove_for(&self, whose: Option<&str>, lun: u16) -> Option<Arc<LogicalUnit>> {
        let removed = {
            let mut views = self.views_mut();
            let numbers = views.map_mut(whose)?;
            let removed = numbers.remove(lun)?;
            removed.part(&self.port);
            self.remember_gone(&removed);
            // It may be there under another number too.
            if !numbers.holds_any(std::slice::from_ref(&removed)) {
                self.affected(&views, whose).iter().for_each(|nexus| removed.forget(nexus));
            }
            removed
        };
        self.inventory_changed(whose, None);
        Some(removed)
    }

    /// From now on this initiator sees only LUNs of its own, of which there are none yet. True if it has lost some.
    pub fn mask(&self, initiator: &str) -> bool {
        let mut views = self.views_mut();
        if views.is_masked(initiator) {
            return false;
        }
        views.mask(initiator);
        let lost = views.map(None).map(Numbers::units).unwrap_or_default();
        for nexus in self.affected(&views, Some(initiator)) {
            lost.iter().for_each(|(_, unit)| unit.forget(&nexus));
        }
        !lost.is_empty()
    }

    /// From now on this initiator sees what all see. What it had of its own is gone, and given back.
    pub fn unmask(&self, initiator: &str) -> Unmasked {
        let mut views = self.views_mut();
        let affected = self.affected(&views, Some(initiator));
        let Some(numbers) = views.unmask(initiator) else { return Unmasked::default() };
        let units: Vec<_> = numbers.units().into_iter().map(|(_, unit)| unit).collect();
        units.iter().for_each(|unit| unit.part(&self.port));
        if views.map(None).is_some_and(|common| common.is_same(&numbers)) {
            return Unmasked { units, changed: false };
        }
        for unit in &units {
            affected.iter().for_each(|nexus| unit.forget(nexus));
        }
        for (_, unit) in views.map(None).map(Numbers::units).unwrap_or_default() {
            for nexus in &affected {
                unit.meet(nexus);
                // Its number may have meant another unit.
                unit.tell(nexus, Sense::LUNS_CHANGED);
            }
        }
        Unmasked { units, changed: true }
    }

    /// Every number of every map is taken away.
    pub(crate) fn clear(&self) {
        let mut views = self.views_mut();
        for unit in views.all() {
            unit.part(&self.port);
            self.nexuses().iter().for_each(|nexus| unit.forget(nexus));
        }
        *views = Views::default();
    }

    /// Those who are logged in and see this map.
    fn affected(&self, views: &Views, whose: Option<&str>) -> Vec<Nexus> {
        let sees = |nexus: &&Nexus| views.is_seen_by(whose, &nexus.initiator_name);
        self.nexuses().iter().filter(sees).cloned().collect()
    }

    fn inventory_changed(&self, whose: Option<&str>, but: Option<u16>) {
        let views = self.views();
        let nexuses = self.affected(&views, whose);
        let units = views.map(whose).map(Numbers::units).unwrap_or_default();
        for (_, unit) in units.iter().filter(|(lun, _)| Some(*lun) != but) {
            // Those that reach the unit by another map or target have the LUNs they had.
            nexuses.iter().for_each(|nexus| unit.tell(nexus, Sense::LUNS_CHANGED));
        }
    }

    fn remember_gone(&self, unit: &Arc<LogicalUnit>) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.retain(|(uuid, _)| *uuid != unit.identity().uuid);
        if gone.len() >= MAX_AWAY {
            gone.pop_front();
        }
        gone.push_back((unit.identity().uuid, Arc::downgrade(unit)));
    }

    /// Was the unit here before, and has lost since what initiators had set in it, as by a stop of its array?
    fn starts_anew(&self, unit: &LogicalUnit) -> bool {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let former = gone.iter().find(|(uuid, _)| *uuid == unit.identity().uuid);
        former.is_some_and(|(_, former)| !former.upgrade().is_some_and(|former| former.is_view_of(unit)))
    }

    /// A nexus begins.
    pub fn nexus_met(&self, nexus: &Nexus) {
        // Under this lock: whoever changes what it sees either sees the nexus or is seen here.
        let views = self.views();
        self.nexuses().insert(nexus.clone());
        let numbers = views.of(&nexus.initiator_name);
        let changed = self.last_seen(nexus).is_some_and(|seen| seen != inventory(numbers));
        for (_, unit) in numbers.units() {
            unit.begin(nexus);
            if changed {
                unit.tell(nexus, Sense::LUNS_CHANGED);
            }
        }
    }

    /// What a nexus that comes back saw when it was lost; under another ISID, what its initiator saw by one that it has lost.
    fn last_seen(&self, nexus: &Nexus) -> Option<Inventory> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = seen.iter().position(|seen| seen.nexus == *nexus) {
            return seen.remove(at).map(|seen| seen.inventory);
        }
        let is_its = |seen: &&mut Seen| !seen.is_told && seen.nexus.initiator_name == nexus.initiator_name;
        let seen = seen.iter_mut().find(is_its)?;
        seen.is_told = true;
        Some(seen.inventory.clone())
    }

    fn remember(&self, nexus: &Nexus, inventory: Inventory) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_AWAY {
            seen.pop_front();
        }
        seen.push_back(Seen { nexus: nexus.clone(), inventory, is_told: false });
    }

    /// A nexus is lost.
    pub fn nexus_lost(&self, nexus: &Nexus) {
        let views = self.views();
        self.nexuses().remove(nexus);
        self.copies.forget(nexus);
        let numbers = views.of(&nexus.initiator_name);
        self.remember(nexus, inventory(numbers));
        for (_, unit) in numbers.units() {
            unit.lose(nexus);
        }
    }

    /// The unit of this LUN, or all units, as this nexus sees them.
    pub(crate) fn meant(&self, nexus: &Nexus, lun: Option<u64>) -> Vec<Arc<LogicalUnit>> {
        match lun {
            Some(lun) => self.unit(nexus, lun).into_iter().collect(),
            None => self.units_seen(nexus).into_iter().map(|(_, unit)| unit).collect(),
        }
    }

    /// Is this LUN one of these units to this nexus, or another view of one?
    pub(crate) fn is_one_of(&self, nexus: &Nexus, lun: u64, units: &[Arc<LogicalUnit>]) -> bool {
        self.unit(nexus, lun).is_some_and(|unit| units.iter().any(|other| unit.is_view_of(other)))
    }

    /// Does this initiator see one of these units?
    pub(crate) fn shows_any(&self, initiator: &str, units: &[Arc<LogicalUnit>]) -> bool {
        self.views().of(initiator).holds_any(units)
    }

    /// Is this map the one that the initiator sees?
    pub(crate) fn is_seen_by(&self, whose: Option<&str>, initiator: &str) -> bool {
        self.views().is_seen_by(whose, initiator)
    }

    /// The LUNs of a unit or of its views as this initiator sees them, as eight bytes.
    pub(crate) fn addresses_of(&self, initiator: &str, unit: &LogicalUnit) -> Vec<u64> {
        let units = self.views().of(initiator).units();
        let of_unit = units.iter().filter(|(_, other)| other.is_view_of(unit));
        of_unit.map(|(lun, _)| u64::from_be_bytes(address(*lun))).collect()
    }

    /// Is what a CDB wants of the initiator a parameter list, and not data for the medium?
    pub(crate) fn wants_parameters(cdb: &[u8]) -> bool {
        let data_out = command_table::find(cdb).map(|command| command.data_out);
        matches!(data_out, Some(DataOut::Byte(_) | DataOut::Word(_) | DataOut::Long(_)))
    }

    /// Is what a CDB asks for meant for one unit alone? All is but what tells who is there.
    pub(crate) fn is_for_one_unit(cdb: &[u8]) -> bool {
        let tells = |operation| {
            matches!(operation, Operation::Inquiry | Operation::ReportLuns | Operation::RequestSense)
        };
        command_table::find(cdb).is_some_and(|command| !tells(command.operation))
    }

    /// Bytes of data a CDB wants of the initiator. `None` for a command that is not known.
    pub fn data_out_length(&self, nexus: &Nexus, lun: u64, cdb: &[u8]) -> Option<u64> {
        Self::data_out_wanted(self.unit(nexus, lun).as_deref(), cdb)
    }

    /// The same for the unit that is found at its LUN.
    pub(crate) fn data_out_wanted(unit: Option<&LogicalUnit>, cdb: &[u8]) -> Option<u64> {
        let command = command_table::find(cdb)?;
        let cdb = Cdb(cdb);
        let block = || unit.map_or(512, |unit| u64::from(unit.device().info().logical_block_bytes));
        Some(match command.data_out {
            DataOut::None => 0,
            DataOut::Blocks => u64::from(cdb.extent().blocks) * block(),
            DataOut::BlocksInWord12 => u64::from(cdb.u16(12)) * block(),
            DataOut::TwiceByte13 => 2 * u64::from(cdb.byte(13)) * block(),
            DataOut::ByteCheck => match cdb.byte(1) >> 1 & 3 {
                1 => u64::from(cdb.extent().blocks) * block(),
                3 => block(),
                _ => 0,
            },
            DataOut::OneBlock if cdb.opcode() == 0x93 && cdb.byte(1) & 1 != 0 => 0,
            DataOut::OneBlock => block(),
            DataOut::Byte(at) => cdb.byte(at).into(),
            DataOut::Word(at) => cdb.u16(at).into(),
            DataOut::Long(at) => cdb.u32(at).into(),
        })
    }

    /// Carry a command out and answer it, whatever it is. Runs to its end.
    pub async fn execute(&self, nexus: &Nexus, command: ScsiCommand, pool: &BufferPool) -> ScsiResponse {
        self.execute_in(self.unit(nexus, command.lun), nexus, command, pool).await
    }

    /// The same in the unit that was found at its LUN, whatever is there by now.
    pub(crate) async fn execute_in(
        &self,
        unit: Option<Arc<LogicalUnit>>,
        nexus: &Nexus,
        command: ScsiCommand,
        pool: &BufferPool,
    ) -> ScsiResponse {
        let wanted = Self::data_out_wanted(unit.as_deref(), &command.cdb).unwrap_or(0);
        let naca = Cdb(&command.cdb).control_naca();
        let result = match (command_table::find(&command.cdb), &unit) {
            (Some(_), Some(_)) if naca.is_some() => Err(Sense::invalid_cdb_byte(naca.unwrap_or(0)).into()),
            (Some(known), _) if known.operation == Operation::ReportLuns => {
                self.report_luns(nexus, Cdb(&command.cdb)).map_err(Failure::from)
            }
            (Some(known), Some(unit)) if self.port.access().admits(known.access).is_err() => {
                self.out_of_reach(nexus, known, unit)
            }
            (Some(known), Some(unit)) if copy::is_third_party(known.operation) => {
                self.third_party(nexus, known, &command, unit, pool).await
            }
            (Some(known), Some(unit)) => unit.execute(nexus, known, &command, pool).await,
            (Some(known), None) => no_unit(known.operation, Cdb(&command.cdb)).map_err(Failure::from),
            // A service action that is not there is a field, its operation code is known (SPC-4).
            (None, Some(_)) if command_table::of_opcode(Cdb(&command.cdb).opcode()).next().is_some() => {
                Err(Sense::invalid_cdb_byte(1).into())
            }
            (None, Some(_)) => Err(Sense::INVALID_OPCODE.into()),
            (None, None) => Err(Sense::NO_UNIT.into()),
        };
        result.unwrap_or_else(|failure| refused(unit.as_deref(), wanted, failure))
    }

    /// Answer a command that was sent to the unit that had the LUN before: it is none of the new one's.
    pub(crate) fn was_for_another(nexus: &Nexus, unit: &LogicalUnit, cdb: &[u8]) -> ScsiResponse {
        let wanted = Self::data_out_wanted(Some(unit), cdb).unwrap_or(0);
        // The unit attention that says the same is not told twice.
        unit.told_of_luns(nexus);
        refused(Some(unit), wanted, Sense::LUNS_CHANGED.into())
    }

    /// The port's state does not allow the command; what is to be told comes first all the same.
    fn out_of_reach(
        &self,
        nexus: &Nexus,
        known: &Command,
        unit: &LogicalUnit,
    ) -> Result<ScsiResponse, Failure> {
        if let Some(attention) = unit.next_attention(nexus) {
            return Err(attention.into());
        }
        // It may have changed just now: then the initiator is asked to try again.
        Err(self.port.access().admits(known.access).err().unwrap_or(Sense::TRANSITIONING).into())
    }

    /// REPORT LUNS (SPC-4).
    fn report_luns(&self, nexus: &Nexus, cdb: Cdb<'_>) -> Result<ScsiResponse, Sense> {
        let allocation = cdb.u32(6) as usize;
        if allocation < 16 {
            return Err(Sense::INVALID_FIELD);
        }
        let units = self.units_seen(nexus);
        let list: Vec<[u8; 8]> = match cdb.byte(2) {
            0 | 2 => units.iter().map(|(lun, _)| address(*lun)).collect(),
            // Well known logical units: none.
            1 => Vec::new(),
            _ => return Err(Sense::INVALID_FIELD),
        };
        for (_, unit) in &units {
            unit.told_of_luns(nexus);
        }
        let mut data = ((list.len() * 8) as u32).to_be_bytes().to_vec();
        data.extend_from_slice(&[0; 4]);
        data.extend_from_slice(&list.concat());
        Ok(ScsiResponse::parameters(data, allocation))
    }
}

fn inventory(numbers: &Numbers) -> Inventory {
    numbers.units().into_iter().map(|(lun, unit)| (lun, unit.identity().uuid)).collect()
}

/// What a LUN that is not there answers (SPC-4).
fn no_unit(operation: Operation, cdb: Cdb<'_>) -> Result<ScsiResponse, Sense> {
    match operation {
        Operation::Inquiry => inquiry::absent(cdb),
        Operation::RequestSense => {
            let sense = Sense::NO_UNIT.encode(cdb.byte(1) & 1 != 0);
            Ok(ScsiResponse::parameters(sense, usize::from(cdb.byte(4))))
        }
        _ => Err(Sense::NO_UNIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luns_in_both_formats() {
        assert_eq!(number(0), Some(0));
        assert_eq!(number(0x0005_0000_0000_0000), Some(5));
        assert_eq!(number(0x4123_0000_0000_0000), Some(0x123));
        for bad in
            [0x0105_0000_0000_0000, 0x0005_0001_0000_0000, 0x8005_0000_0000_0000, 0xc101_0000_0000_0000]
        {
            assert_eq!(number(bad), None, "{bad:#x}");
        }
        for lun in [0, 255, 256, 0x3fff] {
            assert_eq!(number(u64::from_be_bytes(address(lun))), Some(lun));
        }
    }
}
