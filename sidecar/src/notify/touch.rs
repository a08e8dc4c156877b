//! Telling by a file's modification time.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, fstat, futimens, openat};
use rustix::io::Errno;

/// Permission bits of a file that is made: everybody may look at its time.
const MODE: u32 = 0o644;

/// Why a file could not be touched.
#[derive(Debug, thiserror::Error)]
pub(super) enum TouchError {
    /// The directory it belongs in is missing.
    #[error("cannot touch {path}: there is no directory {}; make it, or choose another path", parent(.path))]
    NoParent { path: PathBuf },
    /// Whoever may place a link there could have any file touched.
    #[error("cannot touch {path}: it is a symbolic link, which is not followed; write the path of the file itself")]
    Link { path: PathBuf },
    /// Not a regular file.
    #[error("cannot touch {path}: it is not a regular file; choose another path")]
    NotAFile { path: PathBuf },
    /// The kernel refused.
    #[error("cannot touch {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn parent(path: &Path) -> std::path::Display<'_> {
    path.parent().unwrap_or(path).display()
}

/// Sets the file's modification time to now. It is made when missing.
///
/// It is opened for writing and closed again, so a watcher for `CLOSE_WRITE` is told too.
pub(super) fn touch(path: &Path) -> Result<(), TouchError> {
    let failed = |errno: Errno| match errno {
        Errno::NOENT | Errno::NOTDIR => TouchError::NoParent { path: path.to_owned() },
        Errno::LOOP => TouchError::Link { path: path.to_owned() },
        // A FIFO without a reader and a socket say NXIO.
        Errno::ISDIR | Errno::NXIO => TouchError::NotAFile { path: path.to_owned() },
        errno => TouchError::Io { path: path.to_owned(), source: errno.into() },
    };
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::from_raw_mode(MODE)).map_err(failed)?;
    if FileType::from_raw_mode(fstat(&file).map_err(failed)?.st_mode) != FileType::RegularFile {
        return Err(TouchError::NotAFile { path: path.to_owned() });
    }
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    futimens(&file, &Timestamps { last_access: now, last_modification: now }).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn sets_the_time_and_keeps_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reload");
        touch(&path).unwrap();
        fs::write(&path, "kept").unwrap();
        let past = SystemTime::now() - Duration::from_secs(1000);
        fs::File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
        touch(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"kept");
        let age = fs::metadata(&path).unwrap().modified().unwrap().elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(100), "{age:?}");
    }

    #[test]
    fn neither_follows_a_link_nor_makes_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let error =
            |path: PathBuf| touch(&path).unwrap_err().to_string().replace(&dir.path().display().to_string(), "");
        std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
        assert_eq!(
            error(at("link")),
            "cannot touch /link: it is a symbolic link, which is not followed; write the path of the file itself"
        );
        assert!(!at("target").exists());
        let missing = "there is no directory /missing; make it, or choose another path";
        assert_eq!(error(at("missing/file")), format!("cannot touch /missing/file: {missing}"));
        fs::create_dir(at("folder")).unwrap();
        assert_eq!(error(at("folder")), "cannot touch /folder: it is not a regular file; choose another path");
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(error(at("fifo")), "cannot touch /fifo: it is not a regular file; choose another path");
    }
}
