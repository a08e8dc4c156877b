//! What the driver counts. No label names a pod, a volume or a secret: the metrics of a node are open to
//! many.

use std::sync::Arc;
use std::time::Duration;

use coffer_runtime::VERSION;
use coffer_runtime::telemetry::{Calls, Described, Listed, Readings, listed, unix};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::Driver;
use super::volumes::Published;
use crate::refusal::Refusal;

/// Whose names the metrics bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MetricNames {
    /// Ours.
    Coffer,
    /// Ours, and beside them those of the Secrets Store CSI driver, so that its dashboards and alerts go on.
    SecretsStore,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// `new`, `already`, `kept`, or the gRPC code of what failed.
    result: &'static str,
}

/// The labels of the Secrets Store CSI driver (pkg/secrets-store/stats_reporter.go).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Theirs {
    provider: &'static str,
    os_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TheirErrors {
    provider: &'static str,
    os_type: &'static str,
    error_type: &'static str,
}

const THEIRS: Theirs = Theirs { provider: "aws", os_type: "linux" };

/// The counters.
#[derive(Clone)]
pub(super) struct Metrics {
    publishes: Family<Outcome, Counter>,
    unpublishes: Family<Outcome, Counter>,
    seconds: Histogram,
    rotations: Counter,
    calls: Calls,
    /// Under the other driver's names, where they are wanted.
    theirs: Option<TheirMetrics>,
}

#[derive(Clone, Default)]
struct TheirMetrics {
    publish: Family<Theirs, Counter>,
    publish_error: Family<TheirErrors, Counter>,
    unpublish: Family<Theirs, Counter>,
    unpublish_error: Family<Theirs, Counter>,
    rotation: Family<Theirs, Counter>,
    rotation_error: Family<TheirErrors, Counter>,
}

impl Metrics {
    pub(super) fn new(names: MetricNames) -> Self {
        Self {
            publishes: Family::default(),
            unpublishes: Family::default(),
            // From what is there already to the time limit of a mount, in seconds.
            seconds: Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0]),
            rotations: Counter::default(),
            calls: Calls::default(),
            theirs: (names == MetricNames::SecretsStore).then(TheirMetrics::default),
        }
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.calls
    }

    pub(super) fn published(&self, result: Result<&Published, &Refusal>, took: Duration) {
        let came_to = match result {
            Ok(Published::New) => "new",
            Ok(Published::Already) => "already",
            Ok(Published::Kept(_)) => "kept",
            Err(refusal) => refusal.word(),
        };
        self.publishes.get_or_create(&Outcome { result: came_to }).inc();
        if matches!(result, Ok(Published::New) | Err(_)) {
            self.seconds.observe(took.as_secs_f64());
        }
        let Some(theirs) = &self.theirs else { return };
        let errors = |error_type| TheirErrors { provider: THEIRS.provider, os_type: THEIRS.os_type, error_type };
        match result {
            Ok(Published::New) => theirs.publish.get_or_create(&THEIRS).inc(),
            Ok(Published::Already) => theirs.rotation.get_or_create(&THEIRS).inc(),
            Ok(Published::Kept(refusal)) => theirs.rotation_error.get_or_create(&errors(refusal.word())).inc(),
            Err(refusal) => theirs.publish_error.get_or_create(&errors(refusal.word())).inc(),
        };
    }

    pub(super) fn unpublished(&self, refusal: Option<&Refusal>) {
        let well = refusal.is_none();
        self.unpublishes.get_or_create(&Outcome { result: refusal.map_or("ok", Refusal::word) }).inc();
        if let Some(theirs) = &self.theirs {
            let counter = if well { &theirs.unpublish } else { &theirs.unpublish_error };
            counter.get_or_create(&THEIRS).inc();
        }
    }

    /// A set took the place of another.
    pub(super) fn rotated(&self) {
        self.rotations.inc();
    }

    pub(super) fn registry(&self, driver: &Arc<Driver>) -> Registry {
        let mut registry = Registry::default();
        let ours = registry.sub_registry_with_prefix(PREFIX);
        Described::BUILD.register(ours, Info::new([("version", VERSION)]));
        self.calls.register(ours);
        let csi = ours.sub_registry_with_prefix("csi");
        PUBLISHES.register(csi, self.publishes.clone());
        UNPUBLISHES.register(csi, self.unpublishes.clone());
        SECONDS.register(csi, self.seconds.clone());
        ROTATIONS.register(csi, self.rotations.clone());
        csi.register_collector(Box::new(Snapshot(Arc::clone(driver))));
        if let Some(theirs) = &self.theirs {
            theirs.register(&mut registry);
        }
        registry
    }
}

impl TheirMetrics {
    fn register(&self, registry: &mut Registry) {
        NODE_PUBLISH.register(registry, self.publish.clone());
        NODE_UNPUBLISH.register(registry, self.unpublish.clone());
        NODE_UNPUBLISH_ERROR.register(registry, self.unpublish_error.clone());
        ROTATION.register(registry, self.rotation.clone());
        NODE_PUBLISH_ERROR.register(registry, self.publish_error.clone());
        ROTATION_ERROR.register(registry, self.rotation_error.clone());
    }
}

const PREFIX: &str = "coffer";

const PUBLISHES: Described =
    Described::counter("publishes", &["result"], "Calls to mount a volume, by what came of them");
const UNPUBLISHES: Described =
    Described::counter("unpublishes", &["result"], "Calls to unmount a volume, by what came of them");
const SECONDS: Described =
    Described::seconds("publish_duration", &[], "Time of a mount that was not there before, or failed");
const ROTATIONS: Described = Described::counter("rotations", &[], "Sets that took the place of another");
const VOLUMES: Described = Described::gauge("volumes", &[], "Volumes that are kept fresh");
const STALE: Described = Described::gauge("volumes_stale", &[], "Of these, those in which a value is stale");
const EXPIRY: Described =
    Described::gauge("credentials_expiry_timestamp_seconds", &[], "When the first credentials of all identities end");

const THEIR_LABELS: &[&str] = &["provider", "os_type"];
const THEIR_ERROR_LABELS: &[&str] = &["provider", "os_type", "error_type"];
const NODE_PUBLISH: Described = Described::counter("node_publish", THEIR_LABELS, "Volumes that were mounted");
const NODE_PUBLISH_ERROR: Described =
    Described::counter("node_publish_error", THEIR_ERROR_LABELS, "Volumes that could not be mounted, by gRPC code");
const NODE_UNPUBLISH: Described = Described::counter("node_unpublish", THEIR_LABELS, "Volumes that were unmounted");
const NODE_UNPUBLISH_ERROR: Described =
    Described::counter("node_unpublish_error", THEIR_LABELS, "Volumes that could not be unmounted");
const ROTATION: Described =
    Described::counter("rotation_reconcile", THEIR_LABELS, "Looks of the kubelet at a mounted volume");
const ROTATION_ERROR: Described = Described::counter(
    "rotation_reconcile_error",
    THEIR_ERROR_LABELS,
    "Looks of the kubelet at a mounted volume that could not become what it is to be, by gRPC code",
);

/// Every family that a driver may show; those without our prefix with [`MetricNames::SecretsStore`].
#[must_use]
pub fn families() -> Vec<Listed> {
    let csi: [&Described; 7] = [&PUBLISHES, &SECONDS, &UNPUBLISHES, &ROTATIONS, &VOLUMES, &STALE, &EXPIRY];
    let theirs: [&Described; 6] =
        [&NODE_PUBLISH, &NODE_PUBLISH_ERROR, &NODE_UNPUBLISH, &NODE_UNPUBLISH_ERROR, &ROTATION, &ROTATION_ERROR];
    [
        listed(PREFIX, &[&[&Described::BUILD][..], &Calls::FAMILIES[..]].concat()),
        listed("coffer_csi", &csi),
        listed("", &theirs),
    ]
    .concat()
}

/// What is read at the moment of a scrape.
struct Snapshot(Arc<Driver>);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let (kept, stale) = self.0.volumes().count();
        let mut readings = Readings::new(&mut encoder);
        readings.gauge(&VOLUMES, number(kept))?;
        readings.gauge(&STALE, number(stale))?;
        let ends = self.0.planner().first_expiry().map(unix);
        ends.map_or(Ok(()), |ends| readings.gauge(&EXPIRY, ends))
    }
}
