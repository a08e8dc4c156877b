//! An AdmissionReview in, its answer out.
//!
//! What is no review is answered 400, in a sentence; everything else gets a review back, and it is never ours that an
//! admission fails: what cannot be known in time is left out, with a warning.

mod answer;
mod request;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

pub use self::answer::{Answer, Outcome};
use self::request::{Bad, Request};
use super::mutation::{Asked, Settings, Surroundings};
use super::patch;
use crate::kubernetes::{Kubernetes, KubernetesError};

/// The most that a review may take, in bytes. A pod is far below: the API server takes 3 MiB for a request
/// (`MaxRequestBodyBytes` of its config), and etcd 1.5.
pub const MOST_BYTES: usize = 8 << 20;
/// How long the role of a service account is waited for, at most.
const LOOKUP: Duration = Duration::from_secs(2);

/// Answers the API server.
#[derive(Debug)]
pub struct Reviewer {
    settings: Settings,
    kubernetes: Option<Kubernetes>,
    native_sidecars: watch::Receiver<Option<bool>>,
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
    ) -> Self {
        Self { settings, kubernetes, native_sidecars, roles_unknown: AtomicBool::new(false) }
    }

    /// Answers a review, given as the body of a request. `caller_waits` is how long the API server waits, where it
    /// says.
    pub async fn answer(&self, body: &[u8], caller_waits: Option<Duration>) -> Answer {
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
        let asked = Asked::of(&pod);
        let account = self.kubernetes.as_ref().and_then(|_| asked.service_account(&pod).map(str::to_owned));
        let Some(account) = account else { return self.decide(&request, &pod, asked, &around, Vec::new()) };
        // What is read is not kept while others are waited for: of those there may be many.
        drop(pod);
        let mut warnings = Vec::new();
        match self.role(request.namespace(), &account, caller_waits).await {
            Ok(role) => around.role = role,
            Err(why) => warnings.push(format!("the role of service account {account} is not known: {why}")),
        }
        match request.pod() {
            Ok(pod) => self.decide(&request, &pod, asked, &around, warnings),
            Err(why) => Answer::bad_object(&request.uid, &why),
        }
    }

    /// The answer, once all is known that can be.
    fn decide(
        &self,
        request: &Request<'_>,
        pod: &Value,
        asked: Asked,
        around: &Surroundings,
        mut warnings: Vec<String>,
    ) -> Answer {
        let name = request.shown_name(pod);
        match asked.mutate(pod, &self.settings, around) {
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
    ) -> Result<Option<String>, &'static str> {
        let Some(kubernetes) = &self.kubernetes else { return Ok(None) };
        // Half of what the caller has leaves enough for all the rest.
        let patience = caller_waits.map_or(LOOKUP, |waits| LOOKUP.min(waits / 2));
        let why = match timeout(patience, kubernetes.role_of(namespace, account)).await {
            Ok(Ok(role)) => {
                self.roles_unknown.store(false, Ordering::Relaxed);
                return Ok(role);
            }
            Ok(Err(error)) => {
                let why = reason(&error);
                // A name that leads nowhere says nothing of the others.
                if error.is_outage() || matches!(error, KubernetesError::Forbidden { .. }) {
                    self.tell(&error.to_string());
                }
                why
            }
            Err(_) => {
                let why = "the Kubernetes API is slow";
                self.tell(why);
                why
            }
        };
        Err(why)
    }

    fn tell(&self, why: &str) {
        if !self.roles_unknown.swap(true, Ordering::Relaxed) {
            tracing::warn!("roles of service accounts are not known, and pods go on without: {why}");
        }
    }
}

/// For a warning, which is to be short; the whole stands in the log.
fn reason(error: &KubernetesError) -> &'static str {
    match error {
        KubernetesError::Forbidden { .. } => "the webhook may not read it",
        KubernetesError::NotFound { .. } | KubernetesError::BadName { .. } => "there is none of that name",
        error if error.is_outage() => "the Kubernetes API does not answer",
        _ => "the Kubernetes API refuses it",
    }
}
