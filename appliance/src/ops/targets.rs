//! Targets, access, CHAP, LUNs, sessions: edits of the SAN document, brought into force.

use std::sync::Arc;

use labsan_api::Done;
use labsan_api::target::{
    AccessChange, ChapAccount, CreateTarget, Lun, Luns, MapLun, Mapped, PathState, Sessions, SetChap, Target,
    Targets,
};

use crate::error::Failure;
use crate::san::access::RuleRecord;
use crate::san::edit::{self, Edit};
use crate::san::luns::{self, Wanted};
use crate::san::{Account, Chap, LunRecord, SanDocument, TargetRecord, allow};
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
        access: target.access.shown(),
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
    edited(daemon, |document| edit::create_target(document, &request.iqn, request.alias.as_deref())).await
}

/// Take a target away; its sessions end.
pub(crate) async fn delete(daemon: &Daemon, iqn: &str) -> Result<Done, Failure> {
    edited(daemon, |document| edit::delete_target(document, iqn)).await
}

/// The conditions of a request.
fn rule(request: AccessChange) -> RuleRecord {
    let AccessChange { initiator, account, network, portal, .. } = request;
    RuleRecord { initiator, account, network, portal, ..RuleRecord::default() }
}

/// Let in whoever a rule lets in.
pub(crate) async fn allow(daemon: &Daemon, iqn: &str, request: AccessChange) -> Result<Done, Failure> {
    let loopback_only = request.loopback_only;
    edited(daemon, |document| allow::allow(document, iqn, rule(request), loopback_only)).await
}

/// Take rules away, and end the sessions of those whom no rule lets in any more, if asked.
pub(crate) async fn deny(daemon: &Daemon, iqn: &str, request: AccessChange) -> Result<Done, Failure> {
    let drop_sessions = request.drop_sessions;
    let mut done = edited(daemon, |document| allow::deny(document, iqn, rule(request))).await?;
    if drop_sessions {
        let dropped = daemon.targets.drop_shut_out(iqn).await;
        done.message = format!("{}; {dropped} session(s) ended", done.message);
        done.changed |= dropped > 0;
    }
    Ok(done)
}

fn account(account: ChapAccount) -> Account {
    Account { user: account.user, secret: account.secret }
}

/// Replace a target's CHAP accounts.
pub(crate) async fn chap(daemon: &Daemon, iqn: &str, request: SetChap) -> Result<Done, Failure> {
    let accounts = request.accounts.into_iter().map(account).collect();
    let chap = Chap { accounts, mutual: request.mutual.map(account) };
    edited(daemon, |document| allow::set_chap(document, iqn, chap)).await
}

/// Give a target one more CHAP account, or one of its accounts another secret.
pub(crate) async fn add_account(daemon: &Daemon, iqn: &str, request: ChapAccount) -> Result<Done, Failure> {
    edited(daemon, |document| allow::add_account(document, iqn, account(request))).await
}

/// Take a CHAP account away.
pub(crate) async fn remove_account(daemon: &Daemon, iqn: &str, user: &str) -> Result<Done, Failure> {
    edited(daemon, |document| allow::remove_account(document, iqn, user)).await
}

/// Change what initiators may do through a target, for good: also where one of them had set another state since.
pub(crate) async fn set_state(daemon: &Daemon, iqn: &str, state: PathState) -> Result<Done, Failure> {
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
    let document = daemon.document();
    if document.target(&request.target).is_none() {
        return Err(edit::SanError::NoTarget { iqn: request.target }.into());
    }
    let array = daemon.array(&name.array).map_err(|_| Failure::NoVolume(name.clone()))?;
    let volume = array.volume(&name.volume).ok_or_else(|| Failure::NoVolume(name.clone()))?;
    let wanted = Wanted {
        array_uuid: array.uuid(),
        volume_uuid: volume.uuid(),
        lun: request.lun,
        read_only: request.read_only,
    };
    let (edit, lun) = luns::map_lun(&document, &request.target, wanted)?;
    let done = carry_out(daemon, edit).await?;
    Ok(Mapped { lun, changed: done.changed, message: format!("{name}: {}", done.message) })
}

/// Take a LUN out.
pub(crate) async fn unmap(daemon: &Daemon, iqn: &str, lun: u16) -> Result<Done, Failure> {
    edited(daemon, |document| luns::unmap_lun(document, iqn, lun)).await
}

/// Who is logged in.
pub(crate) fn sessions(daemon: &Daemon) -> Sessions {
    let mut sessions = daemon.targets.sessions();
    sessions.sort_by(|a, b| (&a.target, &a.initiator, &a.id).cmp(&(&b.target, &b.initiator, &b.id)));
    Sessions { sessions }
}

/// End a session.
pub(crate) async fn drop_session(daemon: &Daemon, id: &str) -> Result<Done, Failure> {
    match daemon.targets.drop_session(id).await {
        true => Ok(Done::changed(format!("session {id} ended"))),
        false => Err(Failure::NoSession(id.to_owned())),
    }
}
