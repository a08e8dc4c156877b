//! One whole set on the disk: a directory that is written once and never changed.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, statat, unlinkat};
use rustix::io::{self, Errno};
use rustix::path::Arg;
use rustix::process::geteuid;

use super::manifest::{self, representable};

/// The length of `..2026_11_23_18_30_00.`, what comes before the random digits.
const STAMP_LEN: usize = 22;

/// A generation that belongs to this process's user, held open: what is done in it stays in it,
/// whatever happens to its name.
#[derive(Debug)]
pub(super) struct Generation {
    name: GenerationName,
    dir: OwnedFd,
}

/// The name of a generation, `..2026_11_23_18_30_00.123456789`: the kubelet's form, a UTC time
/// and random digits (pkg/volume/util/atomic_writer.go, `newTimestampDir`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GenerationName(String);

impl Generation {
    /// Makes an empty generation that only this user can enter.
    pub(super) fn make(volume: BorrowedFd<'_>, wall: SystemTime) -> io::Result<Self> {
        loop {
            let name = GenerationName::new(wall);
            match mkdirat(volume, name.as_str(), Mode::RWXU) {
                // Taken: try other digits. Nobody can take all of them.
                Err(Errno::EXIST) => {}
                made => {
                    made?;
                    return Self::open(volume, name.clone()).inspect_err(|_| {
                        let _ = unlinkat(volume, name.as_str(), AtFlags::REMOVEDIR);
                    });
                }
            }
        }
    }

    /// Opens the generation `name`. `EPERM` when it is not this user's: then it is not Coffer's.
    pub(super) fn open(volume: BorrowedFd<'_>, name: GenerationName) -> io::Result<Self> {
        let dir = open_folder(volume, name.as_str())?;
        if fstat(&dir)?.st_uid != geteuid().as_raw() {
            return Err(Errno::PERM);
        }
        Ok(Self { name, dir })
    }

    pub(super) fn name(&self) -> &GenerationName {
        &self.name
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Whether its name in the volume still leads to it.
    pub(super) fn is_at(&self, volume: BorrowedFd<'_>) -> bool {
        let there = statat(volume, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW);
        there
            .and_then(|there| Ok((there, fstat(&self.dir)?)))
            .is_ok_and(|(there, here)| (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino))
    }

    /// Whether it is Coffer's and was left before it was whole: the manifest is made first and
    /// filled last, so it is there but cannot be read; or there is nothing yet.
    pub(super) fn is_half_made(&self) -> bool {
        entries(self.dir()).is_ok_and(|entries| {
            entries.is_empty() || entries.iter().any(|entry| entry.to_bytes() == manifest::NAME.as_bytes())
        })
    }

    /// What it takes of the filesystem, in bytes. What cannot be looked at is not counted.
    pub(super) fn measure(&self) -> u64 {
        measure(self.dir())
    }
}

impl GenerationName {
    fn new(wall: SystemTime) -> Self {
        let time = humantime::format_rfc3339_seconds(representable(wall)).to_string();
        let time = time.trim_end_matches('Z').replace(['-', ':', 'T'], "_");
        Self(format!("..{time}.{}", fastrand::u32(100_000_000..=999_999_999)))
    }

    /// Takes `name` if it has a generation's form.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let (time, digits) = name.split_at_checked(STAMP_LEN)?;
        let fits = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
        let is_form = time.iter().zip(b"..0000_00_00_00_00_00.").all(fits)
            && (1..=20).contains(&digits.len())
            && digits.iter().all(u8::is_ascii_digit);
        is_form.then(|| Self(String::from_utf8_lossy(name).into_owned()))
    }

    /// Every name of this form in the volume, the oldest first.
    pub(super) fn list(volume: BorrowedFd<'_>) -> io::Result<Vec<Self>> {
        let mut names: Vec<_> = entries(volume)?.iter().filter_map(|name| Self::parse(name.to_bytes())).collect();
        names.sort();
        Ok(names)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Removes a generation. Files that a reader holds open stay readable to it: they are unlinked,
/// never cut short.
pub(super) fn remove(volume: BorrowedFd<'_>, name: &GenerationName) -> io::Result<()> {
    let generation = match Generation::open(volume, name.clone()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    // The manifest goes last, so that an interrupted removal can still be told for Coffer's.
    empty(generation.dir(), Some(manifest::NAME))?;
    unlink(generation.dir(), manifest::NAME, AtFlags::empty())?;
    unlink(volume, name.as_str(), AtFlags::REMOVEDIR)
}

/// Opens a folder for reading; refuses to follow a symbolic link to it.
pub(super) fn open_folder(parent: BorrowedFd<'_>, name: impl Arg) -> io::Result<OwnedFd> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The names in a directory, without `.` and `..`.
pub(super) fn entries(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let names = Dir::read_from(dir)?.map(|entry| Ok(entry?.file_name().to_owned()));
    names.filter(|name| !matches!(name.as_deref().map(CStr::to_bytes), Ok(b"." | b".."))).collect()
}

/// What kind of entry it is, for a message.
pub(super) fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        _ => "a special file",
    }
}

fn empty(dir: BorrowedFd<'_>, but: Option<&str>) -> io::Result<()> {
    for name in entries(dir)? {
        if but.is_some_and(|but| but.as_bytes() == name.to_bytes()) {
            continue;
        }
        match unlink(dir, &name, AtFlags::empty()) {
            // unlink(2) on a directory: `EISDIR` on Linux, `EPERM` by POSIX.
            Err(Errno::ISDIR | Errno::PERM) => {
                empty(open_folder(dir, &name)?.as_fd(), None)?;
                unlink(dir, &name, AtFlags::REMOVEDIR)?;
            }
            unlinked => unlinked?,
        }
    }
    Ok(())
}

fn unlink(dir: BorrowedFd<'_>, name: impl Arg, flags: AtFlags) -> io::Result<()> {
    match unlinkat(dir, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        unlinked => unlinked,
    }
}

fn measure(dir: BorrowedFd<'_>) -> u64 {
    let size = |name: CString| {
        let stat = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Some(measure(open_folder(dir, &name).ok()?.as_fd()));
        }
        let (size, blocks) = (u64::try_from(stat.st_size).ok()?, u64::try_from(stat.st_blocks).ok()?);
        // A block of stat(2) is 512 bytes, whatever the filesystem's own.
        Some(size.max(blocks * 512))
    };
    entries(dir).unwrap_or_default().into_iter().filter_map(size).sum()
}
