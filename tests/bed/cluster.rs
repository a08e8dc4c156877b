//! A Kubernetes control plane: etcd and the API server, the real ones, as processes on loopback; with
//! the controllers and the scheduler if asked for, and with nodes that run pods.
//!
//! It needs Go, and neither root nor a container engine: `tests/cluster/build` compiles them once, and Helm. A
//! [`Node`] needs root, and containerd, which `tests/cluster/node` fetches.

mod api;
mod component;
mod containerd;
mod credentials;
mod etcd;
mod forward;
mod helm;
mod image;
mod kubectl;
mod kubelet;
mod node;
mod program;
mod room;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use self::component::Component;
use self::credentials::Credentials;
use self::helm::Helm;
use self::kubectl::Kubectl;
pub use self::{
    api::{Api, Refusal},
    etcd::{Etcd, Stored},
    forward::Forward,
    image::{Image, Shipped},
    node::{Event, Node, NodeOptions},
};
use crate::{Metrics, eventually, loopback::own_address};

/// A start takes two seconds, on a busy machine a good deal longer.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Between two looks at the encryption config, where the API server by itself takes a minute.
const CONFIG_POLL: Duration = Duration::from_secs(1);

/// A reload tries the new providers first, for ten seconds at most.
const RELOADED_WITHIN: Duration = Duration::from_secs(45);

/// What of the controller manager runs: what makes pods out of what stands for them, gives them service
/// accounts, and clears up. Nodes are the test bed's own business.
const CONTROLLERS: [&str; 15] = [
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
];

/// What a control plane is started with: by default nothing is encrypted, and nothing but the API
/// server acts on what it holds.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    encryption: Option<Value>,
    reload: bool,
    feature_gates: Vec<String>,
    controllers: bool,
    scheduler: bool,
}

/// A running control plane. It ends when dropped, with all that it holds; and with the test process,
/// however that ends.
#[derive(Debug)]
pub struct ControlPlane {
    // In this order they end.
    scheduler: Option<Component>,
    controllers: Option<Component>,
    api_server: Component,
    etcd_server: Component,
    api: Api,
    etcd: Etcd,
    options: ControlPlaneOptions,
    program: PathBuf,
    kubectl: Kubectl,
    credentials: Credentials,
    address: Ipv4Addr,
    folder: TempDir,
}

impl ControlPlaneOptions {
    /// Encrypts as this `EncryptionConfiguration` says.
    pub fn encryption(mut self, config: Value) -> Self {
        self.encryption = Some(config);
        self
    }

    /// Has the API server look for changes of that configuration while it runs
    /// (`--encryption-provider-config-automatic-reload`), each second instead of each minute.
    pub fn automatic_reload(mut self) -> Self {
        self.reload = true;
        self
    }

    /// Turns a feature gate on or off, such as `KMSv1=true`.
    pub fn feature_gate(mut self, gate: &str) -> Self {
        self.feature_gates.push(gate.to_owned());
        self
    }

    /// Runs the controller manager: pods get service accounts and their tokens, deployments, daemon
    /// sets and jobs get pods, and what belongs to something deleted goes with it.
    pub fn controllers(mut self) -> Self {
        self.controllers = true;
        self
    }

    /// Runs the scheduler: a pod need not name its node.
    pub fn scheduler(mut self) -> Self {
        self.scheduler = true;
        self
    }
}

impl ControlPlane {
    /// Starts one and waits until it is ready.
    ///
    /// The plugins that the encryption config names have to run already.
    pub async fn start(options: ControlPlaneOptions) -> Result<Self> {
        let program = program::kubernetes().await?;
        let folder = tempfile::Builder::new().prefix("coffer-cluster-").tempdir()?;
        let address = own_address();
        let credentials = Credentials::write(folder.path(), address)?;
        if let Some(config) = &options.encryption {
            write_config(folder.path(), &config.to_string())?;
        }
        let etcd = Etcd::at(address);
        let etcd_server = Component::plan(&program, "etcd", folder.path())
            .until_stdin_closes_then_remove(folder.path())
            .args(etcd.flags(folder.path()))
            .start()?;
        let api = Api::new(address, &credentials)?;
        let api_server = start_api_server(&program, folder.path(), address, &credentials, &options)?;
        let kubectl = Kubectl::new(program.clone(), credentials.kubeconfig().to_owned(), folder.path().to_owned());
        let mut plane = Self {
            scheduler: None,
            controllers: None,
            api_server,
            etcd_server,
            api,
            etcd,
            options,
            program,
            kubectl,
            credentials,
            address,
            folder,
        };
        plane.ready().await?;
        plane.start_controllers().await?;
        Ok(plane)
    }

    /// The API, as an administrator sees it.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What is in etcd, past the API server.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// How a program reaches it as an administrator.
    pub fn kubeconfig(&self) -> &Path {
        self.credentials.kubeconfig()
    }

    /// Where it keeps its files: data, logs, and what a test puts there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `kubectl` as an administrator: what it prints.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub async fn kubectl<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.kubectl.run(args).await
    }

    /// Runs `helm` as an administrator: what it prints.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub async fn helm<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let program = program::helm().await?;
        Helm::new(program, self.kubeconfig().to_owned(), self.folder().to_owned()).run(args).await
    }

    /// Who has issued the tokens of its service accounts, as their claim `iss` says.
    pub fn issuer(&self) -> &'static str {
        credentials::ISSUER
    }

    /// The public keys of that issuer, as a JSON Web Key Set.
    pub async fn jwks(&self) -> Result<Value> {
        self.api.get("/openid/v1/jwks").await
    }

    /// Replaces the encryption config; with automatic reload, waits until the API server has taken it
    /// over, and without, it holds from the next start on.
    pub async fn set_encryption(&self, config: &Value) -> Result<()> {
        self.set_encryption_text(&config.to_string()).await
    }

    /// The same with a config as it stands in a file, in YAML or JSON.
    pub async fn set_encryption_text(&self, config: &str) -> Result<()> {
        ensure!(self.options.encryption.is_some(), "it was started without an encryption config");
        let before = if self.options.reload { Some(self.reloads().await?) } else { None };
        write_config(self.folder.path(), config)?;
        if let Some(before) = before {
            let reloaded = eventually(RELOADED_WITHIN, async || {
                ensure!(self.reloads().await? > before, "the old encryption config still holds");
                Ok(())
            });
            reloaded.await.with_context(|| self.api_server.last_words())?;
        }
        Ok(())
    }

    /// Ends the API server as the kubelet does, and starts it again: it has forgotten everything that
    /// is not in etcd.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.api_server.stop().await?;
        self.api_server =
            start_api_server(&self.program, self.folder.path(), self.address, &self.credentials, &self.options)?;
        self.ready().await
    }

    /// Ends everything in good order.
    pub async fn stop(mut self) -> Result<()> {
        for component in [&mut self.scheduler, &mut self.controllers].into_iter().flatten() {
            component.stop().await?;
        }
        // The API server first, or it would wait for etcd.
        self.api_server.stop().await?;
        self.etcd_server.stop().await
    }

    /// How a health check of the API server stands, such as `readyz` or `healthz/kms-providers`: the
    /// HTTP status and the text.
    pub async fn health(&self, check: &str) -> Result<(u16, String)> {
        self.api.text(&format!("/{check}")).await
    }

    /// The API server's metrics, as Prometheus reads them.
    pub async fn metrics(&self) -> Result<Metrics> {
        let (status, text) = self.api.text("/metrics").await?;
        ensure!(status == 200, "/metrics answers {status}: {text}");
        Metrics::read(&text)
    }

    async fn ready(&mut self) -> Result<()> {
        let Self { api, api_server, etcd_server, .. } = self;
        let ready = eventually(READY_WITHIN, async || {
            if let Some(ended) = etcd_server.ended()?.or(api_server.ended()?) {
                return Ok(Err(ended));
            }
            let (status, text) = api.text("/readyz?verbose").await?;
            ensure!(status == 200, "/readyz answers {status}: {text}");
            Ok(Ok(()))
        });
        match ready.await {
            Ok(ready) => ready,
            Err(error) => Err(error.context(api_server.last_words())),
        }
    }

    /// Starts the controller manager and the scheduler, if they are wanted, and waits until a pod can
    /// be made.
    async fn start_controllers(&mut self) -> Result<()> {
        let Self { api, program, folder, credentials, options, .. } = self;
        let kubeconfig = format!("--kubeconfig={}", credentials.kubeconfig().display());
        let start = |name, flags: Vec<String>| {
            // No port: nobody asks them anything.
            let own = ["--leader-elect=false".to_owned(), "--secure-port=0".to_owned()];
            Component::plan(program, name, folder.path()).until_stdin_closes().args(own).args(flags).start()
        };
        if options.scheduler {
            self.scheduler = Some(start("kube-scheduler", vec![kubeconfig.clone()])?);
        }
        if options.controllers {
            let mut flags = credentials.controller_manager_flags().to_vec();
            flags.push(kubeconfig);
            flags.push(format!("--controllers={}", CONTROLLERS.join(",")));
            let controllers = self.controllers.insert(start("kube-controller-manager", flags)?);
            let ready = eventually(READY_WITHIN, async || {
                if let Some(ended) = controllers.ended()? {
                    return Ok(Err(ended));
                }
                for needed in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
                    api.get(&format!("/api/v1/namespaces/default/{needed}")).await?;
                }
                Ok(Ok(()))
            });
            match ready.await {
                Ok(ready) => ready?,
                Err(error) => return Err(error.context(controllers.last_words())),
            }
        }
        Ok(())
    }

    /// How often it has taken over a changed encryption config.
    async fn reloads(&self) -> Result<u64> {
        let name = "apiserver_encryption_config_controller_automatic_reloads_total";
        let number = self.metrics().await?.sum(name, &[("status", "success")])?;
        // A count, so whole and small.
        Ok(number as u64)
    }
}

fn start_api_server(
    program: &Path,
    folder: &Path,
    address: Ipv4Addr,
    credentials: &Credentials,
    options: &ControlPlaneOptions,
) -> Result<Component> {
    let mut flags = vec![
        format!("--etcd-servers={}", Etcd::at(address).url()),
        format!("--bind-address={address}"),
        format!("--secure-port={}", api::PORT),
        // Else it looks for a default route, which not every machine has; and no Endpoints may name
        // a loopback address.
        format!("--advertise-address={address}"),
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        // A webhook or an API behind a Service is called at the addresses of its pods: nothing here makes a Service's own
        // address lead anywhere.
        "--enable-aggregator-routing=true".to_owned(),
        // A kubelet may touch what is of its own node, as in every cluster of today.
        "--enable-admission-plugins=NodeRestriction".to_owned(),
    ];
    flags.extend(credentials.api_server_flags());
    if options.encryption.is_some() {
        flags.push(format!("--encryption-provider-config={}", config_path(folder).display()));
        flags.push(format!("--encryption-provider-config-automatic-reload={}", options.reload));
    }
    if !options.feature_gates.is_empty() {
        flags.push(format!("--feature-gates={}", options.feature_gates.join(",")));
    }
    Component::plan(program, "kube-apiserver", folder).until_stdin_closes().config_poll(CONFIG_POLL).args(flags).start()
}

fn config_path(folder: &Path) -> PathBuf {
    folder.join("encryption.json")
}

/// Puts an encryption config in place, whole.
fn write_config(folder: &Path, config: &str) -> Result<()> {
    let unfinished = folder.join("encryption.json.new");
    fs::write(&unfinished, config)?;
    fs::rename(unfinished, config_path(folder)).context("cannot write the encryption config")
}
