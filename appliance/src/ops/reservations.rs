//! Persistent reservations: who has registered with what, and taking a key away.

use std::sync::Arc;

use iscsi_target::scsi::reservations::{Registration, Reservations};
use iscsi_target::scsi::{Interrupted, LogicalUnit, Restored, StoreFailed, UnitRecord};
use labsan_api::reservation::{self as api, Registered, ReservationQuery, Reserved, VolumeReservations};
use labsan_api::target::Session;
use labsan_api::{Done, VolumePath};
use raid_core::volume::Volume;
use uuid::Uuid;

use crate::error::Failure;
use crate::san::plan;
use crate::state::Daemon;
use crate::{change, replica, reservations};

/// Volumes that somebody is registered with.
pub(crate) fn list(daemon: &Daemon, query: ReservationQuery) -> Result<api::Reservations, Failure> {
    let wanted = match query.volume {
        Some(name) => Some(volume(daemon, &name)?.1.uuid()),
        None => None,
    };
    let sessions = daemon.targets.sessions();
    let mut volumes: Vec<VolumeReservations> = known(daemon)
        .into_iter()
        .filter(|(uuid, _)| wanted.is_none_or(|wanted| wanted == *uuid))
        .filter_map(|(uuid, state)| match state {
            Ok(state) if state.registrations.is_empty() => None,
            Ok(state) => Some(shown(daemon, uuid, &state, &sessions)),
            Err(why) => Some(unreadable(daemon, uuid, why)),
        })
        .collect();
    let name = |shown: &VolumeReservations| shown.volume.as_ref().map(ToString::to_string);
    volumes.sort_by_key(|shown| (name(shown), shown.volume_uuid));
    Ok(api::Reservations { volumes })
}

/// What live units know, and what is kept of volumes that are not served. The error is for a person.
fn known(daemon: &Daemon) -> Vec<(Uuid, Result<Reservations, String>)> {
    let units = daemon.targets.units();
    let mut known: Vec<_> =
        units.iter().map(|unit| (unit.identity().uuid, Ok(unit.reservations()))).collect();
    let document = daemon.document();
    for volume in document.reservations.keys() {
        if !known.iter().any(|(uuid, _)| uuid == volume) {
            let restored = reservations::restored(&document, *volume);
            known.push((*volume, restored.map(|restored| restored.reservations)));
        }
    }
    known
}

fn unreadable(daemon: &Daemon, uuid: Uuid, why: String) -> VolumeReservations {
    VolumeReservations {
        volume: name_of(daemon, uuid),
        volume_uuid: uuid,
        reservation: None,
        persists: true,
        registrations: Vec::new(),
        unreadable: Some(why),
    }
}

fn shown(daemon: &Daemon, uuid: Uuid, state: &Reservations, sessions: &[Session]) -> VolumeReservations {
    let one = |registration: &Registration| {
        let nexus = &registration.nexus;
        let isid = hex::encode(nexus.isid);
        let same = |session: &Session| {
            session.isid == isid
                && session.target == nexus.target_name
                && session.initiator.eq_ignore_ascii_case(&nexus.initiator_name)
        };
        Registered {
            key: api::format_key(registration.key),
            initiator: nexus.initiator_name.clone(),
            target: nexus.target_name.clone(),
            holder: state.is_held_by(nexus),
            logged_in: sessions.iter().any(same),
            isid,
        }
    };
    VolumeReservations {
        volume: name_of(daemon, uuid),
        volume_uuid: uuid,
        reservation: state.reservation.as_ref().map(|reservation| Reserved {
            kind: reservation.kind as u8,
            type_name: reservation.kind.name().to_owned(),
        }),
        persists: state.persists,
        registrations: state.registrations.iter().map(one).collect(),
        unreadable: None,
    }
}

fn name_of(daemon: &Daemon, uuid: Uuid) -> Option<VolumePath> {
    daemon.arrays().into_iter().find_map(|(array, running)| {
        let volume = running.volumes().into_iter().find(|volume| volume.uuid() == uuid)?;
        Some(VolumePath { array, volume: volume.record().name })
    })
}

/// The array and the volume of this name.
fn volume(daemon: &Daemon, name: &VolumePath) -> Result<(Uuid, Arc<Volume>), Failure> {
    let array = daemon.array(&name.array).map_err(|_| Failure::NoVolume(name.clone()))?;
    let volume = array.volume(&name.volume).ok_or_else(|| Failure::NoVolume(name.clone()))?;
    Ok((array.uuid(), volume))
}

/// Take all registrations with a key off a volume, and the reservation if it was theirs.
pub(crate) async fn purge(daemon: &Arc<Daemon>, name: &VolumePath, key: &str) -> Result<Done, Failure> {
    let code = api::parse_key(key).ok_or_else(|| Failure::BadKey(key.to_owned()))?;
    // So that it is not mapped, and with that made live, meanwhile.
    let _turn = daemon.take_turn().await?;
    let (array, volume) = volume(daemon, name)?;
    let count = match daemon.targets.unit_of(&volume) {
        Some(unit) => unit.purge(code).await.map_err(|_| Failure::NotKept(name.clone()))?,
        None => purge_kept(daemon, array, &volume, name, code).await?,
    };
    match count {
        0 => Err(Failure::NoKey { volume: name.clone(), key: api::format_key(code) }),
        _ => Ok(Done::changed(format!(
            "{count} registration(s) with key {} taken off {name}",
            api::format_key(code)
        ))),
    }
}

/// The same of a volume that is not served.
async fn purge_kept(
    daemon: &Daemon,
    array: Uuid,
    volume: &Arc<Volume>,
    name: &VolumePath,
    key: u64,
) -> Result<usize, Failure> {
    let before = reservations::restored(&daemon.document(), volume.uuid())
        .map_err(|why| Failure::Unreadable { volume: name.clone(), why })?;
    let Some(after) = before.reservations.without(key) else { return Ok(0) };
    keep_sanitize_and(daemon, array, volume, &before, &after).await?;
    Ok(before.reservations.registrations.len() - after.registrations.len())
}

/// Keep these reservations, and what was kept beside others.
async fn keep_sanitize_and(
    daemon: &Daemon,
    array: Uuid,
    volume: &Arc<Volume>,
    before: &Restored,
    reservations: &Reservations,
) -> Result<(), Failure> {
    let sanitize = before.sanitize.as_ref().map(Interrupted::record);
    let record = reservations::as_json(UnitRecord::of(reservations, sanitize).as_ref())?;
    replica::keep_reservations(daemon, array, volume, record).await
}

/// Take everything off a volume, whether it can be read or not, and serve it again where it was not for want of that.
pub(crate) async fn clear(daemon: &Arc<Daemon>, name: &VolumePath) -> Result<Done, Failure> {
    let _turn = daemon.take_turn().await?;
    let (array, volume) = volume(daemon, name)?;
    if let Some(unit) = daemon.targets.unit_of(&volume) {
        let count = clear_live(&unit).await.map_err(|_| Failure::NotKept(name.clone()))?;
        return Ok(match count {
            0 => Done::already(format!("nobody is registered at {name}; nothing to purge")),
            _ => Done::changed(format!("{count} registration(s), all there were, taken off {name}")),
        });
    }
    let document = daemon.document();
    let is_readable = reservations::restored(&document, volume.uuid()).is_ok();
    if !document.reservations.contains_key(&volume.uuid()) {
        return Ok(Done::already(format!("nobody is registered at {name}; nothing to purge")));
    }
    // Registrations that cannot be read cannot be kept.
    let before = reservations::restored(&document, volume.uuid())
        .unwrap_or_else(|_| reservations::sanitize_alone(&document, volume.uuid()));
    if before.sanitize.is_some() && before.reservations.registrations.is_empty() && is_readable {
        return Ok(Done::already(format!("nobody is registered at {name}; nothing to purge")));
    }
    keep_sanitize_and(daemon, array, &volume, &before, &Reservations::default()).await?;
    change::follow(daemon, &plan::mapped_again(&document, volume.uuid())).await?;
    Ok(Done::changed(format!("all registrations taken off {name}; everybody may write to it again")))
}

/// Key by key, so that each node that loses its registration is told.
async fn clear_live(unit: &LogicalUnit) -> Result<usize, StoreFailed> {
    let mut count = 0;
    for registration in unit.reservations().registrations {
        count += unit.purge(registration.key).await?;
    }
    Ok(count)
}
