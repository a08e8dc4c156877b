//! What is known of every reference: fresh, stale since when and why, or missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use crate::epoch::{seconds, seconds_of};
use crate::notify::ActionStatus;

/// The code of what a process took over from the one before it and has not looked at yet.
pub const NOT_LOOKED_AT: &str = "NotLookedAt";

/// The state of a whole process, shared by those who write it and those who show it.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    volumes: BTreeMap<PathBuf, VolumeStatus>,
    /// What each volume's actions came to.
    actions: BTreeMap<PathBuf, Vec<ActionStatus>>,
    /// The volumes that have to be published before the process is ready.
    expected: Vec<PathBuf>,
}

/// What is known of a volume.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeStatus {
    /// Its directory.
    pub path: PathBuf,
    /// Whether a full set is in place.
    pub published: bool,
    /// When the set in place was published, in seconds since 1970.
    #[serde(serialize_with = "seconds")]
    pub published_at: Option<SystemTime>,
    /// How many sets this process has published.
    pub publishes: u64,
    /// What keeps the set from being published, or a newer one from taking its place.
    pub obstacle: Option<String>,
    /// When the volume is looked after next, in seconds since 1970.
    #[serde(serialize_with = "seconds")]
    pub next_look: Option<SystemTime>,
    /// Its references.
    pub references: Vec<ReferenceStatus>,
    /// What its `on_change` came to.
    pub on_change: Vec<ActionStatus>,
}

/// What is known of a reference.
#[derive(Clone, Debug, Serialize)]
pub struct ReferenceStatus {
    /// The reference, in its canonical form.
    pub reference: String,
    /// The region it is fetched from, where one is named.
    pub region: Option<String>,
    /// The role it is fetched as, where one is assumed.
    pub role: Option<String>,
    /// Its state.
    #[serde(flatten)]
    pub state: State,
    /// The version in the files; of many parameters, their number.
    pub version: Option<String>,
    /// When AWS last confirmed that version or gave it, in seconds since 1970. A failure never
    /// moves it.
    #[serde(serialize_with = "seconds")]
    pub last_success: Option<SystemTime>,
    /// When it is looked at next, in seconds since 1970.
    #[serde(serialize_with = "seconds")]
    pub next_look: Option<SystemTime>,
}

/// The state of a reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// The files hold what AWS said at the last look.
    Fresh,
    /// The files hold what AWS said some time ago; what failed since then.
    Stale {
        /// Since when, in seconds since 1970.
        #[serde(serialize_with = "seconds_of")]
        since: SystemTime,
        /// AWS's code for what failed last, or a word of Coffer's.
        code: String,
        /// What failed last, and the fix.
        why: String,
    },
    /// There is nothing in the files.
    Missing {
        /// AWS's code for what failed last, or a word of Coffer's.
        code: String,
        /// What failed last, and the fix; or that it is optional and not there.
        why: String,
    },
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale { .. } => "stale",
            Self::Missing { .. } => "missing",
        }
    }
}

impl Status {
    /// Replaces what is known of a volume, but for its actions.
    pub fn set(&self, volume: VolumeStatus) {
        self.inner().volumes.insert(volume.path.clone(), volume);
    }

    /// Replaces what is known of a volume's actions.
    pub fn set_actions(&self, volume: &Path, actions: Vec<ActionStatus>) {
        self.inner().actions.insert(volume.to_owned(), actions);
    }

    /// Everything, in the order of the volumes' paths.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        let inner = self.inner();
        let with_actions = |volume: &VolumeStatus| VolumeStatus {
            on_change: inner.actions.get(&volume.path).cloned().unwrap_or_default(),
            ..volume.clone()
        };
        inner.volumes.values().map(with_actions).collect()
    }

    /// Shows every volume, without its actions, in the order of their paths, and copies none.
    pub fn each(&self, show: impl FnMut(&VolumeStatus)) {
        self.inner().volumes.values().for_each(show);
    }

    /// From now on these volumes have to be published before the process is ready.
    pub fn expect(&self, volumes: Vec<PathBuf>) {
        self.inner().expected = volumes;
    }

    /// Drops what is known of a volume that nobody keeps any more.
    pub fn forget(&self, volume: &Path) {
        let mut inner = self.inner();
        inner.volumes.remove(volume);
        inner.actions.remove(volume);
    }

    /// Whether every expected volume has a full set; the error names the first that has none and
    /// why.
    pub fn ready(&self) -> Result<(), String> {
        let inner = self.inner();
        inner.expected.iter().try_for_each(|path| match inner.volumes.get(path) {
            Some(volume) if volume.published => Ok(()),
            Some(volume) => Err(volume.why_missing()),
            None => Err(nothing_yet(path)),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VolumeStatus {
    fn why_missing(&self) -> String {
        let obstacle = self.obstacle.as_ref().map(|why| format!("{}: {why}", self.path.display()));
        obstacle.unwrap_or_else(|| nothing_yet(&self.path))
    }
}

fn nothing_yet(path: &Path) -> String {
    format!("{}: nothing is published yet", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(published: bool, state: State) -> VolumeStatus {
        let reference = ReferenceStatus {
            reference: "secretsmanager:a".into(),
            region: None,
            role: None,
            state,
            version: None,
            last_success: None,
            next_look: None,
        };
        VolumeStatus {
            path: "/v".into(),
            published,
            published_at: None,
            publishes: 0,
            obstacle: None,
            next_look: None,
            references: vec![reference],
            on_change: Vec::new(),
        }
    }

    #[test]
    fn ready_only_when_every_volume_has_its_set() {
        let status = Status::default();
        status.expect(vec!["/v".into()]);
        assert_eq!(status.ready().unwrap_err(), "/v: nothing is published yet");
        let missing = State::Missing { code: "AccessDeniedException".into(), why: "denied".into() };
        let obstacle = Some("secretsmanager:a: AccessDeniedException".into());
        status.set(VolumeStatus { obstacle, ..volume(false, missing) });
        assert_eq!(status.ready().unwrap_err(), "/v: secretsmanager:a: AccessDeniedException");
        status.set(volume(true, State::Stale { since: SystemTime::UNIX_EPOCH, code: "c".into(), why: "w".into() }));
        assert_eq!(status.ready(), Ok(()));
    }

    #[test]
    fn the_json_tells_state_since_and_why() {
        let stale = volume(
            true,
            State::Stale { since: SystemTime::UNIX_EPOCH, code: "ThrottlingException".into(), why: "throttled".into() },
        );
        let json = serde_json::to_value(&stale).unwrap();
        assert_eq!(json["references"][0]["state"], "stale");
        assert_eq!(json["references"][0]["since"], 0);
        assert_eq!(json["references"][0]["code"], "ThrottlingException");
        assert_eq!(json["references"][0]["why"], "throttled");
    }
}
