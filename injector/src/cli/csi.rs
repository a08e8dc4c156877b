//! `coffer-injector csi`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use coffer_injector::csi::{Driver, MetricNames, Registered, Settings, Sockets};
use coffer_injector::form::interval;
use coffer_injector::kubernetes::Kubernetes;
use coffer_injector::rotations;
use coffer_runtime::VERSION;
use coffer_runtime::process::{Exit, Termination};
use coffer_runtime::telemetry::{self, metrics_router};
use coffer_unix_grpc::{Access, Address, Inherited, Mode, Peers, ServeError, Socket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Failed;
use super::common::{FetchArguments, GRACE, ProcessArguments, volume_size};

/// Mount secrets as volumes of pods, on one node
///
/// Serves the CSI node services on a unix socket and makes itself known to the kubelet. Runs as root, with
/// the kubelet's folder mounted so that mounts in it reach the host (Bidirectional), which takes a
/// privileged container; see deploy/csi.
#[derive(Debug, clap::Args)]
pub(super) struct Csi {
    /// The driver's name, as pods and the CSIDriver object have it
    #[arg(long, alias = "drivername", value_name = "NAME", default_value = "csi.coffer.dev", value_parser = driver_name)]
    driver_name: String,

    /// The name of the node
    #[arg(long, alias = "nodeid", value_name = "NAME", env = "NODE_NAME")]
    node_id: String,

    /// The kubelet's folder (its --root-dir), at the same path as on the host
    #[arg(long, value_name = "PATH", default_value = "/var/lib/kubelet")]
    kubelet_dir: PathBuf,

    /// Serve CSI here [default: plugins/NAME/csi.sock in the kubelet's folder]
    #[arg(long, value_name = "unix://PATH")]
    endpoint: Option<Address>,

    /// Leave it to another (such as node-driver-registrar) to make the driver known to the kubelet
    #[arg(long)]
    no_registration: bool,

    /// How often volumes look for changes, where they do not say
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = interval)]
    refresh: Duration,

    /// The most that the files of a volume may hold, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 8 * 1024 * 1024, value_parser = volume_size)]
    max_volume_size: u64,

    /// Copy what a SecretProviderClass lists as `secretObjects` to Secrets of Kubernetes; needs the rights
    /// to write Secrets, and puts values into etcd
    #[arg(long)]
    sync_secrets: bool,

    /// Whose names the metrics bear; with `secrets-store`, those of the Secrets Store CSI driver too
    #[arg(long, value_name = "NAMES", default_value = "coffer")]
    metric_names: MetricNames,

    /// The ConfigMap in which the notifier tells of changes [default: coffer-rotations in POD_NAMESPACE]
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = object_name)]
    rotations: Option<(String, String)>,

    #[command(flatten)]
    fetch: FetchArguments,

    #[command(flatten)]
    process: ProcessArguments,
}

impl Csi {
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
        let (csi, registration) = self.sockets()?;
        let http = self.process.listener().await?;
        let kubernetes = self.process.kubernetes().await?;
        let aws = self.fetch.aws().await?;
        let agent = self.fetch.pod_identity_endpoint.clone();
        let driver = Driver::new(self.settings(&aws), aws, agent, kubernetes.clone()).map_err(Failed::at_run_time)?;
        let endpoint = csi.address().path().map(|path| path.display().to_string()).unwrap_or_default();
        let (registrar, registered) = driver.registration(&endpoint);
        tracing::info!(
            driver = self.driver_name,
            node = self.node_id,
            socket = %csi.address(),
            "coffer-injector {VERSION} csi starts"
        );

        let known = (!self.no_registration).then(|| registered.clone());
        let registry = Arc::new(driver.registry());
        let _report = self.process.report("coffer-injector csi", &registry);
        let health = health(known).merge(metrics_router(registry));
        tokio::spawn(telemetry::serve(http, health));
        if let Some(kubernetes) = kubernetes {
            self.hear_of_changes(&kubernetes, &driver);
        }

        let telling = Arc::clone(&driver);
        tokio::spawn(async move { telling.keep_telling().await });

        let (stop, stopped) = watch::channel(());
        let mut servers = JoinSet::new();
        // The kubelet asks the first at once when it has found the second.
        for (socket, routes) in [(Some(csi), driver.routes()), (registration, registrar)] {
            let Some(socket) = socket else { continue };
            let mut stopped = stopped.clone();
            // Ends when told to, and when nobody is there to tell any more.
            let shutdown = async move { drop(stopped.changed().await) };
            servers.spawn(coffer_unix_grpc::serve(socket, routes, shutdown, GRACE));
        }
        drop(stopped);
        let mut result = tokio::select! {
            signal = termination.requested() => {
                tracing::info!(signal, "asked to end; volumes stay mounted");
                Ok(())
            }
            why = refused(registered) => Err(Failed::at_run_time(format!("the kubelet refused the driver: {why}"))),
            Some(ended) = servers.join_next() => server_end(ended),
        };
        driver.leave();
        drop(stop);
        while let Some(ended) = servers.join_next().await {
            result = result.and(server_end(ended));
        }
        driver.close().await;
        tracing::info!("coffer-injector csi ends");
        result
    }

    fn settings(&self, aws: &coffer_runtime::aws::Aws) -> Settings {
        Settings {
            name: self.driver_name.clone(),
            node: self.node_id.clone(),
            region: aws.region().map(str::to_owned),
            refresh: self.refresh,
            mount_timeout: self.fetch.mount_timeout,
            volume_limit: self.max_volume_size,
            sync_secrets: self.sync_secrets,
            rates: self.fetch.rates(),
            metric_names: self.metric_names,
        }
    }

    /// The socket for CSI, and the one for the kubelet's plugin manager.
    fn sockets(&self) -> Result<(Socket, Option<Socket>), Failed> {
        if !self.no_registration && !self.kubelet_dir.is_dir() {
            let folder = self.kubelet_dir.display();
            tracing::warn!(
                "{folder} was not there: if it is not the kubelet's --root-dir, the kubelet will not find the driver"
            );
        }
        let paths = Sockets::of(&self.kubelet_dir, &self.driver_name);
        let address = |path: &PathBuf| path.display().to_string().parse::<Address>().map_err(Failed::usage);
        let endpoint = self.endpoint.clone().map_or_else(|| address(&paths.csi), Ok)?;
        if let Some(folder) = endpoint.path().and_then(std::path::Path::parent) {
            std::fs::create_dir_all(folder)
                .map_err(|error| Failed::at_run_time(format!("cannot make {}: {error}", folder.display())))?;
        }
        // Tokens of every pod of the node pass here: for the kubelet, and for nobody else.
        let access = Access { mode: Mode::default(), owner: None, group: None, peers: Some(Peers::root_and_own()) };
        let open =
            |address: &Address| Socket::open(address, &access, &mut Inherited::default()).map_err(Failed::at_run_time);
        let csi = open(&endpoint)?;
        let registration = match self.no_registration {
            true => None,
            false => Some(open(&address(&paths.registration)?)?),
        };
        Ok((csi, registration))
    }

    /// Follows what the notifier writes.
    fn hear_of_changes(&self, kubernetes: &Arc<Kubernetes>, driver: &Arc<Driver>) {
        let own = || Some((std::env::var("POD_NAMESPACE").ok()?, rotations::DEFAULT_NAME.to_owned()));
        let Some((namespace, name)) = self.rotations.clone().or_else(own) else {
            tracing::info!("no --rotations and no POD_NAMESPACE: changes are seen at the next refresh, not at once");
            return;
        };
        let driver = Arc::clone(driver);
        let client = kubernetes.client();
        tokio::spawn(rotations::follow(client, namespace, name, move |changes| driver.look(changes)));
    }
}

/// `/livez`: the process answers. `/readyz`: the kubelet knows the driver.
fn health(registered: Option<watch::Receiver<Registered>>) -> Router {
    Router::new().route("/livez", get(|| async { "ok\n" })).route(
        "/readyz",
        get(move || async move {
            match registered.as_ref().is_none_or(|state| *state.borrow() == Registered::Yes) {
                true => (StatusCode::OK, "ready\n"),
                false => (StatusCode::SERVICE_UNAVAILABLE, "the kubelet has not registered the driver yet\n"),
            }
        }),
    )
}

/// Why the kubelet refused the driver, once it has.
async fn refused(mut state: watch::Receiver<Registered>) -> String {
    let refused = state.wait_for(|state| matches!(state, Registered::Refused(_))).await;
    match refused.map(|state| state.clone()) {
        Ok(Registered::Refused(why)) => why,
        // Nobody is left to say so.
        _ => std::future::pending().await,
    }
}

type ServerEnd = Result<Result<(), ServeError>, tokio::task::JoinError>;

fn server_end(ended: ServerEnd) -> Result<(), Failed> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failed::at_run_time(error)),
        Err(error) => Err(Failed::at_run_time(error)),
    }
}

/// A driver's name: at most 63 characters, with a letter or digit at both ends (CSI, `GetPluginInfo`).
fn driver_name(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if bytes.len() <= 63 && ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(plain) {
        return Ok(text.to_owned());
    }
    Err("a driver's name has at most 63 letters, digits, dots and hyphens, as `csi.example.com`".to_owned())
}

fn object_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write it as NAMESPACE/NAME".to_owned()),
    }
}
