//! Every touch of a folder tree, as inotify tells it.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

/// Records what is created, changed, moved or removed in a folder tree; with
/// [`FileWatch::with_reads`] also what is opened and read.
#[derive(Debug)]
pub struct FileWatch {
    inotify: Inotify,
    mask: WatchMask,
    folders: HashMap<WatchDescriptor, PathBuf>,
}

/// One event of a watched tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEvent {
    /// What it happened to.
    pub path: PathBuf,
    /// What happened.
    pub mask: EventMask,
}

impl FileWatch {
    /// Watches a folder and all below it, from now on.
    ///
    /// A folder that appears later is watched from the moment [`Self::events`] learns of it.
    pub fn new(tree: &Path) -> Result<Self> {
        let mask = WatchMask::CREATE
            | WatchMask::MODIFY
            | WatchMask::ATTRIB
            | WatchMask::CLOSE_WRITE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE
            | WatchMask::MOVE_SELF;
        Self::start(tree, mask)
    }

    /// [`Self::new`] that records every event inotify knows: opening, reading and closing too.
    pub fn with_reads(tree: &Path) -> Result<Self> {
        let mut watch = Self::start(tree, WatchMask::ALL_EVENTS)?;
        // It has read the folders itself to find those below.
        watch.events()?;
        Ok(watch)
    }

    fn start(tree: &Path, mask: WatchMask) -> Result<Self> {
        let inotify = Inotify::init().context("cannot start inotify")?;
        let mut watch = Self { inotify, mask, folders: HashMap::new() };
        watch.add(tree).with_context(|| format!("cannot watch {}", tree.display()))?;
        Ok(watch)
    }

    /// The events since the watch began or this was last asked, oldest first.
    pub fn events(&mut self) -> Result<Vec<FileEvent>> {
        let mut events = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            let batch: Vec<_> = match self.inotify.read_events(&mut buffer) {
                Ok(batch) => batch.map(|event| event.to_owned()).collect(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(error) => return Err(error).context("cannot read inotify events"),
            };
            for event in batch {
                ensure!(!event.mask.contains(EventMask::Q_OVERFLOW), "inotify has lost events: ask more often");
                // Said of the watch itself, when its folder is gone.
                if event.mask.contains(EventMask::IGNORED) {
                    self.folders.remove(&event.wd);
                    continue;
                }
                let Some(folder) = self.folders.get(&event.wd) else { continue };
                let path = event.name.map_or_else(|| folder.clone(), |name| folder.join(name));
                let appeared = EventMask::CREATE | EventMask::MOVED_TO;
                if event.mask.contains(EventMask::ISDIR) && event.mask.intersects(appeared) {
                    match self.add(&path) {
                        // It may be gone again by now.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        added => added.with_context(|| format!("cannot watch {}", path.display()))?,
                    }
                }
                events.push(FileEvent { path, mask: event.mask });
            }
        }
    }

    fn add(&mut self, folder: &Path) -> io::Result<()> {
        let mask = self.mask | WatchMask::ONLYDIR | WatchMask::DONT_FOLLOW;
        self.folders.insert(self.inotify.watches().add(folder, mask)?, folder.to_owned());
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.add(&entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tmpfs_dir;

    #[test]
    fn records_writes_everywhere_and_reads_nowhere() {
        let root = tmpfs_dir().unwrap();
        let nested = root.path().join("a/b");
        fs::create_dir_all(&nested).unwrap();
        fs::write(nested.join("old"), "x").unwrap();

        let mut watch = FileWatch::new(root.path()).unwrap();
        fs::read(nested.join("old")).unwrap();
        fs::read_dir(&nested).unwrap().for_each(drop);
        assert_eq!(watch.events().unwrap(), []);

        let mut watch_all = FileWatch::with_reads(root.path()).unwrap();
        fs::read(nested.join("old")).unwrap();
        let events = watch_all.events().unwrap();
        assert!(events.iter().any(|event| event.mask.contains(EventMask::ACCESS)), "{events:?}");

        fs::write(nested.join("new"), "x").unwrap();
        fs::rename(nested.join("old"), root.path().join("moved")).unwrap();
        let events = watch.events().unwrap();
        let saw = |path: PathBuf, mask| events.iter().any(|event| event.path == path && event.mask.contains(mask));
        assert!(saw(nested.join("new"), EventMask::CREATE), "{events:?}");
        assert!(saw(nested.join("new"), EventMask::CLOSE_WRITE), "{events:?}");
        assert!(saw(nested.join("old"), EventMask::MOVED_FROM), "{events:?}");
        assert!(saw(root.path().join("moved"), EventMask::MOVED_TO), "{events:?}");
    }

    #[test]
    fn follows_folders_that_appear() {
        let root = tmpfs_dir().unwrap();
        let mut watch = FileWatch::new(root.path()).unwrap();
        fs::create_dir(root.path().join("late")).unwrap();
        watch.events().unwrap();
        fs::write(root.path().join("late/file"), "x").unwrap();
        let events = watch.events().unwrap();
        assert!(events.iter().all(|event| event.path == root.path().join("late/file")), "{events:?}");
        assert!(!events.is_empty());
    }
}
