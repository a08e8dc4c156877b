//! The secrets of a program as they are now: between the engine, which makes them, and the
//! supervisor, which takes them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_runtime::Secret;
use tokio::sync::Notify;

use super::{Environment, EnvironmentErrors};
use crate::digest::{Digest, Key};
use crate::engine::{DestinationError, Swapped, Taker};
use crate::file::FileName;
use crate::render::{RenderedFile, RenderedSet};
use crate::spec::EnvName;

/// The newest secrets of a program. There is one place for them: what is newer replaces what waits, so
/// however busy the supervisor is, nothing piles up and the newest is never lost.
#[derive(Clone, Debug)]
pub struct Secrets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    key: Key,
    newest: Mutex<Newest>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Newest {
    /// What the newest set of each volume holds, and of the environment. By content: a version that is
    /// new may hold the same bytes, and a parameter that was made anew begins at 1 again.
    sets: BTreeMap<PathBuf, Digest>,
    /// Where it is newer than what was taken.
    environment: Option<Environment>,
    /// Why the first environment cannot be one.
    unfit: Option<EnvironmentErrors>,
    /// Whether there is to be an environment.
    expected: bool,
    /// Whether the program was started.
    started: bool,
}

/// Secrets of a program at one moment.
#[derive(Debug)]
pub struct Rotation {
    /// Of what all of them hold: equal digests are equal secrets.
    pub(super) state: Digest,
    /// What is to be set in its environment; `None` where that is as before, and only files changed.
    pub(super) environment: Option<Environment>,
}

/// A program cannot be started with the secrets that were made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FirstError {
    /// No environment can hold them.
    #[error(transparent)]
    Unfit(#[from] EnvironmentErrors),
    /// An environment was to be made, and nobody did: a task of the engine was lost.
    #[error("the environment was not made, and the program is not started without it; try again")]
    Absent,
}

impl Secrets {
    /// None yet. Fails where the kernel gives no random key.
    pub fn new() -> io::Result<Self> {
        let key = Key::random()?;
        Ok(Self(Arc::new(Shared { key, newest: Mutex::default(), news: Notify::new() })))
    }

    /// Takes sets as environments; `names` are the variables by the names of their files.
    #[must_use]
    pub fn taker(&self, names: BTreeMap<FileName, EnvName>) -> Taker {
        let secrets = self.clone();
        secrets.lock().expected = true;
        Box::new(move |set| {
            let copy = |(name, file): (&FileName, &RenderedFile)| {
                Some((names.get(name)?.clone(), Secret::copy_of(file.content.expose())))
            };
            let environment = Environment::new(set.iter().filter_map(copy));
            let mut newest = secrets.lock();
            match environment {
                Ok(environment) => newest.environment = Some(environment),
                // The program still has the one before.
                Err(errors) if newest.started => return Err(DestinationError::Refused(errors.to_string())),
                // To refuse it would mean to try again, and nothing better comes of that.
                Err(errors) => newest.unfit = Some(errors),
            }
            Ok(())
        })
    }

    /// Notes each new set, and tells the supervisor. Once the program was started, `rotated` is called
    /// too.
    #[must_use]
    pub fn watcher(&self, rotated: impl Fn() + Send + Sync + 'static) -> Swapped {
        let secrets = self.clone();
        Arc::new(move |volume: &Path, set: &RenderedSet, _first: bool| {
            let pieces = set.iter().flat_map(|(name, file)| [name.as_str().as_bytes(), file.content.expose()]);
            secrets.note(volume, secrets.0.key.digest(pieces));
            if secrets.lock().started {
                rotated();
            }
        })
    }

    /// What the program is to be started with.
    pub fn first(&self) -> Result<Rotation, FirstError> {
        let mut newest = self.lock();
        if let Some(errors) = newest.unfit.take() {
            return Err(errors.into());
        }
        if newest.expected && newest.environment.is_none() {
            return Err(FirstError::Absent);
        }
        newest.started = true;
        Ok(self.rotation(&mut newest))
    }

    /// What has changed since it was last asked; waits for it. Nothing is lost when the future is
    /// dropped.
    pub(super) async fn next(&self) -> Rotation {
        self.0.news.notified().await;
        self.rotation(&mut self.lock())
    }

    fn note(&self, volume: &Path, digest: Digest) {
        self.lock().sets.insert(volume.to_owned(), digest);
        self.0.news.notify_one();
    }

    fn rotation(&self, newest: &mut Newest) -> Rotation {
        let pieces =
            newest.sets.iter().flat_map(|(volume, digest)| [volume.as_os_str().as_encoded_bytes(), digest.as_bytes()]);
        Rotation { state: self.0.key.digest(pieces), environment: newest.environment.take() }
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rotation {
    /// What is to be set in the environment.
    #[must_use]
    pub fn into_environment(self) -> Environment {
        self.environment.unwrap_or_default()
    }
}

#[cfg(test)]
impl Secrets {
    /// As if the engine had made other secrets, told apart by `content`; without an environment, only
    /// files.
    pub(super) fn rotate(&self, content: &str, environment: Option<Environment>) {
        if let Some(environment) = environment {
            self.lock().environment = Some(environment);
        }
        self.note(Path::new("test"), self.0.key.digest([content.as_bytes()]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Mode;
    use crate::render::Origin;

    fn set(value: &[u8], version: &str) -> RenderedSet {
        let mut set = RenderedSet::default();
        let origin = Origin { recipe: "r".into(), version: version.into() };
        let file = RenderedFile { content: Secret::copy_of(value), mode: Mode::DEFAULT, origin };
        set.insert(FileName::new("V").unwrap(), file).unwrap();
        set
    }

    fn secrets() -> (Secrets, Taker, Swapped) {
        let secrets = Secrets::new().unwrap();
        let names = BTreeMap::from([(FileName::new("V").unwrap(), EnvName::new("V").unwrap())]);
        let (taker, watcher) = (secrets.taker(names), secrets.watcher(|| {}));
        (secrets, taker, watcher)
    }

    #[tokio::test]
    async fn the_newest_is_what_is_taken_however_much_came_before() {
        let (secrets, mut taker, swapped) = secrets();
        let environment = Path::new("environment");
        for number in 0..1000 {
            let set = set(number.to_string().as_bytes(), "1");
            taker(&set).unwrap();
            swapped(environment, &set, number == 0);
        }
        // Files that changed at the start do not take the environment along.
        swapped(Path::new("/volume"), &set(b"x", "1"), false);
        let first = secrets.first().unwrap();
        assert!(first.environment.is_some());
        // What was told before the start is no rotation.
        let same = secrets.next().await;
        assert!(same.state == first.state && same.environment.is_none());

        let new = set(b"new", "1");
        taker(&new).unwrap();
        swapped(environment, &new, false);
        swapped(Path::new("/volume"), &set(b"y", "1"), false);
        let next = secrets.next().await;
        assert!(next.state != first.state && next.environment.is_some());
    }

    #[tokio::test]
    async fn secrets_are_told_apart_by_what_they_hold() {
        let (secrets, _, swapped) = secrets();
        let volume = Path::new("/volume");
        let state = async |set: &RenderedSet| {
            swapped(volume, set, false);
            secrets.next().await.state
        };
        let first = state(&set(b"a", "1")).await;
        assert_eq!(state(&set(b"a", "2")).await, first);
        assert_ne!(state(&set(b"b", "1")).await, first);
        assert_eq!(state(&set(b"a", "3")).await, first);
    }

    #[test]
    fn a_program_is_not_started_without_its_environment() {
        let (secrets, mut taker, swapped) = secrets();
        assert_eq!(secrets.first().unwrap_err(), FirstError::Absent);
        let unfit = set(b"hunter2\0", "1");
        taker(&unfit).unwrap();
        swapped(Path::new("environment"), &unfit, true);
        let error = secrets.first().unwrap_err().to_string();
        assert!(error.starts_with("the environment variable V cannot hold its value: it has a NUL in it"), "{error}");
        // Once it runs, a set that is unfit is refused, and the one before stays.
        taker(&set(b"fit", "2")).unwrap();
        assert!(secrets.first().is_ok());
        let error = taker(&unfit).unwrap_err().to_string();
        assert!(error.contains("NUL") && !error.contains("hunter2"), "{error}");
    }
}
