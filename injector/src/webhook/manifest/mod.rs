//! Pods in manifests: what the webhook would make of them, without a cluster.
//!
//! ```text
//! text ──► documents ──► objects ──► pods and pod templates in them ──► mutation ──► the object as it is to be
//!                           └──► service accounts: their roles ───────────▲
//! ```

mod claims;
mod documents;
mod objects;
#[cfg(test)]
mod tests;

use serde_json::Value;

use super::annotations::Problem;
use super::mutation::{Asked, Mutation, Settings, Surroundings};
use super::patch::{Step, between};

use self::claims::Claims;
pub use self::documents::{Document, documents};
pub use self::objects::misplaced;
use self::objects::{Accounts, pods};
pub use crate::yaml::{Fault, Place};

/// Longest text that is read, in bytes.
pub const TEXT_MAX: usize = 32 << 20;

/// What is around the pods, as far as their manifests do not say it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What the webhook was started with.
    pub settings: Settings,
    /// Whether it knows init containers that go on running.
    pub native_sidecars: bool,
    /// The role of service accounts that no manifest has.
    pub role: Option<String>,
}

/// What became of a document.
#[derive(Clone, Debug)]
pub struct Rendered<'t> {
    /// It as it was.
    pub document: Document<'t>,
    /// Its object as it is to be; `None` where nothing changes.
    pub object: Option<Value>,
    /// The pods in it that ask for something, in their order.
    pub pods: Vec<RenderedPod>,
}

/// A pod, or a template for pods.
#[derive(Clone, Debug)]
pub struct RenderedPod {
    /// What it is of, such as `Deployment shop/api`.
    pub name: String,
    /// What became of it.
    pub outcome: Result<Mutation, Vec<Problem>>,
}

impl Rendered<'_> {
    /// How the object is changed, as a JSON Patch of it.
    #[must_use]
    pub fn patch(&self) -> Vec<Step> {
        match (&self.document.object, &self.object) {
            (Some(before), Some(after)) => between(before, after),
            _ => Vec::new(),
        }
    }
}

/// What the webhook would make of each document.
#[must_use]
pub fn render<'t>(documents: Vec<Document<'t>>, cluster: &Cluster) -> Vec<Rendered<'t>> {
    let accounts = Accounts::of(documents.iter().filter_map(|document| document.object.as_ref()));
    documents.into_iter().map(|document| render_one(document, &accounts, cluster)).collect()
}

fn render_one<'t>(document: Document<'t>, accounts: &Accounts, cluster: &Cluster) -> Rendered<'t> {
    let mut after = document.object.clone();
    let mut rendered = Vec::new();
    for found in document.object.as_ref().map(pods).unwrap_or_default() {
        let Some(pod) = after.as_mut().and_then(|object| object.pointer_mut(&found.pointer)) else { continue };
        let asked = Asked::of(pod);
        let account = asked.service_account(pod);
        let role = account.and_then(|account| accounts.role(account, found.namespace.as_deref()));
        let role = role.or(cluster.role.as_deref());
        let surroundings = Surroundings { native_sidecars: cluster.native_sidecars, role: role.map(str::to_owned) };
        let claims = Claims::of(&found.claims, pod);
        let outcome = match asked.mutate(&claims.added(pod), &cluster.settings, &surroundings) {
            Ok(None) => continue,
            Ok(Some(mut mutation)) => {
                claims.remove(&mut mutation.pod);
                *pod = mutation.pod.clone();
                Ok(mutation)
            }
            Err(problems) => Err(problems),
        };
        rendered.push(RenderedPod { name: found.name, outcome });
    }
    let object = after.filter(|after| document.object.as_ref() != Some(after));
    Rendered { document, object, pods: rendered }
}

/// An object as YAML.
#[must_use]
pub fn yaml(object: &Value) -> String {
    crate::yaml::write(object)
}
