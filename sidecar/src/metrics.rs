//! Metrics, in the names and labels that dashboards and alerts rely on.

use std::sync::Arc;
use std::time::SystemTime;

use coffer_runtime::VERSION;
use coffer_runtime::telemetry::{Calls, Gauges, unix};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::identity::Identities;
use crate::reload::{ConfigState, ReloadStatus};
use crate::status::{ReferenceStatus, State, Status};

/// References of all volumes together that have time series of their own; the others show in the
/// volumes' counts. A scrape stays bounded whatever a configuration says.
const REFERENCES_MAX: usize = 200;

/// All metrics of a process.
#[must_use]
pub fn registry(calls: &Calls, status: Status, identities: Arc<Identities>, reloads: Option<ReloadStatus>) -> Registry {
    let mut registry = Registry::with_prefix("coffer");
    registry.register("build", "Version of this program", Info::new([("version", VERSION)]));
    calls.register(&mut registry);
    registry.register_collector(Box::new(Snapshot { status, identities, reloads }));
    registry
}

/// What is read from the status at the moment of a scrape, and so cannot disagree with it.
struct Snapshot {
    status: Status,
    identities: Arc<Identities>,
    reloads: Option<ReloadStatus>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = SystemTime::now();
        let volumes = self.status.volumes();
        let paths: Vec<String> = volumes.iter().map(|volume| volume.path.display().to_string()).collect();
        let by_volume = || paths.iter().zip(&volumes);

        let mut gauges = Gauges::new(&mut encoder);
        gauges.write(
            "volume_ready",
            "Whether a full set is in place",
            by_volume().map(|(path, volume)| (vec![("volume", path.as_str())], f64::from(u8::from(volume.published)))),
        )?;
        gauges.write(
            "volume_obstructed",
            "Whether something keeps the set, or a newer one, from being published",
            by_volume().map(|(path, volume)| {
                (vec![("volume", path.as_str())], f64::from(u8::from(volume.obstacle.is_some())))
            }),
        )?;
        gauges.write(
            "volume_last_publish_timestamp_seconds",
            "When the set in place was published",
            by_volume()
                .filter_map(|(path, volume)| Some((vec![("volume", path.as_str())], unix(volume.published_at?)))),
        )?;
        for state in ["fresh", "stale", "missing"] {
            gauges.write(
                &format!("references_{state}"),
                &format!("How many references are {state}"),
                by_volume().map(|(path, volume)| {
                    let count = volume.references.iter().filter(|reference| reference.state.word() == state).count();
                    (vec![("volume", path.as_str())], f64::from(u32::try_from(count).unwrap_or(u32::MAX)))
                }),
            )?;
        }
        let references = || {
            by_volume()
                .flat_map(|(path, volume)| volume.references.iter().map(move |reference| (path, reference)))
                .take(REFERENCES_MAX)
        };
        // One reference may be asked for in two regions, or under two roles.
        fn labels<'l>(path: &'l str, one: &'l ReferenceStatus) -> Vec<(&'l str, &'l str)> {
            let mut labels = vec![("volume", path), ("reference", one.reference.as_str())];
            labels.extend(one.region.as_deref().map(|region| ("region", region)));
            labels.extend(one.role.as_deref().map(|role| ("role", role)));
            labels
        }
        gauges.write(
            "reference_last_success_timestamp_seconds",
            "When AWS last gave or confirmed the version in the files",
            references().filter_map(|(path, one)| Some((labels(path, one), unix(one.last_success?)))),
        )?;
        gauges.write(
            "reference_age_seconds",
            "How long ago AWS last gave or confirmed the version in the files",
            references().filter_map(|(path, one)| {
                let age = now.duration_since(one.last_success?).unwrap_or_default();
                Some((labels(path, one), age.as_secs_f64()))
            }),
        )?;
        gauges.write(
            "reference_stale",
            "Whether the files hold an older answer because the last looks failed",
            references().map(|(path, one)| {
                let stale = matches!(one.state, State::Stale { .. });
                (labels(path, one), f64::from(u8::from(stale)))
            }),
        )?;
        let config = self.reloads.as_ref().map(ReloadStatus::get);
        if let Some(config) = &config {
            let current = f64::from(u8::from(config.state == ConfigState::Current));
            gauges.write_one("config_current", "Whether the config file is what Coffer goes by", current)?;
            let help = "When the config that Coffer goes by was taken over";
            gauges.write_one("config_loaded_timestamp_seconds", help, unix(config.loaded_at))?;
        }
        let expiries = self.identities.expiries();
        gauges.write(
            "credentials_expiry_timestamp_seconds",
            "When the credentials in use end",
            expiries
                .iter()
                .filter_map(|(identity, expiry)| Some((vec![("identity", identity.as_str())], unix((*expiry)?)))),
        )?;

        let mut publishes = encoder.encode_descriptor(
            "publishes",
            "Sets published by this process",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (path, volume) in by_volume() {
            let labels = [("volume", path.as_str())];
            ConstCounter::new(volume.publishes).encode(publishes.encode_family(&labels)?)?;
        }
        let Some(config) = config else { return Ok(()) };
        let mut reloads = encoder.encode_descriptor(
            "config_reloads",
            "Config files taken over, and refused",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (result, count) in [("ok", config.reloads), ("failed", config.failures)] {
            ConstCounter::new(count).encode(reloads.encode_family(&[("result", result)])?)?;
        }
        Ok(())
    }
}
