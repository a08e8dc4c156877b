//! `coffer-injector webhook` as `deploy/webhook` installs it: a real API server calls it, a real kubelet runs the pods
//! that it changes, and these fetch their files by their own tokens.

mod another;
mod changes;
mod examples;
mod shapes;
mod stream;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bed::{
    Aws, ControlPlane, ControlPlaneOptions, FaultProxy, LocalStack, Metrics, Node, NodeOptions,
    aws::ParameterType,
    cluster::{Forward, Image},
    eventually, unique_name,
};
use coffer_injector::webhook::metrics::families;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::fixture::SOON;

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/webhook");

/// The namespace and the name in the manifests.
const SYSTEM: &str = "coffer-system";
const NAME: &str = "coffer-injector";

/// How often the kubelet looks at pods here, and so brings a changed Secret or annotation to them.
pub(crate) const SYNC: Duration = Duration::from_secs(3);

/// Two pods come up, one after another go.
const ROLLED_OUT: Duration = Duration::from_secs(150);

/// A cluster with the webhook, and an AWS account.
pub(crate) struct Ground {
    pub(crate) aws: Aws,
    pub(crate) proxy: FaultProxy,
    pub(crate) to_aws: Forward,
    pub(crate) to_api: Forward,
    pub(crate) node: Node,
    pub(crate) plane: ControlPlane,
}

/// A pod that has been made.
pub(crate) struct Pod<'a> {
    ground: &'a Ground,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// A running process of the webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replica {
    name: String,
    address: Ipv4Addr,
}

impl Ground {
    /// The one of this test process, which stays as it is.
    async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Ground> = OnceCell::const_new();
        SHARED.get_or_try_init(async || Self::with(&[]).await).await
    }

    /// One of its own, with these flags of the webhook beside those of the manifest.
    async fn with(flags: &[&str]) -> Result<Self> {
        let ground = Self::without().await?;
        ground.install(&fs::read_to_string(format!("{MANIFESTS}/webhook.yaml"))?, flags).await?;
        ground.rolled_out(2).await?;
        Ok(ground)
    }

    /// One of its own, without the webhook yet.
    async fn without() -> Result<Self> {
        let plane = ControlPlaneOptions::default().controllers().scheduler();
        Self::on(plane, NodeOptions::default().sync_frequency(SYNC)).await
    }

    /// A cluster of that kind, with nothing of ours in it but the images.
    pub(crate) async fn on(plane: ControlPlaneOptions, node: NodeOptions) -> Result<Self> {
        let localstack = LocalStack::shared().await?;
        let (aws, proxy) = (Aws::new(localstack.url()), FaultProxy::start(localstack.url())?);
        aws.create_secret("prod/db", r#"{"username": "app", "password": "one", "host": "db"}"#).await?;
        aws.put_parameter("/prod/app/log-level", ParameterType::SecureString, "info").await?;
        let plane = ControlPlane::start(plane).await?;
        let node = Node::start(&plane, node).await?;
        let (to_aws, to_api) = (Forward::to(&proxy.url())?, Forward::to(&plane.api().url())?);
        let ground = Self { aws, proxy, to_aws, to_api, node, plane };
        ground.import_images().await?;
        Ok(ground)
    }

    async fn import_images(&self) -> Result<()> {
        self.node.import_shipped(Image::shipped("coffer-injector")?).await?;
        self.node.import_shipped(Image::shipped("coffer")?).await
    }

    /// Applies manifests, with what is elsewhere here than in a cluster on AWS and nothing else.
    async fn install(&self, manifests: &str, flags: &[&str]) -> Result<()> {
        let file = self.plane.folder().join("webhook.yaml");
        fs::write(&file, manifests)?;
        // As they are written: `apply` would tell what becomes of those that are there.
        let read = ["create", "--dry-run=client", "--output=json", "--filename", &file.to_string_lossy()];
        let read = self.plane.kubectl(read).await?;
        let mut objects = serde_json::Deserializer::from_str(&read).into_iter().collect::<Result<Vec<Value>, _>>()?;
        let deployment = objects.iter_mut().find(|object| object["kind"] == "Deployment").context("no Deployment")?;
        let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
        let arguments = container["args"].as_array_mut().context("no arguments")?;
        arguments.push(format!("--container-env=AWS_ENDPOINT_URL=http://{}", self.to_aws.address()).into());
        arguments.push("--container-env=AWS_EC2_METADATA_DISABLED=true".into());
        arguments.extend(flags.iter().map(|&flag| flag.into()));
        let api = self.to_api.address();
        let variables = container["env"].as_array_mut().context("no variables")?;
        variables.push(json!({"name": "KUBERNETES_SERVICE_HOST", "value": api.ip()}));
        variables.push(json!({"name": "KUBERNETES_SERVICE_PORT", "value": api.port().to_string()}));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        fs::write(self.installed(), list.to_string())?;
        self.apply_again().await
    }

    /// Applies what was installed, as it was then.
    async fn apply_again(&self) -> Result<()> {
        self.plane.kubectl(["apply", "--filename", &self.installed().to_string_lossy()]).await.map(drop)
    }

    fn installed(&self) -> PathBuf {
        self.plane.folder().join("webhook.json")
    }

    /// Waits until that many replicas of the newest kind serve and no others are there, and the API server knows them.
    pub(crate) async fn rolled_out(&self, replicas: usize) -> Result<()> {
        let api = self.plane.api();
        let deployment = format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/{NAME}");
        let serves = eventually(ROLLED_OUT, async || {
            let object = api.get(&deployment).await?;
            let status = &object["status"];
            ensure!(status["observedGeneration"] == object["metadata"]["generation"], "not seen yet");
            for count in ["replicas", "updatedReplicas", "readyReplicas"] {
                ensure!(status[count].as_u64().unwrap_or_default() == replicas as u64, "{status}");
            }
            let ready = self.ready_endpoints().await?;
            ensure!(ready.len() == replicas, "ready endpoints are {ready:?}");
            Ok(())
        });
        match serves.await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.said().await)),
        }
    }

    /// The pods that the API server may call, as the webhook's Service has them.
    async fn ready_endpoints(&self) -> Result<Vec<String>> {
        let slices = self
            .plane
            .api()
            .get(&format!(
                "/apis/discovery.k8s.io/v1/namespaces/{SYSTEM}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{NAME}"
            ))
            .await?;
        let endpoints = slices["items"].as_array().into_iter().flatten();
        let endpoints = endpoints.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
        ready.map(|one| one["targetRef"]["name"].as_str().map(str::to_owned).context("an endpoint of no pod")).collect()
    }

    /// What the webhook's processes have said.
    pub(crate) async fn said(&self) -> String {
        let logs = ["logs", "--namespace", SYSTEM, "--selector", "app.kubernetes.io/name=coffer-injector", "--prefix"];
        let said = self.plane.kubectl(logs).await.unwrap_or_else(|error| format!("{error:#}"));
        let pods = self.plane.kubectl(["describe", "pods", "--namespace", SYSTEM]).await.unwrap_or_default();
        format!("the webhook said:\n{said}\n{pods}")
    }

    /// The processes of the webhook that run.
    async fn replicas(&self) -> Result<Vec<Replica>> {
        let list = self.plane.api().get(&format!("/api/v1/namespaces/{SYSTEM}/pods")).await?;
        let pods = list["items"].as_array().into_iter().flatten();
        let running = pods.filter(|pod| pod["status"]["phase"] == "Running");
        running
            .map(|pod| {
                let text = |field: &Value| field.as_str().map(str::to_owned).context("no name, or no address");
                Ok(Replica { name: text(&pod["metadata"]["name"])?, address: text(&pod["status"]["podIP"])?.parse()? })
            })
            .collect()
    }

    /// The reviews that the webhook has answered, all replicas together.
    async fn reviews(&self) -> Result<f64> {
        let mut sum = 0.0;
        for replica in self.replicas().await? {
            let metrics = Metrics::of_ours(&format!("http://{}:9466/metrics", replica.address), families()).await?;
            sum += metrics.sum("coffer_webhook_admissions_total", &[])?;
        }
        Ok(sum)
    }

    /// The calls to the webhook that the API server counts.
    async fn calls(&self) -> Result<f64> {
        let metrics = self.plane.metrics().await?;
        let of = |name| metrics.sum("apiserver_admission_webhook_request_total", &[("name", name)]);
        Ok(of("inject.coffer.dev")? + of("required.coffer.dev")?)
    }

    /// A new namespace with these labels, in which the service account `api` has the role of that name.
    pub(crate) async fn namespace(&self, labels: Value) -> Result<String> {
        let name = unique_name("shop");
        let api = self.plane.api();
        api.create("/api/v1/namespaces", &json!({"metadata": {"name": name, "labels": labels}})).await?;
        let role = self.aws.role_arn("api");
        self.account(&name, "api", &json!({"eks.amazonaws.com/role-arn": role})).await?;
        Ok(name)
    }

    /// A new namespace in which an annotated pod is made with its secrets or not at all.
    pub(crate) async fn required(&self) -> Result<String> {
        self.namespace(json!({"coffer.dev/injection": "required"})).await
    }

    async fn account(&self, namespace: &str, name: &str, annotations: &Value) -> Result<()> {
        let api = self.plane.api();
        let account = json!({"metadata": {"name": name, "annotations": annotations}});
        api.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account).await?;
        // It comes from a controller, and each pod wants it.
        let roots = format!("/api/v1/namespaces/{namespace}/configmaps/kube-root-ca.crt");
        eventually(SOON, async || api.get(&roots).await).await.map(drop)
    }

    pub(crate) async fn create(&self, namespace: &str, pod: &Value) -> Result<Pod<'_>> {
        let made = self.plane.api().create(&format!("/api/v1/namespaces/{namespace}/pods"), pod).await?;
        Pod::of(self, &made)
    }

    /// The pods with that label, once there are so many.
    async fn pods_of(&self, namespace: &str, label: &str, count: usize) -> Result<Vec<Pod<'_>>> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={}", label.replace('=', "%3D"));
        let names = eventually(SOON, async || {
            let list = self.plane.api().get(&path).await?;
            let pods = list["items"].as_array().context("no list")?;
            ensure!(pods.len() == count, "{} pods have the label {label}", pods.len());
            Ok(pods
                .iter()
                .map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned())
                .collect::<Vec<_>>())
        });
        let mut found = Vec::new();
        for name in names.await? {
            found.push(self.pod(namespace, &name).await?);
        }
        Ok(found)
    }

    /// The one pod with that label.
    async fn pod_of(&self, namespace: &str, label: &str) -> Result<Pod<'_>> {
        self.pods_of(namespace, label, 1).await?.pop().context("no pod")
    }

    /// The pod of that name.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Pod<'_>> {
        let object = self.plane.api().get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await?;
        Pod::of(self, &object)
    }

    /// The claims of the tokens that were shown to AWS.
    fn tokens(&self) -> Result<Vec<Value>> {
        let calls = self.proxy.calls_to("AssumeRoleWithWebIdentity");
        calls.iter().filter_map(|call| call.request["WebIdentityToken"].as_str()).map(claims).collect()
    }
}

impl<'a> Pod<'a> {
    fn of(ground: &'a Ground, object: &Value) -> Result<Self> {
        let text = |name: &str| object["metadata"][name].as_str().map(str::to_owned).context("no name, or no UID");
        Ok(Self { ground, namespace: text("namespace")?, name: text("name")?, uid: text("uid")? })
    }

    pub(crate) async fn object(&self) -> Result<Value> {
        self.ground.plane.api().get(&format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)).await
    }

    /// Waits until it runs: and so until the sidecar has published its files.
    pub(crate) async fn runs(&self) -> Result<Value> {
        self.becomes("Running").await
    }

    async fn becomes(&self, phase: &str) -> Result<Value> {
        match self.ground.node.wait_for_pod(&self.namespace, &self.name, phase).await {
            Ok(pod) => Ok(pod),
            Err(error) => {
                let logs = ["logs", "--namespace", &self.namespace, &self.name, "--all-containers", "--prefix"];
                let said = self.ground.plane.kubectl(logs).await.unwrap_or_else(|error| format!("{error:#}"));
                Err(error.context(format!("its containers said:\n{said}")))
            }
        }
    }

    /// Runs a line of shell in its container `app`.
    pub(crate) async fn shell(&self, script: &str) -> Result<String> {
        self.ground.node.exec(&self.namespace, &self.name, "app", &["sh", "-c", script]).await
    }

    /// What a file of its volume holds, as the application reads it.
    pub(crate) async fn read(&self, file: &str) -> Result<String> {
        self.shell(&format!("cat /run/secrets/coffer/{file}")).await
    }

    /// The token that it has shown to AWS, which must be one that AWS could check: of this API server, for STS, bound
    /// to this pod.
    fn own_token(&self, account: &str) -> Result<()> {
        let own = |token: &&Value| token["kubernetes.io"]["pod"]["uid"] == *self.uid;
        let tokens = self.ground.tokens()?;
        let token = tokens.iter().find(own).with_context(|| format!("{} has shown no token", self.name))?;
        ensure!(token["sub"] == format!("system:serviceaccount:{}:{account}", self.namespace), "{token}");
        ensure!(token["iss"] == self.ground.plane.issuer() && token["aud"][0] == "sts.amazonaws.com", "{token}");
        Ok(())
    }
}

/// A pod with these annotations whose application is not root and sleeps; nothing in it that need not be.
pub(crate) fn pod(annotations: &Value) -> Value {
    json!({
        "metadata": {"generateName": "app-", "annotations": annotations},
        "spec": {
            "serviceAccountName": "api",
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "app",
                "image": Node::SHELL,
                "command": ["sleep", "1000"],
                "securityContext": {"runAsUser": 10003},
            }],
        },
    })
}

/// What asks for one file, `password`, and has the sidecar look for a change each second.
pub(crate) fn asks_for_password() -> Value {
    json!({
        "coffer.dev/inject": "true",
        "coffer.dev/region": bed::aws::REGION,
        "coffer.dev/refresh": "1s",
        "coffer.dev/file.password": "secretsmanager:prod/db#password",
    })
}

/// The claims of a token.
fn claims(token: &str) -> Result<Value> {
    let claims = token.split('.').nth(1).context("not a token")?;
    Ok(serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims)?)?)
}

/// The names of a pod's init containers.
fn init_containers(pod: &Value) -> Vec<&str> {
    let containers = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    containers.filter_map(|container| container["name"].as_str()).collect()
}
