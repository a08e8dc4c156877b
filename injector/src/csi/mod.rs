//! The CSI node driver: one process on each node that mounts secrets volumes for every pod there, each
//! under its own pod's identity, and keeps them fresh.

mod metrics;
mod mounts;
mod node;
mod plan;
mod refusal;
mod registration;
mod tell;
mod tmpfs;
mod volumes;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coffer::journal::Journal;
use coffer::push::Change;
use coffer::source::Budgets;
use coffer::spec::RateLimits;
use coffer::status::Status;
use coffer_runtime::aws::{Agent, Aws};
use prometheus_client::registry::Registry;
use tokio::sync::OnceCell;
use tonic::service::Routes;

pub use self::metrics::MetricNames;
use self::metrics::Metrics;
use self::node::Services;
use self::refusal::Refusal;
pub use self::registration::Registered;
use self::registration::Registrar;
use self::tell::Teller;
use self::volumes::{Published, Volumes};
use crate::form::Ask;
use crate::identity;
use crate::kubernetes::Kubernetes;
use crate::proto::csi::identity_server::IdentityServer;
use crate::proto::csi::node_server::NodeServer;

/// The looks that an event brings about are spread over this time on each node.
const SPREAD: Duration = Duration::from_millis(500);

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

/// The driver.
pub struct Driver {
    settings: Settings,
    kubernetes: Option<Arc<Kubernetes>>,
    identities: identity::Registry,
    status: Status,
    volumes: Volumes,
    teller: Arc<Teller>,
    metrics: Metrics,
    /// Where AWS is asked when nothing else says, once that is known.
    region: OnceCell<String>,
}

impl Driver {
    /// Nothing is asked of anyone until the first mount. `agent` is where EKS Pod Identity is asked.
    #[must_use]
    pub fn new(settings: Settings, aws: Aws, agent: Agent, kubernetes: Option<Arc<Kubernetes>>) -> Arc<Self> {
        let metrics = Metrics::new(settings.metric_names);
        let calls = Arc::new(metrics.calls().clone());
        let budgets = Arc::new(Budgets::new(settings.rates));
        let status = Status::default();
        Arc::new(Self {
            identities: identity::Registry::new(aws, budgets, calls, agent),
            volumes: Volumes::new(status.clone(), settings.volume_limit),
            teller: Arc::new(Teller::new(&settings, kubernetes.clone(), metrics.clone())),
            status,
            kubernetes,
            metrics,
            region: OnceCell::new(),
            settings,
        })
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

    fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// When the first credentials of all identities end.
    fn first_expiry(&self) -> Option<SystemTime> {
        self.identities.expiries().into_iter().filter_map(|(_, ends)| ends).min()
    }

    /// Mounts a volume, or has one that is mounted be as it is asked for.
    ///
    /// # Errors
    /// See [`Volumes::publish`].
    async fn publish(
        &self,
        target: &Path,
        ask: Ask,
        secrets: &HashMap<String, String>,
        context: &HashMap<String, String>,
        group: Option<u32>,
        limit: Option<Duration>,
    ) -> Result<Published, Refusal> {
        let limit = limit.map_or(self.settings.mount_timeout, |limit| limit.min(self.settings.mount_timeout));
        let pod = ask.pod.clone();
        let plan = async {
            let planned = self.plan(target, ask, secrets, context, group);
            tokio::time::timeout(limit, planned).await.unwrap_or_else(|_| {
                let limit = humantime::format_duration(limit);
                Err(Refusal::unavailable(format!("the Kubernetes API did not answer within {limit}; the kubelet tries again")))
            })
        };
        let published = self.volumes.publish(target, &pod, limit, plan).await;
        match &published {
            Ok(Published::Kept(refusal)) => self.teller.kept(&pod, &refusal.text),
            Ok(_) => self.teller.looked_at(&pod, target, self.volumes.trouble(target)),
            // The kubelet tells the pod itself. What the call before it has under way is its own.
            Err(refusal) if refusal.code == tonic::Code::Aborted => {}
            Err(_) => self.teller.forget(target),
        }
        published
    }

    /// Takes a volume away.
    ///
    /// # Errors
    /// See [`Volumes::unpublish`].
    async fn unpublish(&self, target: &Path) -> Result<(), Refusal> {
        let pod = self.volumes.unpublish(target).await?;
        self.teller.forget(target);
        // With its last volume goes what the pod gave to speak for it.
        if let Some(pod) = pod.filter(|pod| !self.volumes.any_of(&pod.uid)) {
            self.identities.withdraw(&pod.uid);
        }
        Ok(())
    }

    /// The audit journal goes to standard output, the log to standard error.
    fn journal() -> Journal {
        Journal::Stdout
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
