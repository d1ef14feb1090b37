//! When is an address checked? At once, then in intervals; a check that takes too long has failed, and none runs beside another.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::probe::ProbeError;

/// How often, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// From the beginning of one check to that of the next.
    pub(super) interval: Duration,
    /// What a check may take.
    pub(super) timeout: Duration,
}

/// Check until told to stop. `note` gets each result, and when its check began; that of a check cut short by the stop is dropped.
pub(super) async fn keep_checking(
    pace: Pace,
    probe: impl AsyncFn() -> Result<Option<u64>, ProbeError>,
    note: impl Fn(Result<Option<u64>, ProbeError>, Instant),
    mut stopped: watch::Receiver<bool>,
) {
    let check_all = async {
        let mut ticks = tokio::time::interval(pace.interval);
        // Whoever was kept from it for a while does not make up for it.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = Instant::now();
            let result = tokio::time::timeout(pace.timeout, probe()).await;
            note(result.unwrap_or(Err(ProbeError::TimedOut(pace.timeout.as_secs()))), asked);
        }
    };
    tokio::select! {
        biased;
        // An error means that whoever could tell is gone.
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = check_all => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const PACE: Pace = Pace { interval: Duration::from_secs(5), timeout: Duration::from_secs(2) };

    #[tokio::test(start_paused = true)]
    async fn checks_begin_at_once_come_in_intervals_and_never_hang() {
        let begin = Instant::now();
        let (number, seen) = (Cell::new(0), RefCell::new(Vec::new()));
        let probe = async || {
            number.set(number.get() + 1);
            match number.get() {
                1 => Ok(Some(3)),
                2 => std::future::pending().await,
                _ => Ok(None),
            }
        };
        let note = |result: Result<Option<u64>, ProbeError>, asked: Instant| {
            let told = result.map_err(|error| error.to_string());
            seen.borrow_mut().push(((asked - begin).as_secs(), begin.elapsed().as_secs(), told));
        };
        let (stop, stopped) = watch::channel(false);
        let end = async {
            tokio::time::sleep(Duration::from_secs(11)).await;
            stop.send_replace(true);
        };
        tokio::join!(keep_checking(PACE, probe, note, stopped), end);
        let late = Err("no answer within 2 s".to_owned());
        assert_eq!(*seen.borrow(), [(0, 0, Ok(Some(3))), (5, 7, late), (10, 10, Ok(None))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_does_not_wait_for_the_check_under_way() {
        let begin = Instant::now();
        let noted = Cell::new(false);
        let (stop, stopped) = watch::channel(false);
        let end = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(stop);
        };
        let probe = async || std::future::pending().await;
        tokio::join!(keep_checking(PACE, probe, |_, _| noted.set(true), stopped), end);
        assert_eq!((begin.elapsed().as_secs(), noted.get()), (1, false));
    }
}
