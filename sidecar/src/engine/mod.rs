//! The engine: keeps every volume fresh, each in a task of its own, over one source.

mod keeper;
mod recipe;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::journal::Journal;
use crate::source::Source;
use crate::spec::VolumeSpec;
use crate::status::Status;
use crate::volume::VolumeError;
use keeper::Keeper;

/// What all volumes of an engine share.
#[derive(Clone)]
pub struct Shared {
    /// Where values come from.
    pub source: Arc<Source>,
    /// Where the state of things is written.
    pub status: Status,
    /// Where audit lines go.
    pub journal: Journal,
    /// Of this instance, the same after a restart; see [`crate::schedule::Schedule::new`].
    pub seed: u64,
}

/// Volumes, opened and locked, before or after their first set.
pub struct Engine {
    keepers: Vec<Keeper>,
}

/// The first sets could not be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A value will not come as long as nobody acts, or did not come in time.
    #[error("{volume}: {why}{}", gave_up(*.after))]
    NotPublished {
        /// The volume's directory.
        volume: String,
        /// Reference, AWS's code and fix.
        why: String,
        /// The start's time limit, when that is what ended it.
        after: Option<Duration>,
    },
}

fn gave_up(after: Option<Duration>) -> String {
    after.map(|after| format!(" (gave up after {})", humantime::format_duration(after))).unwrap_or_default()
}

/// A task of the engine panicked; its volume would no longer be kept fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a volume's task ended unexpectedly; the files stay, and a restart takes them over")]
pub struct KeeperLost;

impl Engine {
    /// Opens every volume. No AWS call is made, and a refused volume leaves the others untouched.
    pub fn open(volumes: Vec<VolumeSpec>, allow_disk: bool, shared: &Shared) -> Result<Self, VolumeError> {
        let open = |spec| Keeper::open(spec, allow_disk, shared.clone());
        Ok(Self { keepers: volumes.into_iter().map(open).collect::<Result<_, _>>()? })
    }

    /// The directories of the volumes.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.keepers.iter().map(|keeper| keeper.path().to_owned()).collect()
    }

    /// Publishes the first set of every volume, retrying what may yet come until `limit` is over.
    ///
    /// A volume that still holds a whole set of the same files, from before a restart, does not
    /// fail the start unless `afresh`: it goes on, stale. Ends early, and well, when `shutdown` says
    /// true.
    pub async fn start(
        &mut self,
        limit: Duration,
        afresh: bool,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        let deadline = Instant::now() + limit;
        let mut starts = JoinSet::new();
        for mut keeper in self.keepers.drain(..) {
            let mut shutdown = shutdown.clone();
            starts.spawn(async move {
                let result = tokio::select! {
                    result = keeper.start(deadline, limit, afresh) => result,
                    _ = shutdown.wait_for(|end| *end) => Ok(()),
                };
                (keeper, result)
            });
        }
        let mut first_error = Ok(());
        while let Some(joined) = starts.join_next().await {
            let Ok((keeper, result)) = joined else { continue };
            self.keepers.push(keeper);
            first_error = first_error.and(result);
        }
        first_error
    }

    /// Keeps the volumes fresh until `shutdown` says true, or its sender is gone.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<(), KeeperLost> {
        let mut keepers = JoinSet::new();
        for keeper in self.keepers {
            keepers.spawn(keeper.run(shutdown.clone()));
        }
        while let Some(ended) = keepers.join_next().await {
            ended.map_err(|_| KeeperLost)?;
        }
        Ok(())
    }

    /// Waits until no replaced set is left to be removed.
    pub async fn sweep(&mut self) {
        for keeper in &mut self.keepers {
            keeper.sweep().await;
        }
    }

    /// Ends without having run: what was published stays, nothing else is left.
    pub fn close(self) {
        self.keepers.into_iter().for_each(Keeper::close);
    }
}
