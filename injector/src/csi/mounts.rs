//! The mount table: what is mounted where, and taking it away.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// What the source of Coffer's mounts begins with in the table; the uid of the pod follows. By it they are
/// told from anyone else's, and one pod's from another's.
const SOURCE: &str = "coffer:";

/// What lies on top at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Top {
    /// Nothing is mounted there.
    Nothing,
    /// The tmpfs of this pod.
    Ours,
    /// Something of another pod's, or of somebody else's.
    Foreign,
}

/// The source of the mounts for a pod.
pub(super) fn source(uid: &str) -> String {
    format!("{SOURCE}{uid}")
}

/// Where a path really is: links in its parents are followed, for so the kernel lists mounts; its own last
/// part is not.
///
/// # Errors
/// When the parent is not there or cannot be looked at.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the root directory is no volume")),
    }
}

/// What is mounted on top at a resolved path, as seen by the pod of that uid.
///
/// # Errors
/// When the table cannot be read.
pub(super) fn top(path: &Path, uid: &str) -> io::Result<Top> {
    let look = || Ok::<_, io::Error>(top_in(&fs::read("/proc/self/mountinfo")?, path, uid));
    match look()? {
        // Kernels before 5.8 may leave an entry out while others come and go (k8s.io/mount-utils,
        // `ConsistentRead`): what is not there has to be so twice.
        Top::Nothing => look(),
        found => Ok(found),
    }
}

/// Unmounts everything at a resolved path and below it, however often it was mounted over.
///
/// # Errors
/// When something stays; it has then been tried lazily too.
pub(super) fn unmount_all(path: &Path) -> io::Result<()> {
    // Each turn takes at least one mount away, or ends with an error.
    loop {
        let table = fs::read("/proc/self/mountinfo")?;
        // The deepest and the newest is the last in the table.
        let Some(last) = entries(&table).map(|(at, _)| at).filter(|at| at.starts_with(path)).last() else {
            return Ok(());
        };
        match unmount(&last, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // In use by a process that looks into it: it goes once that lets go, and from the table at once.
            Err(Errno::BUSY) => unmount(&last, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?,
            // Somebody was faster.
            Err(Errno::INVAL | Errno::NOENT) if !is_listed(&last)? => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn is_listed(path: &Path) -> io::Result<bool> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(entries(&table).any(|(at, _)| at == path))
}

fn top_in(table: &[u8], path: &Path, uid: &str) -> Top {
    match entries(table).filter(|(at, _)| at == path).last() {
        None => Top::Nothing,
        Some((_, (kind, source))) if kind == b"tmpfs" && source == self::source(uid).as_bytes() => Top::Ours,
        Some(_) => Top::Foreign,
    }
}

/// Each mount: where, and its filesystem and source. A line that is not as proc_pid_mountinfo(5) has it is
/// left out.
fn entries(table: &[u8]) -> impl Iterator<Item = (PathBuf, (&[u8], &[u8]))> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let at = fields.nth(4)?;
        // Optional fields end with a lone hyphen.
        fields.find(|field| *field == b"-")?;
        Some((PathBuf::from(OsStr::from_bytes(&unescape(at))), (fields.next()?, fields.next()?)))
    })
}

/// Spaces, tabs, newlines and backslashes stand as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        30 22 0:40 / /pods/a\\040b rw,nosuid - tmpfs coffer:1-2 rw,size=1024k\n\
        31 22 0:41 / /pods/c rw shared:7 master:2 - tmpfs coffer:1-2 rw\n\
        32 31 0:42 / /pods/c rw - tmpfs tmpfs rw\n\
        garbage\n";

    #[test]
    fn the_newest_mount_is_on_top() {
        let top = |path, uid| top_in(TABLE, Path::new(path), uid);
        assert_eq!(top("/pods/a b", "1-2"), Top::Ours);
        assert_eq!(top("/pods/a b", "1-3"), Top::Foreign);
        assert_eq!(top("/pods/c", "1-2"), Top::Foreign);
        assert_eq!(top("/pods", "1-2"), Top::Nothing);
        assert_eq!(top("/", "1-2"), Top::Foreign);
    }

    #[test]
    fn links_in_the_parents_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
        let real = folder.path().canonicalize().unwrap().join("real/mount");
        assert_eq!(resolve(&folder.path().join("link/mount")).unwrap(), real);
        assert!(resolve(&folder.path().join("none/mount")).is_err());
        assert!(resolve(Path::new("/")).is_err());
    }

    proptest! {
        #[test]
        fn never_panics_on_any_table(table: Vec<u8>) {
            top_in(&table, Path::new("/a"), "1");
        }
    }
}
