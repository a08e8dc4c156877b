//! A config that changes while Coffer runs: read, checked, fetched for, and only then taken over. A bad
//! one changes nothing and is told.

mod file;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use coffer_runtime::process::ignores;
use rustix::process::Signal;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

pub use self::file::{ConfigFile, LoadError, Stamp};
pub use self::watch::Watch;
use crate::engine::Orders;
use crate::epoch::seconds_of;
use crate::spec::Config;

/// A volume that is new gets this long for its first set before it counts as failed, and is tried
/// again.
const FIRST_SET: Duration = Duration::from_secs(10);
/// What could not be taken over is tried again after this long, and then ever more seldom.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(120);

/// What is known of the config, shared by those who write it and those who show it.
#[derive(Clone, Debug)]
pub struct ReloadStatus(Arc<Mutex<Reloads>>);

/// What is known of the config.
#[derive(Clone, Debug, Serialize)]
pub struct Reloads {
    /// The file.
    pub path: String,
    /// Whether it is what Coffer goes by.
    #[serde(flatten)]
    pub state: ConfigState,
    /// When what Coffer goes by was taken over, in seconds since 1970.
    #[serde(serialize_with = "seconds_of")]
    pub loaded_at: SystemTime,
    /// How often another config was taken over.
    pub reloads: u64,
    /// How often that failed, each config and each reason counted once.
    pub failures: u64,
    /// Settings of the file that a restart would take over.
    pub needs_restart: Vec<&'static str>,
}

/// How the file stands to what Coffer goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ConfigState {
    /// They are the same.
    Current,
    /// It is good, and what it asks for is being fetched; until then Coffer goes by an earlier one.
    Pending {
        /// Since when, in seconds since 1970.
        #[serde(serialize_with = "seconds_of")]
        since: SystemTime,
    },
    /// Coffer goes by an earlier one.
    Failing {
        /// Since when, in seconds since 1970.
        #[serde(serialize_with = "seconds_of")]
        since: SystemTime,
        /// What is wrong with the file, or what of it cannot be done yet.
        why: String,
    },
}

impl ReloadStatus {
    /// Of a config that was taken over just now.
    #[must_use]
    pub fn new(file: &ConfigFile) -> Self {
        Self(Arc::new(Mutex::new(Reloads {
            path: file.path().display().to_string(),
            state: ConfigState::Current,
            loaded_at: SystemTime::now(),
            reloads: 0,
            failures: 0,
            needs_restart: Vec::new(),
        })))
    }

    /// What is known now.
    #[must_use]
    pub fn get(&self) -> Reloads {
        self.inner().clone()
    }

    /// Whether this failure is news.
    fn failed(&self, text: &str) -> bool {
        let mut status = self.inner();
        let since = match &status.state {
            ConfigState::Failing { since, .. } | ConfigState::Pending { since } => *since,
            ConfigState::Current => SystemTime::now(),
        };
        let news = match &status.state {
            ConfigState::Failing { why, .. } => without_request_ids(why) != without_request_ids(text),
            ConfigState::Current | ConfigState::Pending { .. } => true,
        };
        status.failures += u64::from(news);
        status.state = ConfigState::Failing { since, why: text.to_owned() };
        news
    }

    /// Another config is being taken over. One that failed goes on failing until it is.
    fn is_pending(&self) {
        let mut status = self.inner();
        if status.state == ConfigState::Current {
            status.state = ConfigState::Pending { since: SystemTime::now() };
        }
    }

    fn taken_over(&self, needs_restart: Vec<&'static str>) {
        let mut status = self.inner();
        status.reloads += 1;
        status.loaded_at = SystemTime::now();
        status.state = ConfigState::Current;
        status.needs_restart = needs_restart;
    }

    /// The file is again what Coffer goes by.
    fn is_current(&self) {
        self.inner().state = ConfigState::Current;
    }

    fn inner(&self) -> MutexGuard<'_, Reloads> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SIGHUP, which has the config read at once. Once made, it does not end the process.
#[derive(Debug)]
pub struct Hangup(Option<tokio::signal::unix::Signal>);

impl Hangup {
    /// Starts listening. Under `nohup` the signal stays ignored, for this process and those it starts.
    #[must_use]
    pub fn listen() -> Self {
        Self((!ignores(Signal::HUP)).then(|| signal(SignalKind::hangup()).ok()).flatten())
    }

    async fn comes(&mut self) {
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}

/// Keeps an engine at what a config file says, for ever. `started_with` is what it was started with.
pub async fn follow(file: ConfigFile, started_with: Config, orders: Orders, status: ReloadStatus, mut hangup: Hangup) {
    let mut watch = Watch::new();
    // What the engine goes by; nothing while it goes by parts of two.
    let mut applied = Some(started_with.clone());
    let mut retry: Option<(Instant, Duration)> = None;
    loop {
        let (loaded, files) = file.load_with_files();
        watch.set(files);
        let result = match loaded {
            Ok(config) if applied.as_ref() == Some(&config) => {
                status.is_current();
                Ok(())
            }
            Ok(config) if is_void(&config, &started_with) => {
                let path = file.path().display();
                Err((format!("{path}: no volume is left; keep one, or restart to have only `api` or `env`"), false))
            }
            Ok(config) => take_over(&config, &started_with, &orders, &status, &mut applied).await,
            Err(error) => Err((error.to_string(), false)),
        };
        retry = match result {
            Ok(()) => None,
            Err((why, may_yet_work)) => {
                if status.failed(&why) {
                    tracing::error!("config not taken over: {why}; going on with the one from before");
                }
                let wait = retry.map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(LONGEST_RETRY));
                may_yet_work.then(|| (Instant::now() + wait, wait))
            }
        };
        tokio::select! {
            () = watch.changed() => {}
            () = hangup.comes() => tracing::info!("SIGHUP: reading the config"),
            () = at(retry.map(|(at, _)| at)) => continue,
        }
        retry = None;
    }
}

/// Whether nothing would be left to do, as `run` refuses it at its start.
fn is_void(config: &Config, started_with: &Config) -> bool {
    config.volumes.is_empty() && !started_with.volumes.is_empty() && started_with.api.is_none()
}

/// What AWS says of each request alone is no news.
fn without_request_ids(text: &str) -> String {
    let mut pieces = text.split(" (request id ");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |whole, piece| whole + piece.split_once(')').map_or("", |(_, rest)| rest))
}

/// The error is why not, and whether that may pass by itself.
async fn take_over(
    config: &Config,
    started_with: &Config,
    orders: &Orders,
    status: &ReloadStatus,
    applied: &mut Option<Config>,
) -> Result<(), (String, bool)> {
    *applied = None;
    status.is_pending();
    orders.reform(config.volumes.clone(), FIRST_SET).await.map_err(|error| (error.to_string(), true))?;
    *applied = Some(config.clone());
    let needs_restart = config.differing_beside_volumes(started_with);
    if needs_restart.is_empty() {
        tracing::info!("config taken over");
    } else {
        tracing::warn!("config taken over, but for {}: restart to have it", needs_restart.join(", "));
    }
    status.taken_over(needs_restart);
    Ok(())
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_of_another_request_is_no_news() {
        let status = ReloadStatus::new(&ConfigFile::new("coffer.yaml"));
        assert!(status.failed("/a: no such secret (request id 1); create it; /b: denied (request id 2)"));
        assert!(!status.failed("/a: no such secret (request id 3); create it; /b: denied (request id 4)"));
        assert!(status.failed("/a: no such secret (request id 5); create it"));
        let known = status.get();
        assert_eq!(known.failures, 2);
        assert!(matches!(known.state, ConfigState::Failing { why, .. } if why.contains("(request id 5)")));
    }
}
