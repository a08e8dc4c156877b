//! The pod as it is to be: pure, and the same for the same pod, byte for byte.

use serde_json::Value;

use super::annotations::{Mode, Problem};

/// What holds for all pods of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The image with `/coffer` in it, where a pod does not name one.
    pub image: String,
    /// `imagePullPolicy` of our containers; `None` for Kubernetes' own rule.
    pub pull_policy: Option<String>,
    /// The user that our containers run as where nothing else is needed; `None` leaves it to the namespace, as OpenShift has it.
    pub run_as_user: Option<u32>,
    /// Variables of every container of ours, such as `AWS_USE_FIPS_ENDPOINT`.
    pub env: Vec<(String, String)>,
    /// The audience of tokens that are shown to STS.
    pub token_audience: String,
}

/// What is around a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether the cluster knows init containers that go on running (`restartPolicy: Always`).
    pub native_sidecars: bool,
    /// The role that the pod's service account names in `eks.amazonaws.com/role-arn`.
    pub role: Option<String>,
}

/// A pod as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutation {
    /// It, whole.
    pub pod: Value,
    /// How the secrets come to it.
    pub mode: Mode,
    /// What is doubtful, for its author.
    pub warnings: Vec<String>,
    /// Why each thing is there, in the order of the pod.
    pub reasons: Vec<Reason>,
}

/// Why something was added or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What, such as `spec.volumes[coffer-secrets]`.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A pod as its annotations ask for; `None` where they ask for nothing.
///
/// # Errors
/// Every mistake, not just the first.
pub fn mutate(
    _pod: &Value,
    _settings: &Settings,
    _surroundings: &Surroundings,
) -> Result<Option<Mutation>, Vec<Problem>> {
    todo!()
}

/// The service account whose role [`mutate`] would want to know, in the pod's namespace; `None` where it makes no
/// difference.
#[must_use]
pub fn service_account(_pod: &Value) -> Option<&str> {
    todo!()
}
