//! What several commands take alike.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coffer::spec::RateLimits;
use coffer_injector::form::interval;
use coffer_injector::identity::AgentUrl;
use coffer_injector::kubernetes::Kubernetes;
use coffer_runtime::aws::{Aws, Timeouts};
use coffer_runtime::telemetry::{EmfNamespace, EmfOutput, EmfReport, LogFormat, LogLevel, init_logs};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::Failed;

/// How long requests may take after the end was called.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Of a process on a node or in a cluster.
#[derive(Debug, clap::Args)]
pub(super) struct ProcessArguments {
    /// Reach the Kubernetes API with this file; else as a pod of the cluster does
    #[arg(long, value_name = "PATH", env = "KUBECONFIG")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// Serve /livez, /readyz and /metrics here; they name no secret and no pod
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9466")]
    pub(super) listen: SocketAddr,

    /// How much to log: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "COFFER_LOG_LEVEL", default_value = "info")]
    pub(super) log_level: LogLevel,

    /// text or json
    #[arg(long, value_name = "FORMAT", env = "COFFER_LOG_FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,

    /// Tell CloudWatch the metrics, under this namespace: a few lines of JSON a minute on standard output, in the
    /// embedded metric format [default: none are told]
    #[arg(long, value_name = "NAME", env = "COFFER_EMF_NAMESPACE")]
    pub(super) emf_namespace: Option<EmfNamespace>,
}

/// Of a process that fetches for many pods. The rates are for one node of many: AWS bears 40 calls a second to
/// Parameter Store for an account (AWS General Reference), and a node's pods start together.
#[derive(Debug, clap::Args)]
pub(super) struct FetchArguments {
    /// Ask AWS here, where a volume names no region; else where the node's label says
    #[arg(long, value_name = "REGION", env = "AWS_REGION")]
    pub(super) region: Option<String>,

    /// How long a mount may take, retries included; the kubelet tries again
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = interval)]
    pub(super) mount_timeout: Duration,

    /// Where EKS Pod Identity is asked; else its agent's link-local addresses
    #[arg(long, value_name = "URL", env = "COFFER_POD_IDENTITY_ENDPOINT")]
    pub(super) pod_identity_endpoint: Option<AgentUrl>,

    /// Calls a second to Secrets Manager, for each account and region
    #[arg(long, value_name = "NUMBER", default_value_t = 50.0, value_parser = rate)]
    pub(super) secretsmanager_rate: f64,

    /// Calls a second to Parameter Store, for each account and region
    #[arg(long, value_name = "NUMBER", default_value_t = 20.0, value_parser = rate)]
    pub(super) parameterstore_rate: f64,
}

impl ProcessArguments {
    /// Starts the log and the runtime.
    pub(super) fn start(&self) -> Result<Runtime, Failed> {
        init_logs(self.log_level, self.log_format);
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Failed::at_run_time)
    }

    /// Tells CloudWatch what `registry` counts, if that is wanted, until what is returned is dropped; `command` is how
    /// this process was called.
    pub(super) fn report(&self, command: &'static str, registry: &Arc<Registry>) -> Option<EmfReport> {
        let namespace = self.emf_namespace.clone();
        namespace.map(|name| EmfReport::start(name, command, Arc::clone(registry), EmfOutput::Stdout))
    }

    pub(super) async fn listener(&self) -> Result<TcpListener, Failed> {
        let bound = TcpListener::bind(self.listen).await;
        bound.map_err(|error| {
            let fix = "choose another address with --listen";
            Failed::at_run_time(format!("cannot serve health on {}: {error}; {fix}", self.listen))
        })
    }

    pub(super) async fn kubernetes(&self) -> Result<Option<Arc<Kubernetes>>, Failed> {
        let connected = Kubernetes::connect(self.kubeconfig.as_deref()).await.map_err(Failed::usage)?;
        if connected.is_none() {
            tracing::warn!("no Kubernetes API: this is no pod, and there is no --kubeconfig; what needs it fails");
        }
        Ok(connected.map(Arc::new))
    }
}

impl FetchArguments {
    pub(super) async fn aws(&self) -> Result<Aws, Failed> {
        Aws::load(self.region.as_deref(), Timeouts::default()).await.map_err(Failed::usage)
    }

    pub(super) fn rates(&self) -> RateLimits {
        RateLimits { secretsmanager: self.secretsmanager_rate, parameterstore: self.parameterstore_rate }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.1..=10_000.0).contains(number));
    number.ok_or_else(|| "takes calls a second, a number from 0.1 to 10000".to_owned())
}

/// The most that a volume may hold: from what one secret may to what a node can spare.
pub(super) fn volume_size(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (64 * 1024..=1024 * 1024 * 1024).contains(number));
    number.ok_or_else(|| "takes bytes, a number from 65536 (one secret's most) to 1073741824".to_owned())
}
