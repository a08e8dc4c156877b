//! What is wanted: parsed and checked once, wholly, before any I/O.
//!
//! Every door turns its own syntax into these types: the config file does it in [`Config::parse`].
//! Past this module nothing is optional that need not be: inherited settings are resolved, and every
//! name, reference, mode and selector is valid.

mod config;
mod reference;
mod yaml;

use std::path::PathBuf;
use std::time::Duration;

pub use coffer_runtime::aws::RoleStep;
pub use config::{ApiSpec, Config, ConfigError, Problem, RateLimits};
pub use reference::{ParameterRef, ParameterVersion, PathRef, Reference, ReferenceError, SecretRef, SecretVersion};
pub use yaml::Place;

use crate::file::{FileName, Mode, Owner};
use crate::render::{Format, Selector};

/// A directory of files that are published together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Where; absolute.
    pub path: PathBuf,
    /// Whom the files belong to.
    pub owner: Owner,
    /// How often to look for changes, at the least.
    pub refresh: Duration,
    /// The files; at least one.
    pub files: Vec<FileSpec>,
}

/// One entry of a volume: a file, or one file for each parameter under a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// What the file or files are called.
    pub naming: Naming,
    /// What to fetch, as whom and where.
    pub wanted: Wanted,
    /// Which part of the value.
    pub select: Option<Selector>,
    /// How the file is written.
    pub format: Format,
    /// Permission bits.
    pub mode: Mode,
    /// Whether the set is whole without it when AWS says that it does not exist.
    pub optional: bool,
}

/// How an entry's files are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// One file of this name.
    File(FileName),
    /// A file for each parameter, called as the rest of its name below the path.
    Tree {
        /// The folder of the volume that holds them; `None` for the volume itself.
        folder: Option<FileName>,
        /// What stands for the slashes in the rest of the name; `None` keeps them, as folders.
        separator: Option<String>,
    },
}

/// What to fetch, as whom and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wanted {
    /// The secret, parameter or path.
    pub reference: Reference,
    /// As whom and where.
    pub access: Access,
}

/// As whom and where a reference is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Access {
    /// The region; `None` for the process's own.
    pub region: Option<String>,
    /// The role to assume; `None` for the base identity itself.
    pub role: Option<RoleStep>,
}

impl FileSpec {
    /// Reference, selector, format, and how many files are called, as one text: two files with the
    /// same recipe, made from the same version, have the same bytes.
    #[must_use]
    pub fn recipe(&self) -> String {
        let mut text = self.wanted.reference.to_string();
        if let Some(select) = &self.select {
            text.push('#');
            text.push_str(select.as_str());
        }
        if self.format != Format::Raw {
            text.push_str(" as ");
            text.push_str(&self.format.to_string());
        }
        if let Naming::Tree { folder, separator } = &self.naming {
            let folder = folder.as_ref().map_or("", FileName::as_str);
            text.push_str(&format!(" to {folder}/{}", separator.as_deref().unwrap_or_default()));
        }
        if let Some(region) = &self.wanted.access.region {
            text.push_str(" in ");
            text.push_str(region);
        }
        if let Some(role) = &self.wanted.access.role {
            text.push_str(" by ");
            text.push_str(&role.role_arn);
        }
        text
    }
}

/// The known word nearest to a mistyped one, if it is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}
