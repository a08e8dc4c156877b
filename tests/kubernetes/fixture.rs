//! What the tests start from: one API server for all of them, and a namespace for each.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use bed::{ControlPlane, ControlPlaneOptions, unique_id};
use coffer_injector::kubernetes::Kubernetes;
use coffer_injector::pod::Pod;
use hyper::{Request, Response};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, watch};
use tower_service::Service;

/// Longer than anything takes that should come about at once, on a slow and busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What no answer to people may hold.
pub(crate) const VALUE: &str = "correct horse battery staple";

/// The API server of all tests, with the kinds of the Secrets Store CSI driver.
pub(crate) async fn plane() -> Result<&'static ControlPlane> {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = async || {
        let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
        install_kinds(&plane).await?;
        anyhow::Ok(plane)
    };
    PLANE.get_or_try_init(start).await
}

/// Installs the kinds as `deploy/` has them.
pub(crate) async fn install_kinds(plane: &ControlPlane) -> Result<()> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/csi/crds");
    plane.kubectl(["apply", "--filename", folder]).await?;
    plane.kubectl(["wait", "--for=condition=established", "--timeout=30s", "crd", "--all"]).await?;
    Ok(())
}

/// The administrator's kubeconfig.
pub(crate) fn kubeconfig(plane: &ControlPlane) -> PathBuf {
    plane.folder().join("admin.kubeconfig")
}

/// By whom an object's fields are, as the API server notes it: who applies the same object reads it in a conflict.
pub(crate) fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry["manager"].as_str().map(str::to_owned)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A namespace of a test's own.
pub(crate) struct Namespace {
    pub(crate) plane: &'static ControlPlane,
    pub(crate) name: String,
    /// The API as an administrator has it, with an eye on what goes over the wire.
    pub(crate) kubernetes: Kubernetes,
    pub(crate) traffic: Traffic,
    folder: TempDir,
}

impl Namespace {
    pub(crate) async fn new() -> Result<Self> {
        let plane = plane().await?;
        let name = format!("test-{}", unique_id());
        plane.api().create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
        let traffic = Traffic::default();
        let client = traffic.watched(client(&kubeconfig(plane)).await?);
        Ok(Self { plane, name, kubernetes: Kubernetes::of(client), traffic, folder: TempDir::new()? })
    }

    /// Creates an object, such as of `configmaps` or, in a group, of `apps/v1/deployments`.
    pub(crate) async fn create(&self, resource: &str, object: &Value) -> Result<Value> {
        self.plane.api().create(&self.path(resource, ""), object).await
    }

    /// Replaces an object.
    pub(crate) async fn replace(&self, resource: &str, name: &str, object: &Value) -> Result<Value> {
        self.plane.api().replace(&self.path(resource, name), object).await
    }

    /// Reads an object, or with an empty name all of them.
    pub(crate) async fn get(&self, resource: &str, name: &str) -> Result<Value> {
        self.plane.api().get(&self.path(resource, name)).await
    }

    /// Deletes an object.
    pub(crate) async fn delete(&self, resource: &str, name: &str) -> Result<Value> {
        self.plane.api().delete(&self.path(resource, name)).await
    }

    /// Creates a pod, with the given owners.
    pub(crate) async fn pod(&self, name: &str, owners: &Value) -> Result<Pod> {
        // Its service account must be there; the second pod finds it.
        let _ = self.create("serviceaccounts", &json!({"metadata": {"name": "app"}})).await;
        let made = self
            .create(
                "pods",
                &json!({
                    "metadata": {"name": name, "ownerReferences": owners},
                    "spec": {
                        "serviceAccountName": "app",
                        "automountServiceAccountToken": false,
                        "containers": [{"name": "app", "image": "none"}],
                    },
                }),
            )
            .await?;
        let uid = made["metadata"]["uid"].as_str().context("no uid")?.to_owned();
        let (namespace, service_account) = (self.name.clone(), "app".to_owned());
        Ok(Pod { namespace, name: name.to_owned(), uid, service_account })
    }

    /// The API as a service account with these rules sees it.
    pub(crate) async fn account(&self, name: &str, rules: &Value) -> Result<Kubernetes> {
        let metadata = json!({"metadata": {"name": name}});
        self.create("serviceaccounts", &metadata).await?;
        let role = json!({"metadata": {"name": name}, "rules": rules});
        self.create("rbac.authorization.k8s.io/v1/roles", &role).await?;
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.name}],
        });
        self.create("rbac.authorization.k8s.io/v1/rolebindings", &binding).await?;
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let token = self.create(&format!("serviceaccounts/{name}/token"), &request).await?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(kubeconfig(self.plane))?)?;
        config["users"][0]["user"] = json!({"token": token["status"]["token"]});
        let file = self.folder.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&file, config.to_string())?;
        Kubernetes::connect(Some(&file)).await?.context("not connected")
    }

    fn path(&self, resource: &str, name: &str) -> String {
        let Self { name: namespace, .. } = self;
        let slash = if name.is_empty() { "" } else { "/" };
        match resource.rsplit_once("/v1/") {
            Some((group, resource)) => format!("/apis/{group}/v1/namespaces/{namespace}/{resource}{slash}{name}"),
            None => format!("/api/v1/namespaces/{namespace}/{resource}{slash}{name}"),
        }
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// What a client sends: a log, and a way to cut it off.
#[derive(Clone, Default)]
pub(crate) struct Traffic {
    requests: Arc<Mutex<Vec<String>>>,
    cut: Arc<AtomicBool>,
}

impl Traffic {
    /// A client whose requests are seen here.
    pub(crate) fn watched(&self, client: Client) -> Client {
        Client::new(Watched { client, traffic: self.clone() }, "default")
    }

    /// How many requests had this method, and this in their path.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| request.starts_with(&format!("{method} ")) && request.contains(path)).count()
    }

    /// How many requests changed something.
    pub(crate) fn writes(&self) -> usize {
        ["POST", "PUT", "PATCH", "DELETE"].map(|method| self.count(method, "")).iter().sum()
    }

    /// Lets nothing through, or everything again.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

struct Watched {
    client: Client,
    traffic: Traffic,
}

impl Service<Request<Body>> for Watched {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let line = format!("{} {}", request.method(), request.uri());
        self.traffic.requests.lock().unwrap().push(line);
        let (client, cut) = (self.client.clone(), self.traffic.cut.load(Ordering::SeqCst));
        Box::pin(async move {
            if cut {
                return Err(kube::Error::Service("the line is cut".into()));
            }
            client.send(request).await
        })
    }
}

/// A way to the API server that can be cut, open connections and all.
pub(crate) struct Line {
    kubeconfig: PathBuf,
    cut: watch::Sender<bool>,
    _folder: TempDir,
}

impl Line {
    pub(crate) async fn start(plane: &ControlPlane) -> Result<Self> {
        let folder = TempDir::new()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = plane.api().url().trim_start_matches("https://").to_owned();
        let mut config: Value = serde_json::from_slice(&std::fs::read(kubeconfig(plane))?)?;
        let cluster = &mut config["clusters"][0]["cluster"];
        cluster["server"] = json!(format!("https://{}", listener.local_addr()?));
        cluster["tls-server-name"] = json!("localhost");
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string())?;
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (server, mut is_cut) = (server.clone(), is_cut.clone());
                tokio::spawn(async move {
                    let through = async {
                        let mut far = TcpStream::connect(server).await?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await
                    };
                    tokio::select! {
                        _ = is_cut.wait_for(|cut| *cut) => {}
                        _ = through => {}
                    }
                });
            }
        });
        Ok(Self { kubeconfig, cut, _folder: folder })
    }

    /// The administrator's, over this line.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Cuts it, or mends it.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}
