//! The metrics of calls to AWS, which every program has.

use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::described::Described;
use crate::aws::{AwsError, CallObserver};

/// Counts calls to AWS, whichever part makes them.
#[derive(Clone, Debug)]
pub struct Calls {
    total: Family<CallLabels, Counter>,
    seconds: Family<ActionLabels, Histogram, fn() -> Histogram>,
}

impl Default for Calls {
    fn default() -> Self {
        // From a call within the region to the time limit of an attempt, in seconds.
        let buckets = || Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        Self { total: Family::default(), seconds: Family::new_with_constructor(buckets) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    action: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action: &'static str,
}

const TOTAL: Described =
    Described::counter("aws_calls", &["action", "result"], "Calls to AWS by IAM action and class of result");
const SECONDS: Described =
    Described::seconds("aws_call_duration", &["action"], "Time of a call to AWS, from sending to the last byte");

impl Calls {
    /// Their families.
    pub const FAMILIES: [&Described; 2] = [&TOTAL, &SECONDS];

    /// Adds them to the process's metrics.
    pub fn register(&self, registry: &mut Registry) {
        TOTAL.register(registry, self.total.clone());
        SECONDS.register(registry, self.seconds.clone());
    }
}

impl CallObserver for Calls {
    fn called(&self, action: &'static str, outcome: Result<Option<&str>, &AwsError>, took: Duration) {
        let result = outcome.map_or_else(|error| error.class.as_str(), |_| "ok");
        self.total.get_or_create(&CallLabels { action, result }).inc();
        self.seconds.get_or_create(&ActionLabels { action }).observe(took.as_secs_f64());
        let request_id = outcome.ok().flatten().unwrap_or_default();
        tracing::debug!(action, result, request_id, took_ms = took.as_millis(), "called AWS");
    }
}

/// Seconds since 1970, as Prometheus writes a time.
#[must_use]
pub fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
