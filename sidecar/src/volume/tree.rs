//! The files of a set in the folders they stand in.

use std::collections::BTreeMap;

use crate::file::FileName;

/// A folder of a set: its files and folders by their last component.
pub(super) struct Folder<'a, T> {
    pub(super) files: BTreeMap<&'a str, T>,
    pub(super) folders: BTreeMap<&'a str, Self>,
}

impl<'a, T> Folder<'a, T> {
    /// The topmost folder of `files`. A set holds no two names of which one would have to be a
    /// folder and a file at once.
    pub(super) fn of(files: impl IntoIterator<Item = (&'a FileName, T)>) -> Self {
        let mut root = Self { files: BTreeMap::new(), folders: BTreeMap::new() };
        for (name, file) in files {
            let (path, leaf) = split(name);
            let mut folder = &mut root;
            for part in path.split('/').filter(|part| !part.is_empty()) {
                folder = folder
                    .folders
                    .entry(part)
                    .or_insert_with(|| Self { files: BTreeMap::new(), folders: BTreeMap::new() });
            }
            folder.files.insert(leaf, file);
        }
        root
    }
}

/// The folder of a file, empty for the topmost, and the file's name in it.
pub(super) fn split(name: &FileName) -> (&str, &str) {
    name.as_str().rsplit_once('/').unwrap_or(("", name.as_str()))
}

/// Every folder that a file stands in, the topmost left out.
pub(super) fn folders(name: &FileName) -> impl Iterator<Item = &str> {
    let text = name.as_str();
    text.match_indices('/').map(|(at, _)| &text[..at])
}
