//! What is wanted: parsed and checked once, wholly, before any I/O.
//!
//! Every door turns its own syntax into these types: the config file does it in [`Config::parse`],
//! an environment in [`from_environment`].
//! Past this module nothing is optional that need not be: inherited settings are resolved, and every
//! name, reference, mode and selector is valid.

mod config;
mod environment;
mod on_change;
mod reference;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use coffer_runtime::aws::RoleStep;
pub use config::{
    ApiSpec, Config, ConfigError, DEFAULT_LISTEN, Problem, PushSpec, QueueUrl, RateLimits, Reader, schema,
};
pub use environment::{EnvName, EnvNameError, EnvProblem, EnvSpec, EnvironmentError, from_environment};
pub use on_change::{
    Action, Hook, HookError, Means, OnChange, ProcessName, ProcessNameError, Recipient, Signal, SignalError,
};
pub use reference::{ParameterRef, ParameterVersion, PathRef, Reference, ReferenceError, SecretRef, SecretVersion};
pub use yaml::{Place, yaml_options};

use crate::file::{FileName, Mode, Owner};
use crate::render::{Format, Selector, Template};

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
    /// Whom to tell of a new set.
    pub on_change: OnChange,
}

/// One entry of a volume: a file, or one file for each parameter under a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// What the file or files are called.
    pub naming: Naming,
    /// What they hold.
    pub content: Content,
    /// Permission bits.
    pub mode: Mode,
    /// Whether the set is whole without it when AWS says that it does not exist.
    pub optional: bool,
}

/// What an entry's files hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A value, or a part of it; for a path, each of its values.
    Value {
        /// What to fetch, as whom and where.
        wanted: Wanted,
        /// Which part of the value.
        select: Option<Selector>,
        /// How the file is written.
        format: Format,
    },
    /// The certificate, the key and the CA's certificates of one value, each as a file of its own:
    /// `tls.crt`, `tls.key`, `ca.crt`.
    Tls {
        /// What to fetch, as whom and where.
        wanted: Wanted,
        /// Which part of the value.
        select: Option<Selector>,
    },
    /// A text with values of the volume in it.
    Template {
        /// The text.
        template: Template,
        /// What its names stand for.
        values: BTreeMap<String, Wanted>,
    },
}

/// The files that [`Content::Tls`] makes, the last one only where there is something to put in.
pub const TLS_FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// How an entry's files are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// One file of this name.
    File(FileName),
    /// Several files: one for each parameter, called as the rest of its name below the path, or those
    /// of [`Content::Tls`].
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
    /// Where to ask when that does not answer; a volume's own form only has none.
    pub failover: Option<Box<Failover>>,
}

/// What to ask for in a second region, under the same identity, when the first has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Failover {
    /// The secret or parameter as that region knows it.
    pub reference: Reference,
    /// The region.
    pub region: String,
}

/// As whom and where a reference is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Access {
    /// The region; `None` for the process's own.
    pub region: Option<String>,
    /// The role to assume; `None` for the base identity itself.
    pub role: Option<RoleStep>,
}

impl Wanted {
    /// As whom and where, and what stands in: its part in a recipe.
    fn place(&self) -> String {
        match &self.failover {
            Some(failover) => format!("{} else {} in {}", self.access, failover.reference, failover.region),
            None => self.access.to_string(),
        }
    }
}

impl Content {
    /// Everything that has to be fetched for it.
    pub fn wanted(&self) -> impl Iterator<Item = &Wanted> {
        let (one, many) = match self {
            Self::Value { wanted, .. } | Self::Tls { wanted, .. } => (Some(wanted), None),
            Self::Template { values, .. } => (None, Some(values.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl FileSpec {
    /// What the files are made from and how, and how many of them are called, as one text: two files
    /// with the same recipe, made from the same version, have the same bytes.
    #[must_use]
    pub fn recipe(&self) -> String {
        let mut text = String::new();
        match &self.content {
            Content::Value { wanted, select, format } => {
                text.push_str(&wanted.reference.to_string());
                if let Some(select) = select {
                    text.push('#');
                    text.push_str(&select.to_string());
                }
                if *format != Format::Raw {
                    text.push_str(&format!(" as {format}"));
                }
                text.push_str(&self.naming.recipe());
                text.push_str(&wanted.place());
            }
            Content::Tls { wanted, select } => {
                text.push_str(&wanted.reference.to_string());
                text.push_str(&select.as_ref().map(|select| format!("#{select}")).unwrap_or_default());
                text.push_str(&format!(" as pem{}{}", self.naming.recipe(), wanted.place()));
            }
            Content::Template { template, values } => {
                text.push_str(&format!("template {} of", template.fingerprint()));
                for (name, wanted) in values {
                    text.push_str(&format!(" {name}={}{}", wanted.reference, wanted.place()));
                }
            }
        }
        text
    }
}

impl Naming {
    /// The files that it will surely name; those of parameters are known once they are fetched.
    #[must_use]
    pub fn known(&self, content: &Content) -> Vec<FileName> {
        match (self, content) {
            (Self::File(name), _) => vec![name.clone()],
            (Self::Tree { folder, .. }, Content::Tls { .. }) => {
                TLS_FILES.iter().filter_map(|name| FileName::below(folder.as_ref(), name).ok()).collect()
            }
            (Self::Tree { .. }, _) => Vec::new(),
        }
    }

    /// Its part in a recipe.
    fn recipe(&self) -> String {
        match self {
            Self::File(_) => String::new(),
            Self::Tree { folder, separator } => {
                let folder = folder.as_ref().map_or("", FileName::as_str);
                format!(" to {folder}/{}", separator.as_deref().unwrap_or_default())
            }
        }
    }
}

impl fmt::Display for Naming {
    /// As it stands in the config file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => name.fmt(f),
            Self::Tree { folder: Some(folder), .. } => write!(f, "{folder}/"),
            Self::Tree { folder: None, .. } => f.write_str("the volume itself"),
        }
    }
}

impl fmt::Display for Access {
    /// ` in REGION by ROLE`, as far as it names them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(region) = &self.region {
            write!(f, " in {region}")?;
        }
        match &self.role {
            Some(role) => write!(f, " by {}", role.role_arn),
            None => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_is_part_of_a_recipe() {
        let recipe = |failover: Option<(&str, &str)>| {
            let failover = failover.map(|(reference, region)| {
                Box::new(Failover { reference: reference.parse().unwrap(), region: region.to_owned() })
            });
            let wanted = Wanted { reference: "secretsmanager:a".parse().unwrap(), access: Access::default(), failover };
            let content = Content::Value { wanted, select: None, format: Format::Raw };
            let naming = Naming::File(FileName::new("a").unwrap());
            FileSpec { naming, content, mode: Mode::DEFAULT, optional: false }.recipe()
        };
        assert_eq!(recipe(None), "secretsmanager:a");
        let recipes = [
            recipe(None),
            recipe(Some(("secretsmanager:a", "us-east-1"))),
            recipe(Some(("secretsmanager:a", "us-west-2"))),
            recipe(Some(("secretsmanager:b", "us-east-1"))),
        ];
        assert_eq!(recipes.iter().collect::<std::collections::BTreeSet<_>>().len(), recipes.len());
    }
}
