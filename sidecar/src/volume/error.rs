//! What can go wrong with a volume, in words that name the path and the fix.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::file::Owner;

/// Why a volume could not be opened or a set not published. Never holds a file's content.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The path is relative, or has a `..` in it. Arises at open, before any I/O.
    #[error("volume path `{path}` is not absolute or holds `..`; write the whole path, from `/`")]
    BadPath {
        /// The volume's path.
        path: PathBuf,
    },
    /// The path, or one above it, is something other than a directory. Arises at open.
    #[error("volume {path} cannot be made: {culprit} is {found}; choose another path or remove it")]
    NotADirectory {
        /// The volume's path.
        path: PathBuf,
        /// The path that is not a directory.
        culprit: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The volume would not be in memory. Arises at open, before anything is made.
    #[error(
        "volume {path} is on {found}, not on a tmpfs, so secrets would reach a disk; mount a tmpfs there (in Kubernetes \
         an emptyDir with `medium: Memory`), or pass --allow-disk to accept it"
    )]
    NotTmpfs {
        /// The volume's path.
        path: PathBuf,
        /// The filesystem that was found, by name where it has a common one.
        found: String,
    },
    /// Another process holds the volume's lock. Arises at open.
    #[error("another coffer process serves {path}; stop it, or give each its own volume path")]
    Busy {
        /// The volume's path.
        path: PathBuf,
    },
    /// This process may not give files to the wanted owner. Arises at open, where it is tried
    /// out, and at a publication when the right was lost since.
    #[error(
        "files in {path} cannot be given to {}: {source}; add the capability CHOWN, or leave out uid and gid (a pod's \
         fsGroup gives its group to the volume's files without them)",
        whom(*owner)
    )]
    MayNotChown {
        /// The volume's path.
        path: PathBuf,
        /// The wanted owner.
        owner: Owner,
        /// What fchown(2) said. `EINVAL` means that the id has no mapping in the user namespace.
        source: io::Error,
    },
    /// A name the set needs is taken by something that Coffer did not put there. Arises when a
    /// set is published, before anything is changed.
    #[error("{path} is {found} that coffer did not put there; remove it, or choose another file name or volume path")]
    Occupied {
        /// The path that is taken.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The filesystem, or a quota on it, is full. Arises when a set is published, after every
    /// retired generation has been removed to make room.
    #[error(
        "volume {path} has no room: the new set needs {needed} bytes beside the one in place, and {free} are free; raise \
         the emptyDir's sizeLimit or the tmpfs's size"
    )]
    NoSpace {
        /// The volume's path.
        path: PathBuf,
        /// What the new set takes, in bytes, each file rounded up to whole blocks.
        needed: u64,
        /// What the filesystem has left, in bytes. A quota or a lack of inodes may leave less.
        free: u64,
    },
    /// The kernel refused any other step.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The step that failed, as a verb.
        action: &'static str,
        /// The volume, or the file as an application sees it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl VolumeError {
    /// The kernel gave no random bytes for the key of a volume's digests.
    pub(crate) fn no_key(path: &Path, errno: Errno) -> Self {
        Self::Io { action: "draw a random key for", path: path.to_owned(), source: errno.into() }
    }
}

/// A failure inside a volume, by names relative to it.
#[derive(Debug)]
pub(super) enum Fault {
    /// A step failed on an entry; the volume itself when that is empty.
    Io { action: &'static str, entry: String, errno: Errno },
    /// A file cannot be given away.
    Chown { owner: Owner, errno: Errno },
    /// An entry is not Coffer's.
    Occupied { entry: String, found: &'static str },
}

impl Fault {
    pub(super) fn io(action: &'static str, entry: impl Into<String>, errno: Errno) -> Self {
        Self::Io { action, entry: entry.into(), errno }
    }

    /// Whether room would cure it.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { errno: Errno::NOSPC | Errno::DQUOT, .. })
    }

    /// The error it is in the volume at `path`.
    pub(super) fn at(self, path: &Path) -> VolumeError {
        let of = |entry: String| if entry.is_empty() { path.to_owned() } else { path.join(entry) };
        match self {
            Self::Io { action, entry, errno } => VolumeError::Io { action, path: of(entry), source: errno.into() },
            Self::Chown { owner, errno } => {
                VolumeError::MayNotChown { path: path.to_owned(), owner, source: errno.into() }
            }
            Self::Occupied { entry, found } => VolumeError::Occupied { path: of(entry), found },
        }
    }
}

fn whom(owner: Owner) -> String {
    match (owner.uid, owner.gid) {
        (Some(uid), Some(gid)) => format!("uid {uid} and gid {gid}"),
        (Some(uid), None) => format!("uid {uid}"),
        (None, Some(gid)) => format!("gid {gid}"),
        (None, None) => "their owner".to_owned(),
    }
}
