//! Targets, access, CHAP, LUNs, sessions: edits of the SAN document, brought into force.

use std::sync::Arc;

use labsan_api::Done;
use labsan_api::names;
use labsan_api::target::{
    AccessChange, ChapAccount, CreateTarget, Lun, Luns, MapLun, Mapped, PathState, Session, Sessions,
    SetChap, Target, Targets,
};

use crate::error::Failure;
use crate::san::edit::{self, Edit, Wanted};
use crate::san::{Account, Chap, LunRecord, SanDocument, TargetRecord};
use crate::state::Daemon;
use crate::{change, reservations};

/// All targets.
pub(crate) fn list(daemon: &Daemon) -> Targets {
    let document = daemon.document();
    Targets { targets: document.targets.iter().map(|target| shown(daemon, target)).collect() }
}

fn shown(daemon: &Daemon, target: &TargetRecord) -> Target {
    Target {
        iqn: target.iqn.clone(),
        alias: target.alias.clone(),
        access: target.access.clone(),
        chap_users: target.chap.accounts.iter().map(|account| account.user.clone()).collect(),
        mutual_chap_user: target.chap.mutual.as_ref().map(|account| account.user.clone()),
        state: daemon.targets.state(&target.iqn).unwrap_or(target.state),
        luns: target.luns.iter().map(|lun| shown_lun(daemon, &target.iqn, lun)).collect(),
    }
}

fn shown_lun(daemon: &Daemon, iqn: &str, lun: &LunRecord) -> Lun {
    let volume = daemon.volume_of(lun);
    let unavailable = match &volume {
        None => Some(format!("its array ({}) does not run here", lun.array_uuid)),
        Some(_) => reservations::restored(&daemon.document(), lun.volume_uuid).err(),
    };
    Lun {
        target: iqn.to_owned(),
        lun: lun.lun,
        size_bytes: volume.as_ref().map(|(_, volume)| volume.record().size_bytes),
        volume: volume.map(|(name, _)| name),
        volume_uuid: lun.volume_uuid,
        read_only: lun.read_only,
        unavailable,
    }
}

/// All LUNs.
pub(crate) fn luns(daemon: &Daemon) -> Luns {
    let document = daemon.document();
    let of_target = |target: &TargetRecord| {
        let luns: Vec<Lun> = target.luns.iter().map(|lun| shown_lun(daemon, &target.iqn, lun)).collect();
        luns
    };
    Luns { luns: document.targets.iter().flat_map(of_target).collect() }
}

async fn edited(
    daemon: &Daemon,
    edit: impl FnOnce(&SanDocument) -> Result<Edit, edit::SanError>,
) -> Result<Done, Failure> {
    let _turn = daemon.take_turn().await?;
    carry_out(daemon, edit(&daemon.document())?).await
}

async fn carry_out(daemon: &Daemon, edit: Edit) -> Result<Done, Failure> {
    match edit.next {
        None => Ok(Done::already(edit.message)),
        Some(next) => {
            change::commit(daemon, next).await?;
            Ok(Done::changed(edit.message))
        }
    }
}

/// Make a target.
pub(crate) async fn create(daemon: &Daemon, request: CreateTarget) -> Result<Done, Failure> {
    let alias = request.alias.as_deref();
    edited(daemon, |document| {
        edit::create_target(&reservations::with_live(daemon, document), &request.iqn, alias)
    })
    .await
}

/// Take a target away; its sessions end.
pub(crate) async fn delete(daemon: &Daemon, iqn: &str) -> Result<Done, Failure> {
    let iqn = names::fold_iscsi(iqn);
    edited(daemon, |document| edit::delete_target(document, &iqn)).await
}

/// Let an initiator in.
pub(crate) async fn allow(daemon: &Daemon, iqn: &str, request: AccessChange) -> Result<Done, Failure> {
    let AccessChange { initiator, loopback_only, .. } = request;
    let iqn = names::fold_iscsi(iqn);
    edited(daemon, |document| edit::allow(document, &iqn, &initiator, loopback_only)).await
}

/// Let an initiator in no longer, and end its sessions if asked.
pub(crate) async fn deny(daemon: &Daemon, iqn: &str, request: AccessChange) -> Result<Done, Failure> {
    let iqn = &*names::fold_iscsi(iqn);
    let mut done = edited(daemon, |document| edit::deny(document, iqn, &request.initiator)).await?;
    if !request.drop_sessions {
        return Ok(done);
    }
    let document = daemon.document();
    let let_in = |name: &str| {
        let patterns = document.target(iqn).map(|target| &target.access.initiators);
        patterns.is_some_and(|patterns| patterns.iter().any(|pattern| edit::matches(pattern, name)))
    };
    let shut_out = |session: &Session| session.target == iqn && !let_in(&session.initiator);
    let mut dropped = 0;
    for session in daemon.targets.sessions().into_iter().filter(shut_out) {
        dropped += usize::from(daemon.targets.drop_session(&session.id).await);
    }
    done.message = format!("{}; {dropped} session(s) ended", done.message);
    done.changed |= dropped > 0;
    Ok(done)
}

/// Replace a target's CHAP accounts.
pub(crate) async fn chap(daemon: &Daemon, iqn: &str, request: SetChap) -> Result<Done, Failure> {
    let account = |account: ChapAccount| Account { user: account.user, secret: account.secret };
    let chap = Chap {
        accounts: request.accounts.into_iter().map(account).collect(),
        mutual: request.mutual.map(account),
    };
    let iqn = names::fold_iscsi(iqn);
    edited(daemon, |document| edit::set_chap(document, &iqn, chap)).await
}

/// Change what initiators may do through a target, for good: also where one of them had set another state since.
pub(crate) async fn set_state(daemon: &Daemon, iqn: &str, state: PathState) -> Result<Done, Failure> {
    let iqn = &*names::fold_iscsi(iqn);
    let before = daemon.targets.state(iqn);
    let mut done = edited(daemon, |document| edit::set_state(document, iqn, state)).await?;
    if !done.changed && before.is_some_and(|before| before != state) {
        daemon.targets.set_state(iqn, state)?;
        done = Done::changed(format!("{iqn} is {state} again"));
    }
    Ok(done)
}

/// Make a volume a LUN.
pub(crate) async fn map(daemon: &Arc<Daemon>, request: MapLun) -> Result<Mapped, Failure> {
    let _turn = daemon.take_turn().await?;
    let name = &request.volume;
    let iqn = names::fold_iscsi(&request.target);
    let document = daemon.document();
    if document.target(&iqn).is_none() {
        return Err(edit::SanError::NoTarget { iqn }.into());
    }
    let array = daemon.array(&name.array).map_err(|_| Failure::NoVolume(name.clone()))?;
    let volume = array.volume(&name.volume).ok_or_else(|| Failure::NoVolume(name.clone()))?;
    let wanted = Wanted {
        array_uuid: array.uuid(),
        volume_uuid: volume.uuid(),
        lun: request.lun,
        read_only: request.read_only,
    };
    let (edit, lun) = edit::map_lun(&document, &iqn, wanted)?;
    let done = carry_out(daemon, edit).await?;
    Ok(Mapped { lun, changed: done.changed, message: format!("{name}: {}", done.message) })
}

/// Take a LUN out.
pub(crate) async fn unmap(daemon: &Daemon, iqn: &str, lun: u16) -> Result<Done, Failure> {
    let iqn = names::fold_iscsi(iqn);
    edited(daemon, |document| edit::unmap_lun(document, &iqn, lun)).await
}

/// Who is logged in.
pub(crate) fn sessions(daemon: &Daemon) -> Sessions {
    let mut sessions = daemon.targets.sessions();
    sessions.sort_by(|a, b| (&a.target, &a.initiator, &a.id).cmp(&(&b.target, &b.initiator, &b.id)));
    Sessions { sessions }
}

/// End a session; the initiator is asked to log out first.
pub(crate) async fn drop_session(daemon: &Daemon, id: &str) -> Result<Done, Failure> {
    match daemon.targets.log_session_out(id).await {
        true => Ok(Done::changed(format!("session {id} ended"))),
        false => Err(Failure::NoSession(id.to_owned())),
    }
}
