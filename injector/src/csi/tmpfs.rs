//! Where the sets of a mounted volume go: a tmpfs of its own at the path that the kubelet names.
//!
//! It is mounted with the first set and never before: until there is something to read, there is no
//! mount that anyone could take for a published volume.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use coffer::engine::{Destination, DestinationError, Directory};
use coffer::file::{FileName, Owner};
use coffer::render::{Origin, RenderedSet};
use coffer::volume::{Options, Outcome};
use coffer_runtime::Secret;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_remount};

use super::mounts::{self, Top};

const FLAGS: MountFlags = MountFlags::NODEV.union(MountFlags::NOEXEC).union(MountFlags::NOSUID);

/// A replaced set stays for two seconds, and a third may be written meanwhile.
const SETS: u64 = 3;
/// The largest that a page of memory is (arm64 knows 4, 16 and 64 KiB). What is not written takes no memory.
const PAGE: u64 = 64 * 1024;
/// Links, folders and the notes of what came from where.
const HEADROOM: u64 = 4 * PAGE;

/// Kernels before 6.4 have no `noswap` for tmpfs; one that refused it is not asked again.
static NO_SWAP: AtomicBool = AtomicBool::new(true);

/// A tmpfs and its directory.
pub(super) struct Tmpfs {
    /// Where, resolved.
    target: PathBuf,
    /// Of the pod.
    uid: String,
    owner: Owner,
    /// The most that a set may hold, in bytes.
    limit: u64,
    mounted: Option<Mounted>,
}

struct Mounted {
    directory: Directory,
    /// By which it is told that the mount is still there.
    device: u64,
    /// In bytes.
    capacity: u64,
}

impl Tmpfs {
    /// Takes over what an earlier process mounted at the resolved path `target` for the pod `uid`; mounts
    /// nothing.
    ///
    /// `limit` is the most that the files of a set may hold, in bytes.
    ///
    /// # Errors
    /// When what is there cannot be taken over: it is held by another process, or the mount table cannot
    /// be read.
    pub(super) fn open(target: &Path, uid: &str, owner: Owner, limit: u64) -> Result<Self, DestinationError> {
        let mut tmpfs = Self { target: target.to_owned(), uid: uid.to_owned(), owner, limit, mounted: None };
        let top = mounts::top(target, uid).map_err(|error| tmpfs.refused("read the mount table for", &error))?;
        if top == Top::Ours {
            tmpfs.mounted = Some(tmpfs.enter()?);
        }
        Ok(tmpfs)
    }

    /// Whether a whole set of the pod stands at a resolved path: its mount, and what was published in it.
    ///
    /// # Errors
    /// When the mount table cannot be read.
    pub(super) fn holds_a_set(target: &Path, uid: &str) -> io::Result<bool> {
        // The rename of this link is the last step of a publication, and it is never taken away.
        Ok(mounts::top(target, uid)? == Top::Ours && target.join("..data").exists())
    }

    /// Opens the directory of the mount on top.
    fn enter(&self) -> Result<Mounted, DestinationError> {
        let options = Options { path: self.target.clone(), owner: self.owner, allow_disk: false };
        let directory = Directory::open(options)?;
        let device = fs::metadata(&self.target).map_err(|error| self.refused("look at", &error))?.dev();
        let room = rustix::fs::statvfs(&self.target).map_err(|errno| self.refused("look at", &errno.into()))?;
        Ok(Mounted { directory, device, capacity: room.f_blocks * room.f_frsize })
    }

    /// Makes room for `set`: mounts, or grows what is mounted.
    fn make_room(&mut self, set: &RenderedSet) -> Result<(), DestinationError> {
        let total: u64 = set.iter().map(|(_, file)| file.content.expose().len() as u64).sum();
        if total > self.limit {
            let limit = self.limit;
            let fix = "ask for fewer or smaller files, or raise --max-volume-size";
            return Err(DestinationError::Never(format!(
                "the files hold {total} bytes, and {limit} are the most; {fix}"
            )));
        }
        let wanted = capacity_for(set);
        match &mut self.mounted {
            Some(mounted) if mounted.capacity >= wanted => Ok(()),
            Some(mounted) => {
                let grown = with_options(wanted, |data| mount_remount(&self.target, FLAGS, data));
                if grown.is_ok() {
                    mounted.capacity = wanted;
                }
                grown.map_err(|errno| self.refused("make more room in", &errno.into()))
            }
            None => {
                self.mount(wanted)?;
                self.mounted = Some(self.enter()?);
                Ok(())
            }
        }
    }

    fn mount(&self, capacity: u64) -> Result<(), DestinationError> {
        // What another driver, or a crash, left there: nobody may read it in place of this set.
        mounts::unmount_all(&self.target).map_err(|error| self.refused("unmount what is at", &error))?;
        match fs::create_dir(&self.target) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(self.refused("make", &error)),
            _ => Ok(()),
        }?;
        let kind = fs::symlink_metadata(&self.target).map_err(|error| self.refused("look at", &error))?;
        if !kind.is_dir() {
            return Err(self.refused("mount at", &io::Error::from(io::ErrorKind::NotADirectory)));
        }
        with_options(capacity, |data| mount(mounts::source(&self.uid), &self.target, "tmpfs", FLAGS, data))
            .map_err(|errno| self.refused("mount a tmpfs at", &errno.into()))
    }

    fn refused(&self, what: &str, error: &io::Error) -> DestinationError {
        let fix = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PERM | Errno::ACCESS) => "; the driver needs to run privileged, as in deploy/csi",
            _ => "",
        };
        DestinationError::Refused(format!("cannot {what} {}: {error}{fix}", self.target.display()))
    }
}

impl Destination for Tmpfs {
    fn name(&self) -> &Path {
        &self.target
    }

    fn published_at(&self) -> Option<SystemTime> {
        self.mounted.as_ref()?.directory.published_at()
    }

    fn origins(&self) -> Vec<(&FileName, &Origin)> {
        self.mounted.as_ref().map(|mounted| mounted.directory.origins()).unwrap_or_default()
    }

    fn read(&self, name: &FileName) -> Option<Secret> {
        self.mounted.as_ref()?.directory.read(name)
    }

    fn publish(&mut self, set: &RenderedSet) -> Result<Outcome, DestinationError> {
        self.make_room(set)?;
        match &mut self.mounted {
            Some(mounted) => mounted.directory.publish(set),
            None => Err(DestinationError::Refused("there is no mount".to_owned())),
        }
    }

    fn intact(&self) -> bool {
        self.mounted.as_ref().is_some_and(|mounted| mounted.directory.intact())
    }

    /// A mount that somebody took away is mounted anew with the repair that follows.
    fn restore(&mut self) -> Result<(), DestinationError> {
        let there = fs::metadata(&self.target).map(|there| there.dev()).ok();
        if self.mounted.as_ref().is_some_and(|mounted| Some(mounted.device) != there) {
            self.mounted = None;
        }
        Ok(())
    }

    fn give_to(&mut self, owner: Owner) -> Result<(), DestinationError> {
        self.owner = owner;
        self.mounted.as_mut().map_or(Ok(()), |mounted| mounted.directory.give_to(owner))
    }

    fn sweep(&mut self) -> Option<Instant> {
        self.mounted.as_mut()?.directory.sweep()
    }

    fn close(self: Box<Self>) {
        if let Some(mounted) = self.mounted {
            Box::new(mounted.directory).close();
        }
    }
}

/// How large the tmpfs has to be, in bytes: whole pages for each file, for all sets that may be there at
/// once.
fn capacity_for(set: &RenderedSet) -> u64 {
    // One page more for each file: a folder of its own, at the most.
    let pages = |length: u64| length.div_ceil(PAGE) + 1;
    let one: u64 = set.iter().map(|(_, file)| pages(file.content.expose().len() as u64) * PAGE).sum();
    (one * SETS + HEADROOM).next_multiple_of(PAGE)
}

/// Calls with the options of a tmpfs, without those that this kernel does not have.
fn with_options(capacity: u64, call: impl Fn(&std::ffi::CStr) -> Result<(), Errno>) -> Result<(), Errno> {
    // Others may look into the folder; the files' own modes say who reads them.
    let options = format!("size={capacity},mode=0755");
    let text = |options: String| CString::new(options).map_err(|_| Errno::INVAL);
    if NO_SWAP.load(Ordering::Relaxed) {
        match call(&text(format!("{options},noswap"))?) {
            Err(Errno::INVAL) => {}
            other => return other,
        }
    }
    let without = call(&text(options)?);
    if without.is_ok() && NO_SWAP.swap(false, Ordering::Relaxed) {
        tracing::info!("this kernel's tmpfs knows no `noswap` (6.4 and newer do): keep swap off or encrypted on nodes");
    }
    without
}
