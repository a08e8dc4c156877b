//! Every command and manifest of every guide, run or read by what would read it.
//!
//! Here is what they run against: LocalStack with the examples' names in it, a control plane that encrypts by
//! `coffer-kms`, the programs. The reading is `tests/docs/check`, which this calls.

mod walk;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::aws::ParameterType;
use bed::{
    Aws, ControlPlane, ControlPlaneOptions, LocalStack, Process, Program, Service, eventually, free_port, http_get,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The account of all examples.
const ACCOUNT: &str = "123456789012";

/// The keys of all examples: the one in use, and the one that comes after it.
const KEYS: [&str; 2] = ["11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000"];

/// What the examples encrypt with, as `deploy/kms/static-pod.yaml` has it.
const CONTEXT: &str = "cluster=prod";

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/check");

/// Names guides, with blanks between, whose commands alone are to be run: while one is being written.
const GUIDES: &str = "COFFER_TEST_GUIDES";

/// A start on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(40);

#[tokio::test]
async fn every_command_and_manifest_is_right() -> Result<()> {
    let chosen = std::env::var(GUIDES).unwrap_or_default();
    check(&chosen.split_whitespace().collect::<Vec<_>>()).await
}

/// Starts what the guides take for granted, and has the script read them, all or those that are named.
async fn check(arguments: &[&str]) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("coffer-docs-bed-").tempdir()?;
    let localstack = LocalStack::shared().await?;
    let aws = Aws::in_account(localstack.url(), ACCOUNT);
    fill(&aws).await?;
    let plugin = Plugin::start(&aws, localstack.url(), &folder).await?;
    let plane = ControlPlane::start(ControlPlaneOptions::default().encryption(plugin.encryption())).await?;
    let parts = json!({
        "bin": Program::new("coffer").path()?.parent(),
        "etcd": plane.etcd().url(),
        "kubeconfig": plane.kubeconfig(),
        "localstack": localstack.url(),
    });
    read(&folder, &parts, arguments).await?;
    plane.stop().await?;
    plugin.process.stop().await?;
    Ok(())
}

/// Has the script read the guides, all or some, and run their commands before these parts.
async fn read(folder: &TempDir, parts: &Value, arguments: &[&str]) -> Result<()> {
    let told = folder.path().join("bed.json");
    std::fs::write(&told, parts.to_string())?;
    let mut script = Command::new(SCRIPT);
    script.arg("--until-stdin-closes").arg(&told).args(arguments).current_dir(ROOT).stdin(Stdio::piped());
    let mut script = script.spawn().with_context(|| format!("cannot run {SCRIPT}"))?;
    // Its standard input, held open here, closes with this process, however that ends; and `wait` would close it.
    let held = script.stdin.take();
    let status = tokio::task::spawn_blocking(move || script.wait()).await??;
    drop(held);
    ensure!(status.success(), "{SCRIPT} found mistakes, see above");
    Ok(())
}

/// Makes the secret, the parameters and the keys that every example names.
async fn fill(aws: &Aws) -> Result<()> {
    let value = r#"{"username": "app", "password": "hunter2", "host": "db.internal"}"#;
    aws.create_secret("prod/db", value).await?;
    aws.put_secret_value("prod/db", value).await?;
    for name in ["log-level", "level", "region"] {
        aws.put_parameter(&format!("/prod/app/{name}"), ParameterType::String, "info").await?;
    }
    for key in KEYS {
        // LocalStack's way to a key with an id of one's own.
        let tags = json!([{"TagKey": "_custom_id_", "TagValue": key}]);
        aws.call(Service::Kms, "CreateKey", json!({"Tags": tags})).await?;
    }
    let alias = json!({"AliasName": "alias/etcd-prod", "TargetKeyId": KEYS[0]});
    aws.call(Service::Kms, "CreateAlias", alias).await?;
    Ok(())
}

/// The plugin behind the API server.
struct Plugin {
    process: Process,
    endpoint: String,
}

impl Plugin {
    async fn start(aws: &Aws, url: &str, folder: &TempDir) -> Result<Self> {
        let (socket, port) = (folder.path().join("kms.sock"), free_port()?);
        let program = Program::new("coffer-kms")
            .envs(aws.environment(url))
            .env("HOME", folder.path())
            .arg(format!("--key={}", key(KEYS[0])))
            .arg(format!("--encryption-context={CONTEXT}"))
            .arg(format!("--listen={}", socket.display()))
            .arg(format!("--health-port=127.0.0.1:{port}"));
        let process = program.start()?;
        eventually(READY_WITHIN, async || {
            let (status, text) = http_get(&format!("http://127.0.0.1:{port}/healthz")).await?;
            ensure!(status == 200, "/healthz answers {status}: {text}");
            Ok(())
        })
        .await
        .with_context(|| process.stderr())?;
        Ok(Self { process, endpoint: endpoint(&socket) })
    }

    /// As `deploy/kms/encryption/new.yaml` has it, but for the socket.
    fn encryption(&self) -> Value {
        let kms = json!({"apiVersion": "v2", "name": "kms-1", "endpoint": self.endpoint, "timeout": "3s"});
        json!({
            "kind": "EncryptionConfiguration",
            "apiVersion": "apiserver.config.k8s.io/v1",
            "resources": [{"resources": ["secrets"], "providers": [{"kms": kms}, {"identity": {}}]}],
        })
    }
}

fn key(id: &str) -> String {
    format!("arn:aws:kms:eu-west-1:{ACCOUNT}:key/{id}")
}

fn endpoint(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}
