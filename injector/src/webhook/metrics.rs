//! What the webhook counts. No label names a pod, a namespace or a secret.

use std::time::Duration;

use coffer_runtime::VERSION;
use coffer_runtime::telemetry::Gauges;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

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
        let mut registry = Registry::with_prefix("coffer");
        registry.register("build", "Version of this program", Info::new([("version", VERSION)]));
        let webhook = registry.sub_registry_with_prefix("webhook");
        webhook.register("admissions", "Reviews by what came of them", self.admissions.clone());
        let help = "Time of an answer, from the last byte of a review on";
        webhook.register_with_unit("admission_duration", help, Unit::Seconds, self.seconds.clone());
        let help = "Roles of service accounts that could not be read, by why";
        webhook.register("roles_unknown", help, self.roles_unknown.clone());
        let help = "TLS handshakes that came to nothing: for want of a certificate, or of a client's trust in it";
        webhook.register("handshakes_failed", help, self.handshakes_failed.clone());
        webhook.register("connections", "Clients that are connected", self.connections.clone());
        let help = "Connections that were ended from here, by why";
        webhook.register("connections_cut", help, self.connections_cut.clone());
        webhook.register_collector(Box::new(Shown(certificates.clone())));
        registry
    }
}

/// What is known of the certificate at the moment of a scrape.
#[derive(Debug)]
struct Shown(Certificates);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauges = Gauges::new(&mut encoder);
        let good = f64::from(u8::from(self.0.ready.borrow().is_ok()));
        gauges.write_one("certificate_ready", "Whether the certificate is valid and known to the API server", good)?;
        let renewed = f64::from(u8::from(self.0.renewal.borrow().is_ok()));
        let help = "Whether nothing is known that keeps the certificate from being renewed";
        gauges.write_one("certificate_renewal_ok", help, renewed)?;
        let ends = *self.0.ends.borrow();
        let help = "When the certificate that is shown ends";
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far from 2^52")]
        ends.map_or(Ok(()), |ends| gauges.write_one("certificate_expiry_timestamp_seconds", help, ends as f64))
    }
}
