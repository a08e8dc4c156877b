//! What the driver counts. No label names a pod, a volume or a secret: the metrics of a node are open to
//! many.

use std::sync::Arc;
use std::time::Duration;

use coffer_runtime::VERSION;
use coffer_runtime::telemetry::{Calls, Gauges, unix};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

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
        let ours = registry.sub_registry_with_prefix("coffer");
        ours.register("build", "Version of this program", Info::new([("version", VERSION)]));
        self.calls.register(ours);
        let csi = ours.sub_registry_with_prefix("csi");
        csi.register("publishes", "Calls to mount a volume, by what came of them", self.publishes.clone());
        csi.register("unpublishes", "Calls to unmount a volume, by what came of them", self.unpublishes.clone());
        let help = "Time of a mount that was not there before, or failed";
        csi.register_with_unit("publish_duration", help, Unit::Seconds, self.seconds.clone());
        csi.register("rotations", "Sets that took the place of another", self.rotations.clone());
        csi.register_collector(Box::new(Snapshot(Arc::clone(driver))));
        if let Some(theirs) = &self.theirs {
            theirs.register(&mut registry);
        }
        registry
    }
}

impl TheirMetrics {
    fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("node_publish", "Volumes that were mounted", &self.publish),
            ("node_unpublish", "Volumes that were unmounted", &self.unpublish),
            ("node_unpublish_error", "Volumes that could not be unmounted", &self.unpublish_error),
            ("rotation_reconcile", "Looks of the kubelet at a mounted volume", &self.rotation),
        ] {
            registry.register(name, help, counter.clone());
        }
        let help = "Volumes that could not be mounted, by gRPC code";
        registry.register("node_publish_error", help, self.publish_error.clone());
        let help = "Looks of the kubelet at a mounted volume that could not become what it is to be, by gRPC code";
        registry.register("rotation_reconcile_error", help, self.rotation_error.clone());
    }
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
        let mut gauges = Gauges::new(&mut encoder);
        gauges.write_one("volumes", "Volumes that are kept fresh", number(kept))?;
        gauges.write_one("volumes_stale", "Of these, those in which a value is stale", number(stale))?;
        let ends = self.0.planner().first_expiry().map(unix);
        let help = "When the first credentials of all identities end";
        ends.map_or(Ok(()), |ends| gauges.write_one("credentials_expiry_timestamp_seconds", help, ends))
    }
}
