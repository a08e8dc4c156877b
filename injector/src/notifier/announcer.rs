//! Writes changes into the object that the nodes follow.

use std::future::Future;
use std::time::Duration;

use coffer::push::{Change, NotKept};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kube::{Api, Client};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::metrics::Metrics;
use crate::kubernetes::{KubernetesError, ObjectName, Verb, writing};
use crate::rotations::Rotations;

/// Between two writes: each of them goes to every node.
const APART: Duration = Duration::from_millis(200);
/// How long the API server may take for an answer.
const ANSWER: Duration = Duration::from_secs(4);
/// How long it is tried to write changes. SQS hides their messages for 30 s.
const TRIED_FOR: Duration = Duration::from_secs(20);
/// The first pause after a failure and the longest; half of it is chance.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Whoever writes the object. Others may: what they wrote is kept.
#[derive(Debug)]
pub(super) struct Announcer {
    api: Api<ConfigMap>,
    object: ObjectName,
    metrics: Metrics,
    state: Mutex<State>,
    busy: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    /// As it was when it was written last.
    object: Option<ConfigMap>,
    written: Option<Instant>,
}

impl Announcer {
    pub(super) fn new(client: Client, namespace: &str, name: &str, metrics: Metrics) -> Result<Self, KubernetesError> {
        let object = ObjectName::of::<ConfigMap>(namespace, name)?;
        let (busy, _) = watch::channel(false);
        Ok(Self { api: Api::namespaced(client, namespace), object, metrics, state: Mutex::default(), busy })
    }

    /// Reads the object anew at the next write: meanwhile another has written.
    pub(super) fn forget(&self) {
        if let Ok(mut state) = self.state.try_lock() {
            state.object = None;
        }
    }

    /// Whether a write is under way.
    pub(super) fn is_busy(&self) -> bool {
        *self.busy.borrow()
    }

    /// Waits until none is.
    pub(super) async fn idle(&self) {
        // Ends: the sender lives as long as this.
        let _ = self.busy.subscribe().wait_for(|busy| !busy).await;
    }

    /// Writes changes, which are kept once this says so. Failures are borne for a while.
    pub(super) async fn announce(&self, changes: Vec<Change>) -> Result<(), NotKept> {
        let _busy = Busy::begin(&self.busy);
        let mut state = self.state.lock().await;
        let until = Instant::now() + TRIED_FOR;
        let mut pause = PAUSE;
        let mut told = false;
        loop {
            if let Some(written) = state.written {
                sleep_until(written + APART).await;
            }
            let error = match self.write(&mut state, &changes).await {
                Ok(seq) => {
                    self.metrics.changes.inc_by(u64::try_from(changes.len()).unwrap_or(0));
                    tracing::info!(changes = changes.len(), seq, "told the nodes of changes");
                    return Ok(());
                }
                Err(error) => error,
            };
            state.object = None;
            // Another has written or removed it, or what had no answer was done: it is read anew.
            let raced = matches!(error, KubernetesError::Conflict { .. } | KubernetesError::NotFound { .. });
            if !raced {
                self.metrics.failures.inc();
                if told {
                    tracing::debug!("{error}");
                } else {
                    tracing::warn!(changes = changes.len(), "changes are not told to the nodes yet: {error}");
                    told = true;
                }
            }
            if Instant::now() + pause >= until {
                tracing::warn!(changes = changes.len(), "changes stay in the queue, and come again: {error}");
                return Err(NotKept);
            }
            sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            if !raced {
                pause = pause.saturating_mul(2).min(PAUSE_MAX);
            }
        }
    }

    /// Writes them once, into the object as it was last or is now: the number of the last change.
    async fn write(&self, state: &mut State, changes: &[Change]) -> Result<u64, KubernetesError> {
        let found = match state.object.take() {
            Some(object) => Some(object),
            None => self.asked(Verb::Get, self.api.get_opt(&self.object.name)).await?,
        };
        let mut object = found.unwrap_or_else(|| ConfigMap {
            metadata: ObjectMeta { name: Some(self.object.name.clone()), ..ObjectMeta::default() },
            ..ConfigMap::default()
        });
        let exists = object.metadata.resource_version.is_some();
        let data = object.data.get_or_insert_default();
        let mut rotations = Rotations::read(data).unwrap_or_else(|error| {
            tracing::warn!("{}: {error}; it is written anew", self.object);
            Rotations::default()
        });
        let refused = rotations.announce(changes.to_vec(), Timestamp::now());
        if refused > 0 {
            tracing::warn!(refused, "changes are not told: no secret and no parameter has so long a name");
        }
        data.extend(rotations.data());
        state.written = Some(Instant::now());
        let params = writing();
        let written = if exists {
            self.asked(Verb::Update, self.api.replace(&self.object.name, &params, &object)).await?
        } else {
            self.asked(Verb::Create, self.api.create(&params, &object)).await?
        };
        self.metrics.writes.inc();
        state.object = Some(written);
        Ok(rotations.seq())
    }

    async fn asked<T>(
        &self,
        verb: Verb,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, KubernetesError> {
        match timeout(ANSWER, answer).await {
            Ok(answer) => answer.map_err(|error| KubernetesError::read(verb, &self.object, error)),
            Err(_) => Err(KubernetesError::timeout(verb, &self.object, ANSWER)),
        }
    }
}

/// Says that a write is under way, until it is dropped.
struct Busy<'a>(&'a watch::Sender<bool>);

impl<'a> Busy<'a> {
    fn begin(busy: &'a watch::Sender<bool>) -> Self {
        busy.send_replace(true);
        Self(busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
