//! Targets, access, CHAP, LUNs, sessions: edits of the SAN document, brought into force.

use std::sync::Arc;

use labsan_api::Done;
use labsan_api::names;
use labsan_api::target::{
    AccessChange, ChapAccount, CreateTarget, Lun, LunPlace, Luns, MapLun, Mapped, Mask, PathState,
    RemoveAccount, Sessions, SetChap, Target, Targets, Unmask,
};

use crate::error::Failure;
use crate::san::access::RuleRecord;
use crate::san::edit::{self, Edit};
use crate::san::hold::Hold;
use crate::san::luns::{self, Wanted};
use crate::san::{Account, Chap, LunRecord, SanDocument, TargetRecord, allow};
use crate::state::Daemon;
use crate::{change, clock, reservations};

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
        luns: shown_luns(daemon, target).into_iter().filter(|lun| lun.initiator.is_none()).collect(),
        masks: target.masks.iter().map(|mask| shown_mask(daemon, target, &mask.initiator)).collect(),
    }
}

fn shown_mask(daemon: &Daemon, target: &TargetRecord, initiator: &str) -> Mask {
    let is_own = |lun: &Lun| lun.initiator.as_deref() == Some(initiator);
    let luns = shown_luns(daemon, target).into_iter().filter(is_own).collect();
    Mask { initiator: initiator.to_owned(), luns }
}

fn shown_luns(daemon: &Daemon, target: &TargetRecord) -> Vec<Lun> {
    target.all_luns().map(|(whose, lun)| shown_lun(daemon, &target.iqn, whose, lun)).collect()
}

fn shown_lun(daemon: &Daemon, iqn: &str, whose: Option<&str>, lun: &LunRecord) -> Lun {
    let volume = daemon.volume_of(lun);
    let unavailable = match &volume {
        None => Some(format!("its array ({}) does not run here", lun.array_uuid)),
        Some(_) => reservations::restored(&daemon.document(), lun.volume_uuid).err(),
    };
    Lun {
        target: iqn.to_owned(),
        initiator: whose.map(str::to_owned),
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
    Luns { luns: document.targets.iter().flat_map(|target| shown_luns(daemon, target)).collect() }
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
    edited(daemon, |document| edit::delete_target(document, &iqn, &hold(daemon))).await
}

/// The conditions of a request.
fn rule(request: AccessChange) -> RuleRecord {
    let AccessChange { initiator, account, network, portal, .. } = request;
    RuleRecord { initiator, account, network, portal, ..RuleRecord::default() }
}

/// Let in whoever a rule lets in.
pub(crate) async fn allow(daemon: &Daemon, iqn: &str, request: AccessChange) -> Result<Done, Failure> {
    let loopback_only = request.loopback_only;
    let iqn = names::fold_iscsi(iqn);
    edited(daemon, |document| allow::allow(document, &iqn, rule(request), loopback_only)).await
}

/// Take rules away, and end the sessions of those whom no rule lets in any more, if asked.
pub(crate) async fn deny(daemon: &Daemon, iqn: &str, request: AccessChange) -> Result<Done, Failure> {
    let drop_sessions = request.drop_sessions;
    let iqn = &*names::fold_iscsi(iqn);
    let done = edited(daemon, |document| allow::deny(document, iqn, rule(request))).await?;
    Ok(if drop_sessions { and_sessions_ended(daemon, iqn, done).await } else { done })
}

/// End the sessions of which a connection would not be let in any more.
async fn and_sessions_ended(daemon: &Daemon, iqn: &str, done: Done) -> Done {
    let dropped = daemon.targets.drop_shut_out(iqn).await;
    let message = format!("{}; {dropped} session(s) ended", done.message);
    Done { message, changed: done.changed || dropped > 0, ..done }
}

fn account(account: ChapAccount) -> Account {
    Account { user: account.user, secret: account.secret }
}

/// Replace a target's CHAP accounts.
pub(crate) async fn chap(daemon: &Daemon, iqn: &str, request: SetChap) -> Result<Done, Failure> {
    let accounts = request.accounts.into_iter().map(account).collect();
    let chap = Chap { accounts, mutual: request.mutual.map(account) };
    let iqn = &*names::fold_iscsi(iqn);
    let done = edited(daemon, |document| allow::set_chap(document, iqn, chap)).await?;
    Ok(if request.drop_sessions { and_sessions_ended(daemon, iqn, done).await } else { done })
}

/// Give a target one more CHAP account, or one of its accounts another secret.
pub(crate) async fn add_account(daemon: &Daemon, iqn: &str, request: ChapAccount) -> Result<Done, Failure> {
    let iqn = names::fold_iscsi(iqn);
    edited(daemon, |document| allow::add_account(document, &iqn, account(request))).await
}

/// Take a CHAP account away.
pub(crate) async fn remove_account(
    daemon: &Daemon,
    iqn: &str,
    user: &str,
    request: RemoveAccount,
) -> Result<Done, Failure> {
    let iqn = &*names::fold_iscsi(iqn);
    let done = edited(daemon, |document| allow::remove_account(document, iqn, user)).await?;
    Ok(if request.drop_sessions { and_sessions_ended(daemon, iqn, done).await } else { done })
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
    let initiator = request.initiator.as_deref().map(names::fold_iscsi);
    let logged_in = |initiator: &String| daemon.targets.is_logged_in(&iqn, initiator);
    let wanted = Wanted {
        array_uuid: array.uuid(),
        volume_uuid: volume.uuid(),
        logged_in: initiator.as_ref().is_some_and(logged_in),
        initiator,
        lun: request.lun,
        read_only: request.read_only,
        force: request.force,
    };
    let (edit, lun) = luns::map_lun(&document, &iqn, &wanted, &hold(daemon))?;
    let done = carry_out(daemon, edit).await?;
    Ok(Mapped { lun, changed: done.changed, message: format!("{name}: {}", done.message) })
}

/// Take a LUN out.
pub(crate) async fn unmap(daemon: &Daemon, iqn: &str, lun: u16, place: LunPlace) -> Result<Done, Failure> {
    let (iqn, whose) = (names::fold_iscsi(iqn), place.initiator.as_deref().map(names::fold_iscsi));
    edited(daemon, |document| luns::unmap_lun(document, &iqn, whose.as_deref(), lun, &hold(daemon))).await
}

/// Let an initiator see only LUNs of its own.
pub(crate) async fn mask(daemon: &Daemon, iqn: &str, initiator: &str) -> Result<Done, Failure> {
    let (iqn, initiator) = (names::fold_iscsi(iqn), names::fold_iscsi(initiator));
    let logged_in = daemon.targets.is_logged_in(&iqn, &initiator);
    edited(daemon, |document| luns::mask(document, &iqn, &initiator, logged_in, &hold(daemon))).await
}

/// Let it see the common ones again.
pub(crate) async fn unmask(
    daemon: &Daemon,
    iqn: &str,
    initiator: &str,
    request: Unmask,
) -> Result<Done, Failure> {
    let (iqn, initiator) = (names::fold_iscsi(iqn), names::fold_iscsi(initiator));
    edited(daemon, |document| luns::unmask(document, &iqn, &initiator, request.force, &hold(daemon))).await
}

/// How long numbers rest here, and what time it is.
fn hold(daemon: &Daemon) -> Hold {
    Hold { now: clock::now(), seconds: daemon.config.lun_hold.0 }
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
