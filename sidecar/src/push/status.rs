//! What is known of the queue: for `coffer status`, and for metrics.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use coffer_runtime::telemetry::{Described, Readings, unix};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::epoch::{seconds, seconds_of};

/// The state of the queue, shared by the one who reads it and those who show it.
#[derive(Clone, Debug)]
pub struct PushHandle(Arc<Mutex<PushStatus>>);

/// What is known of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PushStatus {
    /// Its URL.
    pub queue: String,
    /// Whether it can be read.
    #[serde(flatten)]
    pub state: PushState,
    /// Messages that told of a change.
    pub events: u64,
    /// Messages that were understood and told of no change.
    pub ignored: u64,
    /// Messages that were no event of secrets and parameters.
    pub rejected: u64,
    /// When the last message that told of a change came, in seconds since 1970.
    #[serde(serialize_with = "seconds")]
    pub last_event: Option<SystemTime>,
    /// Why the last message was rejected, and the fix.
    pub last_rejection: Option<String>,
}

/// Whether the queue can be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum PushState {
    /// It was not read yet.
    Starting {
        /// Since when, in seconds since 1970.
        #[serde(serialize_with = "seconds_of")]
        since: SystemTime,
    },
    /// It is read.
    Ok {
        /// Since when, in seconds since 1970.
        #[serde(serialize_with = "seconds_of")]
        since: SystemTime,
    },
    /// It cannot be read, or what was read not be deleted.
    Failing {
        /// Since when, in seconds since 1970.
        #[serde(serialize_with = "seconds_of")]
        since: SystemTime,
        /// AWS's code for what failed last, or a word of Coffer's.
        code: String,
        /// What failed last, and the fix.
        why: String,
    },
}

const UP: Described = Described::gauge("push_up", &[], "Whether the queue of events is read");
const EVENTS: Described = Described::counter("push_events", &["result"], "Messages read from the queue of events");
const LAST_EVENT: Described =
    Described::gauge("push_last_event_timestamp_seconds", &[], "When the last event that told of a change came");

impl PushHandle {
    /// The families of its metrics.
    pub const FAMILIES: [&Described; 3] = [&UP, &EVENTS, &LAST_EVENT];

    /// The state of a queue that was not read yet; `queue` is its URL.
    #[must_use]
    pub fn new(queue: &str) -> Self {
        Self(Arc::new(Mutex::new(PushStatus {
            queue: queue.to_owned(),
            state: PushState::Starting { since: SystemTime::now() },
            events: 0,
            ignored: 0,
            rejected: 0,
            last_event: None,
            last_rejection: None,
        })))
    }

    /// What is known now.
    #[must_use]
    pub fn snapshot(&self) -> PushStatus {
        self.inner().clone()
    }

    /// Adds `push_up`, `push_events` and `push_last_event_timestamp_seconds` to the metrics. They
    /// are read from here at each scrape, and so cannot disagree with the status.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Notes that the queue is read; whether that is news.
    pub(super) fn up(&self) -> bool {
        let mut inner = self.inner();
        let news = !matches!(inner.state, PushState::Ok { .. });
        if news {
            inner.state = PushState::Ok { since: SystemTime::now() };
        }
        news
    }

    /// Notes that it is not; whether that is news.
    pub(super) fn failing(&self, code: &str, why: &str) -> bool {
        let mut inner = self.inner();
        let (since, news) = match &inner.state {
            PushState::Failing { since, code: before, .. } => (*since, before != code),
            PushState::Starting { .. } | PushState::Ok { .. } => (SystemTime::now(), true),
        };
        inner.state = PushState::Failing { since, code: code.to_owned(), why: why.to_owned() };
        news
    }

    /// Counts a message that told of a change.
    pub(super) fn event(&self) {
        let mut inner = self.inner();
        inner.events += 1;
        inner.last_event = Some(SystemTime::now());
    }

    /// Counts a message that told of none.
    pub(super) fn ignored(&self) {
        self.inner().ignored += 1;
    }

    /// Counts a message that was no event; whether the reason is another than before.
    pub(super) fn rejected(&self, reason: &str) -> bool {
        let mut inner = self.inner();
        inner.rejected += 1;
        let news = inner.last_rejection.as_deref() != Some(reason);
        inner.last_rejection = Some(reason.to_owned());
        news
    }

    fn inner(&self) -> MutexGuard<'_, PushStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for PushHandle {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.snapshot();
        let mut readings = Readings::new(&mut encoder);
        readings.gauge(&UP, f64::from(u8::from(matches!(status.state, PushState::Ok { .. }))))?;
        if let Some(last) = status.last_event {
            readings.gauge(&LAST_EVENT, unix(last))?;
        }
        let counts = [("change", status.events), ("ignored", status.ignored), ("rejected", status.rejected)];
        readings.counters(&EVENTS, counts.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_keeps_since_when_and_tells_news_once() {
        let handle = PushHandle::new("https://q");
        assert!(handle.failing("Timeout", "no answer"));
        let since = |handle: &PushHandle| match handle.snapshot().state {
            PushState::Failing { since, .. } => since,
            other => panic!("{other:?}"),
        };
        let first = since(&handle);
        assert!(!handle.failing("Timeout", "no answer"), "told already");
        assert!(handle.failing("AccessDenied", "denied"), "another code is news");
        assert_eq!(since(&handle), first);
        assert!(handle.up());
        assert!(!handle.up(), "told already");
    }

    #[test]
    fn the_json_is_flat() {
        let handle = PushHandle::new("https://q");
        let json = |handle: &PushHandle| serde_json::to_value(handle.snapshot()).unwrap();
        assert_eq!(json(&handle)["state"], "starting");
        assert!(json(&handle)["last_event"].is_null());
        handle.event();
        handle.up();
        assert!(handle.rejected("why") && !handle.rejected("why"));
        let ok = json(&handle);
        assert_eq!((&ok["state"], &ok["events"], &ok["rejected"]), (&"ok".into(), &1.into(), &2.into()));
        assert!(ok["last_event"].is_u64() && ok["since"].is_u64() && ok["code"].is_null(), "{ok}");
        handle.failing("c", "w");
        let failing = json(&handle);
        assert_eq!(
            (&failing["state"], &failing["code"], &failing["why"]),
            (&"failing".into(), &"c".into(), &"w".into())
        );
    }

    #[test]
    fn the_metrics_say_what_the_status_says() {
        let handle = PushHandle::new("https://q");
        let mut registry = Registry::with_prefix("coffer");
        handle.register(&mut registry);
        let scrape = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(scrape().contains("coffer_push_up 0.0\n"), "{}", scrape());
        handle.up();
        handle.event();
        handle.ignored();
        handle.rejected("why");
        let text = scrape();
        assert!(
            text.contains("coffer_push_up 1.0\n") && text.contains("# TYPE coffer_push_events counter\n"),
            "{text}"
        );
        for result in ["change", "ignored", "rejected"] {
            assert!(text.contains(&format!("coffer_push_events_total{{result=\"{result}\"}} 1\n")), "{text}");
        }
        assert!(text.contains("coffer_push_last_event_timestamp_seconds "), "{text}");
    }
}
