//! A generation in the making. Dropped before it is swapped in, it takes back everything it did.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags, fchmod, fstat, fsync, mkdirat, openat, renameat, symlinkat};
use rustix::io::{self, Errno};

use super::error::Fault;
use super::generation::{self, Generation, open_folder};
use super::inspect::{FOLDER_MODE, Sealed};
use super::links;
use super::manifest::{self, Manifest};
use super::ownership;
use super::seal::{Seal, Stamp};
use super::tree::Folder;
use crate::digest::Key;
use crate::file::{FileName, Owner};
use crate::render::{RenderedFile, RenderedSet};

/// A generation that is not in place yet.
pub(super) struct Draft<'v> {
    volume: BorrowedFd<'v>,
    owner: Owner,
    durable: bool,
    manifest: File,
    generation: &'v Generation,
    /// The links that were made for it.
    links: Vec<String>,
    /// Whether its `..data` was made.
    staged: bool,
    /// Whether it is in place, and so not to be taken back.
    swapped: bool,
}

impl<'v> Draft<'v> {
    /// Begins with an empty generation. Nobody else can enter it until it is whole.
    pub(super) fn begin(
        volume: BorrowedFd<'v>,
        generation: &'v Generation,
        owner: Owner,
        durable: bool,
    ) -> Result<Self, Fault> {
        // Made first and filled last: it marks the directory as Coffer's, and a whole one.
        match make_file(generation.dir(), manifest::NAME) {
            Ok(manifest) => {
                let (links, staged, swapped) = (Vec::new(), false, false);
                Ok(Self { volume, owner, durable, manifest, generation, links, staged, swapped })
            }
            Err(errno) => {
                let _ = generation::remove(volume, generation.name());
                Err(Fault::io("make the manifest in", "", errno))
            }
        }
    }

    /// Writes every file with its mode and owner, and the manifest; then opens the generation to
    /// readers.
    pub(super) fn write(&mut self, set: &RenderedSet, key: &Key, wall: SystemTime) -> Result<Sealed, Fault> {
        let mut sealed = Sealed::default();
        let root = Folder::of(set.iter().map(|entry| (entry.0, entry)));
        self.fill(self.generation.dir(), "", &root, key, &mut sealed)?;

        let manifest = Manifest::text(set, wall);
        let written = write(&self.manifest, &manifest).and_then(|()| self.sync(&self.manifest));
        written.map_err(|errno| Fault::io("write the manifest in", "", errno))?;

        let stamp = self.settle_folder(self.generation.dir());
        sealed.folders.insert(String::new(), stamp.map_err(|errno| Fault::io("finish a generation in", "", errno))?);
        Ok(sealed)
    }

    /// Makes the next `..data`, and the links of new names; those dangle until the swap.
    pub(super) fn link(&mut self, tops: &BTreeSet<&str>) -> Result<(), Fault> {
        symlinkat(self.generation.name().as_str(), self.volume, links::STAGED)
            .map_err(|errno| Fault::io("make", links::STAGED, errno))?;
        self.staged = true;
        for &top in tops {
            if links::make(self.volume, top)? {
                self.links.push(top.to_owned());
            }
        }
        Ok(())
    }

    /// Puts the generation in place, in the one step that readers see.
    pub(super) fn swap(mut self) -> Result<(), Fault> {
        self.sync(self.volume).map_err(|errno| Fault::io("sync", "", errno))?;
        renameat(self.volume, links::STAGED, self.volume, links::DATA)
            .map_err(|errno| Fault::io("swap", links::DATA, errno))?;
        self.swapped = true;
        Ok(())
    }

    /// Writes what stands in the folder `path`, which is open as `dir`.
    fn fill(
        &self,
        dir: BorrowedFd<'_>,
        path: &str,
        folder: &Folder<'_, (&FileName, &RenderedFile)>,
        key: &Key,
        sealed: &mut Sealed,
    ) -> Result<(), Fault> {
        for (leaf, (name, file)) in &folder.files {
            let stamp = self.file(dir, leaf, name, file)?;
            sealed.files.insert((*name).clone(), Seal::of(stamp, file.content.expose(), key));
        }
        for (leaf, folder) in &folder.folders {
            let path = if path.is_empty() { (*leaf).to_owned() } else { format!("{path}/{leaf}") };
            let made = make_folder(dir, leaf).map_err(|errno| Fault::io("make", &path, errno))?;
            self.fill(made.as_fd(), &path, folder, key, sealed)?;
            let stamp = self.settle_folder(made.as_fd()).map_err(|errno| Fault::io("finish", &path, errno))?;
            sealed.folders.insert(path, stamp);
        }
        Ok(())
    }

    fn file(&self, dir: BorrowedFd<'_>, leaf: &str, name: &FileName, wanted: &RenderedFile) -> Result<Stamp, Fault> {
        let failed = |errno| Fault::io("write", name.as_str(), errno);
        let file = make_file(dir, leaf).map_err(failed)?;
        write(&file, wanted.content.expose()).map_err(failed)?;
        // The mode first: once the file is another's, chmod would take a capability of its own.
        fchmod(&file, Mode::from_raw_mode(wanted.mode.bits())).map_err(failed)?;
        ownership::give(file.as_fd(), self.owner)?;
        self.sync(&file).map_err(failed)?;
        fstat(&file).map(Stamp::of).map_err(failed)
    }

    /// Gives a folder its final mode. The set-gid bit it may have inherited stays.
    fn settle_folder(&self, dir: BorrowedFd<'_>) -> io::Result<Stamp> {
        let inherited = fstat(dir)?.st_mode & Mode::SGID.as_raw_mode();
        fchmod(dir, Mode::from_raw_mode(FOLDER_MODE | inherited))?;
        self.sync(dir)?;
        fstat(dir).map(Stamp::of)
    }

    /// On a disk, waits until what was written will outlive a power cut. A tmpfs has nothing to
    /// wait for.
    fn sync(&self, what: impl AsFd) -> io::Result<()> {
        if self.durable { fsync(what) } else { Ok(()) }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if self.swapped {
            return;
        }
        // What cannot be taken back now is cleaned at the next start.
        for top in &self.links {
            links::remove(self.volume, top);
        }
        if self.staged {
            links::remove_staged(self.volume);
        }
        let _ = generation::remove(self.volume, self.generation.name());
    }
}

fn make_file(dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

fn make_folder(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    mkdirat(dir, name, Mode::RWXU)?;
    open_folder(dir, name)
}

fn write(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
