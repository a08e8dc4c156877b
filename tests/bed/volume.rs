//! A volume as an application sees it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::Read,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{Mode, OFlags, open, openat, readlinkat},
    io::Errno,
};

/// Reads sets of files from a volume, each whole set from one generation.
#[derive(Clone, Debug)]
pub struct SetReader {
    volume: PathBuf,
}

/// What one look at a volume found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that `..data` pointed to; nothing when there was no set.
    pub generation: Option<OsString>,
    /// The files that were asked for, and nothing for one that was missing.
    pub files: BTreeMap<String, Option<Vec<u8>>>,
}

impl SetReader {
    /// A reader of the volume at this path, which need not be there yet.
    pub fn new(volume: impl Into<PathBuf>) -> Self {
        Self { volume: volume.into() }
    }

    /// Follows `..data` once, and reads the files of that one folder.
    pub fn read(&self, names: &[&str]) -> Result<Snapshot> {
        let Some((generation, folder)) = self.open_generation()? else {
            let files = names.iter().map(|name| ((*name).to_owned(), None)).collect();
            return Ok(Snapshot { generation: None, files });
        };
        let read = |name: &&str| Ok(((*name).to_owned(), read_at(&folder, name)?));
        let files = names.iter().map(read).collect::<Result<_>>();
        let files = files.with_context(|| format!("in the volume {}", self.volume.display()))?;
        Ok(Snapshot { generation: Some(generation), files })
    }

    /// The number that all these files of one set hold, each read by `parse`; fails when a file is
    /// missing or the set is mixed.
    pub fn read_number(&self, names: &[&str], parse: impl Fn(&str) -> Result<u64>) -> Result<u64> {
        let set = self.read(names)?;
        let mut numbers = Vec::new();
        for name in names {
            let bytes = set.files.get(*name).cloned().flatten();
            let bytes = bytes.with_context(|| format!("{name} is missing from generation {:?}", set.generation))?;
            numbers.push(parse(str::from_utf8(&bytes)?)?);
        }
        ensure!(numbers.iter().all(|number| *number == numbers[0]), "a mixed set: {numbers:?}");
        numbers.first().copied().context("no file to read")
    }

    /// The folder behind `..data` and its name, or nothing if there is none (any more).
    fn open_generation(&self) -> Result<Option<(OsString, OwnedFd)>> {
        let opened = open(&self.volume, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).and_then(|volume| {
            let generation = OsString::from_vec(readlinkat(&volume, "..data", Vec::new())?.into_bytes());
            let folder = openat(&volume, &generation, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            Ok((generation, folder))
        });
        match opened {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot open {}/..data", self.volume.display())),
        }
    }
}

/// The content of a file, or nothing if there is none.
fn read_at(folder: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>> {
    let file = match openat(folder, name, OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {name}")),
    };
    let mut content = Vec::new();
    File::from(file).read_to_end(&mut content).with_context(|| format!("cannot read {name}"))?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::tmpfs_dir;

    #[test]
    fn reads_one_generation_and_marks_what_is_missing() {
        let root = tmpfs_dir().unwrap();
        let reader = SetReader::new(root.path().join("app"));
        assert_eq!(reader.read(&["a"]).unwrap().generation, None);

        let set = root.path().join("app/..2026_01");
        fs::create_dir_all(&set).unwrap();
        fs::write(set.join("a"), "one").unwrap();
        symlink("..2026_01", root.path().join("app/..data")).unwrap();
        let snapshot = reader.read(&["a", "b"]).unwrap();
        assert_eq!(snapshot.generation.unwrap(), "..2026_01");
        assert_eq!(snapshot.files["a"].as_deref(), Some(&b"one"[..]));
        assert_eq!(snapshot.files["b"], None);
    }
}
