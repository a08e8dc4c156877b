//! The metrics that every program has, and a way to write those read at the moment of a scrape.

use std::time::{Duration, SystemTime};

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

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

impl Calls {
    /// Adds them to the process's metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("aws_calls", "Calls to AWS by IAM action and class of result", self.total.clone());
        let help = "Time of a call to AWS, from sending to the last byte";
        registry.register_with_unit("aws_call_duration", help, Unit::Seconds, self.seconds.clone());
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

/// Writes gauges whose values are read at the moment of a scrape.
#[derive(Debug)]
pub struct Gauges<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl<'a, 'b> Gauges<'a, 'b> {
    /// Into what a collector was given.
    pub fn new(encoder: &'a mut DescriptorEncoder<'b>) -> Self {
        Self(encoder)
    }

    /// Writes one gauge with a value for each set of labels.
    pub fn write<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Vec<(&'l str, &'l str)>, f64)>,
    ) -> Result<(), std::fmt::Error> {
        let mut family = self.0.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes one gauge that has no labels.
    pub fn write_one(&mut self, name: &str, help: &str, value: f64) -> Result<(), std::fmt::Error> {
        let encoder = self.0.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }
}

/// Seconds since 1970, as Prometheus writes a time.
#[must_use]
pub fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
