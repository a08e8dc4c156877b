//! A set of rendered files, before anyone has decided where it goes.

use std::collections::BTreeMap;

use coffer_runtime::Secret;

use crate::file::{FileName, Mode};

/// Files that belong together. A volume publishes the set, and other doors return or copy it;
/// the set knows none of them.
#[derive(Debug, Default)]
pub struct RenderedSet(BTreeMap<FileName, RenderedFile>);

/// One rendered file.
#[derive(Debug)]
pub struct RenderedFile {
    /// The bytes a reader will see.
    pub content: Secret,
    /// Permission bits.
    pub mode: Mode,
    /// Where the bytes came from.
    pub origin: Origin,
}

/// Where the bytes of a file came from. Holds no secret: it is written beside the set and logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The recipe: reference, selector and format as one text. Two files with equal recipes and
    /// equal versions have equal bytes.
    pub recipe: String,
    /// The version of the reference: a Secrets Manager VersionId or a parameter's version number.
    pub version: String,
}

/// Two files of a set cannot both exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{new}` ({new_recipe}) and `{present}` ({present_recipe}) cannot both be files of one volume")]
pub struct Collision {
    /// The file that was to be added.
    pub new: FileName,
    /// Its recipe.
    pub new_recipe: String,
    /// The file already in the set.
    pub present: FileName,
    /// Its recipe.
    pub present_recipe: String,
}

impl RenderedSet {
    /// Adds a file. Refused when the name is taken, or when one of two names would have to be a
    /// folder and a file at once.
    pub fn insert(&mut self, name: FileName, file: RenderedFile) -> Result<(), Collision> {
        if let Some((present, other)) = self.colliding(&name) {
            return Err(Collision {
                present: present.clone(),
                present_recipe: other.origin.recipe.clone(),
                new_recipe: file.origin.recipe,
                new: name,
            });
        }
        self.0.insert(name, file);
        Ok(())
    }

    /// The files, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&FileName, &RenderedFile)> {
        self.0.iter()
    }

    /// How many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn colliding(&self, name: &FileName) -> Option<(&FileName, &RenderedFile)> {
        // A file of the same name, or one that stands where `name` needs a folder.
        let text = name.as_str();
        let parents = text.match_indices('/').map(|(at, _)| &text[..at]);
        for taken in parents.chain([text]) {
            let found = FileName::new(taken).ok().and_then(|taken| self.0.get_key_value(&taken));
            if found.is_some() {
                return found;
            }
        }
        // Or a file below a folder of that name: `name/` sorts right after what precedes it.
        let below = FileName::new(&format!("{text}/ ")).ok()?;
        self.0.range(below..).next().filter(|(next, _)| next.collides_with(name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file() -> RenderedFile {
        RenderedFile {
            content: Secret::copy_of(b"x"),
            mode: Mode::DEFAULT,
            origin: Origin { recipe: "r".into(), version: "1".into() },
        }
    }

    proptest! {
        #[test]
        fn refuses_exactly_what_collides(names in proptest::collection::vec("[a-c ]{1,2}(/[a-c!]{1,2}){0,2}", 1..12)) {
            let mut set = RenderedSet::default();
            let mut taken: Vec<FileName> = Vec::new();
            for name in names.iter().filter_map(|text| FileName::new(text).ok()) {
                let collides = taken.iter().any(|other| other.collides_with(&name));
                prop_assert_eq!(set.insert(name.clone(), file()).is_err(), collides, "{} into {:?}", name, taken);
                if !collides {
                    taken.push(name);
                }
            }
            prop_assert_eq!(set.len(), taken.len());
        }
    }
}
