//! `raidctl array ...`

use hyper::Method;
use labsan_api::array::{Array, Arrays, CreateArray, MemberChange, Policy, StartArrays, Started};
use labsan_api::status::Status;
use labsan_api::{Done, ErrorBody, ErrorCode, ExitCode, paths};

use super::{Context, Outcome, absolute, all_absolute, wait};
use crate::args::{ArrayCommand, ArrayCreate, PolicyName, WaitArgs, WaitGoal};
use crate::confirm::confirm;
use crate::error::CliError;
use crate::output::{lists, status};

pub(super) async fn run(context: &Context, command: ArrayCommand) -> Outcome {
    match command {
        ArrayCommand::Create(args) => create(context, args).await,
        ArrayCommand::List => {
            let answer = context.client.get::<Arrays>(paths::ARRAYS).await?;
            context.show(&answer, lists::arrays);
            Ok(ExitCode::Ok)
        }
        ArrayCommand::Show { array } => show(context, &array).await,
        ArrayCommand::Start { disks, scan, force, confirm: answer } => {
            if force {
                confirm(answer, "--force starts arrays even if some of their data cannot be told right")?;
            }
            let disks = all_absolute(&disks)?;
            start(context, &StartArrays { disks, scan, force }).await
        }
        ArrayCommand::Stop { array, confirm: answer } => {
            let users = users_of(context, &array).await?;
            if users > 0 {
                confirm(
                    answer,
                    &format!("Stopping array {array} takes its LUNs away from {users} session(s)"),
                )?;
            }
            let body = serde_json::json!({});
            context.done(&post(context, paths::ARRAY_STOP, &array, &body).await?)
        }
        ArrayCommand::Delete { array, confirm: answer } => {
            confirm(answer, &format!("Deleting array {array} destroys everything on it"))?;
            context.done(&context.client.delete::<Done>(paths::ARRAY, &[&array]).await?)
        }
        ArrayCommand::Fail { array, disk, force, confirm: answer } => {
            if force {
                confirm(answer, "--force fails a disk even if a resync still needs it")?;
            }
            let change = MemberChange { disk: absolute(&disk)?, force };
            context.done(&post(context, paths::ARRAY_FAIL, &array, &change).await?)
        }
        ArrayCommand::Remove { array, disk } => {
            let change = MemberChange { disk: absolute(&disk)?, force: false };
            context.done(&post(context, paths::ARRAY_REMOVE, &array, &change).await?)
        }
        ArrayCommand::Add { array, disk, force, confirm: answer, wait } => {
            if force {
                confirm(answer, &format!("--force overwrites whatever {} holds", disk.display()))?;
            }
            let change = MemberChange { disk: absolute(&disk)?, force };
            context.done(&post(context, paths::ARRAY_ADD, &array, &change).await?)?;
            wait_after(context, &array, wait).await
        }
        ArrayCommand::Wait { array, goal, timeout } => wait::run(context, &array, goal, timeout).await,
    }
}

async fn post<B: serde::Serialize>(
    context: &Context,
    route: &str,
    array: &str,
    body: &B,
) -> Result<crate::client::Answer<Done>, CliError> {
    context.client.send(Method::POST, &paths::fill(route, &[array]), body).await
}

async fn wait_after(context: &Context, array: &str, wait: WaitArgs) -> Outcome {
    match wait.wait {
        true => wait::run(context, array, WaitGoal::Optimal, wait.timeout).await,
        false => Ok(ExitCode::Ok),
    }
}

async fn create(context: &Context, args: ArrayCreate) -> Outcome {
    if args.force {
        confirm(args.confirm.to_owned(), "--force overwrites whatever the disks hold")?;
    }
    let chunk_bytes = match args.chunk {
        Some(size) => Some(u32::try_from(size.0).map_err(|_| {
            let message = format!("a chunk of {size} is too large");
            CliError::Daemon(ErrorBody::new(ErrorCode::Invalid, message, Some("use 4KiB to 1MiB".into())))
        })?),
        None => None,
    };
    let body = CreateArray {
        name: args.name.clone(),
        level: args.level,
        chunk_bytes,
        policy: args.policy.map(|policy| match policy {
            PolicyName::Journal => Policy::Journal,
            PolicyName::Bitmap => Policy::Bitmap,
            PolicyName::None => Policy::None,
        }),
        disks: all_absolute(&args.disks)?,
        spares: all_absolute(&args.spare)?,
        force: args.force,
        create_size_bytes: args.create_size.map(|size| size.0),
        sparse: args.sparse,
    };
    context.done(&context.client.send(Method::POST, paths::ARRAYS, &body).await?)?;
    wait_after(context, &args.name, args.wait).await
}

async fn show(context: &Context, array: &str) -> Outcome {
    let answer = context.client.get::<Array>(&paths::fill(paths::ARRAY, &[array])).await?;
    if context.json {
        context.show(&answer, |_| String::new());
    } else {
        let whole = context.client.get::<Status>(paths::STATUS).await?;
        let volumes: Vec<_> = whole.body.volumes.iter().filter(|v| v.name.array == array).collect();
        super::print(&format!("   uuid: {}\n", answer.body.uuid));
        super::print(&status::array(&answer.body, &volumes, &context.naming));
    }
    Ok(answer.body.state.exit_code())
}

async fn start(context: &Context, request: &StartArrays) -> Outcome {
    let answer = context.client.send::<_, Started>(Method::POST, paths::START, request).await?;
    context.show(&answer, |started| {
        let mut text: String = started.started.iter().map(|name| format!("array {name} started\n")).collect();
        text.extend(started.running.iter().map(|name| format!("array {name} is running already\n")));
        if text.is_empty() && started.refused.is_empty() {
            text.push_str("no array found that could be started\n");
        }
        text
    });
    for refused in &answer.body.refused {
        let name = refused.name.clone().unwrap_or_else(|| refused.uuid.to_string());
        eprintln!("raidctl: array {name} was not started: {}", refused.reason);
        for step in &refused.next {
            eprintln!("         {}: {}", step.why, context.naming.command(&step.command));
        }
    }
    Ok(if answer.body.refused.is_empty() { ExitCode::Ok } else { ExitCode::Refused })
}

/// Sessions of targets that have a LUN on this array.
async fn users_of(context: &Context, array: &str) -> Result<usize, CliError> {
    let status = context.client.get::<Status>(paths::STATUS).await?.body;
    let on_array = |target: &str| {
        let of_array = status.volumes.iter().filter(|volume| volume.name.array == array);
        of_array.flat_map(|volume| &volume.mapped).any(|place| place.target == target)
    };
    Ok(status.sessions.iter().filter(|session| on_array(&session.target)).count())
}
