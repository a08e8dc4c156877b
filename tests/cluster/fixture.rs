//! What the tests start from: keys in an AWS account behind a fault proxy, a plugin that serves them on
//! sockets, and what an API server is told of it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::{
    Aws, ControlPlane, FaultProxy, LocalStack, Process, Program, Service, cluster::Stored, eventually, free_port,
    http_get,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything takes that should come about at once, on a slow and busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// What no ciphertext may hold.
pub(crate) const PLAINTEXT: &str = "correct horse battery staple";

/// What is encrypted. Where a test has both, secrets go by v2 and config maps by v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Secret,
    ConfigMap,
}

/// AWS KMS as a plugin sees it, and a folder for sockets.
pub(crate) struct Kms {
    /// Past the proxy.
    pub(crate) aws: Aws,
    pub(crate) proxy: FaultProxy,
    folder: TempDir,
}

/// A key of KMS, and the socket on which it is served.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) key: String,
    pub(crate) socket: PathBuf,
}

/// A running plugin.
pub(crate) struct Plugin {
    pub(crate) process: Process,
}

/// The two protocols between an API server and a plugin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Kms {
    pub(crate) async fn new() -> Result<Self> {
        let localstack = LocalStack::shared().await?;
        Ok(Self {
            aws: Aws::new(localstack.url()),
            proxy: FaultProxy::start(localstack.url())?,
            folder: tempfile::Builder::new().prefix("coffer-kms-").tempdir()?,
        })
    }

    /// Makes a key, for a socket of that name.
    pub(crate) async fn key(&self, name: &str) -> Result<Served> {
        let made = self.aws.call(Service::Kms, "CreateKey", json!({"Description": name})).await?;
        let key = made["KeyMetadata"]["Arn"].as_str().with_context(|| format!("no ARN in {made}"))?.to_owned();
        Ok(Served { key, socket: self.folder.path().join(format!("{name}.sock")) })
    }

    pub(crate) async fn disable(&self, served: &Served) -> Result<()> {
        self.aws.call(Service::Kms, "DisableKey", json!({"KeyId": served.key})).await?;
        Ok(())
    }

    pub(crate) async fn enable(&self, served: &Served) -> Result<()> {
        self.aws.call(Service::Kms, "EnableKey", json!({"KeyId": served.key})).await?;
        Ok(())
    }

    /// `coffer-kms` with what it needs to know of AWS.
    pub(crate) fn coffer_kms(&self) -> Program {
        self.at_aws(Program::new("coffer-kms"))
    }

    /// A program that looks for AWS in its environment, and finds the proxy.
    pub(crate) fn at_aws(&self, program: Program) -> Program {
        program.envs(self.aws.environment(&self.proxy.url())).env("HOME", self.folder.path())
    }

    /// Starts `coffer-kms` for these keys and waits until it can use them.
    pub(crate) async fn serve(&self, served: &[&Served]) -> Result<Plugin> {
        // It asks KMS more often than it would, so that the tests see it notice.
        Plugin::start(self.coffer_kms().arg("--probe-interval=1s"), served).await
    }
}

impl Plugin {
    /// Starts a plugin, ours or the one that ours replaces: both take the same flags.
    pub(crate) async fn start(program: Program, served: &[&Served]) -> Result<Self> {
        let health: SocketAddr = ([127, 0, 0, 1], free_port()?).into();
        let mut program = program.arg(format!("--health-port={health}"));
        for Served { key, socket } in served {
            program = program.arg(format!("--key={key}")).arg(format!("--listen={}", socket.display()));
        }
        let process = program.start()?;
        let ready = eventually(SOON, async || {
            if let Some(status) = process.status()? {
                return Ok(Some(status));
            }
            let (status, text) = http_get(&format!("http://{health}/healthz")).await?;
            ensure!(status == 200, "/healthz answers {status}: {text}");
            ensure!(served.iter().all(|served| served.socket.exists()), "not every socket is there");
            Ok(None)
        });
        let said = || format!("the plugin said:\n{}{}", process.stdout(), process.stderr());
        let ended = ready.await.with_context(said)?;
        ensure!(ended.is_none(), "the plugin ended ({ended:?}); {}", said());
        Ok(Self { process })
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) -> Result<()> {
        self.process.stop().await?;
        Ok(())
    }
}

impl Version {
    /// The prefix that an API server puts before what a provider of this name has encrypted.
    pub(crate) fn prefix(self, provider: &str) -> String {
        format!("k8s:enc:kms:{self}:{provider}:")
    }

    /// A provider of an encryption config.
    pub(crate) fn provider(self, name: &str, socket: &Path) -> Value {
        json!({"kms": {
            "apiVersion": self.to_string(),
            "name": name,
            "endpoint": format!("unix://{}", socket.display()),
            "timeout": "3s",
        }})
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// An encryption config: for each resource its providers, of which the first writes.
pub(crate) fn encryption<const N: usize>(resources: [(Resource, Vec<Value>); N]) -> Value {
    let resources = resources.into_iter().map(|(resource, mut providers)| {
        // What was written before there was a plugin stays readable.
        providers.push(json!({"identity": {}}));
        json!({"resources": [resource.plural()], "providers": providers})
    });
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": resources.collect::<Vec<_>>(),
    })
}

impl Resource {
    /// Writes one with [`PLAINTEXT`] in it.
    pub(crate) async fn create(self, plane: &ControlPlane, name: &str) -> Result<()> {
        let field = match self {
            Self::Secret => "stringData",
            Self::ConfigMap => "data",
        };
        plane
            .api()
            .create(&self.path(""), &json!({"metadata": {"name": name}, field: {"password": PLAINTEXT}}))
            .await?;
        Ok(())
    }

    /// Reads one through the API server, which must find [`PLAINTEXT`] in it.
    pub(crate) async fn read(self, plane: &ControlPlane, name: &str) -> Result<Value> {
        let object = plane.api().get(&self.path(name)).await?;
        let found = object["data"]["password"].as_str().with_context(|| format!("no password in {object}"))?;
        let expected = match self {
            Self::Secret => BASE64_STANDARD.encode(PLAINTEXT),
            Self::ConfigMap => PLAINTEXT.to_owned(),
        };
        ensure!(found == expected, "not what was written: {object}");
        Ok(object)
    }

    /// Writes one again as it is.
    pub(crate) async fn rewrite(self, plane: &ControlPlane, name: &str) -> Result<()> {
        let object = self.read(plane, name).await?;
        plane.api().replace(&self.path(name), &object).await?;
        Ok(())
    }

    /// What etcd holds of one.
    pub(crate) async fn stored(self, plane: &ControlPlane, name: &str) -> Result<Stored> {
        plane.etcd().get(&self.key(name)).await
    }

    /// Where etcd holds one.
    pub(crate) fn key(self, name: &str) -> String {
        format!("/registry/{}/default/{name}", self.plural())
    }

    fn path(self, name: &str) -> String {
        format!("/api/v1/namespaces/default/{}/{name}", self.plural())
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
        }
    }
}

/// The files of a control plane, etcd's journal and every log among them, that hold [`PLAINTEXT`].
pub(crate) fn files_with_plaintext(plane: &ControlPlane) -> Result<String> {
    let mut grep = std::process::Command::new("grep");
    grep.args(["--recursive", "--files-with-matches", "--fixed-strings", PLAINTEXT]).arg(plane.folder());
    Ok(String::from_utf8(grep.output().context("cannot run grep")?.stdout)?)
}

/// Checks that a value was encrypted by the provider with that prefix, and tells nothing.
pub(crate) fn ensure_encrypted(stored: &Stored, prefix: &str) -> Result<()> {
    ensure!(stored.value.starts_with(prefix.as_bytes()), "it does not begin with {prefix}: {stored:?}");
    for plaintext in [PLAINTEXT, &BASE64_STANDARD.encode(PLAINTEXT), "password"] {
        ensure!(!stored.contains(plaintext), "{plaintext:?} is in {stored:?}");
    }
    Ok(())
}
