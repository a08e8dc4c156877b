//! A config file on the disk, with the files that it names.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::spec::{Config, ConfigError};

/// Largest file that is read, in bytes: a Kubernetes ConfigMap holds no more.
const SIZE_MAX: u64 = 1024 * 1024;

/// A config file.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
}

/// Why a config file is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("{0}")]
    Unreadable(String),
    /// There are mistakes in it, each with its place and its fix.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
}

/// A file as the disk has it; equal as long as nobody wrote it or put another in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    path: PathBuf,
    /// Device, inode, size and times; `None` while there is no such file.
    found: Option<(u64, u64, u64, Option<SystemTime>, i64, i64)>,
}

impl ConfigFile {
    /// The file at `path`, which need not be there yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads and checks it. Files that it names are looked for beside it, unless their path is whole.
    pub fn load(&self) -> Result<Config, LoadError> {
        self.load_with_files().0
    }

    /// As [`Self::load`], with all files that were read or looked for, as they were just before.
    pub(super) fn load_with_files(&self) -> (Result<Config, LoadError>, Vec<Stamp>) {
        let files = RefCell::new(vec![Stamp::of(&self.path)]);
        let config = read(&self.path).map_err(LoadError::Unreadable).and_then(|text| {
            let reader = |named: &Path| {
                let path = self.path.parent().map_or_else(|| named.to_owned(), |folder| folder.join(named));
                files.borrow_mut().push(Stamp::of(&path));
                read(&path)
            };
            Ok(Config::parse(&self.path.display().to_string(), &text, &reader)?)
        });
        (config, files.into_inner())
    }
}

impl Stamp {
    /// The file at `path` as it is now, or that there is none.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let found = fs::metadata(path).ok();
        let found = found.map(|at| (at.dev(), at.ino(), at.len(), at.modified().ok(), at.ctime(), at.ctime_nsec()));
        Self { path: path.to_owned(), found }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is no longer what it was.
    pub(super) fn is_outdated(&self) -> bool {
        Self::of(&self.path) != *self
    }
}

fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let size = fs::metadata(path).map_err(|error| format!("{shown}: cannot be read: {error}"))?.len();
    if size > SIZE_MAX {
        return Err(format!("{shown}: has {size} bytes; a config file has at most {SIZE_MAX}"));
    }
    fs::read_to_string(path).map_err(|error| format!("{shown}: cannot be read: {error}"))
}
