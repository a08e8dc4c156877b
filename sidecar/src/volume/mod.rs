//! A set of files appears at once, or not at all.
//!
//! ```text
//! VOLUME/..2026_11_23_18_30_00.123456789/   a generation: one whole set, never changed again
//! VOLUME/..data -> ..2026_11_23_18_30_00.123456789
//! VOLUME/db.json -> ..data/db.json
//! VOLUME/certs -> ..data/certs
//! ```
//!
//! This is the layout of the kubelet's atomic writer (pkg/volume/util/atomic_writer.go), which
//! applications already know how to watch and read. The promises are stronger:
//!
//! - The links of new names exist before the one rename of `..data`, and those of removed names
//!   until after it, so every file of a set appears in the same instant and none goes early.
//! - Nothing is written when the disk already holds what is wanted, also after a restart; what
//!   was damaged or tampered with is published anew.
//! - The generation that was replaced stays two seconds longer, because a reader may have
//!   resolved `..data` once and be opening its files one by one.
//! - Any failure leaves the set in place as it was.
//!
//! The volume's directory may be writable by the application (an `emptyDir` is), so its entries
//! are trusted no further than they can be checked: all work is relative to directory
//! descriptors, follows no symbolic link, and touches nothing that Coffer did not make. What it
//! cannot stop is an application that runs as the same user, which may do anything Coffer may.

mod directory;
mod draft;
mod error;
mod filesystem;
mod generation;
mod inspect;
mod links;
mod manifest;
mod ownership;
mod retired;
mod seal;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use coffer_runtime::Secret;
use rustix::process::geteuid;

use self::directory::Locked;
use self::draft::Draft;
use self::error::Fault;
pub use self::error::VolumeError;
use self::generation::{Generation, GenerationName};
use self::manifest::{Manifest, PublishedAs};
use self::retired::Retired;
use self::seal::{Seal, Stamp};
use crate::digest::Key;
use crate::file::{FileName, Mode, Owner};
use crate::render::{Origin, RenderedFile, RenderedSet};

/// A directory whose files are published together: opened, verified, and locked against any
/// other Coffer process until dropped.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
    dir: Locked,
    owner: Owner,
    /// Whether the volume outlives a power cut, so that what is written must be synced.
    durable: bool,
    key: Key,
    current: Option<Current>,
    retired: Retired,
}

/// Where a volume is and whom its files belong to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The volume's directory: an absolute path without `..`. Made, with its parents, when missing.
    pub path: PathBuf,
    /// Whom the files belong to. Directories stay the process's own, so that an application may
    /// read a set but not change it.
    pub owner: Owner,
    /// Take a volume that is not in memory. Files are then synced to the disk, so that a power
    /// cut leaves either the old set or the new one.
    pub allow_disk: bool,
}

/// The set in place, as it was published by this process or adopted from an earlier one.
#[derive(Clone, Debug)]
pub struct Published {
    /// The files.
    pub files: BTreeMap<FileName, PublishedFile>,
    /// When these bytes were published; a later look that changed nothing does not move it.
    pub published_at: SystemTime,
}

/// One file of the set in place.
#[derive(Clone, Debug)]
pub struct PublishedFile {
    /// Permission bits.
    pub mode: Mode,
    /// Where the bytes came from.
    pub origin: Origin,
    seal: Seal,
}

/// What [`Volume::publish`] did.
#[must_use = "an application is told of a set once, when it is published"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The set in place already was what is wanted; nothing was written.
    Unchanged,
    /// A new generation is in place.
    Published,
}

impl Volume {
    /// Opens the volume at `options.path`, makes it if need be, and locks it.
    ///
    /// A whole set found there is adopted as it is (see [`Volume::published`]); what a crash left
    /// is cleaned away. `now` starts the grace of generations that an earlier process left.
    ///
    /// # Errors
    ///
    /// Every [`VolumeError`] but [`VolumeError::Occupied`] and [`VolumeError::NoSpace`]. A volume
    /// that is refused is left as it was found.
    pub fn open(options: Options, now: Instant) -> Result<Self, VolumeError> {
        let Options { path, owner, allow_disk } = options;
        // Without a trailing slash, which would have the kernel follow a link after all.
        let path: PathBuf = path.components().collect();
        let key = Key::random().map_err(|errno| VolumeError::no_key(&path, errno))?;
        let opened = directory::open(&path, allow_disk)?;
        let mut volume = Self {
            path,
            dir: opened.dir,
            owner,
            durable: opened.durable,
            key,
            current: None,
            retired: Retired::default(),
        };
        volume.adopt();
        if !volume.has_given_away()
            && let Err(fault) = ownership::probe(volume.dir.as_fd(), owner)
        {
            opened.made.undo();
            return Err(volume.failed(fault));
        }
        volume.clean(now).map_err(|errno| volume.failed(Fault::io("clean", "", errno)))?;
        Ok(volume)
    }

    /// The volume's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The set in place; `None` before the first, and when what an earlier process left cannot be
    /// taken for a whole set of Coffer's.
    #[must_use]
    pub fn published(&self) -> Option<&Published> {
        self.current.as_ref().map(|current| &current.published)
    }

    /// Puts `set` in place, whole. Compares with the disk first and writes nothing when names,
    /// bytes, modes and owners already are as wanted; only the origins reported by
    /// [`Volume::published`] are then brought up to date.
    ///
    /// `now` starts the grace of the generation that is replaced, so call [`Volume::sweep`]
    /// afterwards; `wall` is the time of publication.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Occupied`], [`VolumeError::NoSpace`], [`VolumeError::MayNotChown`] and
    /// [`VolumeError::Io`]; whichever it is, the set that was in place still is.
    pub fn publish(&mut self, set: &RenderedSet, now: Instant, wall: SystemTime) -> Result<Outcome, VolumeError> {
        if self.stands_as(set) {
            return Ok(Outcome::Unchanged);
        }
        let tops: BTreeSet<&str> = set.iter().map(|(name, _)| name.top()).collect();
        links::check(self.dir.as_fd(), &tops).map_err(|fault| self.failed(fault))?;
        links::remove_staged(self.dir.as_fd());
        let replaced = [
            self.current.as_ref().map(|current| current.generation.name().clone()),
            // Differs from the one above when nothing could be adopted, or `..data` was tampered with.
            links::in_place(self.dir.as_fd()),
        ];

        let mut made = self.make(set, &tops, wall);
        if made.as_ref().is_err_and(Fault::is_full) && self.retired.remove_all(self.dir.as_fd()) {
            made = self.make(set, &tops, wall);
        }
        let made = made.map_err(|fault| if fault.is_full() { self.full(set) } else { self.failed(fault) })?;
        self.current = Some(made);

        // The set is in place; nothing below may fail the publication. A power cut before this
        // sync leaves the old set, whole; a stale link that stays dangles, and goes with the next
        // set or at the next start.
        if self.durable {
            let _ = rustix::fs::fsync(&self.dir);
        }
        links::remove_stale(self.dir.as_fd(), &tops);
        for name in replaced.into_iter().flatten() {
            self.retire(name, now);
        }
        Ok(Outcome::Published)
    }

    /// The bytes of a file of the set in place; `None` when there is no such file, when its bytes
    /// are no longer those that were published, or when they belong to a user whose files this
    /// process may not read.
    #[must_use]
    pub fn read(&self, name: &FileName) -> Option<Secret> {
        let current = self.current.as_ref()?;
        let file = current.published.files.get(name)?;
        let (bytes, _) = inspect::read(current.generation.dir(), name).ok()?;
        file.seal.verifies(bytes.expose(), &self.key).then_some(bytes)
    }

    /// Whether the set in place still stands as it was published: links, folders, files, modes
    /// and owners. Reads links and attributes only, so that looking wakes nobody who watches the
    /// volume with inotify, whatever events they asked for.
    ///
    /// `false` asks for a [`Volume::publish`], which compares the bytes themselves and heals what
    /// is damaged. It is also the answer when nothing was published yet.
    #[must_use]
    pub fn intact(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.is_linked(self.dir.as_fd()) && current.is_unchanged())
    }

    /// From now on files belong to `owner`. What is in place changes with the next publication.
    ///
    /// # Errors
    ///
    /// [`VolumeError::MayNotChown`] when this process may not give files to it; nothing has changed
    /// then.
    pub fn give_to(&mut self, owner: Owner) -> Result<(), VolumeError> {
        if owner != self.owner {
            ownership::probe(self.dir.as_fd(), owner).map_err(|fault| self.failed(fault))?;
            self.owner = owner;
        }
        Ok(())
    }

    /// Removes the retired generations whose grace is over. Returns when to call again, if any
    /// is left.
    pub fn sweep(&mut self, now: Instant) -> Option<Instant> {
        self.retired.sweep(self.dir.as_fd(), now)
    }

    /// Removes every retired generation at once, for a process that ends. The set in place stays.
    pub fn close(mut self) {
        self.retired.remove_all(self.dir.as_fd());
    }

    /// Takes over the set an earlier process left, if it is one. That it cannot be is no error:
    /// the next set replaces it.
    fn adopt(&mut self) {
        self.current = links::in_place(self.dir.as_fd())
            .and_then(|name| Generation::open(self.dir.as_fd(), name).ok())
            .and_then(|generation| Current::adopt(generation, &self.key));
    }

    /// Whether the adopted set shows that files can be given to the wanted owner, and chown(2)'s
    /// rule says that they still can. Probing would only repeat the deed, and is seen by those
    /// who watch the directory even though the probing file has no name.
    fn has_given_away(&self) -> bool {
        let Owner { uid, gid } = self.owner;
        let stands = self.current.as_ref().is_some_and(|current| {
            let mut stamps = current.published.files.values().map(|file| &file.seal.stamp).peekable();
            stamps.peek().is_some() && stamps.all(|stamp| stamp.belongs_to(uid, gid))
        });
        (uid.is_none() && gid.is_none()) || (stands && ownership::may_give(self.owner))
    }

    /// Removes what a crash left, and retires whole generations that are no longer in place.
    fn clean(&mut self, now: Instant) -> rustix::io::Result<()> {
        let dir = self.dir.as_fd();
        links::remove_staged(dir);
        links::remove_dangling(dir)?;
        ownership::remove_probes(dir)?;
        let in_place = links::in_place(dir);
        for name in GenerationName::list(dir)? {
            if in_place.as_ref() == Some(&name) {
                continue;
            }
            let Ok(generation) = Generation::open(dir, name) else { continue };
            if Manifest::read(generation.dir()).is_some() {
                self.retired.push(dir, &generation, now);
            } else if generation.is_half_made() {
                // It was never in place, so nobody is reading it. What cannot be removed now is
                // found again at the next start.
                let _ = generation::remove(dir, generation.name());
            }
        }
        Ok(())
    }

    /// Whether the disk already holds exactly `set`. What is known of the set in place is then
    /// brought up to date.
    fn stands_as(&mut self, set: &RenderedSet) -> bool {
        let Some(current) = &mut self.current else { return false };
        if !current.is_linked(self.dir.as_fd()) {
            return false;
        }
        let known = &current.published.files;
        let Some(sealed) = inspect::compare(&current.generation, set, known, self.owner, &self.key) else {
            return false;
        };
        current.published.files = published(set, sealed.files);
        current.folders = sealed.folders;
        true
    }

    /// Makes a generation of `set` and swaps it in; undoes everything if any step fails.
    fn make(&self, set: &RenderedSet, tops: &BTreeSet<&str>, wall: SystemTime) -> Result<Current, Fault> {
        let dir = self.dir.as_fd();
        let generation = Generation::make(dir, wall).map_err(|errno| Fault::io("make a generation in", "", errno))?;
        let mut draft = Draft::begin(dir, &generation, self.owner, self.durable)?;
        let sealed = draft.write(set, &self.key, wall)?;
        draft.link(tops)?;
        draft.swap()?;
        let published = Published { files: published(set, sealed.files), published_at: wall };
        Ok(Current { generation, published, folders: sealed.folders })
    }

    fn retire(&mut self, name: GenerationName, now: Instant) {
        // One that cannot be opened is gone, or was never Coffer's.
        if let Ok(generation) = Generation::open(self.dir.as_fd(), name) {
            self.retired.push(self.dir.as_fd(), &generation, now);
        }
    }

    fn failed(&self, fault: Fault) -> VolumeError {
        fault.at(&self.path)
    }

    fn full(&self, set: &RenderedSet) -> VolumeError {
        let (needed, free) = filesystem::space(self.dir.as_fd(), set);
        VolumeError::NoSpace { path: self.path.clone(), needed, free }
    }
}

/// What is in place, and what of it is remembered to notice a change.
#[derive(Debug)]
struct Current {
    generation: Generation,
    published: Published,
    /// Every folder of the generation by its path in it; its own is empty.
    folders: BTreeMap<String, Stamp>,
}

impl Current {
    /// Takes over `generation` if it is a whole set of Coffer's. Its bytes cannot be checked, for
    /// nothing that was derived from them is kept on the disk; they count as published from here.
    fn adopt(generation: Generation, key: &Key) -> Option<Self> {
        let manifest = Manifest::read(generation.dir())?;
        let uid = geteuid().as_raw();
        // What others could change may hold anything by now: a hard link to a file that is closed
        // to them would be read, and published, for them.
        let closed = |path: &str| inspect::stamp(generation.dir(), path).ok().filter(|stamp| stamp.is_closed(uid));
        let mut files = BTreeMap::new();
        let mut folders = BTreeMap::from([(String::new(), closed("")?)]);
        for (name, PublishedAs { mode, origin }) in manifest.files {
            for folder in tree::folders(&name) {
                folders.insert(folder.to_owned(), closed(folder)?);
            }
            let seal = inspect::seal(generation.dir(), &name, key).ok()?;
            files.insert(name, PublishedFile { mode, origin, seal });
        }
        Some(Self { generation, published: Published { files, published_at: manifest.published_at }, folders })
    }

    /// Whether `..data` and every link of a file lead to this generation.
    fn is_linked(&self, volume: BorrowedFd<'_>) -> bool {
        links::in_place(volume).as_ref() == Some(self.generation.name())
            && self.generation.is_at(volume)
            && self.published.files.keys().all(|name| links::is_own(volume, name.top()))
    }

    /// Whether every folder and file of the generation is as remembered, going by attributes.
    fn is_unchanged(&self) -> bool {
        let folders = self.folders.iter().map(|(path, stamp)| (path.as_str(), stamp));
        let files = self.published.files.iter().map(|(name, file)| (name.as_str(), &file.seal.stamp));
        folders.chain(files).all(|(path, stamp)| inspect::stamp(self.generation.dir(), path).as_ref() == Ok(stamp))
    }
}

/// `set` as it is known once published. `seals` holds every name of the set.
fn published(set: &RenderedSet, mut seals: BTreeMap<FileName, Seal>) -> BTreeMap<FileName, PublishedFile> {
    let file = |(name, file): (&FileName, &RenderedFile)| {
        let (name, seal) = seals.remove_entry(name)?;
        Some((name, PublishedFile { mode: file.mode, origin: file.origin.clone(), seal }))
    };
    set.iter().filter_map(file).collect()
}
