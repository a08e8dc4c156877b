//! The file of a socket: how it comes to be at its path, and how it goes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, chmodat, chownat, flock, fstat, openat,
    renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, bind, connect, listen};

use super::{Access, BACKLOG, BindError, stream_socket};
use crate::address::{Address, fits};

/// How long another process that starts at the same path is waited for; it needs milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_AGAIN: Duration = Duration::from_millis(10);
/// How often what is at the path may change under our eyes.
const LOOKS: usize = 5;
/// How long a socket without a listener may be about to get one: other programs bind it where it will be,
/// and listen a moment later.
const YOUNG: Duration = Duration::from_millis(50);
/// How much of a socket's name those beside it have: with the open folder's path in front, the kernel must
/// have room for it.
const BESIDE_MAX: usize = 64;

/// The file of a socket that listens. Removed when dropped, if it still is that socket's.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
    /// Device and inode. The kernel gives them to no other file while the socket is open.
    identity: (u64, u64),
}

impl File {
    /// A socket that listens at `path`.
    pub(super) fn bind(path: &Path, access: &Access) -> Result<(UnixListener, Self), BindError> {
        let place = Place::open(path, access)?;
        let lock = place.lock()?;
        let (listener, identity) = place.prepare(access)?;
        place.publish().inspect_err(|_| place.remove_prepared(identity))?;
        drop(lock);
        let Place { path, folder, name, .. } = place;
        Ok((listener, Self { path, folder, name, identity }))
    }

    /// Whether clients that look for the socket find it.
    pub(crate) fn is_in_place(&self) -> bool {
        self.look().is_ok_and(|found| found == self.identity)
    }

    fn look(&self) -> Result<(u64, u64), Errno> {
        statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW).map(|found| identity(&found))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let Ok(found) = self.look() else { return };
        if found != self.identity {
            tracing::warn!(path = %self.path.display(), "the socket's file was replaced by another, which is left alone");
        } else if let Err(error) = unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file is left behind");
        }
    }
}

/// A path, and the names beside it that belong to it.
struct Place {
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
    /// Under which the socket is prepared. Only the holder of the lock uses it.
    prepared: OsString,
    /// Which is locked.
    lock: OsString,
}

/// What was found at the path; everything else is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket at which nobody listens.
    Stale,
}

impl Place {
    fn open(path: &Path, access: &Access) -> Result<Self, BindError> {
        // An address's path is absolute and ends with a name.
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            let source = io::ErrorKind::InvalidInput.into();
            return Err(BindError::Folder { folder: path.to_owned(), source });
        };
        let unusable = |source| BindError::Folder { folder: folder.to_owned(), source };
        create(folder, access)?;
        let opened = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            path: path.to_owned(),
            folder: opened.map_err(|error| unusable(error.into()))?,
            name: name.to_owned(),
            prepared: beside(name, "new"),
            lock: beside(name, "lock"),
        })
    }

    /// Waits until nobody else of ours starts here. The lock file goes with the lock: whoever had it open
    /// sees that it has locked a file that is gone, and begins again.
    fn lock(&self) -> Result<Lock<'_>, BindError> {
        let path = || self.path.with_file_name(&self.lock);
        let failed = |error: Errno| BindError::Lock { lock: path(), source: error.into() };
        let started = Instant::now();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        loop {
            let file = openat(&self.folder, &self.lock, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let locked = fstat(&file).map_err(failed)?;
                    match statat(&self.folder, &self.lock, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(found) if identity(&found) == identity(&locked) => {
                            return Ok(Lock { place: self, _file: file });
                        }
                        Ok(_) | Err(Errno::NOENT) => {}
                        Err(error) => return Err(failed(error)),
                    }
                }
                Err(Errno::WOULDBLOCK) if started.elapsed() >= LOCK_WAIT => {
                    return Err(BindError::Busy { lock: path(), waited: LOCK_WAIT });
                }
                Err(Errno::WOULDBLOCK) => sleep(LOCK_AGAIN),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// A socket under the name for preparation, with its owner, group and mode, that listens.
    fn prepare(&self, access: &Access) -> Result<(UnixListener, (u64, u64)), BindError> {
        // Nothing is prepared over what is not to be replaced in the end.
        self.look(&self.name)?;
        if let Ok(left) = statat(&self.folder, &self.prepared, AtFlags::SYMLINK_NOFOLLOW) {
            if let Some(kind) = kind_of_other(&left) {
                return Err(BindError::NotASocket { path: self.path.with_file_name(&self.prepared), kind });
            }
            // Left by a process that was killed at this point: nobody else uses the name without the lock.
            let _ = self.remove(&self.prepared);
        }
        let failed = |error: Errno| BindError::Bind { address: Address::Path(self.path.clone()), source: error.into() };
        let make = || {
            let socket = stream_socket()?;
            bind(&socket, &self.address(&self.prepared)?)?;
            Ok(socket)
        };
        let socket = make().map_err(failed)?;
        let finish = || {
            if access.owner.is_some() || access.group.is_some() {
                let (owner, group) = (access.owner, access.group);
                let (uid, gid) = (owner.map(|owner| owner.raw()), group.map(|group| group.raw()));
                chownat(&self.folder, &self.prepared, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| {
                    let (owner, group) = (owner.map(|owner| owner.uid()), group.map(|group| group.gid()));
                    BindError::Own { path: self.path.clone(), owner, group, source: error.into() }
                })?;
            }
            chmodat(&self.folder, &self.prepared, access.mode.bits().into(), AtFlags::empty()).map_err(failed)?;
            // Only now: until it listens, nobody can connect.
            listen(&socket, BACKLOG).map_err(failed)?;
            statat(&self.folder, &self.prepared, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
        };
        let found = finish().inspect_err(|_| {
            let _ = self.remove(&self.prepared);
        })?;
        Ok((UnixListener::from(socket), identity(&found)))
    }

    /// Brings what is prepared to the path.
    fn publish(&self) -> Result<(), BindError> {
        let failed = |error: Errno| BindError::Bind { address: Address::Path(self.path.clone()), source: error.into() };
        let rename = |flags| match renameat_with(&self.folder, &self.prepared, &self.folder, &self.name, flags) {
            // Not every file system has the flags.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                renameat(&self.folder, &self.prepared, &self.folder, &self.name)
            }
            result => result,
        };
        for _ in 0..LOOKS {
            match self.look(&self.name)? {
                Found::Nothing => match rename(RenameFlags::NOREPLACE) {
                    Err(Errno::EXIST) => {}
                    result => return result.map_err(failed),
                },
                Found::Stale => {
                    match rename(RenameFlags::EXCHANGE) {
                        Err(Errno::NOENT) => continue,
                        result => result.map_err(failed)?,
                    }
                    // A program that does not know of the lock may have been faster.
                    let Err(error) = self.look(&self.prepared) else {
                        let _ = self.remove(&self.prepared);
                        return Ok(());
                    };
                    if rename(RenameFlags::EXCHANGE) == Err(Errno::NOENT) {
                        let _ = rename(RenameFlags::NOREPLACE);
                    }
                    return Err(error);
                }
            }
        }
        Err(BindError::Contended { path: self.path.clone() })
    }

    /// What is there under `name`.
    fn look(&self, name: &OsStr) -> Result<Found, BindError> {
        let path = || self.path.clone();
        let unclear = |error: Errno| BindError::Unclear { path: path(), source: error.into() };
        let found = match statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(unclear(error)),
        };
        if let Some(kind) = kind_of_other(&found) {
            return Err(BindError::NotASocket { path: path(), kind });
        }
        let ask = || connect(stream_socket()?, &self.address(name)?);
        let answer = ask();
        let answer = if answer == Err(Errno::CONNREFUSED) && is_young(&found) {
            sleep(YOUNG);
            ask()
        } else {
            answer
        };
        match answer {
            // Without room in its queue, it is there all the same.
            Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Err(BindError::InUse { path: path() }),
            Err(Errno::CONNREFUSED) => Ok(Found::Stale),
            Err(Errno::NOENT) => Ok(Found::Nothing),
            Err(error) => Err(unclear(error)),
        }
    }

    /// For the kernel; a name that makes the path too long for it is reached through the open folder.
    fn address(&self, name: &OsStr) -> Result<SocketAddrUnix, Errno> {
        let path = self.path.with_file_name(name);
        if fits(&path) {
            return SocketAddrUnix::new(&path);
        }
        let folder = format!("/proc/self/fd/{}", self.folder.as_raw_fd());
        SocketAddrUnix::new(Path::new(&folder).join(name))
    }

    fn remove(&self, name: &OsStr) -> Result<(), Errno> {
        unlinkat(&self.folder, name, AtFlags::empty())
    }

    /// Unless by now it is the socket of somebody else.
    fn remove_prepared(&self, own: (u64, u64)) {
        let found = statat(&self.folder, &self.prepared, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| identity(&found) == own) {
            let _ = self.remove(&self.prepared);
        }
    }
}

/// Held while a socket comes to be at its path.
struct Lock<'a> {
    place: &'a Place,
    _file: OwnedFd,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // While it is still locked. One that stays is no harm.
        let _ = self.place.remove(&self.place.lock);
    }
}

/// Makes the folders that are missing, which then are as open as the socket is: to be reached at all, it
/// needs the right to search (x) in each of them for whoever may connect.
fn create(folder: &Path, access: &Access) -> Result<(), BindError> {
    let unusable = |source| BindError::Folder { folder: folder.to_owned(), source };
    let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(folder) {
            // Another process that starts here was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            result => result.map_err(unusable)?,
        }
        let (owner, group) = (access.owner.map(|owner| owner.uid()), access.group.map(|group| group.gid()));
        if owner.is_some() || group.is_some() {
            std::os::unix::fs::chown(folder, owner, group).map_err(|source| BindError::Own {
                path: folder.to_owned(),
                owner,
                group,
                source,
            })?;
        }
        let searched = [0o070, 0o007].into_iter().filter(|class| access.mode.bits() & class != 0);
        let mode = searched.fold(0o700, |mode, class| mode | (class & 0o011));
        fs::set_permissions(folder, Permissions::from_mode(mode)).map_err(unusable)?;
    }
    Ok(())
}

/// A hidden name beside that of the socket. Of a long name, its beginning will do: sockets whose names
/// begin alike then share a lock.
fn beside(name: &OsStr, what: &str) -> OsString {
    let bytes = name.as_bytes();
    let beginning = OsStr::from_bytes(&bytes[..bytes.len().min(BESIDE_MAX)]);
    [OsStr::new("."), beginning, OsStr::new("."), OsStr::new(what)].into_iter().collect()
}

/// What is there, unless it is a socket.
fn kind_of_other(file: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(file.st_mode) {
        FileType::Socket => None,
        FileType::Symlink => Some("symbolic link"),
        FileType::Directory => Some("folder"),
        FileType::RegularFile => Some("regular file"),
        FileType::Fifo => Some("pipe"),
        _ => Some("device"),
    }
}

/// Whether the file may have been made, or renamed, within the last second.
fn is_young(file: &Stat) -> bool {
    let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(file.st_ctime).unwrap_or_default());
    // A clock that was put back makes nothing old.
    SystemTime::now().duration_since(changed).is_ok_and(|age| age < Duration::from_secs(2))
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}
