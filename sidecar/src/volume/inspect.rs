//! What is on the disk, compared with what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use coffer_runtime::Secret;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::{self, Errno};
use rustix::path::Arg;
use rustix::process::geteuid;

use super::PublishedFile;
use super::generation::{Generation, entries, open_folder};
use super::manifest;
use super::seal::{Seal, Stamp};
use super::tree::{Folder, split};
use crate::digest::Key;
use crate::file::{FileName, Owner};
use crate::render::{RenderedFile, RenderedSet};

/// Permission bits of every folder of a generation: anyone may pass, only Coffer may change. The
/// files' own modes say who may read.
pub(super) const FOLDER_MODE: u32 = 0o755;

/// A set on the disk as it is remembered.
#[derive(Default)]
pub(super) struct Sealed {
    pub(super) files: BTreeMap<FileName, Seal>,
    /// By path in the generation; the generation's own is empty.
    pub(super) folders: BTreeMap<String, Stamp>,
}

/// Looks whether `generation` holds exactly `set`: names, bytes, modes and owners, and nothing
/// beside. `None` when it does not, or when that cannot be told.
///
/// A file that was given to another user may be closed to this process. It then counts as equal
/// when its attributes are those `known` from its publication and its digest is the wanted one.
pub(super) fn compare(
    generation: &Generation,
    set: &RenderedSet,
    known: &BTreeMap<FileName, PublishedFile>,
    owner: Owner,
    key: &Key,
) -> Option<Sealed> {
    let manifest = statat(generation.dir(), manifest::NAME, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let uid = geteuid().as_raw();
    let mut comparison = Comparison {
        known,
        key,
        uid,
        file_uid: owner.uid.unwrap_or(uid),
        // The manifest is never given away, so it has the group that the kernel gives here: the
        // process's, or the folder's when that is set-gid.
        file_gid: owner.gid.unwrap_or(manifest.st_gid),
        sealed: Sealed::default(),
    };
    comparison.folder(generation.dir(), "", &Folder::of(set.iter().map(|entry| (entry.0, entry))))?;
    Some(comparison.sealed)
}

/// Seals a file as it is found.
pub(super) fn seal(generation: BorrowedFd<'_>, name: &FileName, key: &Key) -> io::Result<Seal> {
    match read(generation, name) {
        Ok((bytes, stat)) => Ok(Seal::of(Stamp::of(stat), bytes.expose(), key)),
        Err(Errno::ACCESS) => Ok(Seal { stamp: stamp(generation, name.as_str())?, digest: None }),
        Err(errno) => Err(errno),
    }
}

/// Reads a file of a generation.
pub(super) fn read(generation: BorrowedFd<'_>, name: &FileName) -> io::Result<(Secret, Stat)> {
    let (folders, leaf) = split(name);
    let mut folder: Option<OwnedFd> = None;
    for part in folders.split('/').filter(|part| !part.is_empty()) {
        folder = Some(open_folder(folder.as_ref().map_or(generation, AsFd::as_fd), part)?);
    }
    read_entry(folder.as_ref().map_or(generation, AsFd::as_fd), leaf)
}

/// Reads an entry of a folder, which must be a regular file.
pub(super) fn read_entry(folder: BorrowedFd<'_>, name: impl Arg) -> io::Result<(Secret, Stat)> {
    // Not to wait for a writer, should somebody have put a pipe there.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(folder, name, flags, Mode::empty())?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut bytes = vec![0; usize::try_from(stat.st_size).map_err(|_| Errno::FBIG)?];
    let outcome = File::from(file).read_exact(&mut bytes);
    // From here on the bytes are wiped, also when only some of them could be read.
    let bytes = Secret::new(bytes);
    outcome.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok((bytes, stat))
}

/// The attributes of an entry of a generation, by its path in it; of the generation itself when
/// that is empty. Opens nothing, so nobody who watches is told.
pub(super) fn stamp(generation: BorrowedFd<'_>, path: &str) -> io::Result<Stamp> {
    let stat = if path.is_empty() { fstat(generation) } else { statat(generation, path, AtFlags::SYMLINK_NOFOLLOW) };
    stat.map(Stamp::of)
}

struct Comparison<'a> {
    known: &'a BTreeMap<FileName, PublishedFile>,
    key: &'a Key,
    uid: u32,
    file_uid: u32,
    file_gid: u32,
    sealed: Sealed,
}

impl Comparison<'_> {
    fn folder(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &str,
        wanted: &Folder<'_, (&FileName, &RenderedFile)>,
    ) -> Option<()> {
        let stat = fstat(dir).ok()?;
        if stat.st_uid != self.uid || stat.st_mode & 0o777 != FOLDER_MODE {
            return None;
        }
        let own = if path.is_empty() { Some(manifest::NAME) } else { None };
        let names = wanted.files.keys().chain(wanted.folders.keys()).copied().chain(own).map(str::as_bytes);
        let found = entries(dir).ok()?;
        if names.collect::<BTreeSet<_>>() != found.iter().map(|name| name.to_bytes()).collect() {
            return None;
        }
        for (leaf, (name, file)) in &wanted.files {
            let seal = self.file(dir, leaf, name, file)?;
            self.sealed.files.insert((*name).clone(), seal);
        }
        for (leaf, folder) in &wanted.folders {
            let path = if path.is_empty() { (*leaf).to_owned() } else { format!("{path}/{leaf}") };
            self.folder(open_folder(dir, *leaf).ok()?.as_fd(), &path, folder)?;
        }
        self.sealed.folders.insert(path.to_owned(), Stamp::of(stat));
        Some(())
    }

    fn file(&self, dir: BorrowedFd<'_>, leaf: &str, name: &FileName, wanted: &RenderedFile) -> Option<Seal> {
        let bytes = wanted.content.expose();
        let stat = statat(dir, leaf, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_as_wanted = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_mode & 0o7777 == wanted.mode.bits()
            && (stat.st_uid, stat.st_gid) == (self.file_uid, self.file_gid)
            && u64::try_from(stat.st_size).ok() == u64::try_from(bytes.len()).ok();
        if !is_as_wanted {
            return None;
        }
        let stamp = Stamp::of(stat);
        let is_equal = match read_entry(dir, leaf) {
            Ok((found, _)) => found.expose() == bytes,
            Err(Errno::ACCESS) => {
                let known = &self.known.get(name)?.seal;
                known.stamp == stamp && known.verifies(bytes, self.key)
            }
            Err(_) => false,
        };
        is_equal.then(|| Seal::of(stamp, bytes, self.key))
    }
}
