//! What the tests start from: a queue with the news of an AWS account, a namespace with the notifier's
//! manifest, and nodes that follow.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bed::{
    Aws, ControlPlane, ControlPlaneOptions, FaultProxy, LocalStack, Metrics, Process, Program, eventually, http_get,
    own_address, seccomp::confined, unique_name,
};
use coffer::push::{Change, Subject};
use coffer_injector::kubernetes::Kubernetes;
use coffer_injector::notifier::families;
use coffer_injector::rotations;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;

/// Longer than anything takes that should come about at once, on a slow and busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(40);
/// The promise is a second or so; a busy machine gets some more before it counts as a failure.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(5);
/// A message that was read and not deleted comes again after half a minute; a lease ends before that.
pub(crate) const TAKEN_OVER: Duration = Duration::from_secs(90);

/// The manifest, as it is shipped.
const MANIFEST: &str = include_str!("../../deploy/csi/notifier.yaml");

/// A namespace with the notifier's manifest, and an AWS account with a queue.
pub(crate) struct Bed {
    pub(crate) aws: Aws,
    pub(crate) proxy: FaultProxy,
    pub(crate) queue: String,
    pub(crate) namespace: String,
    pub(crate) plane: &'static ControlPlane,
    folder: TempDir,
    token: String,
}

/// A running notifier.
pub(crate) struct Notifier {
    pub(crate) process: Process,
    listen: SocketAddr,
}

/// A node that follows, and what it has heard.
pub(crate) struct Node {
    heard: Arc<Mutex<Vec<Change>>>,
    following: JoinHandle<()>,
}

/// A way to the API server that can be cut.
pub(crate) struct Gate {
    address: SocketAddr,
    open: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Bed {
    pub(crate) async fn new() -> Result<Self> {
        let localstack = LocalStack::shared().await?;
        let plane = control_plane().await?;
        let aws = Aws::new(localstack.url());
        let name = unique_name("push");
        let queue = aws.create_queue(&name).await?;
        let pattern = json!({"source": ["aws.secretsmanager", "aws.ssm"]});
        aws.route_events(&name, &pattern, &aws.queue_arn(&name)).await?;

        let folder = tempfile::Builder::new().prefix("coffer-notifier-").tempdir()?;
        let namespace = unique_name("notifier");
        let object = json!({"metadata": {"name": namespace, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted",
        }}});
        plane.api().create("/api/v1/namespaces", &object).await?;
        let manifest = folder.path().join("notifier.yaml");
        std::fs::write(&manifest, MANIFEST.replace("namespace: kube-system", &format!("namespace: {namespace}")))?;
        let path = manifest.display().to_string();
        let applied = plane.kubectl(["apply", "-f", &path]);
        applied.await.context("deploy/csi/notifier.yaml cannot be applied")?;
        let token = plane.kubectl(["create", "token", "coffer-notifier", "-n", &namespace]).await?.trim().to_owned();
        let proxy = FaultProxy::start(localstack.url())?;
        Ok(Self { aws, proxy, queue, namespace, plane, folder, token })
    }

    /// The notifier with the rights of its manifest, and nothing more.
    pub(crate) fn notifier(&self, name: &str) -> Result<Notifier> {
        self.notifier_by(name, &self.plane.api().url())
    }

    /// The same, by another way to the API server.
    pub(crate) fn notifier_by(&self, name: &str, url: &str) -> Result<Notifier> {
        let kubeconfig = self.kubeconfig(name, url, &self.token)?;
        let listen = SocketAddr::from((own_address(), 9466));
        // Always under the profile that is shipped, so that each test of this suite is one of the profile.
        let process = Program::new("coffer-injector")
            .under(confined("coffer-injector")?)
            .args(["notifier", "--queue", &self.queue, "--namespace", &self.namespace, "--identity", name])
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--listen={listen}"))
            .envs(self.aws.environment(&self.proxy.url()))
            .start()?;
        Ok(Notifier { process, listen })
    }

    /// A node that follows as an administrator; that its own rights suffice is for another test.
    pub(crate) async fn node(&self) -> Result<Node> {
        self.node_as(&self.plane.folder().join("admin.kubeconfig")).await
    }

    pub(crate) async fn node_as(&self, kubeconfig: &std::path::Path) -> Result<Node> {
        let kubernetes = Kubernetes::connect(Some(kubeconfig)).await?.context("there is a kubeconfig")?;
        let heard: Arc<Mutex<Vec<Change>>> = Arc::default();
        let (client, namespace, hears) = (kubernetes.client(), self.namespace.clone(), Arc::clone(&heard));
        let following = tokio::spawn(async move {
            let on_changes = move |changes| hears.lock().unwrap_or_else(PoisonError::into_inner).extend(changes);
            match rotations::follow(client, namespace, "coffer-rotations".to_owned(), on_changes).await {}
        });
        Ok(Node { heard, following })
    }

    pub(crate) fn kubeconfig(&self, name: &str, url: &str, token: &str) -> Result<PathBuf> {
        let host = self.plane.api().url();
        let host = host.trim_start_matches("https://").split(':').next().unwrap_or_default();
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": url,
                "certificate-authority": self.plane.folder().join("ca.crt"),
                "tls-server-name": host,
            }}],
            "users": [{"name": "notifier", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "notifier"}}],
            "current-context": "test",
        });
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Puts the event on the bus with which Secrets Manager tells that a secret has another version.
    pub(crate) async fn tell(&self, secret: &str, version: &str) -> Result<()> {
        let detail = json!({"name": secret, "labelUpdated": "AWSCURRENT", "versionId": version});
        self.aws.put_event("aws.secretsmanager", "Secret Label Updated", &self.arn(secret), &detail).await
    }

    /// The same, straight into the queue.
    pub(crate) async fn send(&self, secret: &str, version: &str) -> Result<()> {
        let event = json!({
            "version": "0", "id": unique_name("event"), "detail-type": "Secret Label Updated",
            "source": "aws.secretsmanager", "account": self.aws.account(), "time": "2026-02-06T16:43:48Z",
            "region": bed::aws::REGION, "resources": [self.arn(secret)],
            "detail": {"name": secret, "labelUpdated": "AWSCURRENT", "versionId": version},
        });
        self.aws.send_message(&self.queue, &event.to_string()).await
    }

    pub(crate) fn arn(&self, secret: &str) -> String {
        format!("arn:aws:secretsmanager:{}:{}:secret:{secret}-AbCdEf", bed::aws::REGION, self.aws.account())
    }

    /// The object that nodes follow.
    pub(crate) async fn object(&self) -> Result<Value> {
        self.plane.api().get(&self.path("configmaps/coffer-rotations")).await
    }

    /// Lets the notifier make its objects, as the chart's `notifier.createObjects` does.
    pub(crate) async fn may_make_objects(&self) -> Result<()> {
        let namespace = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", self.namespace);
        let rule =
            |group: &str, resource: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": ["create"]});
        let rules = [rule("", "configmaps"), rule("coordination.k8s.io", "leases")];
        let role = json!({"metadata": {"name": "maker"}, "rules": rules});
        self.plane.api().create(&format!("{namespace}/roles"), &role).await?;
        let binding = json!({
            "metadata": {"name": "maker"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maker"},
            "subjects": [{"kind": "ServiceAccount", "name": "coffer-notifier", "namespace": self.namespace}],
        });
        self.plane.api().create(&format!("{namespace}/rolebindings"), &binding).await?;
        Ok(())
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// Who holds the lease; empty if nobody does.
    pub(crate) async fn holder(&self) -> Result<String> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/coffer-notifier", self.namespace);
        let lease = self.plane.api().get(&path).await?;
        Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn is_drained(&self) -> Result<()> {
        eventually(SOON, async || {
            let left = self.aws.messages_in(&self.queue).await?;
            ensure!(left == 0, "{left} messages are left");
            Ok(())
        })
        .await
    }
}

impl Notifier {
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        if let Some(status) = self.process.status()? {
            bail!("the notifier has ended ({status}): {}", self.process.stderr());
        }
        http_get(&format!("http://{}{path}", self.listen)).await
    }

    /// The sum of a metric's samples with these labels; 0 where there is none yet.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        if let Some(status) = self.process.status()? {
            bail!("the notifier has ended ({status}): {}", self.process.stderr());
        }
        Metrics::of_ours(&format!("http://{}/metrics", self.listen), families()).await?.sum(name, labels)
    }

    pub(crate) async fn leads(&self) -> Result<()> {
        let leading = eventually(TAKEN_OVER, async || {
            ensure!(self.metric("coffer_notifier_leader", &[]).await? == 1.0, "it does not lead");
            Ok(())
        });
        leading.await.with_context(|| self.process.stderr())
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

impl Node {
    /// The secrets that it has heard of, with their versions, in that order.
    pub(crate) fn heard(&self) -> Vec<(String, String)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = |change: &Change| {
            let name = match &change.subject {
                Subject::Secret { name, .. } => name.clone().unwrap_or_default(),
                Subject::Parameter { name, .. } => name.clone(),
            };
            (name, change.version.clone().unwrap_or_default())
        };
        heard.iter().map(pair).collect()
    }

    /// Waits until it has heard that.
    pub(crate) async fn hears(&self, secret: &str, version: &str, within: Duration) -> Result<Duration> {
        let started = Instant::now();
        let hears = eventually(within, async || {
            let heard = self.heard();
            let there = heard.iter().any(|(name, is)| name == secret && is == version);
            ensure!(there, "nothing of {secret} {version} in {heard:?}");
            Ok(())
        });
        hears.await?;
        Ok(started.elapsed())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Gate {
    /// A way to that URL's host, open.
    pub(crate) async fn to(url: &str) -> Result<Self> {
        let target: SocketAddr = url.trim_start_matches("https://").parse()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (open, seen) = watch::channel(true);
        let accepting = tokio::spawn(async move {
            while let Ok((inside, _)) = listener.accept().await {
                let mut seen = seen.clone();
                tokio::spawn(async move {
                    if !*seen.borrow() {
                        return;
                    }
                    tokio::select! {
                        _ = pass(inside, target) => {}
                        _ = seen.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Ok(Self { address, open, accepting })
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Cuts every connection, and lets none through any more.
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut inside: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut outside = TcpStream::connect(target).await?;
    tokio::io::copy_bidirectional(&mut inside, &mut outside).await?;
    Ok(())
}

/// One for all tests, each in its own namespace: it ends with the process.
async fn control_plane() -> Result<&'static ControlPlane> {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    PLANE.get_or_try_init(|| ControlPlane::start(ControlPlaneOptions::default())).await
}
