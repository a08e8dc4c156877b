//! What a pod's annotations ask for, checked as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde_json::{Map, Value};

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

/// Files listed in annotations, and what goes with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Inline {
    text: String,
    mode_line: usize,
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
    /// The annotation's whole name; empty where it is about the pod itself.
    pub annotation: String,
    /// What, and the fix.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.annotation.as_str() {
            "" => f.write_str(&self.text),
            name => write!(f, "{name}: {}", self.text),
        }
    }
}

impl Wish {
    /// Reads a pod's annotations; `None` where they ask for nothing.
    ///
    /// # Errors
    /// Every mistake, not just the first.
    pub fn read(_annotations: &BTreeMap<String, String>) -> Result<Option<Self>, Vec<Problem>> {
        todo!()
    }
}

impl Inline {
    /// The whole config file of the sidecar: YAML. `mode` is what files have that say nothing of it, such as `0444`;
    /// `None` for the sidecar's own default, 0440.
    #[must_use]
    pub fn text(&self, _mode: Option<&str>) -> String {
        todo!()
    }

    /// The most that the files can take, in bytes, as far as it can be known: `None` for a `recursive` one.
    #[must_use]
    pub fn most_bytes(&self) -> Option<u64> {
        todo!()
    }

    /// Whether a process of the application is to be sent a signal.
    #[must_use]
    pub fn signals(&self) -> bool {
        todo!()
    }
}
