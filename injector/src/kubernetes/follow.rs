//! Following one object by name: list, then watch, for as long as someone listens.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Resource;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::object::NameParts;
use super::{KubernetesError, ObjectName, Verb};

/// How long the API server is asked to keep a watch open.
const WATCH: Duration = Duration::from_secs(240);
/// It sends a bookmark each minute, so whoever hears nothing for so long holds a dead connection.
const SILENCE: Duration = Duration::from_secs(90);
/// Longest wait for the answer to a list, or for a watch to begin.
const ANSWER: Duration = Duration::from_secs(10);
/// First and longest pause after a failure; doubled each time, and half of it is chance.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Follows the object of that name, which need not exist (yet).
///
/// The receiver holds `None` until the API has been asked, and while there is no such object. Its first
/// [`changed`](watch::Receiver::changed) is the first answer, be it that there is none; from then on it tells
/// each change. While the API is away, the last known state stays. All of it ends with the last receiver.
///
/// RBAC: `list` and `watch` of the resource, for which `resourceNames` with this one name is enough.
pub fn follow<K>(api: Api<K>, name: &str) -> watch::Receiver<Option<Arc<K>>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    follow_and_tell(api, name).0
}

/// As [`follow`]; the second receiver holds why it cannot be followed at the moment.
pub fn follow_and_tell<K>(
    api: Api<K>,
    name: &str,
) -> (watch::Receiver<Option<Arc<K>>>, watch::Receiver<Option<KubernetesError>>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (state, receiver) = watch::channel(None);
    let (failing, why) = watch::channel(None);
    let object = ObjectName::trusted(NameParts {
        kind: K::kind(&()).into_owned(),
        group: K::group(&()).into_owned(),
        resource: K::plural(&()).into_owned(),
        namespace: api.namespace().unwrap_or_default().to_owned(),
        name: name.to_owned(),
    });
    let follower = Follower { api, object, state, failing, answered: false, failures: 0 };
    tokio::spawn(follower.run());
    (receiver, why)
}

struct Follower<K> {
    api: Api<K>,
    object: ObjectName,
    state: watch::Sender<Option<Arc<K>>>,
    failing: watch::Sender<Option<KubernetesError>>,
    /// Whether the API has ever answered.
    answered: bool,
    /// How often it failed since a watch last began.
    failures: u32,
}

impl<K> Follower<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    async fn run(mut self) {
        let listeners_gone = self.state.clone();
        tokio::select! {
            () = listeners_gone.closed() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            // A watch ends well with too old a version: what there is now has to be listed.
            let followed = match self.list().await {
                Ok(version) => self.watch(version).await,
                Err(error) => Err(error),
            };
            let Err(error) = followed else { continue };
            // Once for each outage.
            if self.failures == 0 {
                tracing::warn!("{error}; the last known state of {} stays", self.object);
            }
            self.failing.send_replace(Some(error));
            let pause = PAUSE.saturating_mul(1 << self.failures.min(6)).min(PAUSE_MAX);
            self.failures = self.failures.saturating_add(1);
            sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        }
    }

    /// Reads the object as it is now: the version that a watch begins at.
    async fn list(&mut self) -> Result<String, KubernetesError> {
        let only = ListParams::default().fields(&self.selector());
        let listed = timeout(ANSWER, self.api.list(&only)).await;
        let listed = listed.map_err(|_| KubernetesError::timeout(Verb::List, &self.object, ANSWER))?;
        let mut listed = listed.map_err(|error| KubernetesError::read(Verb::List, &self.object, error))?;
        self.tell(listed.items.pop());
        Ok(listed.metadata.resource_version.unwrap_or_default())
    }

    /// Tells changes from `version` on; ends well when the API server no longer knows that version.
    async fn watch(&mut self, mut version: String) -> Result<(), KubernetesError> {
        let only = WatchParams::default()
            .fields(&self.selector())
            // Below the limit that the client itself sets.
            .timeout(u32::try_from(WATCH.as_secs()).unwrap_or(240));
        loop {
            let begun = timeout(ANSWER, self.api.watch(&only, &version)).await;
            let events = match begun {
                Ok(Ok(events)) => events,
                Ok(Err(kube::Error::Api(status))) if status.code == GONE => return Ok(()),
                Ok(Err(error)) => return Err(KubernetesError::read(Verb::Watch, &self.object, error)),
                Err(_) => return Err(KubernetesError::timeout(Verb::Watch, &self.object, ANSWER)),
            };
            if std::mem::take(&mut self.failures) > 0 {
                self.failing.send_replace(None);
                tracing::info!("following {} again", self.object);
            }
            let mut events = pin!(events);
            // However it ends, by the server's clock, by silence or by a cut, it goes on from the last version; a
            // server that is away shows when the next one is to begin.
            let mut heard = false;
            while let Ok(Ok(Some(event))) = timeout(SILENCE, events.try_next()).await {
                heard = true;
                match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        version = object.meta().resource_version.clone().unwrap_or(version);
                        self.tell(Some(object));
                    }
                    WatchEvent::Deleted(object) => {
                        version = object.meta().resource_version.clone().unwrap_or(version);
                        self.tell(None);
                    }
                    WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                    WatchEvent::Error(status) if status.code == GONE => return Ok(()),
                    WatchEvent::Error(status) => {
                        return Err(KubernetesError::status(Verb::Watch, &self.object, &status));
                    }
                }
            }
            if !heard {
                // One that ends at once, again and again, is not to be a busy loop.
                sleep(PAUSE.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            }
        }
    }

    /// Passes a state on; the first one always, and later ones if they are news.
    fn tell(&mut self, object: Option<K>) {
        let first = !std::mem::replace(&mut self.answered, true);
        let identity = |object: &K| (object.meta().uid.clone(), object.meta().resource_version.clone());
        self.state.send_if_modified(|state| {
            let news = first || state.as_deref().map(identity) != object.as_ref().map(identity);
            if news {
                *state = object.map(Arc::new);
            }
            news
        });
    }

    fn selector(&self) -> String {
        format!("metadata.name={}", self.object.name)
    }
}

/// The HTTP status of a version that the API server has forgotten.
const GONE: u16 = 410;
