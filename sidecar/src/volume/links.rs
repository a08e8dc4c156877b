//! The links an application goes through: `..data`, and one for each top name of the set.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, readlinkat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::error::Fault;
use super::generation::{self, GenerationName};

/// The link that names the generation in place.
pub(super) const DATA: &str = "..data";
/// Where the next [`DATA`] is made, to be renamed over it.
pub(super) const STAGED: &str = "..data_tmp";

/// The generation that `..data` names. It need not exist, nor be Coffer's.
pub(super) fn in_place(volume: BorrowedFd<'_>) -> Option<GenerationName> {
    GenerationName::parse(target(volume, DATA)?.to_bytes())
}

/// Whether `name` is the link that leads to the top name `name` of the set in place.
pub(super) fn is_own(volume: BorrowedFd<'_>, name: &str) -> bool {
    target(volume, name).is_some_and(|target| target.to_bytes() == own_target(name).as_bytes())
}

/// Makes the link of a top name. `false` when it was there already.
pub(super) fn make(volume: BorrowedFd<'_>, name: &str) -> Result<bool, Fault> {
    match symlinkat(own_target(name), volume, name) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) if is_own(volume, name) => Ok(false),
        Err(Errno::EXIST) => {
            Err(Fault::Occupied { entry: name.to_owned(), found: kind(volume, name).unwrap_or("something") })
        }
        Err(errno) => Err(Fault::io("link", name, errno)),
    }
}

/// Checks that every name a publication of `tops` needs is free or Coffer's own.
pub(super) fn check(volume: BorrowedFd<'_>, tops: &BTreeSet<&str>) -> Result<(), Fault> {
    // A symbolic link under one of these two names is Coffer's, wherever it leads: an application
    // that turned it elsewhere is corrected. The name itself is reserved.
    let reserved = [DATA, STAGED].into_iter().filter(|name| target(volume, name).is_none());
    let taken = tops.iter().copied().filter(|name| !is_own(volume, name));
    for name in reserved.chain(taken) {
        if let Some(found) = kind(volume, name) {
            return Err(Fault::Occupied { entry: name.to_owned(), found });
        }
    }
    Ok(())
}

/// Removes the link of a top name, if it is Coffer's.
pub(super) fn remove(volume: BorrowedFd<'_>, name: &str) {
    if is_own(volume, name) {
        // One that stays dangles, and goes with the next set or at the next start.
        let _ = unlinkat(volume, name, AtFlags::empty());
    }
}

/// Removes the links of names that are not in `tops`.
pub(super) fn remove_stale(volume: BorrowedFd<'_>, tops: &BTreeSet<&str>) {
    for name in own(volume).unwrap_or_default() {
        if !tops.contains(name.as_str()) {
            remove(volume, &name);
        }
    }
}

/// Removes the links that lead nowhere.
pub(super) fn remove_dangling(volume: BorrowedFd<'_>) -> rustix::io::Result<()> {
    for name in own(volume)? {
        if statat(volume, &name, AtFlags::empty()).err() == Some(Errno::NOENT) {
            remove(volume, &name);
        }
    }
    Ok(())
}

/// Removes a staged `..data` that was never swapped in.
pub(super) fn remove_staged(volume: BorrowedFd<'_>) {
    if target(volume, STAGED).is_some() {
        // If it stays, the next publication meets it and says so.
        let _ = unlinkat(volume, STAGED, AtFlags::empty());
    }
}

/// Every link of Coffer's to a top name. An application's own alias to a file, under another
/// name, is not one.
fn own(volume: BorrowedFd<'_>) -> rustix::io::Result<Vec<String>> {
    let names = generation::entries(volume)?.into_iter().filter_map(|name| name.into_string().ok());
    Ok(names.filter(|name| !name.starts_with("..") && is_own(volume, name)).collect())
}

fn own_target(name: &str) -> String {
    format!("{DATA}/{name}")
}

/// Where a symbolic link leads; `None` when `name` is none.
fn target(volume: BorrowedFd<'_>, name: &str) -> Option<CString> {
    readlinkat(volume, name, Vec::new()).ok()
}

/// What stands at `name`; `None` when it is free.
fn kind(volume: BorrowedFd<'_>, name: &str) -> Option<&'static str> {
    let stat = statat(volume, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(generation::kind(FileType::from_raw_mode(stat.st_mode)))
}
