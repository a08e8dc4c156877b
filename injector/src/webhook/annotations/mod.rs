//! What a pod's annotations ask for, checked as a whole.

mod contradictions;
mod files;
mod inline;
mod known;
mod mount_path;
mod quantity;
mod reading;
mod resources;
#[cfg(test)]
mod tests;
mod told;
mod words;
mod yaml;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use serde_json::{Map, Value};

pub use self::inline::Inline;
pub use self::known::{ANNOTATIONS, Annotation, nearest};
pub use self::quantity::{Quantity, QuantityError};
use self::reading::Reading;

/// What all our annotations begin with. Unknown ones under it are errors.
pub const PREFIX: &str = "coffer.dev/";

/// What a pod's annotations ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// How the secrets come to the application.
    pub mode: Mode,
    /// What the volume holds.
    pub content: Content,
    /// The containers, application's or init, that get the volume (in `exec` mode: that are wrapped), in the order
    /// written; `None` for all.
    pub containers: Option<Vec<String>>,
    /// Where the volume is mounted: absolute, normalised.
    pub path: String,
    /// Where AWS is asked.
    pub region: Option<String>,
    /// The role that the service account's token is shown to.
    pub role: Option<String>,
    /// Whether the application's containers lose the pod's identity in AWS.
    pub isolate_identity: bool,
    /// The image of our containers.
    pub image: Option<String>,
    /// Where ours stands among the init containers; `None` lets the shape of the pod decide.
    pub position: Option<Position>,
    /// What our container asks of the node, as Kubernetes has it; what is not said is the webhook's own.
    pub resources: Resources,
    /// The most that the volume may hold, in bytes.
    pub size_limit: Option<u64>,
    /// Where our container serves health and status; `None` for its own default, 127.0.0.1:9465.
    pub listen: Option<SocketAddr>,
    /// Where our container serves metrics for a Prometheus.
    pub metrics: Option<SocketAddr>,
    /// What is doubtful, for a person.
    pub warnings: Vec<String>,
}

/// How the secrets come to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Files that a sidecar keeps fresh.
    Sidecar,
    /// Files as they were when the pod began.
    Init,
    /// `coffer exec` runs the application, with secrets in its environment.
    Exec {
        /// Whether the application is restarted when a secret has changed.
        restart: bool,
    },
}

/// What the volume holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Nothing: references in the environment only (mode `exec`).
    Nothing,
    /// A config file of the sidecar in a ConfigMap of the pod's namespace.
    ConfigMap {
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// Files listed in annotations.
    Inline(Inline),
}

/// Where our container stands among the init containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// Before all others.
    First,
    /// After all others.
    Last,
    /// Right after the one of that name.
    After(String),
}

/// What a container asks of the node, as Kubernetes has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Quantities by resource.
    pub requests: Map<String, Value>,
    /// Quantities by resource.
    pub limits: Map<String, Value>,
}

/// What is wrong with one annotation, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The annotation's whole name, with line and column where it is YAML (`coffer.dev/files:2:5`); empty where it is
    /// about the pod itself.
    pub annotation: String,
    /// What, and the fix.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names and texts of a pod that the API server has not checked yet: one line each.
        if !self.annotation.is_empty() {
            write!(f, "{}: ", self.annotation.escape_debug())?;
        }
        self.text.chars().try_for_each(|c| match c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            true => write!(f, "{}", c.escape_debug()),
            false => f.write_char(c),
        })
    }
}

/// Checks an image's reference as that of the annotation `image` is checked.
///
/// # Errors
/// What is wrong with it, and the fix.
pub fn check_image(text: &str) -> Result<(), String> {
    words::image(text).map(drop)
}

impl Wish {
    /// Reads a pod's annotations; `None` where they ask for nothing.
    ///
    /// # Errors
    /// Every mistake, not just the first.
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, Vec<Problem>> {
        Reading::of(annotations).map_or(Ok(None), |reading| reading.wish().map(Some))
    }
}

/// What is wrong with one annotation.
#[derive(Debug, Default)]
struct Faults(Vec<Fault>);

/// A mistake, and where in the annotation it is: line and column, 0 where it is all of it.
#[derive(Debug)]
struct Fault {
    place: (u64, u64),
    text: String,
}

impl Faults {
    fn of(text: impl Into<String>) -> Self {
        Self(vec![Fault { place: (0, 0), text: text.into() }])
    }

    /// Of an annotation that is there in name only.
    fn empty(name: &str) -> Self {
        Self::of(format!("is empty; it takes {}; write that, or remove the annotation", known::takes(name)))
    }

    fn add(&mut self, text: impl Into<String>) {
        self.at((0, 0), text);
    }

    fn at(&mut self, place: (u64, u64), text: impl Into<String>) {
        self.0.push(Fault { place, text: text.into() });
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value`, if there are none.
    fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }

    fn into_problems(self, annotation: &str) -> impl Iterator<Item = Problem> {
        self.0.into_iter().map(move |Fault { place: (line, column), text }| Problem {
            annotation: match line {
                0 => annotation.to_owned(),
                _ => format!("{annotation}:{line}:{column}"),
            },
            text,
        })
    }
}

/// A text of a user as it may stand in a message: short, and on one line.
pub(in crate::webhook) fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut shown = text.chars().take(LONGEST).collect::<String>().escape_debug().to_string();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
