//! Metrics, in the names and labels that dashboards and alerts rely on.

use std::sync::Arc;
use std::time::SystemTime;

use coffer_runtime::VERSION;
use coffer_runtime::telemetry::{Calls, Described, Listed, Readings, listed, unix};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::api::Api;
use crate::identity::Identities;
use crate::notify::NotifyCounters;
use crate::push::PushHandle;
use crate::reload::{ConfigState, ReloadStatus};
use crate::status::{ReferenceStatus, State, Status};

/// References of all volumes together that have time series of their own; the others show in the
/// volumes' counts. A scrape stays bounded whatever a configuration says.
const REFERENCES_MAX: usize = 200;

const VOLUME: &[&str] = &["volume"];
/// A reference may be asked for in two regions, or under two roles; these two are there where the config says them.
const REFERENCE: &[&str] = &["volume", "reference", "region", "role"];

const READY: Described = Described::gauge("volume_ready", VOLUME, "Whether a full set is in place");
const OBSTRUCTED: Described = Described::gauge(
    "volume_obstructed",
    VOLUME,
    "Whether something keeps the set, or a newer one, from being published",
);
const LAST_PUBLISH: Described =
    Described::gauge("volume_last_publish_timestamp_seconds", VOLUME, "When the set in place was published");
const FRESH: Described = Described::gauge("references_fresh", VOLUME, "How many references are fresh");
const STALE: Described = Described::gauge("references_stale", VOLUME, "How many references are stale");
const MISSING: Described = Described::gauge("references_missing", VOLUME, "How many references are missing");
const LAST_SUCCESS: Described = Described::gauge(
    "reference_last_success_timestamp_seconds",
    REFERENCE,
    "When AWS last gave or confirmed the version in the files",
);
const AGE: Described = Described::gauge(
    "reference_age_seconds",
    REFERENCE,
    "How long ago AWS last gave or confirmed the version in the files",
);
const ONE_STALE: Described = Described::gauge(
    "reference_stale",
    REFERENCE,
    "Whether the files hold an older answer because the last looks failed",
);
const CURRENT: Described = Described::gauge("config_current", &[], "Whether the config file is what Coffer goes by");
const LOADED: Described =
    Described::gauge("config_loaded_timestamp_seconds", &[], "When the config that Coffer goes by was taken over");
const EXPIRY: Described =
    Described::gauge("credentials_expiry_timestamp_seconds", &["identity"], "When the credentials in use end");
const PUBLISHES: Described = Described::counter("publishes", VOLUME, "Sets published by this process");
const RELOADS: Described = Described::counter("config_reloads", &["result"], "Config files taken over, and refused");

/// Every family that a process may show: those of `on_change`, `push` and `api` where the config has them.
#[must_use]
pub fn families() -> Vec<Listed> {
    let own: [&Described; 14] = [
        &READY,
        &OBSTRUCTED,
        &LAST_PUBLISH,
        &PUBLISHES,
        &FRESH,
        &STALE,
        &MISSING,
        &LAST_SUCCESS,
        &AGE,
        &ONE_STALE,
        &CURRENT,
        &LOADED,
        &RELOADS,
        &EXPIRY,
    ];
    let others = [&NotifyCounters::FAMILIES[..], &PushHandle::FAMILIES, &Api::FAMILIES].concat();
    listed(PREFIX, &[&[&Described::BUILD][..], &own[..], &Calls::FAMILIES, &others].concat())
}

const PREFIX: &str = "coffer";

/// All metrics of a process.
#[must_use]
pub fn registry(calls: &Calls, status: Status, identities: Arc<Identities>, reloads: Option<ReloadStatus>) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    Described::BUILD.register(&mut registry, Info::new([("version", VERSION)]));
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

        let flag = |flag: bool| f64::from(u8::from(flag));
        let mut readings = Readings::new(&mut encoder);
        readings.gauges(
            &READY,
            by_volume().map(|(path, volume)| (vec![("volume", path.as_str())], flag(volume.published))),
        )?;
        readings.gauges(
            &OBSTRUCTED,
            by_volume().map(|(path, volume)| (vec![("volume", path.as_str())], flag(volume.obstacle.is_some()))),
        )?;
        readings.gauges(
            &LAST_PUBLISH,
            by_volume()
                .filter_map(|(path, volume)| Some((vec![("volume", path.as_str())], unix(volume.published_at?)))),
        )?;
        for (state, family) in [("fresh", &FRESH), ("stale", &STALE), ("missing", &MISSING)] {
            readings.gauges(
                family,
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
        fn labels<'l>(path: &'l str, one: &'l ReferenceStatus) -> Vec<(&'l str, &'l str)> {
            let mut labels = vec![("volume", path), ("reference", one.reference.as_str())];
            labels.extend(one.region.as_deref().map(|region| ("region", region)));
            labels.extend(one.role.as_deref().map(|role| ("role", role)));
            labels
        }
        readings.gauges(
            &LAST_SUCCESS,
            references().filter_map(|(path, one)| Some((labels(path, one), unix(one.last_success?)))),
        )?;
        readings.gauges(
            &AGE,
            references().filter_map(|(path, one)| {
                let age = now.duration_since(one.last_success?).unwrap_or_default();
                Some((labels(path, one), age.as_secs_f64()))
            }),
        )?;
        readings.gauges(
            &ONE_STALE,
            references().map(|(path, one)| (labels(path, one), flag(matches!(one.state, State::Stale { .. })))),
        )?;
        let config = self.reloads.as_ref().map(ReloadStatus::get);
        if let Some(config) = &config {
            readings.gauge(&CURRENT, flag(config.state == ConfigState::Current))?;
            readings.gauge(&LOADED, unix(config.loaded_at))?;
        }
        let expiries = self.identities.expiries();
        readings.gauges(
            &EXPIRY,
            expiries
                .iter()
                .filter_map(|(identity, expiry)| Some((vec![("identity", identity.as_str())], unix((*expiry)?)))),
        )?;
        readings.counters(&PUBLISHES, by_volume().map(|(path, volume)| (path.as_str(), volume.publishes)))?;
        let Some(config) = config else { return Ok(()) };
        readings.counters(&RELOADS, [("ok", config.reloads), ("failed", config.failures)].into_iter())
    }
}
