//! From what was fetched to the files of a volume: names, rendering, and what is carried over from
//! the set in place. Pure but for reading that set.

use std::collections::BTreeMap;
use std::sync::Arc;

use coffer_runtime::Secret;

use crate::file::{FileName, FileNameError};
use crate::render::{Collision, Origin, RenderError, RenderedFile, RenderedSet, render};
use crate::source::{Answer, Fetched};
use crate::spec::{FileSpec, Naming, Wanted};
use crate::volume::Volume;

/// Why an entry of a volume gives no files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MakeError {
    /// The value has no rendering as asked for.
    #[error("{name}: {cause}")]
    Render { name: String, cause: RenderError },
    /// A parameter's name cannot be a file's.
    #[error("the parameter `{parameter}` cannot become a file: {cause}; rename it, or set `separator`")]
    Name { parameter: String, cause: FileNameError },
    /// Two entries want the same file.
    #[error("{0}; rename one, or set `separator` to keep parameters and their subfolders apart")]
    Collision(#[from] Collision),
    /// Neither fetched nor in the set in place.
    #[error("nothing to make it from")]
    Nothing,
}

/// A set in the making.
pub(super) struct Making {
    pub(super) set: RenderedSet,
    /// What gave no files, and why; indices into the volume's entries.
    pub(super) failed: BTreeMap<usize, MakeError>,
}

/// Makes the files of every entry: from `answers` where they hold its value, else as they are in
/// the set in place.
pub(super) fn make(files: &[FileSpec], answers: &BTreeMap<Wanted, Arc<Answer>>, volume: &Volume) -> Making {
    let mut making = Making { set: RenderedSet::default(), failed: BTreeMap::new() };
    // What is in place goes first: where a new value's name collides, the newcomer is the one to fail.
    let fetched = |file: &FileSpec| answers.contains_key(&file.wanted);
    let in_place = files.iter().enumerate().filter(|(_, file)| !fetched(file));
    for (at, file) in in_place.chain(files.iter().enumerate().filter(|(_, file)| fetched(file))) {
        let made = match answers.get(&file.wanted) {
            Some(answer) => rendered(file, answer),
            None => carried(file, volume),
        };
        let added = made.and_then(|made| {
            made.into_iter().try_for_each(|(name, file)| making.set.insert(name, file).map_err(MakeError::from))
        });
        if let Err(error) = added {
            making.failed.insert(at, error);
        }
    }
    making
}

/// The files of an entry as they are in the set in place.
pub(super) fn carried(file: &FileSpec, volume: &Volume) -> Result<Vec<(FileName, RenderedFile)>, MakeError> {
    let published = volume.published().ok_or(MakeError::Nothing)?;
    let recipe = file.recipe();
    let mut carried = Vec::new();
    for (name, origin) in published.files.iter().map(|(name, file)| (name, &file.origin)) {
        if origin.recipe != recipe || !could_be(&file.naming, name) {
            continue;
        }
        let content = volume.read(name).ok_or(MakeError::Nothing)?;
        carried.push((name.clone(), RenderedFile { content, mode: file.mode, origin: origin.clone() }));
    }
    if carried.is_empty() { Err(MakeError::Nothing) } else { Ok(carried) }
}

/// The version of an entry's files in the set in place; of many, the first file's.
pub(super) fn version_in_place(file: &FileSpec, volume: &Volume) -> Option<String> {
    let recipe = file.recipe();
    let files = &volume.published()?.files;
    let mine = files
        .iter()
        .find(|(name, file_in_place)| file_in_place.origin.recipe == recipe && could_be(&file.naming, name));
    mine.map(|(_, file)| file.origin.version.clone())
}

fn rendered(file: &FileSpec, answer: &Answer) -> Result<Vec<(FileName, RenderedFile)>, MakeError> {
    match (answer, &file.naming) {
        (Answer::One(fetched), Naming::File(name)) => Ok(vec![(name.clone(), rendered_file(file, name, fetched)?)]),
        (Answer::Tree(parameters), Naming::Tree { folder, separator }) => parameters
            .iter()
            .map(|(rest, fetched)| {
                let name = tree_name(folder.as_ref(), separator.as_deref(), rest)?;
                let made = rendered_file(file, &name, fetched)?;
                Ok((name, made))
            })
            .collect(),
        // A reference to a path answers with a tree and no other does.
        (Answer::One(_), Naming::Tree { .. }) | (Answer::Tree(_), Naming::File(_)) => Err(MakeError::Nothing),
    }
}

fn rendered_file(file: &FileSpec, name: &FileName, fetched: &Fetched) -> Result<RenderedFile, MakeError> {
    let content: Secret = render(&fetched.value, file.select.as_ref(), file.format)
        .map_err(|cause| MakeError::Render { name: name.to_string(), cause })?;
    let origin = Origin { recipe: file.recipe(), version: fetched.version.clone() };
    Ok(RenderedFile { content, mode: file.mode, origin })
}

fn tree_name(folder: Option<&FileName>, separator: Option<&str>, rest: &str) -> Result<FileName, MakeError> {
    let below = match separator {
        Some(separator) => rest.replace('/', separator),
        None => rest.to_owned(),
    };
    let whole = match folder {
        Some(folder) => format!("{folder}/{below}"),
        None => below,
    };
    FileName::new(&whole).map_err(|cause| MakeError::Name { parameter: rest.to_owned(), cause })
}

fn could_be(naming: &Naming, name: &FileName) -> bool {
    match naming {
        Naming::File(own) => own == name,
        Naming::Tree { folder: Some(folder), .. } => name != folder && folder.collides_with(name),
        Naming::Tree { folder: None, .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_files_below_their_folder() {
        let folder = FileName::new("conf").unwrap();
        let name = |folder, separator, rest| tree_name(folder, separator, rest).map(|name| name.to_string());
        assert_eq!(name(None, None, "db/user").unwrap(), "db/user");
        assert_eq!(name(Some(&folder), Some("_"), "db/user").unwrap(), "conf/db_user");
        let escape = name(None, None, "../../etc").unwrap_err().to_string();
        assert!(escape.starts_with("the parameter `../../etc` cannot become a file"), "{escape}");
    }
}
