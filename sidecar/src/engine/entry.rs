//! What is known of one reference of a volume, and what is news about it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use coffer_runtime::aws::Class;

use super::round::{Failure, NOT_PUBLISHED, Seen};
use crate::status::State;

/// A reference of the volume.
#[derive(Clone)]
pub(super) struct Entry {
    /// The volume's files that are made from it.
    pub(super) files: Vec<usize>,
    /// What the set in place was made from, as far as this process made it.
    pub(super) seen: Option<Seen>,
    /// The second region, where it was the one that gave what is there.
    pub(super) elsewhere: Option<String>,
    pub(super) state: State,
    /// Optional, and AWS said that it is not there.
    pub(super) absent: bool,
    pub(super) last_success: Option<SystemTime>,
    pub(super) trouble: Option<Trouble>,
    pub(super) due: SystemTime,
    /// An event said that it has changed, and no look has seen that yet.
    pub(super) pushed: Option<Pushed>,
}

/// What an event said of a reference.
#[derive(Clone, Copy)]
pub(super) struct Pushed {
    /// How many looks may yet come to nothing: AWS may answer for a moment as it did before.
    pub(super) looks: u8,
}

/// Failures in a row.
#[derive(Clone, Copy)]
pub(super) struct Trouble {
    class: Class,
    /// Whether it failed on the way to AWS, and so may work as soon as AWS answers anything.
    pub(super) on_the_way: bool,
    /// How far its backoff has come, from 1; half is kept when the class changes.
    times: u32,
}

impl Entry {
    pub(super) fn new() -> Self {
        Self {
            files: Vec::new(),
            seen: None,
            elsewhere: None,
            state: State::Missing { code: "NotFetched".to_owned(), why: "not fetched yet".to_owned() },
            absent: false,
            last_success: None,
            trouble: None,
            due: SystemTime::UNIX_EPOCH,
            pushed: None,
        }
    }

    /// Returns for how long it had been stale, if it had.
    pub(super) fn succeed(&mut self, now: SystemTime) -> Option<Duration> {
        let since = match self.state {
            State::Stale { since, .. } if self.trouble.is_some() => Some(since),
            _ => None,
        };
        self.trouble = None;
        self.last_success = Some(now);
        self.state = State::Fresh;
        since.map(|since| now.duration_since(since).unwrap_or_default())
    }

    /// Returns how far its backoff has come, and whether this kind of failure is news.
    pub(super) fn fail(&mut self, now: SystemTime, failure: &Failure, has_files: bool) -> (u32, bool) {
        let since = match self.state {
            State::Stale { since, .. } => since,
            _ => now,
        };
        let (code, why) = (failure.code.clone(), failure.text.clone());
        self.state = if has_files { State::Stale { since, code, why } } else { State::Missing { code, why } };
        let (times, first) = match self.trouble {
            Some(trouble) if trouble.class == failure.class => (trouble.times.saturating_add(1), false),
            // Another kind of failure has waits of its own, and is still not the first.
            Some(trouble) => ((trouble.times / 2).max(1), true),
            None => (1, true),
        };
        let on_the_way = failure.class == Class::Transient && failure.code != NOT_PUBLISHED;
        self.trouble = Some(Trouble { class: failure.class, on_the_way, times });
        (times, first)
    }
}

/// What changed for references, said once for all that share it.
#[derive(Default)]
pub(super) struct News {
    /// By code: references and what each was told.
    pub(super) stale: BTreeMap<String, Vec<(String, String)>>,
    pub(super) fresh: Vec<(String, Duration)>,
}

impl News {
    pub(super) fn log(self, volume: &Path) {
        let volume = volume.display();
        for told in self.stale.into_values() {
            let (first, why) = &told[0];
            tracing::warn!(%volume, "{}: {why}", whom(first, told.len(), "stale"));
        }
        if let Some((first, age)) = self.fresh.first() {
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            tracing::info!(%volume, "{} after {age}", whom(first, self.fresh.len(), "fresh again"));
        }
    }
}

fn whom(first: &str, count: usize, state: &str) -> String {
    match count {
        1 => format!("{first} is {state}"),
        _ => format!("{first} and {} more are {state}", count - 1),
    }
}
