//! Opening a volume's directory: found or made, verified, and locked.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdirat, openat, stat, unlinkat,
};
use rustix::io::Errno;

use super::error::{Fault, VolumeError};
use super::filesystem::{self, Filesystem};
use super::generation::{self, open_folder};

/// Permission bits of a directory that is made: an application must get through.
const MODE: u32 = 0o755;

/// A volume's directory, verified and locked.
pub(super) struct Directory {
    pub(super) dir: Locked,
    /// Whether what is written outlives the power.
    pub(super) durable: bool,
    /// What was made for it.
    pub(super) made: Made,
}

/// A directory that this process has locked against others.
#[derive(Debug)]
pub(super) struct Locked(OwnedFd);

impl AsFd for Locked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // flock(2): the lock lasts until every duplicate of the descriptor is closed, and a child
        // between fork and exec holds one. Unlocking does not wait for it.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Directories that were made, the topmost first.
#[derive(Default)]
pub(super) struct Made(Vec<(OwnedFd, OsString)>);

impl Made {
    /// Removes them again.
    pub(super) fn undo(self) {
        for (parent, name) in self.0.into_iter().rev() {
            // One that holds something by now is somebody's.
            let _ = unlinkat(parent, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Opens and locks the directory at `path`, and makes it and its parents when missing.
pub(super) fn open(path: &Path, allow_disk: bool) -> Result<Directory, VolumeError> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(VolumeError::BadPath { path: path.to_owned() });
    }
    let failed = |action| move |errno| Fault::io(action, "", errno).at(path);
    let check = |dir: BorrowedFd<'_>| match filesystem::of(dir).map_err(failed("inspect the filesystem of"))? {
        Filesystem::Memory => Ok(false),
        Filesystem::Other(_) if allow_disk => Ok(true),
        Filesystem::Other(found) => Err(VolumeError::NotTmpfs { path: path.to_owned(), found }),
    };

    let (mut dir, missing) = nearest(path)?;
    // Before anything is made; what is made below lies on the same filesystem.
    check(dir.as_fd())?;
    let mut made = Made::default();
    for name in missing {
        match make(&dir, name) {
            Ok((inner, is_new)) => {
                let parent = std::mem::replace(&mut dir, inner);
                if is_new {
                    made.0.push((parent, name.to_owned()));
                }
            }
            Err(errno) => {
                made.undo();
                return Err(failed("make")(errno));
            }
        }
    }
    // A descriptor that was opened for its path alone can neither be locked nor synced.
    let dir = open_folder(dir.as_fd(), ".").map_err(failed("open"))?;
    let dir = match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Locked(dir),
        Err(Errno::WOULDBLOCK) => return Err(VolumeError::Busy { path: path.to_owned() }),
        Err(errno) => return Err(failed("lock")(errno)),
    };
    // Again: somebody may have mounted or made it meanwhile.
    match check(dir.as_fd()) {
        Ok(durable) => Ok(Directory { dir, durable, made }),
        Err(error) => {
            made.undo();
            Err(error)
        }
    }
}

/// The nearest directory that exists, at or above `path`, and the names that are missing below.
fn nearest(path: &Path) -> Result<(OwnedFd, Vec<&OsStr>), VolumeError> {
    let mut missing = Vec::new();
    let mut here = path;
    // The volume itself may not be a link: whoever can turn it could choose where secrets go.
    let mut flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    loop {
        match (openat(CWD, here, flags, Mode::empty()), here.parent(), here.file_name()) {
            (Ok(dir), ..) => {
                missing.reverse();
                return Ok((dir, missing));
            }
            (Err(Errno::NOENT), Some(parent), Some(name)) => {
                missing.push(name);
                here = parent;
                flags.remove(OFlags::NOFOLLOW);
            }
            (Err(Errno::NOTDIR | Errno::LOOP), ..) => return Err(not_a_directory(path, here)),
            (Err(errno), ..) => return Err(Fault::io("open", "", errno).at(path)),
        }
    }
}

/// Makes a directory and opens it. One that somebody else made meanwhile is taken as it is.
fn make(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<(OwnedFd, bool)> {
    let is_new = match mkdirat(parent, name, Mode::from_raw_mode(MODE)) {
        Err(Errno::EXIST) => false,
        made => made.map(|()| true)?,
    };
    let dir = open_folder(parent.as_fd(), name)?;
    let mode = fstat(&dir)?.st_mode;
    // The umask may have taken bits away. The set-gid bit that is inherited stays.
    if is_new && mode & 0o777 != MODE {
        fchmod(&dir, Mode::from_raw_mode(MODE | (mode & Mode::SGID.as_raw_mode())))?;
    }
    Ok((dir, is_new))
}

fn not_a_directory(path: &Path, at: &Path) -> VolumeError {
    // `at` itself, or the first above it that is in the way.
    let above: Vec<&Path> = at.ancestors().skip(1).collect();
    let is_directory =
        |path: &Path| stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    let culprit = above.into_iter().rev().find(|path| !is_directory(path)).unwrap_or(at);
    let found = rustix::fs::lstat(culprit)
        .map_or("not a directory", |stat| generation::kind(FileType::from_raw_mode(stat.st_mode)));
    VolumeError::NotADirectory { path: path.to_owned(), culprit: culprit.to_owned(), found }
}
