//! The provider for the Secrets Store CSI driver: that driver mounts and writes, and asks here what.
//!
//! Every answer is a whole set of files with their versions; nothing is written to a volume from here, and
//! nothing is kept.

mod request;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coffer::engine::{DestinationError, once};
use coffer::render::RenderedSet;
use coffer::source::Budgets;
use coffer::spec::RateLimits;
use coffer::status::Status;
use coffer_runtime::VERSION;
use coffer_runtime::aws::Aws;
use coffer_runtime::telemetry::{Calls, Described, Listed, Readings, listed, unix};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};
use tonic::service::Routes;
use tonic::{Code, Request, Response};

use self::request::Mount;
use crate::deadline::time_limit;
use crate::identity::{self, AgentUrl};
use crate::kubernetes::Kubernetes;
use crate::plan::{Passed, Plan, Planner};
use crate::proto::provider::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use crate::proto::provider::{File, MountRequest, MountResponse, ObjectVersion, VersionRequest, VersionResponse};
use crate::refusal::Refusal;

/// What the driver's own releases expect to hear (provider/v1alpha1; only that there is an answer counts).
const API_VERSION: &str = "v1alpha1";

/// How a provider is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the node.
    pub node: String,
    /// Where AWS is asked; `None` leaves it to the node's label.
    pub region: Option<String>,
    /// How long an answer may take, retries included.
    pub mount_timeout: Duration,
    /// The most that the files of a set may hold, in bytes.
    pub volume_limit: u64,
    /// How fast AWS may be asked, for each account and region.
    pub rates: RateLimits,
}

/// The provider.
pub struct Provider {
    settings: Settings,
    planner: Planner,
    metrics: Metrics,
}

impl Provider {
    /// Nothing is asked of anyone until the first mount. `agent` is where EKS Pod Identity is asked; `None`
    /// for the agent of the node.
    #[must_use]
    pub fn new(
        settings: Settings,
        aws: Aws,
        agent: Option<AgentUrl>,
        kubernetes: Option<Arc<Kubernetes>>,
    ) -> Arc<Self> {
        let metrics = Metrics::new();
        let budgets = Arc::new(Budgets::new(settings.rates));
        let planner = Planner {
            kubernetes,
            identities: identity::Registry::new(aws, budgets, Arc::new(metrics.calls.clone()), agent),
            status: Status::default(),
            node: settings.node.clone(),
            region: settings.region.clone(),
            labelled: OnceCell::new(),
            // Nothing is looked at again: the driver asks anew.
            refresh: Duration::from_secs(60),
        };
        Arc::new(Self { settings, planner, metrics })
    }

    /// The service for the driver.
    #[must_use]
    pub fn routes(self: &Arc<Self>) -> Routes {
        Routes::new(CsiDriverProviderServer::new(Service(Arc::clone(self))))
    }

    /// All metrics of the process.
    #[must_use]
    pub fn registry(self: &Arc<Self>) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        Described::BUILD.register(&mut registry, Info::new([("version", VERSION)]));
        self.metrics.calls.register(&mut registry);
        MOUNTS.register(&mut registry, self.metrics.mounts.clone());
        SECONDS.register(&mut registry, self.metrics.seconds.clone());
        registry.register_collector(Box::new(Snapshot(Arc::clone(self))));
        registry
    }

    async fn mount(&self, request: MountRequest, limit: Option<Duration>) -> Result<MountResponse, Refusal> {
        let limit = limit.map_or(self.settings.mount_timeout, |limit| limit.min(self.settings.mount_timeout));
        let deadline = Instant::now() + limit;
        let Mount { pod, parameters, secrets, context, mode } = Mount::read(&request)?;
        let passed = Passed { secrets: &secrets, context: &context, first: false };
        let planned = self.planner.parameters(Path::new(&request.target_path), pod, &parameters, passed, mode);
        let Plan { spec, shared, .. } = timeout(limit, planned)
            .await
            .map_err(|_| Refusal::unavailable("the Kubernetes API did not answer in time; the driver asks again"))??;
        let made = Arc::new(Mutex::new(None));
        let (into, most) = (Arc::clone(&made), self.settings.volume_limit);
        let taker = move |set: &RenderedSet| {
            *into.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer(set, most)?);
            Ok(())
        };
        once(spec, &shared, deadline.saturating_duration_since(Instant::now()), Box::new(taker)).await?;
        let answer = made.lock().unwrap_or_else(PoisonError::into_inner).take();
        answer.ok_or_else(|| Refusal::unavailable("no set was made; the driver asks again"))
    }
}

/// A set as the driver takes it, or why it does not.
fn answer(set: &RenderedSet, most: u64) -> Result<MountResponse, DestinationError> {
    let total: u64 = set.iter().map(|(_, file)| file.content.expose().len() as u64).sum();
    if total > most {
        let fix = "list fewer or smaller objects, or raise --max-volume-size and the driver's --max-call-recv-msg-size";
        return Err(DestinationError::Never(format!("the files hold {total} bytes, and {most} are the most; {fix}")));
    }
    let mut answer = MountResponse::default();
    for (name, file) in set.iter() {
        answer.object_version.push(ObjectVersion { id: name.to_string(), version: file.origin.version.clone() });
        // At most 0777.
        let mode = file.mode.bits().cast_signed();
        answer.files.push(File { path: name.to_string(), mode, contents: file.content.expose().to_vec() });
    }
    Ok(answer)
}

/// The provider, as the driver talks to it.
struct Service(Arc<Provider>);

#[tonic::async_trait]
impl CsiDriverProvider for Service {
    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, tonic::Status> {
        Ok(Response::new(VersionResponse {
            version: API_VERSION.to_owned(),
            runtime_name: "coffer-injector".to_owned(),
            runtime_version: VERSION.to_owned(),
        }))
    }

    async fn mount(&self, request: Request<MountRequest>) -> Result<Response<MountResponse>, tonic::Status> {
        let started = Instant::now();
        let limit = time_limit(request.metadata());
        let result = self.0.mount(request.into_inner(), limit).await;
        self.0.metrics.mounted(result.as_ref().err(), started.elapsed());
        match result {
            Ok(answer) => Ok(Response::new(answer)),
            Err(refusal) => {
                tracing::warn!(code = ?refusal.code, "no set: {}", refusal.text);
                // The driver asks again at once, and at the end tells the pod of its own deadline instead of
                // this (its service config retries UNAVAILABLE).
                let code = if refusal.code == Code::Unavailable { Code::Unknown } else { refusal.code };
                Err(Refusal { code, ..refusal }.into())
            }
        }
    }
}

const PREFIX: &str = "coffer";

const MOUNTS: Described =
    Described::counter("provider_mounts", &["result"], "Sets that were asked for, by what came of them");
const SECONDS: Described =
    Described::seconds("provider_mount_duration", &[], "Time from the question for a set to its answer");
const EXPIRY: Described = Described::gauge(
    "provider_credentials_expiry_timestamp_seconds",
    &[],
    "When the first credentials of all identities end",
);

/// Every family that a provider may show.
#[must_use]
pub fn families() -> Vec<Listed> {
    let own: [&Described; 3] = [&MOUNTS, &SECONDS, &EXPIRY];
    listed(PREFIX, &[&[&Described::BUILD][..], &Calls::FAMILIES[..], &own].concat())
}

/// The counters.
struct Metrics {
    mounts: Family<Outcome, Counter>,
    seconds: Histogram,
    calls: Calls,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// `ok`, or the gRPC code of what failed.
    result: &'static str,
}

impl Metrics {
    fn new() -> Self {
        Self {
            mounts: Family::default(),
            // From what others have just asked for to the time limit of a mount, in seconds.
            seconds: Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0]),
            calls: Calls::default(),
        }
    }

    fn mounted(&self, refusal: Option<&Refusal>, took: Duration) {
        let result = refusal.map_or("ok", Refusal::word);
        self.mounts.get_or_create(&Outcome { result }).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

/// What is read at the moment of a scrape.
struct Snapshot(Arc<Provider>);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(ends) = self.0.planner.first_expiry() else { return Ok(()) };
        Readings::new(&mut encoder).gauge(&EXPIRY, unix(ends))
    }
}

/// The socket at which the driver looks for the provider `aws`.
///
/// # Errors
/// When the folder is not there and cannot be made.
pub fn socket_in(folder: &Path) -> io::Result<std::path::PathBuf> {
    std::fs::create_dir_all(folder)?;
    Ok(folder.join("aws.sock"))
}
