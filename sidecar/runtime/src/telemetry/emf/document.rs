//! Lines in the embedded metric format.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>:
//! a line holds one value for each dimension, at most 100 metrics, and at most 100 values for each.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::exposition::{Family, Kind, families};
use super::histogram;
use crate::VERSION;

/// Labels that become dimensions: what came of something, by words of our own. What is counted apart under another
/// label, a volume, a reference, a key or a role, is one metric here: CloudWatch asks money for each.
const DIMENSIONS: [&str; 5] = ["code", "operation", "reason", "result", "source"];
/// The dimension that every metric has.
const PROGRAM: &str = "program";
/// Metrics in a line.
const METRICS_MAX: usize = 100;
/// Values of a metric in a line.
const VALUES_MAX: usize = 100;
/// Bytes of a line with its end. A pipe takes so much whole or not at all (pipe(7), `PIPE_BUF`); it is also less than
/// what container runtimes (16 KiB) and CloudWatch Logs (1 MB) cut in two.
const LINE_MAX: usize = 4096;

/// Turns what `/metrics` says into lines, again and again.
#[derive(Debug)]
pub(super) struct Encoder {
    namespace: String,
    program: &'static str,
    instance: String,
    /// Counters as they were told last.
    before: HashMap<String, f64>,
}

/// What sets the metrics of one line apart from those of others.
type Dimensions = BTreeMap<&'static str, String>;

/// One metric of a line: values, each with how often.
struct Metric {
    unit: &'static str,
    values: Vec<(f64, u64)>,
}

impl Encoder {
    /// `program` is the command as it is typed, and `instance` tells in the log which process it was.
    pub(super) fn new(namespace: String, program: &'static str, instance: String) -> Self {
        Self { namespace, program, instance, before: HashMap::new() }
    }

    /// The lines that tell what `exposition` says at `now`: gauges as they are, counters and histograms by what has
    /// come to them since the last call. What is zero of these is left out.
    pub(super) fn lines(&mut self, exposition: &str, now: SystemTime) -> Vec<String> {
        let mut documents: BTreeMap<Dimensions, BTreeMap<String, Metric>> = BTreeMap::new();
        let mut counted = HashMap::new();
        for family in families(exposition) {
            // Those under other programs' names say the same again.
            if !family.name.starts_with("coffer_") || family.name.ends_with("_info") {
                continue;
            }
            for (dimensions, (name, metric)) in self.metrics(&family, now, &mut counted) {
                documents.entry(dimensions).or_default().insert(name, metric);
            }
        }
        self.before = counted;
        documents.iter().flat_map(|(dimensions, metrics)| self.split(dimensions, metrics, now)).collect()
    }

    /// The metrics that a family is here, by their dimensions.
    fn metrics(
        &self,
        family: &Family<'_>,
        now: SystemTime,
        counted: &mut HashMap<String, f64>,
    ) -> Vec<(Dimensions, (String, Metric))> {
        let mut groups: BTreeMap<Dimensions, Group> = BTreeMap::new();
        for sample in &family.samples {
            let dimensions = dimensions(&sample.labels);
            let group = groups.entry(dimensions).or_default();
            if family.kind == Kind::Gauge {
                group.values.push(sample.value);
                continue;
            }
            counted.insert(sample.series.to_owned(), sample.value);
            let before = self.before.get(sample.series).copied().unwrap_or_default();
            // A series that has gone and come again starts anew.
            let since = if sample.value >= before { sample.value - before } else { sample.value };
            match sample.ending {
                "_bucket" => {
                    let bound = sample.labels.iter().find(|(name, _)| *name == "le").map(|(_, bound)| bound.as_str());
                    let bound = bound.and_then(|bound| bound.parse().ok()).unwrap_or(f64::INFINITY);
                    match group.buckets.iter_mut().find(|(other, _)| *other == bound) {
                        Some((_, count)) => *count += since,
                        None => group.buckets.push((bound, since)),
                    }
                }
                "_count" => {}
                // `_total` of a counter, `_sum` of a histogram.
                _ => group.since += since,
            }
        }
        let told = |(dimensions, group): (Dimensions, Group)| {
            let metric = match family.kind {
                Kind::Counter => (family.name.to_owned(), Metric { unit: "Count", values: once(group.since) }),
                Kind::Gauge => gauge(family.name, group.values, now),
                Kind::Histogram => {
                    let values = histogram::observations(&apart(group.buckets), group.since);
                    let values = values.into_iter().map(|(value, count)| (rounded(value, 1e6), count)).collect();
                    (family.name.to_owned(), Metric { unit: unit(family.name), values })
                }
            };
            (dimensions, metric)
        };
        groups.into_iter().map(told).filter(|(_, (_, metric))| !metric.values.is_empty()).collect()
    }

    /// As many lines as the limits ask for.
    fn split(&self, dimensions: &Dimensions, metrics: &BTreeMap<String, Metric>, now: SystemTime) -> Vec<String> {
        let empty = self.line(dimensions, &[], now).len() + 1;
        let mut lines = Vec::new();
        let mut line: Vec<Piece<'_>> = Vec::new();
        let mut size = empty;
        for (name, Metric { unit, values }) in metrics {
            for values in values.chunks(VALUES_MAX) {
                let piece = Piece { name, unit, value: value(values) };
                let more = piece.size();
                // The same name again is more values of the same metric, and has to stand in another line.
                let again = line.iter().any(|other| other.name == name);
                if !line.is_empty() && (again || line.len() == METRICS_MAX || size + more > LINE_MAX) {
                    lines.push(self.line(dimensions, &line, now));
                    line.clear();
                    size = empty;
                }
                size += more;
                line.push(piece);
            }
        }
        if !line.is_empty() {
            lines.push(self.line(dimensions, &line, now));
        }
        lines
    }

    fn line(&self, dimensions: &Dimensions, pieces: &[Piece<'_>], now: SystemTime) -> String {
        let milliseconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let names: Vec<&str> = [PROGRAM].into_iter().chain(dimensions.keys().copied()).collect();
        let definitions: Vec<Value> = pieces.iter().map(Piece::definition).collect();
        let metadata = json!({
            "Timestamp": u64::try_from(milliseconds).unwrap_or(u64::MAX),
            "CloudWatchMetrics": [{"Namespace": self.namespace, "Dimensions": [names], "Metrics": definitions}],
        });
        let mut root = Map::new();
        root.insert("_aws".to_owned(), metadata);
        root.insert(PROGRAM.to_owned(), self.program.into());
        // These two are for who reads the log; CloudWatch makes nothing of them.
        root.insert("instance".to_owned(), self.instance.as_str().into());
        root.insert("version".to_owned(), VERSION.into());
        root.extend(dimensions.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())));
        root.extend(pieces.iter().map(|piece| (piece.name.to_owned(), piece.value.clone())));
        Value::Object(root).to_string()
    }
}

/// The samples of a family that are one metric here.
#[derive(Default)]
struct Group {
    /// Of gauges.
    values: Vec<f64>,
    /// Of a counter, or a histogram's sum: what came since the last time.
    since: f64,
    /// Upper bounds, and how many came that are no higher.
    buckets: Vec<(f64, f64)>,
}

/// A metric, or a part of its values, as it stands in a line.
struct Piece<'a> {
    name: &'a str,
    unit: &'static str,
    value: Value,
}

impl Piece<'_> {
    fn definition(&self) -> Value {
        json!({"Name": self.name, "Unit": self.unit})
    }

    /// What it adds to a line, in bytes, with two commas, a colon and the quotes of its name.
    fn size(&self) -> usize {
        self.definition().to_string().len() + self.name.len() + self.value.to_string().len() + 5
    }
}

/// The labels that are told.
fn dimensions(labels: &[(&str, String)]) -> Dimensions {
    let of = |name: &'static str| {
        let value = labels.iter().find(|(label, value)| *label == name && !value.is_empty());
        value.map(|(_, value)| (name, value.clone()))
    };
    DIMENSIONS.into_iter().filter_map(of).collect()
}

/// A gauge, with the values of all that are one here: CloudWatch tells their least, their most and their sum. A time
/// becomes how far away it is: an alarm cannot take it from the time that is now.
fn gauge(name: &str, values: Vec<f64>, now: SystemTime) -> (String, Metric) {
    let now = crate::telemetry::unix(now);
    let (name, values): (String, Vec<f64>) = if let Some(what) = name.strip_suffix("_expiry_timestamp_seconds") {
        (format!("{what}_expiry_seconds"), values.into_iter().map(|at| at - now).collect())
    } else if let Some(what) = name.strip_suffix("_timestamp_seconds") {
        (format!("{what}_age_seconds"), values.into_iter().map(|at| (now - at).max(0.0)).collect())
    } else {
        (name.to_owned(), values)
    };
    let unit = unit(&name);
    // CloudWatch takes no others (API `MetricDatum`, `Value`).
    let taken = |value: &f64| value.abs() <= 2_f64.powi(360);
    let mut values: Vec<f64> = values.into_iter().filter(taken).map(|value| rounded(value, 1e3)).collect();
    values.sort_by(f64::total_cmp);
    let groups = values.chunk_by(|a, b| a == b);
    let values = groups.map(|group| (group[0], group.len() as u64)).collect();
    (name, Metric { unit, values })
}

/// To so many parts of one: digits that mean nothing only make lines longer.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

fn unit(name: &str) -> &'static str {
    match name.rsplit('_').next() {
        Some("seconds") => "Seconds",
        Some("ms") => "Milliseconds",
        Some("bytes") => "Bytes",
        _ => "None",
    }
}

/// What came to a counter, if anything.
fn once(since: f64) -> Vec<(f64, u64)> {
    if since > 0.0 && since.is_finite() { vec![(since, 1)] } else { Vec::new() }
}

/// Each bucket's own, where Prometheus counts all that are no higher.
fn apart(mut buckets: Vec<(f64, f64)>) -> Vec<(f64, u64)> {
    buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut below = 0.0;
    let own = |(bound, count): (f64, f64)| {
        let own = (count - below).max(0.0);
        below = count;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, and no negative one")]
        (bound, own as u64)
    };
    buckets.into_iter().map(own).collect()
}

/// One value plainly; several, or one several times, as AWS's own libraries write them.
/// <https://docs.rs/metrique-writer-format-emf>, "scalar vs. histogram".
fn value(values: &[(f64, u64)]) -> Value {
    if let [(value, 1)] = values {
        return number(*value);
    }
    let (values, counts): (Vec<Value>, Vec<u64>) = values.iter().map(|&(value, count)| (number(value), count)).unzip();
    json!({"Values": values, "Counts": counts})
}

fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
        return (value as i64).into();
    }
    value.into()
}
