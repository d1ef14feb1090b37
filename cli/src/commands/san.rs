//! `raidctl target ...`, `raidctl lun ...`, `raidctl portal ...`, `raidctl session ...`

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hyper::Method;
use labsan_api::portal::Portals;
use labsan_api::target::{
    AccessChange, ChapAccount, CreateTarget, Luns, MapLun, Mapped, Session, Sessions, SetChap, SetPathState,
    Target, Targets,
};
use labsan_api::{Done, ExitCode, Secret, paths};

use super::{Context, Outcome};
use crate::args::{ChapArgs, Confirm, LunCommand, PortalCommand, RuleArgs, SessionCommand, TargetCommand};
use crate::confirm::confirm;
use crate::error::CliError;
use crate::output::{lists, portals};

pub(super) async fn target(context: &Context, command: TargetCommand) -> Outcome {
    let client = &context.client;
    match command {
        TargetCommand::Create { target, alias } => {
            let body = CreateTarget { iqn: target, alias };
            context.done(&client.send(Method::POST, paths::TARGETS, &body).await?)
        }
        TargetCommand::List => {
            let answer = client.get::<Targets>(paths::TARGETS).await?;
            context.show(&answer, |targets| lists::targets(&targets.targets));
            Ok(ExitCode::Ok)
        }
        TargetCommand::Delete { target, confirm: answer } => {
            let users = users_of(context, &target).await?;
            let who = if users == 0 { String::new() } else { format!(" and ends its {users} session(s)") };
            confirm(answer, &format!("Deleting target {target} takes its LUNs away{who}"))?;
            context.done(&client.delete::<Done>(paths::TARGET, &[&target]).await?)
        }
        TargetCommand::Allow { target, rule, loopback_only, from_anywhere } => {
            let limit = (loopback_only || from_anywhere).then_some(loopback_only);
            let body = AccessChange { loopback_only: limit, ..conditions(rule) };
            let path = paths::fill(paths::TARGET_ALLOW, &[&target]);
            context.done(&client.send(Method::POST, &path, &body).await?)
        }
        TargetCommand::Deny { target, rule, drop_sessions } => {
            let body = AccessChange { drop_sessions, ..conditions(rule) };
            let path = paths::fill(paths::TARGET_DENY, &[&target]);
            context.done(&client.send(Method::POST, &path, &body).await?)
        }
        TargetCommand::Chap(args) => chap(context, args).await,
        TargetCommand::State { target, state } => {
            let path = paths::fill(paths::TARGET_STATE, &[&target]);
            context.done(&client.send(Method::PUT, &path, &SetPathState { state }).await?)
        }
    }
}

fn conditions(rule: RuleArgs) -> AccessChange {
    let RuleArgs { initiator, named, account, network, portal } = rule;
    AccessChange { initiator: initiator.or(named), account, network, portal, ..AccessChange::default() }
}

async fn chap(context: &Context, args: ChapArgs) -> Outcome {
    if let Some(user) = &args.remove {
        let path = paths::fill(paths::TARGET_ACCOUNT, &[&args.target, user]);
        let path = format!("{path}?drop_sessions={}", args.drop_sessions);
        return context.done(&context.client.send(Method::DELETE, &path, &()).await?);
    }
    let account = |user: Option<String>, file: Option<&Path>| match (user, file) {
        (Some(user), Some(file)) => Ok::<_, CliError>(Some(ChapAccount { user, secret: read_secret(file)? })),
        _ => Ok(None),
    };
    let own = account(args.user, args.secret_file.as_deref())?;
    let path = paths::fill(paths::TARGET_CHAP, &[&args.target]);
    if args.add {
        return context.done(&context.client.send(Method::POST, &path, &own).await?);
    }
    let body = SetChap {
        accounts: own.into_iter().collect(),
        mutual: account(args.mutual, args.mutual_secret_file.as_deref())?,
        drop_sessions: args.drop_sessions,
    };
    context.done(&context.client.send(Method::PUT, &path, &body).await?)
}

/// The first line of a file, or of standard input. On a command line every process could read it.
fn read_secret(file: &Path) -> Result<Secret, CliError> {
    warn_of_readers(file);
    let failed = |why: String| CliError::File { path: file.to_owned(), why };
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| failed(error.to_string()))?;
    match text.lines().next() {
        Some(secret) if !secret.is_empty() => Ok(secret.into()),
        _ => Err(failed("its first line, the secret, is empty".into())),
    }
}

/// Not refused: the secret is as known as it is, and may have to be set to be changed.
fn warn_of_readers(file: &Path) {
    let Ok(metadata) = std::fs::metadata(file) else { return };
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        let file = file.display();
        eprintln!("raidctl: warning: {file} holds a secret and others may read it: chmod 600 {file}");
    }
}

pub(super) async fn lun(context: &Context, command: LunCommand) -> Outcome {
    let client = &context.client;
    match command {
        LunCommand::Map { target, volume, lun, initiator, read_only, force, confirm: answer } => {
            if let Some(initiator) = &initiator {
                confirm_mask(context, answer, &target, initiator).await?;
            }
            let body = MapLun { target, volume, initiator, lun, read_only, force };
            let answer = client.send::<_, Mapped>(Method::POST, paths::LUNS, &body).await?;
            context.show(&answer, |mapped| format!("{}\n", mapped.message));
            Ok(ExitCode::Ok)
        }
        LunCommand::Unmap { target, lun, initiator, confirm: answer } => {
            let users = users_of_lun(context, &target, initiator.as_deref()).await?;
            if users > 0 {
                confirm(
                    answer,
                    &format!("Unmapping LUN {lun} of {target} takes it away from {users} session(s)"),
                )?;
            }
            let mut path = paths::fill(paths::LUN, &[&target, &lun.to_string()]);
            if let Some(initiator) = &initiator {
                path.push_str("?initiator=");
                paths::push_encoded(&mut path, initiator);
            }
            context.done(&client.send(Method::DELETE, &path, &()).await?)
        }
        LunCommand::Mask { target, initiator, confirm: answer } => {
            confirm_mask(context, answer, &target, &initiator).await?;
            let path = paths::fill(paths::MASK, &[&target, &initiator]);
            context.done(&client.send(Method::PUT, &path, &()).await?)
        }
        LunCommand::Unmask { target, initiator, force } => {
            let path = paths::fill(paths::MASK, &[&target, &initiator]);
            context.done(&client.send(Method::DELETE, &format!("{path}?force={force}"), &()).await?)
        }
        LunCommand::List => {
            let answer = client.get::<Luns>(paths::LUNS).await?;
            context.show(&answer, |luns| lists::luns(&luns.luns));
            Ok(ExitCode::Ok)
        }
    }
}

async fn sessions_at(context: &Context, target: &str) -> Result<Vec<Session>, CliError> {
    let mut sessions = context.client.get::<Sessions>(paths::SESSIONS).await?.body.sessions;
    sessions.retain(|session| session.target == target);
    Ok(sessions)
}

async fn target_now(context: &Context, target: &str) -> Result<Option<Target>, CliError> {
    let targets = context.client.get::<Targets>(paths::TARGETS).await?.body.targets;
    Ok(targets.into_iter().find(|there| there.iqn == target))
}

/// An initiator that is given LUNs of its own loses sight of the common ones: ask where it is logged in and sees some.
async fn confirm_mask(
    context: &Context,
    answer: Confirm,
    target: &str,
    initiator: &str,
) -> Result<(), CliError> {
    let Some(there) = target_now(context, target).await? else { return Ok(()) };
    let is_masked = there.masks.iter().any(|mask| mask.initiator == initiator);
    let is_logged_in =
        sessions_at(context, target).await?.iter().any(|session| session.initiator == initiator);
    if is_masked || !is_logged_in || there.luns.is_empty() {
        return Ok(());
    }
    let count = there.luns.len();
    confirm(
        answer,
        &format!("{initiator} is logged in, and no longer sees the {count} common LUN(s) of {target}"),
    )
}

/// How many sessions see the LUNs that all see, or those of one initiator.
async fn users_of_lun(context: &Context, target: &str, initiator: Option<&str>) -> Result<usize, CliError> {
    let masks = target_now(context, target).await?.map(|there| there.masks).unwrap_or_default();
    let sees = |session: &&Session| match initiator {
        Some(initiator) => session.initiator == initiator,
        None => !masks.iter().any(|mask| mask.initiator == session.initiator),
    };
    Ok(sessions_at(context, target).await?.iter().filter(sees).count())
}

async fn users_of(context: &Context, target: &str) -> Result<usize, CliError> {
    Ok(sessions_at(context, target).await?.len())
}

pub(super) async fn portal(context: &Context, command: &PortalCommand) -> Outcome {
    match command {
        PortalCommand::List => {
            let answer = context.client.get::<Portals>(paths::PORTALS).await?;
            context.show(&answer, |list| portals::screen(&list.portals));
            Ok(ExitCode::Ok)
        }
    }
}

pub(super) async fn session(context: &Context, command: SessionCommand) -> Outcome {
    match command {
        SessionCommand::List => {
            let answer = context.client.get::<Sessions>(paths::SESSIONS).await?;
            context.show(&answer, |sessions| lists::session_rows(&sessions.sessions, 0));
            Ok(ExitCode::Ok)
        }
        SessionCommand::Drop { session, confirm: answer } => {
            confirm(answer, &format!("Dropping session {session} interrupts its initiator"))?;
            context.done(&context.client.delete::<Done>(paths::SESSION, &[&session]).await?)
        }
    }
}
