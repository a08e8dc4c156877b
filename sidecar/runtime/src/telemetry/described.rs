//! What is known of a family of metrics before it has a sample: it is registered by this, and listed by it.

use std::fmt::Write as _;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Metric, Registry, Unit};
use serde_json::{Map, Value, json};

/// A family of metrics.
#[derive(Debug)]
pub struct Described {
    /// Its name, without the prefix of the registry and without what its kind puts at the end.
    pub name: &'static str,
    /// What its samples are.
    pub kind: Kind,
    /// The labels that a sample may have.
    pub labels: &'static [&'static str],
    /// What it tells, for people; without a full stop.
    pub help: &'static str,
}

/// What the samples of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What only rises; `_total` is put at the end of its name.
    Counter,
    /// What rises and falls.
    Gauge,
    /// How many lay below each bound.
    Histogram,
    /// The same of times in seconds; `_seconds` is put at the end of its name.
    Seconds,
    /// What its labels say; `_info` is put at the end of its name.
    Info,
}

impl Kind {
    /// What it is to Prometheus.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram | Self::Seconds => "histogram",
            Self::Info => "info",
        }
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge | Self::Histogram => "",
            Self::Seconds => "_seconds",
            Self::Info => "_info",
        }
    }
}

impl Described {
    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    /// A histogram of seconds.
    #[must_use]
    pub const fn seconds(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Seconds, labels, help }
    }

    /// Adds a metric to a registry by this description.
    pub fn register(&self, registry: &mut Registry, metric: impl Metric) {
        match self.kind {
            Kind::Seconds => registry.register_with_unit(self.name, self.help, Unit::Seconds, metric),
            _ => registry.register(self.name, self.help, metric),
        }
    }

    /// The version of a program, which each of them shows.
    pub const BUILD: Self =
        Self { name: "build", kind: Kind::Info, labels: &["version"], help: "Version of this program" };

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, _)| self.labels.contains(name))
    }
}

/// Writes what is read at the moment of a scrape.
#[derive(Debug)]
pub struct Readings<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl<'a, 'b> Readings<'a, 'b> {
    /// Into what a collector was given.
    pub fn new(encoder: &'a mut DescriptorEncoder<'b>) -> Self {
        Self(encoder)
    }

    /// Writes a gauge with a value for each set of labels.
    ///
    /// # Errors
    /// When nothing more can be written.
    pub fn gauges<'l>(
        &mut self,
        of: &Described,
        samples: impl Iterator<Item = (Vec<(&'l str, &'l str)>, f64)>,
    ) -> Result<(), std::fmt::Error> {
        let mut family = self.0.encode_descriptor(of.name, of.help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            debug_assert!(of.has(&labels), "{of:?} has {labels:?}");
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes a gauge that has no labels.
    ///
    /// # Errors
    /// When nothing more can be written.
    pub fn gauge(&mut self, of: &Described, value: f64) -> Result<(), std::fmt::Error> {
        let encoder = self.0.encode_descriptor(of.name, of.help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    /// Writes a counter with a count for each value of its one label.
    ///
    /// # Errors
    /// When nothing more can be written.
    pub fn counters<'l>(
        &mut self,
        of: &Described,
        samples: impl Iterator<Item = (&'l str, u64)>,
    ) -> Result<(), std::fmt::Error> {
        let [label] = of.labels else { return Err(std::fmt::Error) };
        let mut family = self.0.encode_descriptor(of.name, of.help, None, MetricType::Counter)?;
        for (value, count) in samples {
            ConstCounter::new(count).encode(family.encode_family(&[(*label, value)])?)?;
        }
        Ok(())
    }
}

/// A family by the name that a scrape shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name of its samples; of a histogram, without `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// What its samples are.
    pub kind: Kind,
    /// The labels that a sample may have.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// The families of a registry with that prefix; empty for none.
#[must_use]
pub fn listed(prefix: &str, families: &[&Described]) -> Vec<Listed> {
    let shown = |of: &&Described| {
        let between = if prefix.is_empty() { "" } else { "_" };
        let name = format!("{prefix}{between}{}{}", of.name, of.kind.ending());
        Listed { name, kind: of.kind, labels: of.labels, help: of.help }
    };
    families.iter().map(shown).collect()
}

/// The metrics of commands, for people: a line for each, below its command.
#[must_use]
pub(crate) fn metrics_in_words(commands: &[(&str, Vec<Listed>)]) -> String {
    let mut text = String::new();
    for (command, families) in commands {
        let blank = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{blank}{command}:");
        for Listed { name, kind, labels, help } in families {
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(", ")) };
            let _ = writeln!(text, "  {name}{labels}  {}  {help}", kind.as_str());
        }
    }
    text.trim_end().to_owned()
}

/// The same for programs: an object with a list for each command.
#[must_use]
pub(crate) fn metrics_as_json(commands: &[(&str, Vec<Listed>)]) -> Value {
    let family = |Listed { name, kind, labels, help }: &Listed| json!({ "name": name, "type": kind.as_str(), "labels": labels, "help": help });
    let command = |(command, families): &(&str, Vec<Listed>)| {
        ((*command).to_owned(), Value::Array(families.iter().map(family).collect()))
    };
    Value::Object(commands.iter().map(command).collect::<Map<String, Value>>())
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::metrics::info::Info;

    use super::*;

    #[test]
    fn a_family_is_listed_by_the_name_that_a_scrape_shows() {
        const CALLS: Described = Described::counter("calls", &[], "Calls");
        const TIMES: Described = Described::seconds("times", &[], "Times");
        let mut registry = Registry::with_prefix("coffer");
        CALLS.register(&mut registry, Counter::<u64>::default());
        TIMES.register(&mut registry, Histogram::new([1.0]));
        Described::BUILD.register(&mut registry, Info::new([("version", "1")]));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let names: Vec<String> =
            listed("coffer", &[&CALLS, &TIMES, &Described::BUILD]).into_iter().map(|family| family.name).collect();
        assert_eq!(names, ["coffer_calls_total", "coffer_times_seconds", "coffer_build_info"]);
        for sample in ["coffer_calls_total 0", "coffer_times_seconds_count 0", "coffer_build_info{version=\"1\"} 1"] {
            assert!(text.lines().any(|line| line == sample), "no {sample} in {text}");
        }
    }

    #[test]
    fn people_and_programs_are_told_the_same() {
        const CALLS: Described = Described::counter("calls", &["action", "result"], "Calls to AWS");
        let commands = [("run", listed("coffer", &[&CALLS]))];
        assert_eq!(metrics_in_words(&commands), "run:\n  coffer_calls_total{action, result}  counter  Calls to AWS");
        assert_eq!(
            metrics_as_json(&commands),
            json!({"run": [{"name": "coffer_calls_total", "type": "counter", "labels": ["action", "result"], "help": "Calls to AWS"}]})
        );
    }
}
