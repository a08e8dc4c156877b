//! The CSI node driver: one process on each node that mounts secrets volumes for every pod there, each
//! under its own pod's identity, and keeps them fresh.

mod metrics;
mod mounts;
mod node;
mod registration;
mod tell;
mod tmpfs;
mod volumes;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coffer::push::Change;
use coffer::source::Budgets;
use coffer::spec::RateLimits;
use coffer::status::Status;
use coffer_runtime::aws::Aws;
use prometheus_client::registry::Registry;
use tokio::sync::OnceCell;
use tonic::service::Routes;

use self::metrics::Metrics;
pub use self::metrics::{MetricNames, families};
use self::node::Services;
pub use self::registration::Registered;
use self::registration::Registrar;
use self::tell::Teller;
use self::volumes::{Published, Volumes};
use crate::form::Form;
use crate::identity::{self, AgentUrl};
use crate::kubernetes::Kubernetes;
use crate::plan::{Passed, Planner};
use crate::pod::Pod;
use crate::proto::csi::identity_server::IdentityServer;
use crate::proto::csi::node_server::NodeServer;
use crate::refusal::Refusal;

/// The looks that an event brings about are spread over this time on each node.
const SPREAD: Duration = Duration::from_millis(500);

/// How often it is looked whether pods have to be told something.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// How a driver is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name, as CSIDriver and pods have it.
    pub name: String,
    /// The name of the node.
    pub node: String,
    /// Where AWS is asked; `None` leaves it to the node's label.
    pub region: Option<String>,
    /// How often volumes look for changes, where they do not say.
    pub refresh: Duration,
    /// How long a mount may take, retries included.
    pub mount_timeout: Duration,
    /// The most that the files of a volume may hold, in bytes.
    pub volume_limit: u64,
    /// Whether the `secretObjects` of a SecretProviderClass become Secrets of Kubernetes.
    pub sync_secrets: bool,
    /// How fast AWS may be asked, for each account and region.
    pub rates: RateLimits,
    /// Whose names the metrics bear.
    pub metric_names: MetricNames,
}

/// What a pod asks for, and whom its files are to belong to.
struct Asked {
    form: Form,
    group: Option<u32>,
}

/// The driver.
pub struct Driver {
    settings: Settings,
    planner: Planner,
    volumes: Volumes,
    teller: Arc<Teller>,
    metrics: Metrics,
}

impl Driver {
    /// Nothing is asked of anyone until the first mount. `agent` is where EKS Pod Identity is asked; `None`
    /// for the agent of the node.
    ///
    /// # Errors
    /// When the kernel has no random bytes.
    pub fn new(
        settings: Settings,
        aws: Aws,
        agent: Option<AgentUrl>,
        kubernetes: Option<Arc<Kubernetes>>,
    ) -> io::Result<Arc<Self>> {
        let metrics = Metrics::new(settings.metric_names);
        let calls = Arc::new(metrics.calls().clone());
        let budgets = Arc::new(Budgets::new(settings.rates));
        let status = Status::default();
        Ok(Arc::new(Self {
            volumes: Volumes::new(status.clone(), settings.volume_limit),
            teller: Arc::new(Teller::new(&settings, kubernetes.as_deref(), metrics.clone())?),
            planner: Planner {
                kubernetes,
                identities: identity::Registry::new(aws, budgets, calls, agent),
                status,
                node: settings.node.clone(),
                region: settings.region.clone(),
                labelled: OnceCell::new(),
                refresh: settings.refresh,
            },
            metrics,
            settings,
        }))
    }

    /// The services for the kubelet's CSI client.
    #[must_use]
    pub fn routes(self: &Arc<Self>) -> Routes {
        let services = Services(Arc::clone(self));
        Routes::new(IdentityServer::new(services.clone())).add_service(NodeServer::new(services))
    }

    /// The service for the kubelet's plugin manager, and what it has said so far. `endpoint` is the path
    /// of the CSI socket as the kubelet sees it.
    #[must_use]
    pub fn registration(&self, endpoint: &str) -> (Routes, tokio::sync::watch::Receiver<Registered>) {
        let registrar = Registrar::new(&self.settings.name, endpoint);
        let state = registrar.state();
        (Routes::new(registrar.into_service()), state)
    }

    /// All metrics of the process.
    #[must_use]
    pub fn registry(self: &Arc<Self>) -> Registry {
        self.metrics.registry(self)
    }

    /// Has every mounted volume that these changes are about looked at, each under its own identity.
    pub fn look(&self, changes: Vec<Change>) {
        self.volumes.look(&changes.into(), SPREAD);
    }

    /// Tells pods for ever of what is stale in their volumes, and of what is fresh again.
    pub async fn keep_telling(&self) -> Infallible {
        loop {
            tokio::time::sleep(TOLD_EVERY).await;
            for (target, pod, trouble) in self.volumes.troubles() {
                self.teller.state(&pod, &target, trouble);
            }
        }
    }

    /// From now on no mount is waited for: the process is about to end.
    pub fn leave(&self) {
        self.volumes.leave();
    }

    /// Ends: volumes stay mounted as they are, for the next process to take over.
    pub async fn close(&self) {
        self.volumes.close().await;
    }

    fn name(&self) -> &str {
        &self.settings.name
    }

    fn node(&self) -> &str {
        &self.settings.node
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn planner(&self) -> &Planner {
        &self.planner
    }

    fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// Mounts a volume, or has one that is mounted be as it is asked for. What is wrong with what is asked
    /// for is the pod's to hear where it waits for its files, and no reason to take them from one that runs.
    ///
    /// # Errors
    /// See [`Volumes::publish`].
    async fn publish(
        &self,
        target: &Path,
        pod: Pod,
        asked: Result<Asked, Refusal>,
        passed: Passed<'_>,
        limit: Option<Duration>,
    ) -> Result<Published, Refusal> {
        let limit = limit.map_or(self.settings.mount_timeout, |limit| limit.min(self.settings.mount_timeout));
        let target = volumes::resolved(target)?;
        let plan = async |first| {
            let Asked { form, group } = asked?;
            let passed = Passed { first, ..passed };
            let planned = self.planner.volume(&target, pod.clone(), form, passed, group, self.teller.told());
            let plan = tokio::time::timeout(limit, planned).await.unwrap_or_else(|_| {
                let limit = humantime::format_duration(limit);
                let text = format!("the Kubernetes API did not answer within {limit}; the kubelet tries again");
                Err(Refusal::unavailable(text))
            })?;
            self.teller.bind(&target, &pod, plan.class.clone());
            Ok(plan)
        };
        let published = self.volumes.publish(&target, &pod, limit, plan).await;
        match &published {
            Ok(Published::Kept(refusal)) => self.teller.kept(&pod, &refusal.text),
            Ok(Published::Already) => self.teller.looked_at(&target),
            Ok(Published::New) => {}
            // What the call before it has under way is its own.
            Err(refusal) if refusal.code == tonic::Code::Aborted => {}
            Err(refusal) => {
                self.teller.failed(&pod, &refusal.text);
                self.teller.forget(&target);
            }
        }
        published
    }

    /// Takes a volume away.
    ///
    /// # Errors
    /// See [`Volumes::unpublish`].
    async fn unpublish(&self, target: &Path) -> Result<(), Refusal> {
        let target = volumes::resolved_if_there(target)?;
        let (pod, gone) = self.volumes.unpublish(&target).await;
        self.teller.forget(&target);
        // With its last volume goes what the pod gave to speak for it.
        if let Some(pod) = pod.filter(|pod| !self.volumes.any_of(&pod.uid)) {
            self.planner.identities.withdraw(&pod.uid);
        }
        gone
    }
}

/// The sockets of a driver under a kubelet's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// For the CSI client.
    pub csi: PathBuf,
    /// For the plugin manager.
    pub registration: PathBuf,
}

impl Sockets {
    /// Where the kubelet looks for them (kubelet, `--root-dir`).
    #[must_use]
    pub fn of(kubelet: &Path, driver: &str) -> Self {
        Self {
            csi: kubelet.join("plugins").join(driver).join("csi.sock"),
            registration: kubelet.join("plugins_registry").join(format!("{driver}-reg.sock")),
        }
    }
}
