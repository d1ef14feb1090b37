//! Asymmetric access (SPC-4): by which ports a unit is reached, and what may be done through each.
//!
//! A target is one port, and a target port group of its own. Its state is set by whoever runs the target, or by an initiator
//! with SET TARGET PORT GROUPS; it holds for all units of the target. So an initiator sets only that of the port it comes by:
//! behind another there may be units that are none of its business. Who runs the target alone ends what only he can begin.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::cdb::Cdb;
use super::command_table::Access;
use super::{LogicalUnit, Nexus, PORTAL_GROUP_TAG, Sense};

/// What may be done through a port. The numbers are those of SPC-4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessState {
    /// Everything, the best way.
    #[default]
    Optimized = 0x0,
    /// Everything, but another way is better.
    NonOptimized = 0x1,
    /// What does not need the medium.
    Standby = 0x2,
    /// What informs.
    Unavailable = 0x3,
    /// What informs; only who runs the target can end it.
    Offline = 0xe,
    /// On the way to another state; only who runs the target can end it.
    Transitioning = 0xf,
}

/// All states.
const STATES: [AccessState; 6] = [
    AccessState::Optimized,
    AccessState::NonOptimized,
    AccessState::Standby,
    AccessState::Unavailable,
    AccessState::Offline,
    AccessState::Transitioning,
];

/// REPORT TARGET PORT GROUPS: all states are supported.
const SUPPORTED: u8 = 0xcf;

impl AccessState {
    /// May a command that needs this go on? If not, why.
    pub(crate) fn admits(self, needed: Access) -> Result<(), Sense> {
        let refusal = match self {
            Self::Optimized | Self::NonOptimized => return Ok(()),
            Self::Standby if needed == Access::Standby => return Ok(()),
            Self::Standby => Sense::STANDBY,
            Self::Unavailable => Sense::UNAVAILABLE,
            Self::Offline => Sense::OFFLINE,
            Self::Transitioning => Sense::TRANSITIONING,
        };
        let passes = match needed {
            Access::Any => true,
            Access::Settable => !matches!(self, Self::Offline | Self::Transitioning),
            Access::Standby | Access::Active => false,
        };
        if passes { Ok(()) } else { Err(refusal) }
    }
}

/// The port of a target.
#[derive(Debug)]
pub struct TargetPort {
    /// Its target's name.
    target: String,
    /// Target port group, and relative target port identifier: one of each for a target.
    number: u16,
    state: AtomicU16,
    /// The portal groups that lead to it: each is a port of its own to persistent reservations.
    groups: Mutex<Vec<u16>>,
    /// What is reached through it.
    units: Mutex<Vec<Weak<LogicalUnit>>>,
}

impl TargetPort {
    /// A port that allows everything.
    pub(crate) fn new(target: &str, number: u16) -> Arc<Self> {
        let target = target.to_owned();
        let groups = Mutex::new(vec![PORTAL_GROUP_TAG]);
        Arc::new(Self { target, number, state: AtomicU16::new(0), groups, units: Mutex::default() })
    }

    fn units(&self) -> MutexGuard<'_, Vec<Weak<LogicalUnit>>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Say which portal groups lead to it.
    pub(crate) fn set_groups(&self, groups: &[u16]) {
        *self.groups.lock().unwrap_or_else(PoisonError::into_inner) = groups.to_vec();
    }

    pub(crate) fn groups(&self) -> Vec<u16> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its target's name.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Target port group and relative target port identifier.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// What may be done through it.
    pub fn access(&self) -> AccessState {
        let number = self.state.load(Ordering::Acquire) as u8;
        STATES.into_iter().find(|state| *state as u8 == number).unwrap_or_default()
    }

    /// The initiators of the unit are told of changes.
    pub(crate) fn lead_to(&self, unit: &Arc<LogicalUnit>) {
        self.units().push(Arc::downgrade(unit));
    }

    /// The unit is reached through it once less.
    pub(crate) fn leave(&self, unit: &Arc<LogicalUnit>) {
        let mut units = self.units();
        if let Some(at) = units.iter().position(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(unit))) {
            units.remove(at);
        }
        units.retain(|unit| unit.strong_count() > 0);
    }

    /// Change what may be done, and tell everyone but `by`.
    pub(crate) fn set(&self, state: AccessState, by: Option<&Nexus>) {
        // STATUS CODE: 1 by SET TARGET PORT GROUPS, 2 implicitly.
        let cause = if by.is_some() { 1 } else { 2 };
        let old = self.state.swap(u16::from(state as u8) | cause << 8, Ordering::AcqRel);
        if old as u8 != state as u8 {
            for unit in self.units().iter().filter_map(Weak::upgrade) {
                unit.raise(Sense::ACCESS_CHANGED, by);
            }
        }
    }
}

/// REPORT TARGET PORT GROUPS: both formats (SPC-4).
pub(crate) fn report(cdb: Cdb<'_>, ports: &[Arc<TargetPort>]) -> Result<Vec<u8>, Sense> {
    let mut data = vec![0; 4];
    match cdb.byte(1) >> 5 {
        0 => {}
        // The extended header: transitions take no time to speak of.
        1 => data.extend_from_slice(&[0x10, 0, 0, 0]),
        _ => return Err(Sense::invalid_cdb_byte(1)),
    }
    for port in ports {
        let [cause, state] = port.state.load(Ordering::Acquire).to_be_bytes();
        data.extend_from_slice(&[state, SUPPORTED]);
        data.extend_from_slice(&port.number.to_be_bytes());
        data.extend_from_slice(&[0, cause, 0, 1, 0, 0]);
        data.extend_from_slice(&port.number.to_be_bytes());
    }
    let length = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&length.to_be_bytes());
    Ok(data)
}

/// The parameter list of SET TARGET PORT GROUPS that came by the port of this number: which of these ports get which state.
/// Nothing is changed here.
pub(crate) fn wishes(
    list: &[u8],
    ports: &[Arc<TargetPort>],
    by: u16,
) -> Result<Vec<(Arc<TargetPort>, AccessState)>, Sense> {
    let descriptors = list.get(4..).ok_or(Sense::PARAMETER_LENGTH)?;
    if !descriptors.len().is_multiple_of(4) {
        return Err(Sense::PARAMETER_LENGTH);
    }
    let wish = |descriptor: &[u8]| {
        let fields = Cdb(descriptor);
        let port = ports.iter().find(|port| port.number == by && by == fields.u16(2));
        let state = STATES.into_iter().find(|state| *state as u8 == fields.byte(0) & 0x0f);
        // Offline and transitioning are not an initiator's to set.
        let settable =
            state.filter(|state| !matches!(state, AccessState::Offline | AccessState::Transitioning));
        Ok((Arc::clone(port.ok_or(Sense::INVALID_PARAMETER)?), settable.ok_or(Sense::INVALID_PARAMETER)?))
    };
    descriptors.chunks_exact(4).map(wish).collect()
}
