//! An AdmissionReview in, its answer out.
//!
//! What is no review is answered 400, in a sentence; everything else gets a review back. What cannot be known in time is
//! left out with a warning, and no admission fails for it; unless that was asked for, see [`RoleUnknown`].

mod answer;
mod request;
mod role;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

pub use self::answer::{Answer, Outcome};
use self::request::{Bad, Request};
pub(super) use self::role::NoRole;
use super::metrics::Metrics;
use super::mutation::{Settings, Surroundings, mutate, service_account};
use super::patch;
use crate::kubernetes::{Kubernetes, KubernetesError};

/// The most that a review may take, in bytes. A pod is far below: the API server takes 3 MiB for a request
/// (`MaxRequestBodyBytes` of its config), and etcd 1.5; what a review has beside the pod is some kilobytes.
pub const MOST_BYTES: usize = 4 << 20;
/// How long the role of a service account is waited for, at most.
const LOOKUP: Duration = Duration::from_secs(2);

/// What becomes of a pod while the role of its service account cannot be read: in an outage, and when the answer takes
/// too long. Where there is no such account, or it may not be read, trying again is no help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleUnknown {
    /// It goes on without, with a warning.
    GoOn,
    /// It is refused for now, so that whoever creates it tries again.
    TryAgain,
}

/// Answers the API server.
#[derive(Debug)]
pub struct Reviewer {
    settings: Settings,
    kubernetes: Option<Kubernetes>,
    native_sidecars: watch::Receiver<Option<bool>>,
    metrics: Metrics,
    /// Whether it was told that roles cannot be read, so that it is told once.
    roles_unknown: AtomicBool,
}

impl Reviewer {
    /// One with these settings; without the API, roles of service accounts are not known. Native sidecars are taken to
    /// be there as long as nothing is known of them: every version has them that is still maintained.
    #[must_use]
    pub fn new(
        settings: Settings,
        kubernetes: Option<Kubernetes>,
        native_sidecars: watch::Receiver<Option<bool>>,
        metrics: Metrics,
    ) -> Self {
        Self { settings, kubernetes, native_sidecars, metrics, roles_unknown: AtomicBool::new(false) }
    }

    /// Answers a review, given as the body of a request. `caller_waits` is how long the API server waits, where it
    /// says.
    pub async fn answer(&self, body: &[u8], role_unknown: RoleUnknown, caller_waits: Option<Duration>) -> Answer {
        let request = match Request::read(body) {
            Ok(request) => request,
            Err(Bad::NoReview(why)) => return Answer::no_review(&why),
            Err(Bad::Object { uid, why }) => return Answer::bad_object(&uid, &why),
        };
        if let Some(other) = request.misdirected() {
            let fix = "the rules of the MutatingWebhookConfiguration should be CREATE of v1 pods";
            return Answer::untouched(&request.uid, Outcome::Misdirected, &[format!("{other}: {fix}")]);
        }
        let pod = match request.pod() {
            Ok(pod) => pod,
            Err(why) => return Answer::bad_object(&request.uid, &why),
        };
        let native_sidecars = self.native_sidecars.borrow().unwrap_or(true);
        let mut around = Surroundings { native_sidecars, role: None };
        let account = self.kubernetes.as_ref().and_then(|_| service_account(&pod).map(str::to_owned));
        let Some(account) = account else { return self.decide(&request, &pod, &around, Vec::new()) };
        // What is read is not kept while others are waited for: of those there may be many.
        drop(pod);
        let role = self.role(request.namespace(), &account, caller_waits).await;
        let pod = match request.pod() {
            Ok(pod) => pod,
            Err(why) => return Answer::bad_object(&request.uid, &why),
        };
        let why = match role {
            Ok(role) => {
                around.role = role;
                return self.decide(&request, &pod, &around, Vec::new());
            }
            Err(why) => why,
        };
        self.metrics.role_unknown(why);
        if role_unknown == RoleUnknown::TryAgain && why.passes() && mutate(&pod, &self.settings, &around).is_ok() {
            let why = format!("the role of the service account {account} is not known now: {why}; try again");
            return Answer::unavailable(&request.uid, why);
        }
        let warning = format!("the role of service account {account} is not known: {why}");
        self.decide(&request, &pod, &around, vec![warning])
    }

    /// The answer, once all is known that can be.
    fn decide(&self, request: &Request<'_>, pod: &Value, around: &Surroundings, mut warnings: Vec<String>) -> Answer {
        let name = request.shown_name(pod);
        match mutate(pod, &self.settings, around) {
            // Nothing of ours is asked for, so that nothing of ours is told either.
            Ok(None) => Answer::untouched(&request.uid, Outcome::Untouched, &[]),
            Ok(Some(mutation)) => {
                let steps = patch::between(pod, &mutation.pod);
                warnings.extend(mutation.warnings);
                tracing::debug!(pod = name, mode = ?mutation.mode, steps = steps.len(), "the sidecar is added");
                Answer::allowed(&request.uid, &steps, &warnings)
            }
            Err(problems) => {
                // Their texts may quote what the pod's author has written.
                let mut of: Vec<&str> = problems.iter().map(|problem| problem.annotation.as_str()).collect();
                of.dedup();
                tracing::info!(pod = name, annotations = of.join(" "), "denied: {} problems", problems.len());
                Answer::denied(&request.uid, &problems, &warnings)
            }
        }
    }

    /// The role of a service account, or in a few words why it is not known.
    async fn role(
        &self,
        namespace: &str,
        account: &str,
        caller_waits: Option<Duration>,
    ) -> Result<Option<String>, NoRole> {
        let Some(kubernetes) = &self.kubernetes else { return Ok(None) };
        // Half of what the caller has leaves enough for all the rest.
        let patience = caller_waits.map_or(LOOKUP, |waits| LOOKUP.min(waits / 2));
        match timeout(patience, kubernetes.role_of(namespace, account)).await {
            Ok(Ok(role)) => {
                self.roles_unknown.store(false, Ordering::Relaxed);
                Ok(role)
            }
            Ok(Err(error)) => {
                // A name that leads nowhere says nothing of the others.
                if error.is_outage() || matches!(error, KubernetesError::Forbidden { .. }) {
                    self.tell(&error.to_string());
                }
                Err(NoRole::from(&error))
            }
            Err(_) => {
                self.tell(&NoRole::Slow.to_string());
                Err(NoRole::Slow)
            }
        }
    }

    fn tell(&self, why: &str) {
        if !self.roles_unknown.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "roles of service accounts are not known, and pods go on without, or are to be tried again: {why}"
            );
        }
    }
}
