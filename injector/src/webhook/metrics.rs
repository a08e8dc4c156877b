//! What the webhook counts. No label names a pod, a namespace or a secret.

use std::time::Duration;

use coffer_runtime::VERSION;
use coffer_runtime::telemetry::{Described, Listed, Readings, listed};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::certificates::Certificates;
use super::review::{NoRole, Outcome};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Came {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Because {
    reason: &'static str,
}

const PREFIX: &str = "coffer";

const ADMISSIONS: Described = Described::counter("admissions", &["result"], "Reviews by what came of them");
const SECONDS: Described =
    Described::seconds("admission_duration", &[], "Time of an answer, from the last byte of a review on");
const ROLES_UNKNOWN: Described =
    Described::counter("roles_unknown", &["reason"], "Roles of service accounts that could not be read, by why");
const HANDSHAKES_FAILED: Described = Described::counter(
    "handshakes_failed",
    &[],
    "TLS handshakes that came to nothing: for want of a certificate, or of a client's trust in it",
);
const CONNECTIONS: Described = Described::gauge("connections", &[], "Clients that are connected");
const CONNECTIONS_CUT: Described =
    Described::counter("connections_cut", &["result"], "Connections that were ended from here, by why");
const READY: Described =
    Described::gauge("certificate_ready", &[], "Whether the certificate is valid and known to the API server");
const RENEWAL_OK: Described = Described::gauge(
    "certificate_renewal_ok",
    &[],
    "Whether nothing is known that keeps the certificate from being renewed",
);
const EXPIRY: Described =
    Described::gauge("certificate_expiry_timestamp_seconds", &[], "When the certificate that is shown ends");

/// Every family that a webhook may show.
#[must_use]
pub fn families() -> Vec<Listed> {
    let webhook: [&Described; 9] = [
        &ADMISSIONS,
        &SECONDS,
        &ROLES_UNKNOWN,
        &HANDSHAKES_FAILED,
        &CONNECTIONS,
        &CONNECTIONS_CUT,
        &READY,
        &RENEWAL_OK,
        &EXPIRY,
    ];
    [listed(PREFIX, &[&Described::BUILD]), listed("coffer_webhook", &webhook)].concat()
}

/// What is counted; a clone counts on the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    admissions: Family<Came, Counter>,
    seconds: Histogram,
    roles_unknown: Family<Because, Counter>,
    handshakes_failed: Counter,
    connections: Gauge,
    connections_cut: Family<Came, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            admissions: Family::default(),
            // From what a small pod takes to what an API server waits for at most, in seconds.
            seconds: Histogram::new([0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 5.0]),
            roles_unknown: Family::default(),
            handshakes_failed: Counter::default(),
            connections: Gauge::default(),
            connections_cut: Family::default(),
        }
    }
}

/// Why a connection was ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing was asked for long.
    Idle,
    /// There were too many, and it could best be spared.
    Crowded,
    /// The process ends, and what was asked takes too long.
    Ending,
}

impl Metrics {
    pub(super) fn answered(&self, outcome: Outcome, took: Duration) {
        self.admissions.get_or_create(&Came { result: outcome.as_str() }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn role_unknown(&self, why: NoRole) {
        self.roles_unknown.get_or_create(&Because { reason: why.as_str() }).inc();
    }

    pub(super) fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    pub(super) fn connected(&self, count: usize) {
        self.connections.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn cut(&self, why: Cut) {
        let result = match why {
            Cut::Idle => "idle",
            Cut::Crowded => "crowded",
            Cut::Ending => "ending",
        };
        self.connections_cut.get_or_create(&Came { result }).inc();
    }

    /// All of them, to be scraped.
    #[must_use]
    pub fn registry(&self, certificates: &Certificates) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        Described::BUILD.register(&mut registry, Info::new([("version", VERSION)]));
        let webhook = registry.sub_registry_with_prefix("webhook");
        ADMISSIONS.register(webhook, self.admissions.clone());
        SECONDS.register(webhook, self.seconds.clone());
        ROLES_UNKNOWN.register(webhook, self.roles_unknown.clone());
        HANDSHAKES_FAILED.register(webhook, self.handshakes_failed.clone());
        CONNECTIONS.register(webhook, self.connections.clone());
        CONNECTIONS_CUT.register(webhook, self.connections_cut.clone());
        webhook.register_collector(Box::new(Shown(certificates.clone())));
        registry
    }
}

/// What is known of the certificate at the moment of a scrape.
#[derive(Debug)]
struct Shown(Certificates);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut readings = Readings::new(&mut encoder);
        readings.gauge(&READY, f64::from(u8::from(self.0.ready.borrow().is_ok())))?;
        readings.gauge(&RENEWAL_OK, f64::from(u8::from(self.0.renewal.borrow().is_ok())))?;
        let ends = *self.0.ends.borrow();
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far from 2^52")]
        ends.map_or(Ok(()), |ends| readings.gauge(&EXPIRY, ends as f64))
    }
}
