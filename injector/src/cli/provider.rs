//! `coffer-injector provider`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use coffer_injector::provider::{Provider, Settings, socket_in};
use coffer_runtime::VERSION;
use coffer_runtime::process::{Exit, Termination};
use coffer_runtime::telemetry::{self, metrics_router};
use coffer_unix_grpc::{Access, Address, Inherited, Mode, Peers, Socket};
use tokio::sync::oneshot;

use super::Failed;
use super::common::{FetchArguments, GRACE, ProcessArguments, volume_size};

/// Answer the Secrets Store CSI driver, in the place of AWS's own provider
///
/// That driver mounts and writes; it asks here what, for each pod under its own identity. Takes the flags
/// of AWS's provider. Files are always returned to the driver, never written to a volume from here.
#[derive(Debug, clap::Args)]
pub(super) struct ProviderCommand {
    /// The folder in which the driver looks for its providers' sockets
    #[arg(
        long,
        alias = "provider-volume",
        value_name = "PATH",
        default_value = "/var/run/secrets-store-csi-providers"
    )]
    provider_dir: PathBuf,

    /// The name of the node, whose label tells the region where nothing else does
    #[arg(long, alias = "nodeid", value_name = "NAME", env = "NODE_NAME", default_value = "")]
    node_id: String,

    /// The most that the files of a volume may hold, in bytes; the driver takes 4 MiB unless it is told otherwise
    #[arg(long, value_name = "BYTES", default_value_t = 3 * 1024 * 1024, value_parser = volume_size)]
    max_volume_size: u64,

    #[command(flatten)]
    theirs: TheirFlags,

    #[command(flatten)]
    fetch: FetchArguments,

    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of AWS's provider that do nothing here.
#[derive(Debug, clap::Args)]
struct TheirFlags {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    driver_writes_secrets: Option<bool>,

    #[arg(long, hide = true, value_name = "NUMBER")]
    qps: Option<f64>,

    #[arg(long, hide = true, value_name = "NUMBER")]
    burst: Option<u32>,

    #[arg(long, hide = true, value_name = "VERSION")]
    eks_addon_version: Option<String>,

    #[arg(long, hide = true, value_name = "TIME")]
    pod_identity_http_timeout: Option<String>,
}

impl TheirFlags {
    /// Says which of them are there and why they do nothing.
    fn tell(&self) {
        let idle = [
            (
                self.driver_writes_secrets == Some(false),
                "driver-writes-secrets",
                "files are always returned to the driver",
            ),
            (self.qps.is_some(), "qps", "objects are read once for many pods, not once for each"),
            (self.burst.is_some(), "burst", "objects are read once for many pods, not once for each"),
            (self.eks_addon_version.is_some(), "eks-addon-version", "it only names the add-on in AWS's logs"),
            (self.pod_identity_http_timeout.is_some(), "pod-identity-http-timeout", "the agent has 5 s to answer"),
        ];
        for (_, flag, why) in idle.into_iter().filter(|(given, ..)| *given) {
            tracing::info!("--{flag} does nothing here: {why}");
        }
    }
}

impl ProviderCommand {
    pub(super) fn run(&self) -> Exit {
        self.start().map_or_else(Failed::exit, |()| Exit::Done)
    }

    fn start(&self) -> Result<(), Failed> {
        let runtime = self.process.start()?;
        let result = runtime.block_on(self.serve());
        runtime.shutdown_timeout(Duration::from_millis(100));
        result
    }

    async fn serve(&self) -> Result<(), Failed> {
        let mut termination = Termination::listen().map_err(Failed::at_run_time)?;
        let socket = self.socket()?;
        let http = self.process.listener().await?;
        let kubernetes = self.process.kubernetes().await?;
        let aws = self.fetch.aws().await?;
        let settings = Settings {
            node: self.node_id.clone(),
            region: aws.region().map(str::to_owned),
            mount_timeout: self.fetch.mount_timeout,
            volume_limit: self.max_volume_size,
            rates: self.fetch.rates(),
        };
        let provider = Provider::new(settings, aws, self.fetch.pod_identity_endpoint.clone(), kubernetes);
        tracing::info!(socket = %socket.address(), "coffer-injector {VERSION} provider starts");
        self.theirs.tell();

        let registry = Arc::new(provider.registry());
        let _report = self.process.report("coffer-injector provider", &registry);
        let health = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(|| async { "ready\n" }))
            .merge(metrics_router(registry));
        tokio::spawn(telemetry::serve(http, health));
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let mut serving = tokio::spawn(coffer_unix_grpc::serve(socket, provider.routes(), shutdown, GRACE));
        let ended = tokio::select! {
            signal = termination.requested() => {
                tracing::info!(signal, "asked to end; questions under way are answered first");
                drop(stop);
                serving.await
            }
            ended = &mut serving => ended,
        };
        let result = ended.map_err(Failed::at_run_time)?.map_err(Failed::at_run_time);
        tracing::info!("coffer-injector provider ends");
        result
    }

    fn socket(&self) -> Result<Socket, Failed> {
        let folder = &self.provider_dir;
        let path = socket_in(folder).map_err(|error| {
            Failed::at_run_time(format!(
                "cannot use {}: {error}; name the driver's folder with --provider-dir",
                folder.display()
            ))
        })?;
        let address: Address = path.display().to_string().parse().map_err(Failed::usage)?;
        // Tokens of every pod of the node pass here.
        let access = Access { mode: Mode::default(), owner: None, group: None, peers: Some(Peers::root_and_own()) };
        Socket::open(&address, &access, &mut Inherited::default()).map_err(Failed::at_run_time)
    }
}
