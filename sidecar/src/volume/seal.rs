//! What is remembered of a published file: enough to notice a change, nothing to learn from.

use rustix::fs::Stat;

use crate::digest::{Digest, Key};

/// A file as it was published.
#[derive(Clone, Debug)]
pub(super) struct Seal {
    pub(super) stamp: Stamp,
    /// `None` when the file was adopted and cannot be read.
    pub(super) digest: Option<Digest>,
}

impl Seal {
    /// Seals a file that holds `bytes`.
    pub(super) fn of(stamp: Stamp, bytes: &[u8], key: &Key) -> Self {
        Self { stamp, digest: Some(key.digest([bytes])) }
    }

    /// Whether `bytes` are those that were published.
    pub(super) fn verifies(&self, bytes: &[u8], key: &Key) -> bool {
        self.digest.as_ref().is_some_and(|digest| *digest == key.digest([bytes]))
    }
}

/// The attributes of an inode that no change of its content or owner leaves as they were. Two
/// exceptions, which only a look at the bytes finds: a store through a shared mapping, and a
/// change in the same tick of the clock (of 1 to 10 ms before Linux 6.13).
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp(Stat);

impl Stamp {
    pub(super) fn of(stat: Stat) -> Self {
        Self(stat)
    }

    /// Whether nobody but the user `uid` may write to the inode.
    pub(super) fn is_closed(&self, uid: u32) -> bool {
        self.0.st_uid == uid && self.0.st_mode & 0o022 == 0
    }

    /// Whether the inode belongs to those of the two that are given.
    pub(super) fn belongs_to(&self, uid: Option<u32>, gid: Option<u32>) -> bool {
        uid.is_none_or(|uid| self.0.st_uid == uid) && gid.is_none_or(|gid| self.0.st_gid == gid)
    }
}

impl PartialEq for Stamp {
    fn eq(&self, Self(other): &Self) -> bool {
        let Self(own) = self;
        own.st_dev == other.st_dev
            && own.st_ino == other.st_ino
            && own.st_mode == other.st_mode
            && own.st_uid == other.st_uid
            && own.st_gid == other.st_gid
            && own.st_size == other.st_size
            && own.st_mtime == other.st_mtime
            && own.st_mtime_nsec == other.st_mtime_nsec
            && own.st_ctime == other.st_ctime
            && own.st_ctime_nsec == other.st_ctime_nsec
    }
}
