//! Tells when files may have changed: at once where the kernel tells, and by a slow look in any case.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::file::Stamp;

/// Who writes piece by piece or file by file is done once nothing has changed for so long…
const SETTLE: Duration = Duration::from_millis(100);
/// …or is not waited for any longer after so many of these: what is read then is checked as ever.
const SETTLES_MAX: usize = 20;
/// How often to look without being told: inotify has limits, and some filesystems tell nothing.
const POLL: Duration = Duration::from_secs(15);

/// Files that are watched.
pub struct Watch {
    told: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    stamps: Vec<Stamp>,
}

impl Watch {
    /// Watches nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let told = Arc::new(Notify::new());
        let teller = Arc::clone(&told);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may stand for events that were lost.
            if event.as_ref().map_or(true, |event| is_change(event.kind)) {
                teller.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!("cannot watch files ({error}); looking every {} s", POLL.as_secs()));
        Self { told, watcher: watcher.ok(), folders: BTreeSet::new(), stamps: Vec::new() }
    }

    /// Watches these files from now on; a change since their stamps were taken counts.
    ///
    /// It is their folders that are watched: a ConfigMap's files change by a rename of the `..data`
    /// link beside them, and a watch on the file itself would never hear of it. Where a link leads elsewhere,
    /// the folder there is watched too.
    pub fn set(&mut self, files: Vec<Stamp>) {
        let real = files.iter().filter_map(|file| file.path().canonicalize().ok());
        let folders: BTreeSet<PathBuf> =
            files.iter().map(|file| folder(file.path())).chain(real.map(|file| folder(&file))).collect();
        self.stamps = files;
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.folders.difference(&folders) {
            // One that was removed is watched no longer.
            let _ = watcher.unwatch(gone);
        }
        // Also those that were watched before: a folder may have been replaced by another of its name.
        self.folders = folders;
        self.folders.retain(|folder| watcher.watch(folder, RecursiveMode::NonRecursive).is_ok());
    }

    /// Waits until a file may have changed. Cancelling it loses nothing.
    pub async fn changed(&self) {
        loop {
            if self.stamps.iter().any(Stamp::is_outdated) {
                return self.settled().await;
            }
            tokio::select! {
                () = self.told.notified() => {}
                () = sleep(POLL) => {}
            }
        }
    }

    /// Waits until the writer of a change is done with it.
    async fn settled(&self) {
        let mut seen: Vec<Stamp> = self.stamps.iter().map(|stamp| Stamp::of(stamp.path())).collect();
        for _ in 0..SETTLES_MAX {
            sleep(SETTLE).await;
            if !seen.iter().any(Stamp::is_outdated) {
                return;
            }
            seen = seen.iter().map(|stamp| Stamp::of(stamp.path())).collect();
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("stamps", &self.stamps).finish_non_exhaustive()
    }
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reading is no change: looking at the files must not be a reason to look again.
fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}
