//! The object that tells every node which secrets and parameters may now say something else.
//!
//! SQS gives a message to one reader, and the readers are as many as there are nodes. So one process
//! (the notifier) reads the queue and writes what it heard into a ConfigMap, which every node follows:
//!
//! ```text
//! SQS ──► notifier ──► ConfigMap coffer-rotations ──► each node ──► a look, as the pods' identities
//! ```
//!
//! The object holds names and version ids, never a value, and only the last minutes: whoever comes later
//! has looked since. It is a hint as the events are, so a doubled or a lost one costs a look or a wait.
//!
//! [`Rotations`] is the object's content and [`Follower`] what a reader knows of it, both pure;
//! [`follow`] is a reader.

mod document;
mod follower;

use std::convert::Infallible;
use std::time::Duration;

use coffer::push::Change;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use tokio::time::sleep;

pub use self::document::{Announced, Rotations, Unreadable};
pub use self::follower::Follower;
use crate::kubernetes;

/// What the object is called unless it is said otherwise.
pub const DEFAULT_NAME: &str = "coffer-rotations";

/// A pause before following anew, should whoever follows have ended.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows the ConfigMap of that name for ever, and hands on the changes that it tells of, each state's
/// at once.
///
/// It need not exist, nor the API be there. Handed on at first is what is younger than two minutes, and
/// after that what is new. RBAC: `list` and `watch` of that one ConfigMap.
pub async fn follow(
    client: Client,
    namespace: String,
    name: String,
    on_changes: impl Fn(Vec<Change>) + Send,
) -> Infallible {
    let api = Api::<ConfigMap>::namespaced(client, &namespace);
    let mut follower = Follower::default();
    let mut unreadable = None;
    loop {
        let mut states = kubernetes::follow(api.clone(), &name);
        while states.changed().await.is_ok() {
            let Some(object) = states.borrow_and_update().clone() else { continue };
            match object.data.as_ref().map_or_else(|| Ok(Rotations::default()), Rotations::read) {
                Ok(rotations) => {
                    unreadable = None;
                    let changes = follower.see(&rotations, Timestamp::now());
                    if !changes.is_empty() {
                        tracing::debug!(changes = changes.len(), "the notifier tells of changes");
                        on_changes(changes);
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if unreadable.as_ref() != Some(&text) {
                        tracing::warn!("ConfigMap {namespace}/{name}: {text}; changes are found at the next refresh");
                        unreadable = Some(text);
                    }
                }
            }
        }
        sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn following_can_be_a_task_of_its_own() {
        fn spawnable<T: Send>(_: &T) {}
        let _ = |client: Client| spawnable(&follow(client, "namespace".to_owned(), "name".to_owned(), drop));
    }
}
