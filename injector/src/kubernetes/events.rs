//! Words for people on a pod, as Kubernetes Events: `kubectl describe pod` shows them.

mod limiter;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use self::limiter::Limiter;
use super::object::NAME_MAX;
use super::requests::Requests;
use super::{Kubernetes, KubernetesError, ObjectName, Verb, writing};
use crate::pod::Pod;

/// Longest message that the API takes, in bytes.
const MESSAGE_MAX: usize = 1024;
/// Events that wait to be sent; what comes on top is dropped.
const QUEUE: usize = 256;
/// At least so long between two events of this process.
const PACE: Duration = Duration::from_millis(100);

/// Tells people, on a pod. Never waits and never fails: an event that cannot be had is left out. A clone goes
/// through the same limits: on one pod one event a minute of each kind, the same one once in ten minutes, and ten
/// events a second in all.
#[derive(Clone)]
pub struct Events(Option<Arc<Inner>>);

struct Inner {
    queue: mpsc::Sender<Event>,
    limiter: Mutex<Limiter>,
    source: EventSource,
}

/// As Kubernetes has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Normal,
    Warning,
}

impl Events {
    /// Starts telling in the name of `component` on `node`; the task ends with the last clone.
    ///
    /// RBAC: `create` of `events`.
    #[must_use]
    pub fn start(kubernetes: &Kubernetes, component: &str, node: &str) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(send(waiting, Arc::clone(&kubernetes.inner.requests)));
        let host = Some(node.to_owned()).filter(|node| !node.is_empty());
        let source = EventSource { component: Some(component.to_owned()), host };
        Self(Some(Arc::new(Inner { queue, limiter: Mutex::default(), source })))
    }

    /// Where there is no API: tells nobody.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// Tells that something is wrong. `reason` is one word, such as `FailedRefresh`.
    pub fn warn(&self, pod: &Pod, reason: &str, message: &str) {
        self.tell(Kind::Warning, pod, reason, message);
    }

    /// Tells of something that went well.
    pub fn note(&self, pod: &Pod, reason: &str, message: &str) {
        self.tell(Kind::Normal, pod, reason, message);
    }

    fn tell(&self, kind: Kind, pod: &Pod, reason: &str, message: &str) {
        let Some(Inner { queue, limiter, source }) = self.0.as_deref() else { return };
        let message = cut(message);
        let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
        if !limiter.admits(kind, &pod.uid, reason, message, Instant::now()) {
            return;
        }
        if queue.try_send(event(source, kind, pod, reason, message, Timestamp::now())).is_err() {
            tracing::debug!("too many events: one on pod {pod} is left out");
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

async fn send(mut waiting: mpsc::Receiver<Event>, requests: Arc<Requests>) {
    while let Some(event) = waiting.recv().await {
        let sent = create(&requests, &event).await;
        if let Err(error) = sent {
            tracing::debug!("an event is left out: {error}");
        }
        sleep(PACE).await;
    }
}

async fn create(requests: &Requests, event: &Event) -> Result<(), KubernetesError> {
    let ObjectMeta { name, namespace, .. } = &event.metadata;
    let object =
        ObjectName::of::<Event>(namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default())?;
    let api = Api::<Event>::namespaced(requests.client.clone(), &object.namespace);
    let create = async { api.create(&writing(), event).await };
    requests.call(Verb::Create, &object, create).await.map(|_| ())
}

fn event(source: &EventSource, kind: Kind, pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Event {
    // As Kubernetes' own clients name them: the pod, and the time in nanoseconds.
    let suffix = format!(".{:016x}", now.as_nanosecond());
    let length = pod.name.len().min(NAME_MAX - suffix.len());
    let name = pod.name.get(..length).unwrap_or_default().trim_end_matches(['.', '-']);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}{suffix}")),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(if kind == Kind::Warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        ..Event::default()
    }
}

/// The message as far as the API takes it.
fn cut(message: &str) -> &str {
    message.get(..message.floor_char_boundary(MESSAGE_MAX)).unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Pod {
        let [namespace, uid, service_account] = ["shop", "u-1", "app"].map(str::to_owned);
        Pod { namespace, name: name.to_owned(), uid, service_account }
    }

    #[test]
    fn a_message_is_cut_where_a_character_ends() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"x".repeat(2000)).len(), 1024);
        assert_eq!(cut(&format!("{}ä", "x".repeat(1023))).len(), 1023);
    }

    #[test]
    fn an_event_of_the_longest_name_has_a_name_still() {
        let source = EventSource { component: Some("csi.coffer.dev".to_owned()), host: None };
        for name in ["app".to_owned(), "a".repeat(253), format!("{}.{}", "a".repeat(235), "b".repeat(17))] {
            let event = event(&source, Kind::Warning, &pod(&name), "Failed", "why", Timestamp::now());
            let name = event.metadata.name.unwrap();
            assert!(super::super::object::is_name(&name), "{name}");
        }
    }

    #[tokio::test]
    async fn without_an_api_nobody_is_told() {
        Events::none().warn(&pod("app"), "Failed", "why");
    }
}
