//! Why the role of a service account is not known.

use std::fmt;

use crate::kubernetes::KubernetesError;

/// Why not; as a text, in a few words for a warning, which is to be short. The whole stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::webhook) enum NoRole {
    /// No answer came in time.
    Slow,
    /// There is no API to ask at the moment.
    Outage,
    /// We have no right to.
    Forbidden,
    /// No service account has that name.
    Missing,
    /// All else.
    Refused,
}

impl NoRole {
    /// Whether another may know it who asks again soon.
    pub(super) const fn passes(self) -> bool {
        matches!(self, Self::Slow | Self::Outage)
    }

    /// As the metrics have it.
    pub(in crate::webhook) const fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Outage => "outage",
            Self::Forbidden => "forbidden",
            Self::Missing => "missing",
            Self::Refused => "refused",
        }
    }
}

impl From<&KubernetesError> for NoRole {
    fn from(error: &KubernetesError) -> Self {
        match error {
            KubernetesError::Forbidden { .. } => Self::Forbidden,
            KubernetesError::NotFound { .. } | KubernetesError::BadName { .. } => Self::Missing,
            error if error.is_outage() => Self::Outage,
            _ => Self::Refused,
        }
    }
}

impl fmt::Display for NoRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slow => "the Kubernetes API is slow",
            Self::Outage => "the Kubernetes API does not answer",
            Self::Forbidden => "the webhook may not read it",
            Self::Missing => "there is none of that name",
            Self::Refused => "the Kubernetes API refuses it",
        })
    }
}
