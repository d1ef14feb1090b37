//! `raidctl events`: what happened, and with `--follow` what happens.

use std::time::Duration;

use labsan_api::event::{Events, MAX_WAIT_SECONDS};
use labsan_api::{ExitCode, Reply, paths};

use super::{Context, Outcome, print};
use crate::args::EventsArgs;
use crate::output::lists;

/// Beyond the time the daemon may keep a poll waiting.
const SLACK: Duration = Duration::from_secs(15);

pub(super) async fn run(context: &Context, args: EventsArgs) -> Outcome {
    let mut after = args.after;
    let mut wait = 0;
    let mut daemon = None;
    loop {
        let path = format!("{}?after={after}&wait_seconds={wait}", paths::EVENTS);
        let patience = Duration::from_secs(wait) + SLACK;
        let answer = context.client.get_within::<Events>(&path, patience).await?;
        if !args.follow {
            context.show(&answer, lines);
            return Ok(ExitCode::Ok);
        }
        let events = &answer.body;
        if daemon.is_some_and(|known| known != events.daemon) {
            // It was restarted: its numbers begin again, and the first of them are news.
            (after, wait, daemon) = (0, 0, Some(events.daemon));
            continue;
        }
        daemon = Some(events.daemon);
        for event in &events.events {
            match context.json {
                // One object per line, for programs that read along.
                true => print(&format!("{}\n", serde_json::to_value(Reply::new(event)).unwrap_or_default())),
                false => print(&format!("{}\n", lists::event(event))),
            }
        }
        after = events.last;
        wait = MAX_WAIT_SECONDS;
    }
}

fn lines(events: &Events) -> String {
    events.events.iter().map(|event| format!("{}\n", lists::event(event))).collect()
}
