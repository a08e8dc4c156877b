//! SecretProviderClassPodStatus: what is mounted where, as the Secrets Store CSI driver keeps it for those who
//! look there.
//!
//! Kept in the background: no mount waits for it or fails for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::class::GROUP;
use super::requests::Requests;
use super::{Kubernetes, KubernetesError, ObjectName, Verb, pod_reference, writing};
use crate::pod::Pod;

const KIND: &str = "SecretProviderClassPodStatus";
const RESOURCE: &str = "secretproviderclasspodstatuses";
/// The label that tells the node.
const NODE: &str = "internal.secrets-store.csi.k8s.io/node-name";

/// How many are written at once.
const AT_ONCE: usize = 4;
/// After so long what was written is looked at again, should it be reported again.
const CONFIRMED: Duration = Duration::from_secs(600);
/// How long the kind is taken to be missing once it was.
const ABSENT: Duration = Duration::from_secs(600);
/// First and longest pause after a failure; doubled each time, and half of it is chance.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How often a write is begun anew because someone else came first.
const CONFLICTS_MAX: usize = 5;

/// Keeps the statuses of a node's pods.
///
/// There is one for each pod and class, by name. Where a pod has several volumes of one class, it tells the
/// `targetPath` of the first one in the order of paths, and the objects of all of them: the same whichever was
/// mounted last. It is owned by the pod and goes with it.
#[derive(Clone)]
pub struct PodStatus(Option<mpsc::UnboundedSender<News>>);

enum News {
    Mounted { pod: Pod, class: String, target_path: String, objects: BTreeMap<String, String> },
    Unmounted { target_path: String },
}

impl PodStatus {
    /// Starts to keep them; the task ends with the last clone.
    ///
    /// RBAC: `get`, `create` and `update` of `secretproviderclasspodstatuses`.
    #[must_use]
    pub fn start(kubernetes: &Kubernetes, node: &str) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        let keeper = Keeper {
            requests: Arc::clone(&kubernetes.inner.requests),
            node: node.to_owned(),
            kept: BTreeMap::new(),
            absent_until: None,
            failing: false,
        };
        tokio::spawn(keeper.run(news));
        Self(Some(sender))
    }

    /// Where there is no API: keeps none.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// A volume holds these objects now, each with its id and version. Saying so again costs nothing.
    pub fn mounted(&self, pod: &Pod, class: &str, target_path: &str, objects: &[(String, String)]) {
        let objects = objects.iter().cloned().collect();
        let (class, target_path) = (class.to_owned(), target_path.to_owned());
        self.tell(News::Mounted { pod: pod.clone(), class, target_path, objects });
    }

    /// A volume is gone. Its status goes with the pod; this forgets it here.
    pub fn unmounted(&self, target_path: &str) {
        self.tell(News::Unmounted { target_path: target_path.to_owned() });
    }

    fn tell(&self, news: News) {
        if let Some(keeper) = &self.0 {
            // It ends only with the last sender.
            let _ = keeper.send(news);
        }
    }
}

impl fmt::Debug for PodStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodStatus").finish_non_exhaustive()
    }
}

struct Keeper {
    requests: Arc<Requests>,
    node: String,
    kept: BTreeMap<ObjectKey, Kept>,
    /// The kind is not installed, and is not looked for until then.
    absent_until: Option<Instant>,
    /// Whether a failure was told.
    failing: bool,
}

/// Namespace and name of a status.
type ObjectKey = (String, String);

struct Kept {
    pod: Pod,
    class: String,
    /// The objects of each volume, by target path.
    volumes: BTreeMap<String, BTreeMap<String, String>>,
    /// What the API has, and since when that is known.
    written: Option<(Value, Instant)>,
    /// When to write it.
    due: Option<Instant>,
    failures: u32,
}

impl Keeper {
    async fn run(mut self, mut news: mpsc::UnboundedReceiver<News>) {
        loop {
            let next = self.kept.values().filter_map(|kept| kept.due).min();
            let due = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What is reported together is written once.
                biased;
                heard = news.recv() => match heard {
                    Some(heard) => self.hear(heard, Instant::now()),
                    None => return,
                },
                () = due => self.write_due().await,
            }
        }
    }

    fn hear(&mut self, news: News, now: Instant) {
        match news {
            News::Mounted { pod, class, target_path, objects } => {
                let key = (pod.namespace.clone(), format!("{}-{}-{class}", pod.name, pod.namespace));
                let kept = self.kept.entry(key).or_insert_with(|| Kept::of(pod.clone(), class.clone()));
                if kept.pod.uid != pod.uid {
                    *kept = Kept::of(pod, class);
                }
                kept.volumes.insert(target_path, objects);
                let absent = self.absent_until.is_some_and(|until| now < until);
                if !absent && kept.due.is_none() && !kept.is_written(now) {
                    kept.due = Some(now);
                }
            }
            News::Unmounted { target_path } => {
                self.kept.retain(|_, kept| {
                    if kept.volumes.remove(&target_path).is_some() && kept.due.is_none() {
                        kept.due = Some(now);
                    }
                    !kept.volumes.is_empty()
                });
            }
        }
    }

    async fn write_due(&mut self) {
        let now = Instant::now();
        let due = self.kept.iter().filter(|(_, kept)| kept.due.is_some_and(|due| due <= now));
        let due: Vec<_> = due.map(|(key, kept)| (key.clone(), kept.pod.clone(), kept.status())).collect();
        let (requests, node) = (&*self.requests, self.node.as_str());
        let writes = due.into_iter().map(async |(key, pod, status)| {
            let written = write(requests, node, &key, &pod, &status).await;
            (key, status, written)
        });
        let written: Vec<_> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        for (key, status, written) in written {
            self.take_note(&key, status, written);
        }
    }

    fn take_note(&mut self, key: &ObjectKey, status: Value, written: Result<(), KubernetesError>) {
        let now = Instant::now();
        let Some(kept) = self.kept.get_mut(key) else { return };
        kept.due = None;
        match written {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the statuses of pods are kept again");
                }
                kept.failures = 0;
                kept.written = Some((status, now));
                self.absent_until = None;
            }
            Err(KubernetesError::NoSuchKind { .. }) => {
                if self.absent_until.is_none() {
                    tracing::info!("no SecretProviderClassPodStatus is kept, for the kind is not installed");
                }
                self.absent_until = Some(now + ABSENT);
                self.kept.values_mut().for_each(|kept| kept.due = None);
            }
            Err(error) => {
                let pause = PAUSE.saturating_mul(1 << kept.failures.min(10)).min(PAUSE_MAX);
                kept.failures += 1;
                kept.due = Some(now + pause.mul_f64(0.5 + 0.5 * fastrand::f64()));
                // Once, and not for a pod that goes while it is told of.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("{error}; no mount waits for that, and it is tried again");
                } else {
                    tracing::debug!("{error}");
                }
            }
        }
    }
}

impl Kept {
    fn of(pod: Pod, class: String) -> Self {
        Self { pod, class, volumes: BTreeMap::new(), written: None, due: None, failures: 0 }
    }

    fn is_written(&self, now: Instant) -> bool {
        let written = self.written.as_ref();
        written.is_some_and(|(status, since)| now.duration_since(*since) < CONFIRMED && *status == self.status())
    }

    /// The object's `status`.
    fn status(&self) -> Value {
        let mut objects = BTreeMap::new();
        for (id, version) in self.volumes.values().flatten() {
            objects.entry(id).or_insert(version);
        }
        let objects = objects.into_iter().map(|(id, version)| json!({"id": id, "version": version}));
        json!({
            "podName": self.pod.name,
            "secretProviderClassName": self.class,
            "mounted": true,
            "targetPath": self.volumes.keys().next(),
            "objects": objects.collect::<Vec<_>>(),
        })
    }
}

/// Brings one about, with no write when it is so already.
async fn write(
    requests: &Requests,
    node: &str,
    (namespace, name): &ObjectKey,
    pod: &Pod,
    status: &Value,
) -> Result<(), KubernetesError> {
    let object = ObjectName::of_secrets_store(KIND, RESOURCE, namespace, name)?;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", KIND), RESOURCE);
    let api = || Api::<DynamicObject>::namespaced_with(requests.client.clone(), namespace, &resource);
    let mut written = Err(KubernetesError::Conflict { object: object.clone() });
    for _ in 0..CONFLICTS_MAX {
        let get = |_| {
            let api = api();
            async move { api.get(name).await }
        };
        let found = match requests.read(&object, get).await {
            Ok(found) => Some(found),
            Err(KubernetesError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        if found.as_ref().is_some_and(|found| is_so(found, node, pod, status)) {
            return Ok(());
        }
        let is_new = found.is_none();
        let wanted = found.unwrap_or_else(|| DynamicObject::new(name, &resource).within(namespace));
        let wanted = with(wanted, node, pod, status);
        let (api, post) = (api(), writing());
        written = if is_new {
            requests.call(Verb::Create, &object, async { api.create(&post, &wanted).await }).await
        } else {
            requests.call(Verb::Update, &object, async { api.replace(name, &post, &wanted).await }).await
        };
        match written {
            // Another came first, or removed it in between.
            Err(KubernetesError::Conflict { .. } | KubernetesError::NotFound { .. }) => {}
            _ => break,
        }
    }
    written.map(|_| ())
}

fn is_so(found: &DynamicObject, node: &str, pod: &Pod, status: &Value) -> bool {
    found.data.get("status") == Some(status)
        && found.metadata.labels.as_ref().and_then(|labels| labels.get(NODE)).map(String::as_str) == Some(node)
        && found.metadata.owner_references.as_deref() == Some(&[pod_reference(pod)])
}

fn with(mut object: DynamicObject, node: &str, pod: &Pod, status: &Value) -> DynamicObject {
    object.metadata.labels.get_or_insert_default().insert(NODE.to_owned(), node.to_owned());
    object.metadata.owner_references = Some(vec![pod_reference(pod)]);
    object.data = json!({"status": status});
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        let [namespace, name, uid, service_account] = ["shop", "app-1", "u-1", "app"].map(str::to_owned);
        Pod { namespace, name, uid, service_account }
    }

    #[test]
    fn two_volumes_of_one_class_have_one_status_whichever_comes_last() {
        let objects = |entries: &[(&str, &str)]| {
            entries.iter().map(|(id, version)| ((*id).to_owned(), (*version).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let one = ("/pods/u-1/volumes/a/mount", objects(&[("db", "v1"), ("app", "3")]));
        let two = ("/pods/u-1/volumes/b/mount", objects(&[("db", "v2"), ("zeta", "1")]));
        let status = |order: [&(&str, BTreeMap<String, String>); 2]| {
            let mut kept = Kept::of(pod(), "aws".to_owned());
            for (path, objects) in order {
                kept.volumes.insert((*path).to_owned(), objects.clone());
            }
            kept.status()
        };
        assert_eq!(status([&one, &two]), status([&two, &one]));
        assert_eq!(
            status([&one, &two]),
            json!({
                "podName": "app-1",
                "secretProviderClassName": "aws",
                "mounted": true,
                "targetPath": "/pods/u-1/volumes/a/mount",
                "objects": [
                    {"id": "app", "version": "3"},
                    {"id": "db", "version": "v1"},
                    {"id": "zeta", "version": "1"},
                ],
            })
        );
    }
}
