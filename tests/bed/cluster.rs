//! A Kubernetes control plane: etcd and the API server, the real ones, as processes on loopback.
//!
//! It needs Go, and neither root nor a container engine: `tests/cluster/build` compiles them once.

mod api;
mod component;
mod credentials;
mod etcd;
mod program;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use self::component::Component;
use self::credentials::Credentials;
pub use self::{
    api::{Api, Refusal},
    etcd::{Etcd, Stored},
};
use crate::{eventually, loopback::own_address};

/// A start takes two seconds, on a busy machine a good deal longer.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Between two looks at the encryption config, where the API server by itself takes a minute.
const CONFIG_POLL: Duration = Duration::from_secs(1);

/// A reload tries the new providers first, for ten seconds at most.
const RELOADED_WITHIN: Duration = Duration::from_secs(45);

/// What a control plane is started with: by default nothing is encrypted.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    encryption: Option<Value>,
    reload: bool,
    feature_gates: Vec<String>,
}

/// A running control plane. It ends when dropped, with all that it holds; and with the test process,
/// however that ends.
#[derive(Debug)]
pub struct ControlPlane {
    // In this order they end.
    api_server: Component,
    etcd_server: Component,
    api: Api,
    etcd: Etcd,
    options: ControlPlaneOptions,
    program: PathBuf,
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
}

impl ControlPlane {
    /// Starts one and waits until it is ready.
    ///
    /// The plugins that the encryption config names have to run already.
    pub async fn start(options: ControlPlaneOptions) -> Result<Self> {
        let program = program::path().await?;
        let folder = tempfile::Builder::new().prefix("coffer-cluster-").tempdir()?;
        let address = own_address();
        let credentials = Credentials::write(folder.path(), address)?;
        if let Some(config) = &options.encryption {
            write_config(folder.path(), config)?;
        }
        let etcd = Etcd::at(address);
        let etcd_server = Component::plan(&program, "etcd", folder.path())
            .until_stdin_closes_then_remove(folder.path())
            .args(etcd.flags(folder.path()))
            .start()?;
        let api = Api::new(address, &credentials)?;
        let api_server = start_api_server(&program, folder.path(), address, &options)?;
        let mut plane = Self {
            api_server,
            etcd_server,
            api,
            etcd,
            options,
            program: program.clone(),
            credentials,
            address,
            folder,
        };
        plane.ready().await?;
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
        let mut command = Command::new(&self.program);
        command.arg("kubectl").arg("--kubeconfig").arg(self.credentials.kubeconfig());
        command.args(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        // It keeps a cache at home.
        command.env_clear().env("HOME", self.folder()).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.context("cannot run kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl ({}): {}", output.status, said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Replaces the encryption config; with automatic reload, waits until the API server has taken it
    /// over, and without, it holds from the next start on.
    pub async fn set_encryption(&self, config: &Value) -> Result<()> {
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
        self.api_server = start_api_server(&self.program, self.folder.path(), self.address, &self.options)?;
        self.ready().await
    }

    /// Ends everything in good order.
    pub async fn stop(mut self) -> Result<()> {
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
    pub async fn metrics(&self) -> Result<String> {
        let (status, text) = self.api.text("/metrics").await?;
        ensure!(status == 200, "/metrics answers {status}: {text}");
        Ok(text)
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

    /// How often it has taken over a changed encryption config.
    async fn reloads(&self) -> Result<u64> {
        let name = "apiserver_encryption_config_controller_automatic_reloads_total{";
        let metrics = self.metrics().await?;
        let succeeded = metrics.lines().find(|line| line.starts_with(name) && line.contains(r#"status="success""#));
        let number = succeeded.and_then(|line| line.rsplit(' ').next()).map_or(Ok(0.0), str::parse::<f64>)?;
        // A count, so whole and small.
        Ok(number as u64)
    }
}

fn start_api_server(
    program: &Path,
    folder: &Path,
    address: Ipv4Addr,
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
    ];
    flags.extend(Credentials::flags(folder));
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
fn write_config(folder: &Path, config: &Value) -> Result<()> {
    let unfinished = folder.join("encryption.json.new");
    fs::write(&unfinished, config.to_string())?;
    fs::rename(unfinished, config_path(folder)).context("cannot write the encryption config")
}
