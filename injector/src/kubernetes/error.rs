//! Why the Kubernetes API did not give or take an object.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;

use kube::core::Status;

use super::object::{NameParts, ObjectName};

/// What was to be done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read it.
    Get,
    /// Find it by name before it is followed.
    List,
    /// Follow it.
    Watch,
    /// Make it.
    Create,
    /// Replace it.
    Update,
    /// Change a part of it.
    Patch,
}

/// Why something of the Kubernetes API is not to be had. Holds no value of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubernetesError {
    /// The kubeconfig cannot be read or used.
    #[error("the kubeconfig `{}` cannot be used: {cause}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The process is in a cluster, and what the kubelet gave it cannot be used.
    #[error(
        "the service account that the kubelet mounts cannot be used: {cause}; the pod needs `automountServiceAccountToken: true`, or `--kubeconfig FILE`"
    )]
    InCluster {
        /// What is wrong with it.
        cause: String,
    },
    /// There is no API to ask: neither a kubeconfig nor a service account.
    #[error(
        "{object} cannot be read, for there is no Kubernetes API here: run in a pod with a service account, or with `--kubeconfig FILE`"
    )]
    NoApi {
        /// What was wanted.
        object: String,
    },
    /// A name that no object can have.
    #[error(
        "{object} cannot exist: a name has lower-case letters, digits, `-` and `.`, at most 253 of them, and begins and ends with a letter or digit"
    )]
    BadName {
        /// The object that was asked for.
        object: ObjectName,
    },
    /// There is no such object.
    #[error("{object} does not exist: create it, or correct the name")]
    NotFound {
        /// The object.
        object: ObjectName,
    },
    /// The API server does not know the kind.
    #[error(
        "the API server does not know {}.{} ({object}): install its CustomResourceDefinition (deploy/csi/crds)",
        object.resource,
        object.group
    )]
    NoSuchKind {
        /// The object.
        object: ObjectName,
    },
    /// RBAC does not allow it.
    #[error("Coffer may not {verb} {object}: add to its {} the rule {}", role(object), rule(*verb, object))]
    Forbidden {
        /// What was tried.
        verb: Verb,
        /// The object.
        object: ObjectName,
    },
    /// Something other than RBAC forbids it, such as an admission webhook or a namespace that is being deleted.
    #[error("the API server does not let Coffer {verb} {object}: {message}")]
    Denied {
        /// What was tried.
        verb: Verb,
        /// The object.
        object: ObjectName,
        /// In the API server's words.
        message: String,
    },
    /// The API server does not know who asks.
    #[error(
        "the API server does not accept Coffer's credentials (to {verb} {object}): its service account or the kubeconfig's user was removed, or its token has ended"
    )]
    Unauthorized {
        /// What was tried.
        verb: Verb,
        /// The object.
        object: ObjectName,
    },
    /// Another writer came first, or made the object.
    #[error("{object} was changed by another at the same time")]
    Conflict {
        /// The object.
        object: ObjectName,
    },
    /// No answer, or none worth anything: tried again, it may come.
    #[error("the Kubernetes API does not answer (to {verb} {object}): {cause}; it is tried again")]
    Unavailable {
        /// What was tried.
        verb: Verb,
        /// The object.
        object: ObjectName,
        /// Why.
        cause: String,
    },
    /// The API server says no for another reason.
    #[error("the API server refuses to {verb} {object}: {message}")]
    Refused {
        /// What was tried.
        verb: Verb,
        /// The object.
        object: ObjectName,
        /// In the API server's words.
        message: String,
    },
    /// A read ended without an answer, by a fault of this program.
    #[error("the read of {object} was interrupted; it is tried again")]
    Interrupted {
        /// Namespace and name of the object.
        object: String,
    },
    /// The object is there and is not what it should be.
    #[error("{object} cannot be used: {problem}")]
    Malformed {
        /// The object.
        object: ObjectName,
        /// What is wrong with it, and the fix.
        problem: String,
    },
}

impl KubernetesError {
    /// Reads a client's error.
    pub(crate) fn read(verb: Verb, object: &ObjectName, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::status(verb, object, &status),
            error @ (kube::Error::SerdeError(_) | kube::Error::FromUtf8(_)) => {
                Self::Malformed { object: object.clone(), problem: causes(&error) }
            }
            error => Self::Unavailable { verb, object: object.clone(), cause: causes(&error) },
        }
    }

    /// Reads an API server's no.
    pub(super) fn status(verb: Verb, object: &ObjectName, status: &Status) -> Self {
        let object = object.clone();
        let message = status.message.clone();
        match status.code {
            401 => Self::Unauthorized { verb, object },
            // RBAC's own text; everything else that answers 403 has words of its own.
            403 if message.contains(" cannot ") && message.contains(" resource ") => Self::Forbidden { verb, object },
            403 => Self::Denied { verb, object, message },
            // Without such a kind there is not even a handler that could answer as Kubernetes does.
            404 if status.reason != "NotFound"
                || (status.details.as_ref().is_none_or(|details| details.name.is_empty())) =>
            {
                Self::NoSuchKind { object }
            }
            // A create answers so when it is the namespace that is missing.
            404 if verb == Verb::Create => Self::Denied { verb, object, message },
            404 => Self::NotFound { object },
            409 => Self::Conflict { object },
            408 | 429 | 500.. => Self::Unavailable { verb, object, cause: format!("{} {message}", status.code) },
            _ => Self::Refused { verb, object, message },
        }
    }

    /// No answer in time.
    pub(crate) fn timeout(verb: Verb, object: &ObjectName, after: std::time::Duration) -> Self {
        Self::Unavailable { verb, object: object.clone(), cause: format!("no answer within {} s", after.as_secs_f64()) }
    }

    /// Whether it says something about the way to the API and nothing about the object.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::Unauthorized { .. } | Self::NoApi { .. } | Self::Interrupted { .. }
        )
    }
}

impl Verb {
    /// As RBAC spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind of role that can allow it.
fn role(object: &ObjectName) -> &'static str {
    if object.namespace.is_empty() { "ClusterRole" } else { "ClusterRole or Role" }
}

/// A rule of RBAC, in YAML's one-line form.
fn rule(verb: Verb, object: &ObjectName) -> String {
    let NameParts { group, resource, .. } = &**object;
    format!("{{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{verb}]}}")
}

/// An error's own causes: the client's outer texts only tell which layer it was.
fn causes(error: &kube::Error) -> String {
    let mut innermost = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !text.is_empty() {
            innermost = text;
        }
        source = cause.source();
    }
    innermost
}
