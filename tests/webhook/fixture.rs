//! What the tests start from: the webhook with a certificate in files, and pods.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bed::seccomp::confined;
use bed::webhook::{ReviewClient, Reviewed, ServingCertificate};
use bed::{Metrics, Process, Program, eventually, http_get, own_address};
use coffer_injector::webhook::metrics::families;
use serde_json::{Value, json};

/// Longer than anything takes that should come about at once, on a slow and busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// A running webhook.
pub(crate) struct Webhook {
    pub(crate) process: Process,
    pub(crate) certificate: ServingCertificate,
    pub(crate) address: SocketAddr,
    listen: SocketAddr,
}

impl Webhook {
    /// One that has no Kubernetes API.
    pub(crate) async fn start() -> Result<Self> {
        Self::with(&[]).await
    }

    /// One with more arguments.
    pub(crate) async fn with(args: &[&str]) -> Result<Self> {
        let webhook = Self::unready(args)?;
        webhook.readiness(200).await?;
        Ok(webhook)
    }

    /// The same, however it stands.
    pub(crate) fn unready(args: &[&str]) -> Result<Self> {
        let files = |certificate: &ServingCertificate| {
            vec![
                format!("--tls-cert-file={}", certificate.certificate().display()),
                format!("--tls-key-file={}", certificate.key().display()),
                "--webhook-configuration=".to_owned(),
            ]
        };
        Self::launch(args, files)
    }

    /// One that makes its own certificate, as soon as there is a configuration of that name to tell it to. The name is
    /// that of its namespace, too.
    pub(crate) fn with_its_own(name: &str, args: &[&str]) -> Result<Self> {
        let own = |certificate: &ServingCertificate| {
            vec![
                format!("--webhook-configuration={name}"),
                format!("--namespace={name}"),
                format!("--dns-name={}", certificate.address().ip()),
                "--identity=test".to_owned(),
                "--overlap=1s".to_owned(),
            ]
        };
        Self::launch(args, own)
    }

    fn launch(args: &[&str], certificates: impl Fn(&ServingCertificate) -> Vec<String>) -> Result<Self> {
        let own = own_address();
        let (address, listen) = (SocketAddr::from((own, 9443)), SocketAddr::from((own, 9466)));
        let certificate = ServingCertificate::new(address)?;
        // Always under the profile that is shipped, so that each test of this suite is one of the profile.
        let process = Program::new("coffer-injector")
            .under(confined("coffer-injector")?)
            .args(["webhook", "--image=registry.example/coffer:1"])
            .arg(format!("--bind={address}"))
            .arg(format!("--listen={listen}"))
            .args(certificates(&certificate))
            .args(args)
            .start()?;
        Ok(Self { process, certificate, address, listen })
    }

    pub(crate) async fn client(&self) -> Result<ReviewClient> {
        self.certificate.client(self.address).await
    }

    /// What it serves beside reviews.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        if let Some(status) = self.process.status()? {
            bail!("the webhook has ended ({status}): {}", self.process.stderr());
        }
        http_get(&format!("http://{}{path}", self.listen)).await
    }

    /// The sum of a metric's samples with these labels; 0 where there is none yet.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        if let Some(status) = self.process.status()? {
            bail!("the webhook has ended ({status}): {}", self.process.stderr());
        }
        Metrics::of_ours(&format!("http://{}/metrics", self.listen), families()).await?.sum(name, labels)
    }

    /// Reviews that came to that.
    pub(crate) async fn admissions(&self, result: &str) -> Result<f64> {
        self.metric("coffer_webhook_admissions_total", &[("result", result)]).await
    }

    /// Waits until `/readyz` answers so.
    pub(crate) async fn readiness(&self, expected: u16) -> Result<String> {
        let ready = eventually(SOON, async || {
            let (status, text) = self.get("/readyz").await?;
            ensure!(status == expected, "/readyz answers {status}: {text}");
            Ok(text)
        });
        ready.await.with_context(|| self.process.stderr())
    }
}

/// A pod with one container, and these annotations of ours.
pub(crate) fn pod(annotations: &[(&str, &str)]) -> Value {
    let annotations: serde_json::Map<_, _> =
        annotations.iter().map(|(name, value)| (format!("coffer.dev/{name}"), json!(value))).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "app-7d4b9-", "namespace": "shop", "annotations": annotations},
        "spec": {
            "serviceAccountName": "app",
            "containers": [{
                "name": "app",
                "image": "registry.example/app:1",
                "command": ["/app"],
                "env": [{"name": "LEVEL", "value": "info"}],
                "volumeMounts": [{
                    "name": "kube-api-access-x2x4z",
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                    "readOnly": true,
                }],
            }],
            "volumes": [{"name": "kube-api-access-x2x4z", "projected": {"sources": []}}],
        },
    })
}

/// A pod that gets a sidecar.
pub(crate) fn annotated() -> Value {
    pod(&[("inject", "true"), ("file.db-password", "secretsmanager:prod/db#password")])
}

/// The pod as the API server makes it of the answer.
pub(crate) fn patched(pod: &Value, answer: &Reviewed) -> Result<Value> {
    let mut pod = pod.clone();
    if let Some(patch) = answer.patch()? {
        let patch: json_patch::Patch = serde_json::from_value(patch)?;
        json_patch::patch(&mut pod, &patch)?;
    }
    Ok(pod)
}

/// Every problem that a review was denied for.
pub(crate) fn denial(answer: &Reviewed) -> Result<String> {
    let response = answer.response()?;
    ensure!(response["allowed"] == false, "it is allowed: {response}");
    Ok(response["status"]["message"].as_str().unwrap_or_default().to_owned())
}
