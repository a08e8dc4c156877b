//! Where sets go. The engine makes and compares them; what becomes of one is its destination's
//! business: a directory keeps it, an environment hands it on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use coffer_runtime::Secret;

use crate::digest::{Digest, Key};
use crate::file::{FileName, Owner};
use crate::render::{Origin, RenderedSet};
use crate::volume::{Options, Outcome, Volume, VolumeError};

/// Where the sets of one volume go.
pub trait Destination: Send + Sync {
    /// What it is called in logs, status and metrics: a volume's directory.
    fn name(&self) -> &Path;

    /// When the set in place was put there; `None` before the first.
    fn published_at(&self) -> Option<SystemTime>;

    /// Where each file of the set in place came from.
    fn origins(&self) -> Vec<(&FileName, &Origin)>;

    /// The bytes of a file of the set in place, if they are still there and as they were published.
    fn read(&self, name: &FileName) -> Option<Secret>;

    /// Puts `set` in place, whole, or leaves the one before as it was.
    fn publish(&mut self, set: &RenderedSet) -> Result<Outcome, DestinationError>;

    /// Whether the set in place still stands as it was published; `false` before the first.
    fn intact(&self) -> bool;

    /// Makes ready again what others took away, so that the next set can be published.
    fn restore(&mut self) -> Result<(), DestinationError> {
        Ok(())
    }

    /// From now on files belong to `owner`.
    fn give_to(&mut self, owner: Owner) -> Result<(), DestinationError>;

    /// Removes what is left of replaced sets; tells when to call again, if any is left.
    fn sweep(&mut self) -> Option<Instant> {
        None
    }

    /// Ends. The set in place stays.
    fn close(self: Box<Self>) {}
}

/// A set could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// The volume refused it.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Whoever was to take it refused it: why, and the fix.
    #[error("{0}")]
    Refused(String),
    /// It will never be taken as it is: why, and the fix.
    #[error("{0}")]
    Never(String),
}

/// A directory of files.
#[derive(Debug)]
pub struct Directory {
    options: Options,
    volume: Volume,
}

impl Directory {
    /// Opens a directory on a tmpfs, makes it if need be, and locks it.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open(options: Options) -> Result<Self, VolumeError> {
        let volume = Volume::open(options.clone(), Instant::now())?;
        Ok(Self { options, volume })
    }
}

impl Destination for Directory {
    fn name(&self) -> &Path {
        &self.options.path
    }

    fn published_at(&self) -> Option<SystemTime> {
        self.volume.published().map(|published| published.published_at)
    }

    fn origins(&self) -> Vec<(&FileName, &Origin)> {
        let files = self.volume.published().into_iter().flat_map(|published| &published.files);
        files.map(|(name, file)| (name, &file.origin)).collect()
    }

    fn read(&self, name: &FileName) -> Option<Secret> {
        self.volume.read(name)
    }

    fn publish(&mut self, set: &RenderedSet) -> Result<Outcome, DestinationError> {
        Ok(self.volume.publish(set, Instant::now(), SystemTime::now())?)
    }

    fn intact(&self) -> bool {
        self.volume.intact()
    }

    /// A directory that somebody removed is made anew, and filled by the repair that follows.
    fn restore(&mut self) -> Result<(), DestinationError> {
        if !self.options.path.exists() {
            self.volume = Volume::open(self.options.clone(), Instant::now())?;
        }
        Ok(())
    }

    fn give_to(&mut self, owner: Owner) -> Result<(), DestinationError> {
        self.volume.give_to(owner)?;
        self.options.owner = owner;
        Ok(())
    }

    fn sweep(&mut self) -> Option<Instant> {
        self.volume.sweep(Instant::now())
    }

    fn close(self: Box<Self>) {
        self.volume.close();
    }
}

/// Takes a set that was made, or says why it cannot.
pub type Taker = Box<dyn FnMut(&RenderedSet) -> Result<(), DestinationError> + Send + Sync>;

/// Whoever takes sets over, and keeps them where the engine cannot read them again. Every new set is
/// therefore made of values fetched anew.
pub struct Handoff {
    name: PathBuf,
    taker: Taker,
    key: Key,
    last: Option<Last>,
}

/// What is remembered of the last set: no values.
struct Last {
    at: SystemTime,
    origins: BTreeMap<FileName, Origin>,
    digest: Digest,
}

impl Handoff {
    /// `name` stands in for a directory in logs, status and metrics.
    pub fn new(name: &str, taker: Taker) -> Result<Self, VolumeError> {
        let name = PathBuf::from(name);
        let key = Key::random().map_err(|errno| VolumeError::no_key(&name, errno))?;
        Ok(Self { name, taker, key, last: None })
    }
}

impl Destination for Handoff {
    fn name(&self) -> &Path {
        &self.name
    }

    fn published_at(&self) -> Option<SystemTime> {
        self.last.as_ref().map(|last| last.at)
    }

    fn origins(&self) -> Vec<(&FileName, &Origin)> {
        self.last.iter().flat_map(|last| &last.origins).collect()
    }

    fn read(&self, _: &FileName) -> Option<Secret> {
        None
    }

    fn publish(&mut self, set: &RenderedSet) -> Result<Outcome, DestinationError> {
        let pieces = set.iter().flat_map(|(name, file)| [name.as_str().as_bytes(), file.content.expose()]);
        let digest = self.key.digest(pieces);
        let origins = set.iter().map(|(name, file)| (name.clone(), file.origin.clone())).collect();
        if let Some(last) = self.last.as_mut().filter(|last| last.digest == digest) {
            last.origins = origins;
            return Ok(Outcome::Unchanged);
        }
        (self.taker)(set)?;
        self.last = Some(Last { at: SystemTime::now(), origins, digest });
        Ok(Outcome::Published)
    }

    fn intact(&self) -> bool {
        self.last.is_some()
    }

    fn give_to(&mut self, _: Owner) -> Result<(), DestinationError> {
        Ok(())
    }
}
