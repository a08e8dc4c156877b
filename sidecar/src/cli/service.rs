//! What a process that serves volumes has, whether it is `run` or `exec`: AWS and its identities, the
//! state of things and where it is shown, news of changes, the API.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use coffer::api::Api;
use coffer::engine::{Orders, Shared, Told};
use coffer::identity::Identities;
use coffer::journal::Journal;
use coffer::metrics;
use coffer::notify::{NotifyCounters, RotationProbe, rotation_router};
use coffer::push::{self, PushHandle};
use coffer::reload::{self, ConfigFile, Hangup, ReloadStatus};
use coffer::source::{Budgets, Source};
use coffer::spec::{Access, Config, EnvSpec, PushSpec, Wanted};
use coffer::status::Status;
use coffer::volume::VolumeError;
use coffer_runtime::VERSION;
use coffer_runtime::aws::{Aws, Timeouts, session_name};
use coffer_runtime::telemetry::{
    Calls, EmfNamespace, EmfOutput, EmfReport, LogFormat, Readiness, metrics_router, ops_router, serve,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::Failed;
use super::status::status_route;

/// Two answers of the rotation probe that restart a container lie at least so far apart.
const RESTARTS_APART: Duration = Duration::from_secs(30);

/// What `run` and `exec` take alike.
#[derive(Debug, clap::Args)]
pub(super) struct ServiceArguments {
    /// How long the first publication may take, retries included
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    pub(super) startup_timeout: Duration,

    /// Accept volumes that are not on a tmpfs: secrets will reach a disk
    #[arg(long)]
    pub(super) allow_disk: bool,

    /// text or json
    #[arg(long, value_name = "FORMAT", env = "COFFER_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,

    /// Tell CloudWatch the metrics, under this namespace: a few lines of JSON a minute, in the embedded metric
    /// format, among the audit lines [default: none are told]
    #[arg(long, value_name = "NAME", env = "COFFER_EMF_NAMESPACE")]
    pub(super) emf_namespace: Option<EmfNamespace>,
}

/// A volume that was refused: for good, or only now.
pub(super) fn refused(error: VolumeError) -> Failed {
    match error {
        VolumeError::Busy { .. } | VolumeError::Io { .. } => Failed::at_run_time(error),
        _ => Failed::usage(error),
    }
}

/// All of it, before anything is asked of AWS.
pub(super) struct Service {
    pub(super) shared: Shared,
    aws: Aws,
    region: String,
    calls: Calls,
    identities: Arc<Identities>,
    reloads: Option<(ConfigFile, ReloadStatus)>,
    push: Option<(PushSpec, PushHandle)>,
    api: Option<(SocketAddr, Api)>,
}

impl Service {
    /// `env` are references that stand in no volume, and `file` is where `config` is from, if it is
    /// from one. `told` says who hears of new sets, for a process that stays.
    pub(super) async fn new(
        config: &Config,
        env: &[EnvSpec],
        file: Option<ConfigFile>,
        journal: Journal,
        allow_disk: bool,
        told: Option<Told>,
    ) -> Result<Self, Failed> {
        let aws = Aws::load(config.region.as_deref(), Timeouts::default()).await.map_err(Failed::usage)?;
        let region = region(&aws, config, env)?;
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let calls = Calls::default();
        let observer = Arc::new(calls.clone());
        let session = session_name(&variable);
        let identities = Arc::new(Identities::new(aws.clone(), &region, session, observer.clone()));
        let budgets = Arc::new(Budgets::new(config.rate_limits));
        let source = Arc::new(Source::new(aws.clone(), &region, Arc::clone(&identities), budgets, observer));
        let api = match &config.api {
            Some(spec) if told.is_some() => {
                let api = Api::new(spec.clone(), Arc::clone(&source), journal, &variable).map_err(Failed::usage)?;
                Some((spec.listen, api))
            }
            _ => None,
        };
        let (status, seed) = (Status::default(), seed(&variable));
        let shared = Shared { source, status, journal, seed, allow_disk, recent: Duration::ZERO, hasty: false, told };
        let reloads = file.map(|file| {
            let status = ReloadStatus::new(&file);
            (file, status)
        });
        let push = config.push.clone().map(|spec| {
            let handle = PushHandle::new(spec.queue.as_str());
            (spec, handle)
        });
        Ok(Self { shared, aws, region, calls, identities, reloads, push, api })
    }

    /// Says in the log what starts here.
    pub(super) fn announce(&self, config: &Config) {
        let file = self.reloads.as_ref().map(|(file, _)| file.path().display().to_string());
        tracing::info!(
            config = file.as_deref().unwrap_or("none"),
            volumes = config.volumes.len(),
            region = self.region,
            identity = self.shared.source.identity(&Access::default()),
            "coffer {VERSION} starts",
        );
    }

    /// Serves health, metrics and status on `listen`, and what else the config wants served, until
    /// the runtime ends.
    pub(super) async fn serve(&self, listen: Option<SocketAddr>, config: &Config) -> Result<(), Failed> {
        let status = self.shared.status.clone();
        let ready: Readiness = Arc::new(move || status.ready());
        let rotations = self.shared.told.as_ref().map(|told| rotation_router(Arc::clone(&told.probe)));
        if let Some(address) = listen {
            if !address.ip().is_loopback() {
                tracing::warn!(%address, "status and metrics are served beyond this host: they name secrets and roles");
            }
            let listener = bind(address, "choose another address with --listen or `listen:`").await?;
            let router = ops_router(Arc::new(self.registry()), Arc::clone(&ready)).merge(self.status_route());
            tokio::spawn(serve(listener, router.merge(rotations.clone().unwrap_or_default())));
        }
        if let Some(address) = config.probes {
            let listener = bind(address, "choose another address for `probes:`").await?;
            tokio::spawn(serve(listener, nameless(ready).merge(rotations.unwrap_or_default())));
        }
        if let Some(address) = config.metrics {
            let listener = bind(address, "choose another address for `metrics:`").await?;
            tokio::spawn(serve(listener, metrics_router(Arc::new(self.registry()))));
        }
        if let Some((address, api)) = &self.api {
            let listener = bind(*address, "choose another address for `listen:` of `api:`").await?;
            tokio::spawn(api.clone().serve(listener));
        }
        Ok(())
    }

    /// Tells CloudWatch what is counted, if that is wanted, until what is returned is dropped; `command` is how this
    /// process was called.
    pub(super) fn report(
        &self,
        namespace: Option<&EmfNamespace>,
        command: &'static str,
        output: EmfOutput,
    ) -> Option<EmfReport> {
        let registry = || Arc::new(self.registry());
        namespace.map(|namespace| EmfReport::start(namespace.clone(), command, registry(), output))
    }

    /// From now on, `orders` hear of changes in AWS and of the config; `hangup` is who listens for
    /// SIGHUP already, if anyone does.
    pub(super) fn follow(&self, config: Config, orders: &Orders, hangup: Option<Hangup>) {
        if let Some((spec, handle)) = &self.push {
            let (spec, handle, orders) = (spec.clone(), handle.clone(), orders.clone());
            let (aws, region, calls) = (self.aws.clone(), self.region.clone(), Arc::new(self.calls.clone()));
            let credentials = self.identities.credentials(spec.role.as_ref());
            let spread = spec.spread;
            let changed = move |changes| {
                orders.look(changes, spread.mul_f64(fastrand::f64()));
                std::future::ready(Ok(()))
            };
            tokio::spawn(async move { push::listen(spec, aws, &region, credentials, calls, handle, changed).await });
        }
        if let Some((file, status)) = &self.reloads {
            let hangup = hangup.unwrap_or_else(Hangup::listen);
            tokio::spawn(reload::follow(file.clone(), config, orders.clone(), status.clone(), hangup));
        }
    }

    fn registry(&self) -> Registry {
        let reloads = self.reloads.as_ref().map(|(_, status)| status.clone());
        let status = self.shared.status.clone();
        let mut registry = metrics::registry(&self.calls, status, Arc::clone(&self.identities), reloads);
        if let Some(told) = &self.shared.told {
            told.counters.register(&mut registry);
        }
        if let Some((_, handle)) = &self.push {
            handle.register(&mut registry);
        }
        if let Some((_, api)) = &self.api {
            api.register(&mut registry);
        }
        registry
    }

    fn status_route(&self) -> Router {
        let status = self.shared.status.clone();
        let reloads = self.reloads.as_ref().map(|(_, status)| status.clone());
        let push = self.push.as_ref().map(|(_, handle)| handle.clone());
        let api = self.api.as_ref().map(|(_, api)| api.clone());
        status_route(move || {
            serde_json::json!({
                "ready": status.ready().is_ok(),
                "volumes": status.volumes(),
                "config": reloads.as_ref().map(ReloadStatus::get),
                "push": push.as_ref().map(PushHandle::snapshot),
                "api": api.as_ref().map(Api::status),
            })
        })
    }
}

/// Who hears of new sets of the volumes of `config`.
pub(super) fn told(config: &Config) -> Told {
    let volumes = config.volumes.iter().map(|volume| volume.path.clone());
    let probe = RotationProbe::new(volumes, RESTARTS_APART);
    Told { counters: NotifyCounters::default(), probe: Arc::new(Mutex::new(probe)), swapped: None }
}

async fn bind(address: SocketAddr, fix: &str) -> Result<TcpListener, Failed> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| Failed::at_run_time(format!("cannot serve on {address}: {error}; {fix}")))
}

/// Health and readiness for those who may know no more.
fn nameless(ready: Readiness) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route(
        "/readyz",
        get(move || async move {
            match ready() {
                Ok(()) => (StatusCode::OK, "ready\n"),
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            }
        }),
    )
}

/// The region for everything that names none, or why there is none.
fn region(aws: &Aws, config: &Config, env: &[EnvSpec]) -> Result<String, Failed> {
    if let Some(region) = aws.region() {
        return Ok(region.to_owned());
    }
    let of_volumes = config.volumes.iter().flat_map(|volume| &volume.files).flat_map(|file| file.content.wanted());
    let wanted: Vec<&Wanted> = of_volumes.chain(env.iter().map(|spec| &spec.wanted)).collect();
    let fix = "set `region:` in the config file, or AWS_REGION";
    match wanted.iter().find(|wanted| wanted.access.region.is_none()) {
        Some(wanted) => Err(Failed::usage(format!("no region for {}: {fix}", wanted.reference))),
        None if config.api.is_some() => Err(Failed::usage(format!("no region for `api`: {fix}"))),
        // Every reference names its own; the first serves for STS.
        None => Ok(wanted.first().and_then(|wanted| wanted.access.region.clone()).unwrap_or_default()),
    }
}

/// Of this instance, the same after a restart in the same pod or on the same host. Not the session
/// name, which is cut, and may be one for a whole fleet.
fn seed(env: &dyn Fn(&str) -> Option<String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    ["POD_NAMESPACE", "POD_NAME", "POD_UID", "HOSTNAME"].map(env).hash(&mut hasher);
    rustix::system::uname().nodename().hash(&mut hasher);
    hasher.finish()
}
