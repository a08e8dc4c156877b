//! Telling others what became of a volume: the pod's events, the objects that the Secrets Store CSI driver
//! keeps, Secrets of Kubernetes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coffer::engine::Told;
use coffer::file::FileName;
use coffer::notify::{NotifyCounters, RotationProbe};
use coffer::render::{RenderedFile, RenderedSet};
use coffer_runtime::Secret;

use super::Settings;
use super::metrics::Metrics;
use super::volumes::Trouble;
use crate::kubernetes::{Events, Kubernetes, PodStatus, SecretSync};
use crate::plan::Described;
use crate::pod::Pod;

const MOUNT_FAILED: &str = "SecretMountFailed";
const REFRESH_FAILED: &str = "SecretRefreshFailed";
const REFRESHED: &str = "SecretRefreshRecovered";
const DOUBTFUL: &str = "SecretProviderClassDoubtful";

/// A mounted volume that a class describes.
struct Binding {
    pod: Pod,
    by: Described,
}

/// Whoever tells.
pub(super) struct Teller {
    events: Events,
    status: PodStatus,
    /// Where it is wanted.
    secrets: Option<SecretSync>,
    bindings: Mutex<HashMap<PathBuf, Arc<Binding>>>,
    /// Volumes whose pods were told that something is stale.
    stale: Mutex<HashSet<PathBuf>>,
    metrics: Metrics,
    counters: NotifyCounters,
    probe: Arc<Mutex<RotationProbe>>,
}

impl Teller {
    /// # Errors
    /// When the kernel has no random bytes.
    pub(super) fn new(settings: &Settings, kubernetes: Option<&Kubernetes>, metrics: Metrics) -> io::Result<Self> {
        let events = kubernetes.map_or_else(Events::none, |api| Events::start(api, &settings.name, &settings.node));
        let wanted = kubernetes.filter(|_| settings.sync_secrets);
        Ok(Self {
            status: kubernetes.map_or_else(PodStatus::none, |api| PodStatus::start(api, &settings.node)),
            secrets: wanted.map(|api| SecretSync::new(api, &events)).transpose()?,
            events,
            bindings: Mutex::default(),
            stale: Mutex::default(),
            metrics,
            counters: NotifyCounters::default(),
            probe: Arc::new(Mutex::new(RotationProbe::new([], Duration::ZERO))),
        })
    }

    /// For the engine: who hears of new sets.
    pub(super) fn told(self: &Arc<Self>) -> Told {
        let teller = Arc::clone(self);
        let swapped = move |volume: &Path, set: &RenderedSet, first: bool| teller.swapped(volume, set, first);
        Told { counters: self.counters.clone(), probe: Arc::clone(&self.probe), swapped: Some(Arc::new(swapped)) }
    }

    /// The volume at a resolved path, which is being mounted, is described by a class or is not.
    pub(super) fn bind(&self, target: &Path, pod: &Pod, by: Option<Described>) {
        let mut bindings = lock(&self.bindings);
        match by {
            Some(by) => bindings.insert(target.to_owned(), Arc::new(Binding { pod: pod.clone(), by })),
            None => bindings.remove(target),
        };
    }

    /// The volume at a resolved path is no more, or never came to be.
    pub(super) fn forget(&self, target: &Path) {
        lock(&self.bindings).remove(target);
        lock(&self.stale).remove(target);
        self.status.unmounted(&target.display().to_string());
    }

    /// A volume could not be mounted: the pod does not start.
    pub(super) fn failed(&self, pod: &Pod, why: &str) {
        self.events.warn(pod, MOUNT_FAILED, why);
    }

    /// A volume could not become what it is to be; it stays as it was.
    pub(super) fn kept(&self, pod: &Pod, why: &str) {
        tracing::warn!(%pod, "a mounted volume stays as it was: {why}");
        self.events.warn(pod, REFRESH_FAILED, why);
    }

    /// `trouble` is what is amiss with a mounted volume, at a resolved path.
    pub(super) fn state(&self, pod: &Pod, target: &Path, trouble: Option<Trouble>) {
        match trouble {
            Some(Trouble { reference, code, why }) => {
                lock(&self.stale).insert(target.to_owned());
                let text = format!("{reference} is not fresh, the files stay as they were ({code}): {why}");
                self.events.warn(pod, REFRESH_FAILED, &text);
            }
            None if lock(&self.stale).remove(target) => {
                self.events.note(pod, REFRESHED, "every secret of the volume is fresh again");
            }
            None => {}
        }
    }

    /// The kubelet looked at a mounted volume, at a resolved path: Secrets that were made of it are made
    /// again where they are missing or differ.
    pub(super) fn looked_at(&self, target: &Path) {
        let Some(secrets) = &self.secrets else { return };
        let Some(binding) = lock(&self.bindings).get(target).cloned() else { return };
        let Binding { pod, by: Described { class, .. } } = &*binding;
        let wanted = class.secret_objects.iter().flat_map(|object| &object.data).map(|key| key.object_name.as_str());
        // All of one set, whatever takes its place meanwhile.
        let Ok(set) = target.join("..data").canonicalize() else { return };
        // What is not there, or is no file's name, is told as missing.
        let read = |name: &str| {
            FileName::new(name).ok()?;
            std::fs::read(set.join(name)).ok().map(Secret::new)
        };
        let files: BTreeMap<&str, Secret> = wanted.filter_map(|name| Some((name, read(name)?))).collect();
        tokio::spawn(secrets.publish(pod, class, files.iter().map(|(name, content)| (*name, content))));
    }

    /// A set is in place.
    fn swapped(&self, volume: &Path, set: &RenderedSet, first: bool) {
        if !first {
            self.metrics.rotated();
        }
        let Some(binding) = lock(&self.bindings).get(volume).cloned() else { return };
        let Binding { pod, by: Described { name, class, lints } } = &*binding;
        if first {
            for lint in lints {
                tracing::warn!(%pod, class = name, "{lint}");
            }
            if let Some(lint) = lints.first() {
                let more = match lints.len() - 1 {
                    0 => String::new(),
                    more => format!(" (and {more} more, in the driver's log)"),
                };
                self.events.warn(pod, DOUBTFUL, &format!("SecretProviderClass {name}: {lint}{more}"));
            }
        }
        let version = |(name, file): (&FileName, &RenderedFile)| (name.to_string(), file.origin.version.clone());
        let versions: Vec<(String, String)> = set.iter().map(version).collect();
        self.status.mounted(pod, name, &volume.display().to_string(), &versions);
        if let Some(secrets) = &self.secrets {
            let files = set.iter().map(|(name, file)| (name.as_str(), &file.content));
            tokio::spawn(secrets.publish(pod, class, files));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
