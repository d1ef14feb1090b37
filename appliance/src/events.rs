//! What happened lately? A bounded log of numbered events that can be waited on.
//!
//! Numbers start at 1 and have no gaps. Whoever asks later than the log reaches back gets what is left.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use labsan_api::event::{Event, Events};
use tokio::sync::watch;
use uuid::Uuid;

use crate::limits::MAX_EVENTS;

/// The log.
#[derive(Debug)]
pub(crate) struct EventLog {
    daemon: Uuid,
    kept: Mutex<VecDeque<Event>>,
    last: watch::Sender<u64>,
}

/// What an event says, before it has a number and a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// mdadm's name of it.
    pub(crate) event: &'static str,
    /// The array it happened to.
    pub(crate) array: Option<String>,
    /// The disk it happened to.
    pub(crate) disk: Option<PathBuf>,
    /// One sentence.
    pub(crate) message: String,
}

impl EventLog {
    /// An empty log.
    pub(crate) fn new() -> Self {
        Self { daemon: Uuid::new_v4(), kept: Mutex::default(), last: watch::Sender::new(0) }
    }

    /// Note what happened, here and in the daemon's own log.
    pub(crate) fn note(&self, news: News) {
        let array = news.array.as_deref().unwrap_or("-");
        let disk = news.disk.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
        tracing::info!(event = news.event, array, disk, "{}", news.message);
        self.last.send_modify(|last| {
            *last += 1;
            let mut kept = self.kept();
            kept.push_back(Event {
                number: *last,
                time_unix: now_unix(),
                event: news.event.to_owned(),
                array: news.array,
                disk: news.disk,
                message: news.message,
            });
            if kept.len() > MAX_EVENTS {
                kept.pop_front();
            }
        });
    }

    /// Events after a number, at once.
    pub(crate) fn since(&self, after: u64) -> Events {
        let kept = self.kept();
        let events: Vec<Event> = kept.iter().filter(|event| event.number > after).cloned().collect();
        let last = kept.back().map_or(0, |event| event.number);
        Events { events, last, daemon: self.daemon }
    }

    /// The same, waiting for the first of them for a while. A number from before a restart counts as none.
    pub(crate) async fn wait(&self, after: u64, patience: Duration) -> Events {
        let mut last = self.last.subscribe();
        let newest = *last.borrow_and_update();
        let after = if after > newest { 0 } else { after };
        // Too late, or the log is gone: the answer is what there is.
        let _ = tokio::time::timeout(patience, last.wait_for(|last| *last > after)).await;
        self.since(after)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(message: &str) -> News {
        News { event: "TestMessage", message: message.into(), ..News::default() }
    }

    #[test]
    fn old_events_go_and_numbers_go_on() {
        let log = EventLog::new();
        for n in 0..MAX_EVENTS + 10 {
            log.note(news(&n.to_string()));
        }
        let all = log.since(0);
        assert_eq!((all.events.len(), all.last), (MAX_EVENTS, MAX_EVENTS as u64 + 10));
        assert_eq!(all.events[0].number, 11);
        assert_eq!(log.since(all.last).events, []);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_next_event_or_when_patience_does() {
        let log = EventLog::new();
        log.note(news("one"));
        let minute = Duration::from_secs(60);
        assert_eq!(log.wait(0, minute).await.events.len(), 1);
        let (next, ()) = tokio::join!(log.wait(1, minute), async { log.note(news("two")) });
        assert_eq!(next.events[0].message, "two");
        assert_eq!(log.wait(2, minute).await.events, []);
        // Numbers of an earlier daemon do not make one deaf.
        assert_eq!(log.wait(1000, minute).await.events.len(), 2);
    }
}
