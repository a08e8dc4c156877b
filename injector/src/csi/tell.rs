//! Telling others what became of a volume: the pod's events, the objects that the Secrets Store CSI driver
//! keeps, Secrets of Kubernetes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coffer::engine::Told;
use coffer::notify::{NotifyCounters, RotationProbe};
use coffer::render::RenderedSet;

use super::metrics::Metrics;
use super::mounts;
use super::volumes::Trouble;
use super::Settings;
use crate::class::Lint;
use crate::kubernetes::{Class, Events, Kubernetes, PodStatus, SecretSync};
use crate::pod::Pod;

const REFRESH_FAILED: &str = "SecretRefreshFailed";
const REFRESHED: &str = "SecretRefreshRecovered";
const DOUBTFUL: &str = "SecretProviderClassDoubtful";

/// A mounted volume and the class that describes it.
pub(super) struct Binding {
    pub(super) pod: Pod,
    /// The name of the class.
    pub(super) name: String,
    pub(super) class: Arc<Class>,
    /// What is doubtful in it.
    pub(super) lints: Vec<Lint>,
}

/// Whoever tells.
pub(super) struct Teller {
    outlets: Option<Outlets>,
    bindings: Mutex<HashMap<PathBuf, Arc<Binding>>>,
    /// Volumes whose pods were told that something is stale.
    stale: Mutex<HashSet<PathBuf>>,
    metrics: Metrics,
    counters: NotifyCounters,
    probe: Arc<Mutex<RotationProbe>>,
}

struct Outlets {
    events: Events,
    status: PodStatus,
    /// Where it is wanted.
    secrets: Option<SecretSync>,
}

impl Teller {
    pub(super) fn new(settings: &Settings, kubernetes: Option<Arc<Kubernetes>>, metrics: Metrics) -> Self {
        let outlets = kubernetes.map(|kubernetes| {
            let events = Events::start(&kubernetes, &settings.name, &settings.node);
            Outlets {
                status: PodStatus::start(&kubernetes, &settings.node),
                secrets: settings.sync_secrets.then(|| SecretSync::start(&kubernetes, events.clone())),
                events,
            }
        });
        Self {
            outlets,
            bindings: Mutex::default(),
            stale: Mutex::default(),
            metrics,
            counters: NotifyCounters::default(),
            probe: Arc::new(Mutex::new(RotationProbe::new([], Duration::ZERO))),
        }
    }

    /// For the engine: who hears of new sets.
    pub(super) fn told(self: &Arc<Self>) -> Told {
        let teller = Arc::clone(self);
        let swapped = move |volume: &Path, set: &RenderedSet, first: bool| teller.swapped(volume, set, first);
        Told { counters: self.counters.clone(), probe: Arc::clone(&self.probe), swapped: Some(Arc::new(swapped)) }
    }

    /// The volume that is being mounted is described by a class.
    pub(super) fn bind(&self, target: &Path, binding: Binding) {
        if let Ok(target) = mounts::resolve(target) {
            lock(&self.bindings).insert(target, Arc::new(binding));
        }
    }

    /// The volume is no more, or never came to be.
    pub(super) fn forget(&self, target: &Path) {
        if let Ok(target) = mounts::resolve(target) {
            lock(&self.bindings).remove(&target);
            lock(&self.stale).remove(&target);
        }
    }

    /// A volume could not become what it is to be; it stays as it was.
    pub(super) fn kept(&self, pod: &Pod, why: &str) {
        tracing::warn!(%pod, "a mounted volume stays as it was: {why}");
        if let Some(outlets) = &self.outlets {
            outlets.events.warn(pod, REFRESH_FAILED, why);
        }
    }

    /// The kubelet looked at a mounted volume; `trouble` is what is amiss with it.
    pub(super) fn looked_at(&self, pod: &Pod, target: &Path, trouble: Option<Trouble>) {
        let (Some(outlets), Ok(target)) = (&self.outlets, mounts::resolve(target)) else { return };
        match trouble {
            Some(Trouble { reference, code, why }) => {
                lock(&self.stale).insert(target);
                let text = format!("{reference} is not fresh, the files stay as they were ({code}): {why}");
                outlets.events.warn(pod, REFRESH_FAILED, &text);
            }
            None if lock(&self.stale).remove(&target) => {
                outlets.events.note(pod, REFRESHED, "every secret of the volume is fresh again");
            }
            None => {}
        }
    }

    /// A set is in place.
    fn swapped(&self, volume: &Path, set: &RenderedSet, first: bool) {
        if !first {
            self.metrics.rotated();
        }
        let Some(binding) = lock(&self.bindings).get(volume).cloned() else { return };
        let Binding { pod, name, class, lints } = &*binding;
        if first {
            for lint in lints {
                tracing::warn!(%pod, class = name, "{lint}");
            }
        }
        let Some(outlets) = &self.outlets else { return };
        if let Some(lint) = lints.first().filter(|_| first) {
            outlets.events.warn(pod, DOUBTFUL, &format!("SecretProviderClass {name}: {lint}"));
        }
        let versions: BTreeMap<String, String> =
            set.iter().map(|(name, file)| (name.to_string(), file.origin.version.clone())).collect();
        outlets.status.mounted(pod, name, volume, versions.into_iter().collect());
        if let Some(secrets) = &outlets.secrets {
            secrets.publish(pod, name, class, set);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
