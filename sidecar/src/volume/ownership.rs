//! Giving files to the user and group that an application runs as.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, fchown, openat, statat, unlinkat};
use rustix::io::{self, Errno};
use rustix::process::{getegid, geteuid, getgroups};
use rustix::thread::{CapabilitySet, capabilities};

use super::error::Fault;
use super::generation::entries;
use crate::file::Owner;

/// What a named probe's name starts with; random digits follow.
const PROBE: &str = "..coffer-probe.";

/// Gives an open file to `owner`, as far as that names one.
pub(super) fn give(file: BorrowedFd<'_>, owner: Owner) -> Result<(), Fault> {
    let Owner { uid, gid } = owner;
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    // To chown(2) this id means "leave it", which is not what was asked for.
    let given = if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        Err(Errno::INVAL)
    } else {
        fchown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw))
    };
    given.map_err(|errno| match errno {
        Errno::PERM | Errno::INVAL => Fault::Chown { owner, errno },
        errno => Fault::io("give away a file in", "", errno),
    })
}

/// Finds out whether files in the volume can be given to `owner`, by giving one: capabilities,
/// user namespaces, idmapped mounts and security modules all have a say.
pub(super) fn probe(volume: BorrowedFd<'_>, owner: Owner) -> Result<(), Fault> {
    let failed = |errno| Fault::io("make a file in", "", errno);
    let mode = Mode::RUSR | Mode::WUSR;
    match openat(volume, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
        Ok(nameless) => give(nameless.as_fd(), owner),
        // open(2): a filesystem without O_TMPFILE says the first, a kernel without it the others.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let name = format!("{PROBE}{}", fastrand::u64(..));
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(volume, &name, flags, mode).map_err(failed)?;
            let given = give(file.as_fd(), owner);
            unlinkat(volume, &name, AtFlags::empty()).map_err(failed)?;
            given
        }
        Err(errno) => Err(failed(errno)),
    }
}

/// Whether chown(2)'s rule lets this process give files to `owner`: it has the capability, or
/// the user is its own and the group one of its own.
pub(super) fn may_give(owner: Owner) -> bool {
    let able = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::CHOWN));
    let own_uid = owner.uid.is_none_or(|uid| uid == geteuid().as_raw());
    let own_gid = owner.gid.is_none_or(|gid| {
        gid == getegid().as_raw() || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
    });
    able || (own_uid && own_gid)
}

/// Removes named probes that a crash left.
pub(super) fn remove_probes(volume: BorrowedFd<'_>) -> io::Result<()> {
    for name in entries(volume)? {
        let is_probe = name
            .to_bytes()
            .strip_prefix(PROBE.as_bytes())
            .is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
        let is_own = |name| {
            statat(volume, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                    && stat.st_size == 0
                    && stat.st_uid == geteuid().as_raw()
            })
        };
        if is_probe && is_own(&name) {
            let _ = unlinkat(volume, &name, AtFlags::empty());
        }
    }
    Ok(())
}
