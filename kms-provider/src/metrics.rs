//! Metrics: those of the AWS Encryption Provider by their own names, so that dashboards and alerts go
//! on, and ours beside them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coffer_runtime::VERSION;
use coffer_runtime::aws::Credentials;
use coffer_runtime::telemetry::{Calls, Described, Kind, Listed, Readings, listed, unix};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::Trouble;
use crate::cache::Source;
use crate::health::{Operation, Verdict};
use crate::service::Door;

/// Which version of the KMS API a request came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// v1beta1.
    V1,
    /// v2.
    V2,
}

impl ApiVersion {
    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    key_arn: Arc<str>,
    status: &'static str,
    operation: &'static str,
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    key: Arc<str>,
    operation: &'static str,
    version: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    key: Arc<str>,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    key: Arc<str>,
}

const PREFIX: &str = "coffer";

const OPERATIONS: Described = Described::counter(
    "aws_encryption_provider_kms_operations",
    &["key_arn", "status", "operation", "version"],
    "Requests by outcome",
);
const LATENCIES: Described = Described {
    name: "aws_encryption_provider_kms_operation_latency_ms",
    kind: Kind::Histogram,
    labels: &["key_arn", "status", "operation", "version"],
    help: "Time of a request in milliseconds",
};
const REQUESTS: Described =
    Described::counter("kms_requests", &["key", "operation", "version", "result"], "Requests by their class of result");
const SOURCES: Described = Described::counter(
    "kms_decrypt_sources",
    &["key", "source"],
    "Decrypts of KMS's ciphertexts by where the answer came from",
);
const FOREIGN: Described =
    Described::counter("kms_unlisted_key_decrypts", &["key"], "Decrypts of data whose key is not listed");

const DOOR: &[&str] = &["key", "socket"];
const HEALTHY: Described = Described::gauge("kms_key_healthy", DOOR, "Whether encrypting and decrypting work");
const ENCRYPT_AGE: Described =
    Described::gauge("kms_encrypt_last_success_age_seconds", DOOR, "How long ago an Encrypt worked");
const DECRYPT_AGE: Described =
    Described::gauge("kms_decrypt_last_success_age_seconds", DOOR, "How long ago a Decrypt worked");
const LIMIT: Described = Described::gauge("kms_decrypt_limit", DOOR, "Decrypts that may be at KMS at once now");
const CACHED: Described = Described::gauge("kms_decrypt_cache_entries", DOOR, "Decrypted values in memory");
const MATERIAL: Described =
    Described::gauge("kms_key_material_expiry_timestamp_seconds", DOOR, "When imported key material ends");
const KEKS: Described = Described::gauge("kms_local_keks", DOOR, "Local KEKs in memory");
const KEK_USES: Described = Described::gauge("kms_local_kek_uses", DOOR, "Encryptions under the local KEK in use");
const KEK_AGE: Described = Described::gauge("kms_local_kek_age_seconds", DOOR, "Age of the local KEK in use");
const KEY_ID: Described =
    Described::gauge("kms_key_id_info", &["key", "socket", "key_id"], "The key_id that the API server is told");
const EXPIRY: Described =
    Described::gauge("credentials_expiry_timestamp_seconds", &["identity"], "When the credentials in use end");

/// Every family that a plugin may show; those without our prefix bear the AWS Encryption Provider's names.
#[must_use]
pub fn families() -> Vec<Listed> {
    let own: [&Described; 14] = [
        &REQUESTS,
        &SOURCES,
        &FOREIGN,
        &HEALTHY,
        &ENCRYPT_AGE,
        &DECRYPT_AGE,
        &LIMIT,
        &CACHED,
        &MATERIAL,
        &KEKS,
        &KEK_USES,
        &KEK_AGE,
        &KEY_ID,
        &EXPIRY,
    ];
    let ours = listed(PREFIX, &[&[&Described::BUILD][..], &Calls::FAMILIES[..], &own].concat());
    [listed("", &[&OPERATIONS, &LATENCIES]), ours].concat()
}

/// The counters of all keys.
#[derive(Clone)]
pub struct Metrics {
    operations: Family<OperationLabels, Counter>,
    latencies: Family<OperationLabels, Histogram, fn() -> Histogram>,
    requests: Family<RequestLabels, Counter>,
    sources: Family<SourceLabels, Counter>,
    foreign: Family<KeyLabels, Counter>,
    calls: Calls,
}

impl Default for Metrics {
    fn default() -> Self {
        // 2 ms to 16 s: the AWS Encryption Provider's (`pkg/plugin/metrics.go`).
        let buckets = || Histogram::new(exponential_buckets(2.0, 2.0, 14));
        Self {
            operations: Family::default(),
            latencies: Family::new_with_constructor(buckets),
            requests: Family::default(),
            sources: Family::default(),
            foreign: Family::default(),
            calls: Calls::default(),
        }
    }
}

impl Metrics {
    /// Counts the calls to AWS.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The counters of one key; `probes_as` is the version that probes count under by the other plugin's names.
    #[must_use]
    pub fn of_key(&self, key: &str, probes_as: ApiVersion) -> KeyMetrics {
        let key: Arc<str> = key.into();
        let success = |operation: Operation, version: ApiVersion| {
            let (operation, version) = (operation.as_str(), version.as_str());
            let labels = OperationLabels { key_arn: Arc::clone(&key), status: "success", operation, version };
            let count = self.operations.get_or_create(&labels).clone();
            let latency = self.latencies.get_or_create(&labels).clone();
            let labels = RequestLabels { key: Arc::clone(&key), operation, version, result: "ok" };
            Success { count, latency, ours: self.requests.get_or_create(&labels).clone() }
        };
        let successes = [Operation::Encrypt, Operation::Decrypt]
            .map(|operation| [ApiVersion::V1, ApiVersion::V2].map(|version| success(operation, version)));
        let source = |source: Source| {
            let labels = SourceLabels { key: Arc::clone(&key), source: source.as_str() };
            self.sources.get_or_create(&labels).clone()
        };
        let sources = [Source::Hit, Source::Miss, Source::Shared, Source::Stale, Source::Refused].map(source);
        let foreign = self.foreign.get_or_create(&KeyLabels { key: Arc::clone(&key) }).clone();
        KeyMetrics { key, all: self.clone(), successes, probes_as, sources, foreign }
    }

    /// All metrics of the process.
    #[must_use]
    pub fn registry(&self, doors: Vec<Arc<Door>>, credentials: Credentials) -> Registry {
        let mut registry = Registry::default();
        OPERATIONS.register(&mut registry, self.operations.clone());
        LATENCIES.register(&mut registry, self.latencies.clone());
        let ours = registry.sub_registry_with_prefix(PREFIX);
        Described::BUILD.register(ours, Info::new([("version", VERSION)]));
        self.calls.register(ours);
        REQUESTS.register(ours, self.requests.clone());
        SOURCES.register(ours, self.sources.clone());
        FOREIGN.register(ours, self.foreign.clone());
        ours.register_collector(Box::new(Snapshot { doors, credentials }));
        registry
    }
}

/// Counter and latency by the other plugin's names, and the counter by ours.
struct Success {
    count: Counter,
    latency: Histogram,
    ours: Counter,
}

/// The counters of one key; those of each successful request are looked up once.
pub struct KeyMetrics {
    key: Arc<str>,
    all: Metrics,
    /// By operation, then by version.
    successes: [[Success; 2]; 2],
    /// The version that probes count under by the other plugin's names.
    probes_as: ApiVersion,
    sources: [Counter; 5],
    /// Decrypts of data whose key is not listed.
    pub(crate) foreign: Counter,
}

impl KeyMetrics {
    /// A request was answered. `at_kms` says whether it was one for KMS, or came to nothing before.
    pub(crate) fn answered(
        &self,
        operation: Operation,
        version: ApiVersion,
        outcome: Result<(), &Trouble>,
        at_kms: bool,
        took: Duration,
    ) {
        let Err(trouble) = outcome else {
            let Success { count, latency, ours } = &self.successes[operation as usize][version as usize];
            count.inc();
            latency.observe(milliseconds(took));
            ours.inc();
            return;
        };
        let result = trouble.kind.as_str();
        let (operation, version) = (operation.as_str(), version.as_str());
        let labels = RequestLabels { key: Arc::clone(&self.key), operation, version, result };
        self.all.requests.get_or_create(&labels).inc();
        if at_kms {
            self.failed_as_there(operation, version, trouble, took);
        }
    }

    /// A probe ended. The other plugin's probes count as its requests, and alerts rely on it.
    pub(crate) fn probed(&self, operation: Operation, outcome: Result<(), &Trouble>, took: Duration) {
        match outcome {
            Ok(()) => {
                let Success { count, latency, .. } = &self.successes[operation as usize][self.probes_as as usize];
                count.inc();
                latency.observe(milliseconds(took));
            }
            Err(trouble) => self.failed_as_there(operation.as_str(), self.probes_as.as_str(), trouble, took),
        }
    }

    fn failed_as_there(&self, operation: &'static str, version: &'static str, trouble: &Trouble, took: Duration) {
        let status = trouble.kind.aep_status();
        let labels = OperationLabels { key_arn: Arc::clone(&self.key), status, operation, version };
        self.all.operations.get_or_create(&labels).inc();
        self.all.latencies.get_or_create(&labels).observe(milliseconds(took));
    }

    /// A ciphertext of KMS was decrypted, or was not.
    pub(crate) fn came_from(&self, source: Source) {
        self.sources[source as usize].inc();
    }
}

/// What is read at the moment of a scrape.
struct Snapshot {
    doors: Vec<Arc<Door>>,
    credentials: Credentials,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let labels = |door: &Door| {
            vec![("key", door.keyring().writer().name().to_string()), ("socket", door.socket().to_owned())]
        };
        let mut readings = Readings::new(&mut encoder);
        let mut write = |family: &Described, value: &dyn Fn(&Door) -> Option<f64>| {
            let samples = self.doors.iter().filter_map(|door| Some((labels(door), value(door)?)));
            let samples: Vec<_> = samples.collect();
            let borrowed = samples.iter().map(|(labels, value)| {
                (labels.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>(), *value)
            });
            readings.gauges(family, borrowed)
        };
        write(&HEALTHY, &|door| Some(f64::from(u8::from(door.keyring().verdict() == Verdict::Healthy))))?;
        write(&ENCRYPT_AGE, &|door| Some(door.keyring().since_success(Operation::Encrypt)?.as_secs_f64()))?;
        write(&DECRYPT_AGE, &|door| Some(door.keyring().since_success(Operation::Decrypt)?.as_secs_f64()))?;
        write(&LIMIT, &|door| Some(count(door.keyring().decrypt_limit())))?;
        write(&CACHED, &|door| Some(count(door.cached())))?;
        write(&MATERIAL, &|door| door.keyring().material_ends().map(unix))?;
        write(&KEKS, &|door| Some(count(door.kek().held)))?;
        write(&KEK_USES, &|door| Some(count(usize::try_from(door.kek().current?.uses).unwrap_or(usize::MAX))))?;
        write(&KEK_AGE, &|door| Some(door.kek().current?.age.as_secs_f64()))?;
        let key_ids = self.doors.iter().filter_map(|door| {
            let active = door.keyring().active().ok()?;
            Some([labels(door), vec![("key_id", door.key_id(&active))]].concat())
        });
        let key_ids: Vec<_> = key_ids.collect();
        readings.gauges(
            &KEY_ID,
            key_ids.iter().map(|labels| (labels.iter().map(|(name, value)| (*name, value.as_str())).collect(), 1.0)),
        )?;
        let expiry = self.credentials.expiry().map(unix);
        readings.gauges(&EXPIRY, expiry.map(|at| (vec![("identity", self.credentials.label())], at)).into_iter())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
