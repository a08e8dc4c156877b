//! From what was fetched to the files of a volume: names, rendering, and what is carried over from
//! the set in place. Pure but for reading that set.

use std::collections::BTreeMap;
use std::sync::Arc;

use coffer_runtime::Secret;

use super::destination::Destination;
use super::round::version;
use crate::file::{FileName, FileNameError};
use crate::render::{Collision, Origin, RenderError, RenderedFile, RenderedSet, TlsFiles, render, split_tls};
use crate::source::Answer;
use crate::spec::{Content, FileSpec, Naming, TLS_FILES, Wanted};

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
    /// It takes several values, and not all of them came. What did come waits: files of one volume
    /// never tell of different moments.
    #[error("{name}: waits for {missing}")]
    Incomplete { name: String, missing: String },
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

/// Makes the files of every entry: from `answers` where they hold its values, else as they are in
/// the set in place. `absent` are references that AWS says do not exist.
pub(super) fn make(
    files: &[FileSpec],
    answers: &BTreeMap<Wanted, Arc<Answer>>,
    absent: &dyn Fn(&Wanted) -> bool,
    in_place: &dyn Destination,
) -> Making {
    let mut making = Making { set: RenderedSet::default(), failed: BTreeMap::new() };
    // What is in place goes first: where a new value's name collides, the newcomer is the one to fail.
    let gone = |file: &FileSpec| file.optional && file.content.wanted().any(absent);
    let fetched = |file: &FileSpec| !gone(file) && file.content.wanted().any(|wanted| answers.contains_key(wanted));
    let (new, old): (Vec<_>, Vec<_>) = files.iter().enumerate().partition(|(_, file)| fetched(file));
    let old = old.into_iter().map(|(at, file)| match gone(file) && !is_of_its_time(file, answers, in_place) {
        // The set is whole without it, and would tell of two moments with it.
        true => (at, Err(MakeError::Nothing)),
        false => (at, carried(file, in_place)),
    });
    let new = new.into_iter().map(|(at, file)| (at, rendered(file, answers, in_place)));
    for (at, made) in old.chain(new) {
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
fn carried(file: &FileSpec, in_place: &dyn Destination) -> Result<Vec<(FileName, RenderedFile)>, MakeError> {
    let mut carried = Vec::new();
    for (name, origin) in standing(file, in_place) {
        let content = in_place.read(name).ok_or(MakeError::Nothing)?;
        carried.push((name.clone(), RenderedFile { content, mode: file.mode, origin: origin.clone() }));
    }
    if carried.is_empty() { Err(MakeError::Nothing) } else { Ok(carried) }
}

/// Whether the set in place can give the files of an entry.
pub(super) fn can_be_carried(file: &FileSpec, in_place: &dyn Destination) -> bool {
    carried(file, in_place).is_ok()
}

/// Whether an entry's files in the set in place are made of no older values than these.
fn is_of_its_time(file: &FileSpec, answers: &BTreeMap<Wanted, Arc<Answer>>, in_place: &dyn Destination) -> bool {
    let fetched = file.content.wanted().filter_map(|wanted| Some((wanted, answers.get(wanted)?)));
    let mut versions = fetched.map(|(wanted, answer)| (version_in_place(file, wanted, in_place), version(answer)));
    versions.all(|(in_place, fetched)| in_place == Some(fetched))
}

/// The files of an entry in the set in place.
fn standing<'a>(file: &FileSpec, in_place: &'a dyn Destination) -> Vec<(&'a FileName, &'a Origin)> {
    let recipe = file.recipe();
    let mine = |(name, origin): &(&FileName, &Origin)| origin.recipe == recipe && could_be(&file.naming, name);
    in_place.origins().into_iter().filter(mine).collect()
}

/// The version of `wanted` that an entry's files in the set in place are made from; of many files,
/// the first's.
pub(super) fn version_in_place(file: &FileSpec, wanted: &Wanted, in_place: &dyn Destination) -> Option<String> {
    let (_, origin) = standing(file, in_place).into_iter().next()?;
    version_of(file, wanted, &origin.version)
}

fn rendered(
    file: &FileSpec,
    answers: &BTreeMap<Wanted, Arc<Answer>>,
    in_place: &dyn Destination,
) -> Result<Vec<(FileName, RenderedFile)>, MakeError> {
    let answer = |wanted: &Wanted| {
        answers.get(wanted).map(Arc::as_ref).ok_or_else(|| MakeError::Incomplete {
            name: file.naming.to_string(),
            missing: wanted.reference.to_string(),
        })
    };
    match &file.content {
        Content::Value { wanted, select, format } => match (answer(wanted)?, &file.naming) {
            (Answer::One(fetched), Naming::File(name)) => {
                // Other bytes for the same version would be a swap for nothing.
                if !format.is_deterministic()
                    && version_in_place(file, wanted, in_place).as_deref() == Some(&fetched.version)
                    && let Ok(carried) = carried(file, in_place)
                {
                    return Ok(carried);
                }
                let content = render(&fetched.value, select.as_ref(), *format).map_err(named(name))?;
                Ok(vec![(name.clone(), made(file, content, &fetched.version))])
            }
            (Answer::Tree(parameters), Naming::Tree { folder, separator }) => parameters
                .iter()
                .map(|(rest, fetched)| {
                    let name = tree_name(folder.as_ref(), separator.as_deref(), rest)?;
                    let content = render(&fetched.value, select.as_ref(), *format).map_err(named(&name))?;
                    Ok((name, made(file, content, &fetched.version)))
                })
                .collect(),
            // A reference to a path answers with a tree and no other does.
            (Answer::One(_), Naming::Tree { .. }) | (Answer::Tree(_), Naming::File(_)) => Err(MakeError::Nothing),
        },
        Content::Tls { wanted, select } => {
            let (Answer::One(fetched), Naming::Tree { folder, .. }) = (answer(wanted)?, &file.naming) else {
                return Err(MakeError::Nothing);
            };
            let whole = |cause| MakeError::Render { name: file.naming.to_string(), cause };
            let TlsFiles { certificate, key, ca } = split_tls(&fetched.value, select.as_ref()).map_err(whole)?;
            TLS_FILES
                .into_iter()
                .zip([Some(certificate), Some(key), ca])
                .filter_map(|(name, content)| Some((name, content?)))
                .map(|(name, content)| {
                    let name = FileName::below(folder.as_ref(), name)
                        .map_err(|cause| MakeError::Name { parameter: name.to_owned(), cause })?;
                    Ok((name, made(file, content, &fetched.version)))
                })
                .collect()
        }
        Content::Template { template, values } => {
            let Naming::File(name) = &file.naming else { return Err(MakeError::Nothing) };
            let mut known = BTreeMap::new();
            let mut versions = Vec::new();
            for (value, wanted) in values {
                let Answer::One(fetched) = answer(wanted)? else { return Err(MakeError::Nothing) };
                known.insert(value.as_str(), &fetched.value);
                versions.push(format!("{value}={}", fetched.version));
            }
            let content = template.render(&known).map_err(named(name))?;
            Ok(vec![(name.clone(), made(file, content, &versions.join(" ")))])
        }
    }
}

fn named(name: &FileName) -> impl FnOnce(RenderError) -> MakeError + use<'_> {
    move |cause| MakeError::Render { name: name.to_string(), cause }
}

fn made(file: &FileSpec, content: Secret, version: &str) -> RenderedFile {
    RenderedFile { content, mode: file.mode, origin: Origin { recipe: file.recipe(), version: version.to_owned() } }
}

/// The version of one of the values behind a file, out of the text for all of them.
fn version_of(file: &FileSpec, wanted: &Wanted, version: &str) -> Option<String> {
    match &file.content {
        Content::Value { wanted: only, .. } | Content::Tls { wanted: only, .. } => {
            (only == wanted).then(|| version.to_owned())
        }
        Content::Template { values, .. } => {
            let (name, _) = values.iter().find(|(_, value)| *value == wanted)?;
            let version = version.split(' ').find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
            version.map(str::to_owned)
        }
    }
}

fn tree_name(folder: Option<&FileName>, separator: Option<&str>, rest: &str) -> Result<FileName, MakeError> {
    let below = match separator {
        Some(separator) => rest.replace('/', separator),
        None => rest.to_owned(),
    };
    FileName::below(folder, &below).map_err(|cause| MakeError::Name { parameter: rest.to_owned(), cause })
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
