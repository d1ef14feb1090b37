//! `raidctl array wait`: a progress bar on a terminal, plain lines elsewhere, and an end in every case.
//!
//! | the array is | goal `optimal` | goal `idle` |
//! |---|---|---|
//! | optimal, nothing runs | done, 0 | done, 0 |
//! | something runs | go on | go on |
//! | degraded, nothing runs, for a while | it will not get there by itself: 1 | done, 0 |
//! | failed or gone | 2 | 2 |

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use labsan_api::array::{Array, ArrayState};
use labsan_api::{ExitCode, paths};

use super::{Context, Outcome};
use crate::args::WaitGoal;
use crate::error::CliError;
use crate::output::progress;

const POLL: Duration = Duration::from_millis(300);
/// A spare is taken within a second; longer than this nothing will happen by itself.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// What one look at the array means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    GoOn,
    /// Nothing runs, and the goal is not reached.
    Idle,
    Lost,
}

fn judge(array: &Array, goal: WaitGoal) -> Verdict {
    let runs =
        array.activity.is_some() || matches!(array.state, ArrayState::Rebuilding | ArrayState::Resyncing);
    match (array.state, goal) {
        (ArrayState::Failed | ArrayState::Stopped, _) => Verdict::Lost,
        _ if runs => Verdict::GoOn,
        (ArrayState::Optimal, _) => Verdict::Reached,
        (_, WaitGoal::Idle | WaitGoal::Optimal) => Verdict::Idle,
    }
}

pub(super) async fn run(context: &Context, name: &str, goal: WaitGoal, timeout: Option<u64>) -> Outcome {
    let began = Instant::now();
    let mut idle_since = None;
    let mut display = Display::new(context.json);
    loop {
        let array = context.client.get::<Array>(&paths::fill(paths::ARRAY, &[name])).await?.body;
        display.update(&array);
        let verdict = judge(&array, goal);
        let idle_for = match verdict {
            Verdict::Idle => idle_since.get_or_insert_with(Instant::now).elapsed(),
            _ => {
                idle_since = None;
                Duration::ZERO
            }
        };
        match verdict {
            Verdict::Reached => return finish(context, &display, &array, ExitCode::Ok),
            Verdict::Lost => return finish(context, &display, &array, ExitCode::Unusable),
            Verdict::Idle if idle_for >= PATIENCE => {
                let code = if goal == WaitGoal::Idle { ExitCode::Ok } else { ExitCode::Degraded };
                return finish(context, &display, &array, code);
            }
            Verdict::Idle | Verdict::GoOn => {}
        }
        if timeout.is_some_and(|seconds| began.elapsed() >= Duration::from_secs(seconds)) {
            display.clear();
            let (array, state, seconds) =
                (name.to_owned(), array.state.to_string(), began.elapsed().as_secs());
            return Err(CliError::WaitTimeout { array, state, seconds });
        }
        let left = timeout.map(|seconds| Duration::from_secs(seconds).saturating_sub(began.elapsed()));
        tokio::time::sleep(left.unwrap_or(POLL).min(POLL)).await;
    }
}

fn finish(context: &Context, display: &Display, array: &Array, code: ExitCode) -> Outcome {
    display.clear();
    if context.json {
        let json = serde_json::to_value(labsan_api::Reply::new(array)).unwrap_or_default();
        super::print_json(&json);
        return Ok(code);
    }
    super::print(&format!("array {} is {}\n", array.name, array.state));
    if code != ExitCode::Ok {
        eprintln!("raidctl: array {} will not become optimal by itself", array.name);
        for step in &array.next {
            eprintln!("         {}: {}", step.why, context.naming.command(&step.command));
        }
    }
    Ok(code)
}

/// Where progress is shown.
struct Display {
    bar: Option<ProgressBar>,
    silent: bool,
    last_line: Option<Instant>,
}

impl Display {
    fn new(silent: bool) -> Self {
        let bar = (std::io::stderr().is_terminal() && !silent).then(|| {
            let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
            // The template is a constant; if it were wrong the plain bar would do.
            let style = ProgressStyle::with_template("{prefix} [{bar:40}] {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar
        });
        Self { bar, silent, last_line: None }
    }

    fn update(&mut self, array: &Array) {
        let Some(activity) = &array.activity else { return };
        if let Some(bar) = &self.bar {
            let permille = activity.permille();
            bar.set_prefix(format!("{} {}", array.name, activity.kind.word()));
            bar.set_position(permille);
            bar.set_message(format!("{}.{} %, {}", permille / 10, permille % 10, progress::rate(activity)));
        } else if !self.silent && self.last_line.is_none_or(|at| at.elapsed() >= PLAIN_INTERVAL) {
            self.last_line = Some(Instant::now());
            super::print(&format!("array {}: {}\n", array.name, progress::line(activity)));
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use labsan_api::array::{Activity, ActivityKind};

    fn array(state: ArrayState, runs: bool) -> Array {
        Array {
            name: "demo".into(),
            uuid: uuid(),
            level: 5,
            state,
            chunk_bytes: 65536,
            policy: "bitmap".into(),
            size_bytes: 0,
            used_bytes: 0,
            members: Vec::new(),
            activity: runs.then_some(Activity {
                kind: ActivityKind::Resync,
                done_bytes: 0,
                total_bytes: 1,
                bytes_per_second: 0,
            }),
            events: 0,
            dirty_regions: 0,
            journal_bytes: 0,
            lost_bytes: 0,
            what_happened: Vec::new(),
            next: Vec::new(),
        }
    }

    fn uuid() -> uuid::Uuid {
        uuid::Uuid::nil()
    }

    #[test]
    fn the_table_above() {
        for goal in [WaitGoal::Optimal, WaitGoal::Idle] {
            assert_eq!(judge(&array(ArrayState::Optimal, false), goal), Verdict::Reached);
            assert_eq!(judge(&array(ArrayState::Optimal, true), goal), Verdict::GoOn);
            assert_eq!(judge(&array(ArrayState::Rebuilding, false), goal), Verdict::GoOn);
            assert_eq!(judge(&array(ArrayState::Degraded, true), goal), Verdict::GoOn);
            assert_eq!(judge(&array(ArrayState::Degraded, false), goal), Verdict::Idle);
            assert_eq!(judge(&array(ArrayState::Failed, true), goal), Verdict::Lost);
            assert_eq!(judge(&array(ArrayState::Stopped, false), goal), Verdict::Lost);
        }
    }
}
