//! The Kubernetes API that the driver asks: one real API server for all tests, a namespace for each.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bed::{
    ControlPlane, ControlPlaneOptions,
    cluster::{Api, Refusal},
    csi::PodVolume,
    eventually, unique_name,
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::fixture::SOON;

/// The group of the Secrets Store CSI driver's own objects.
const GROUP: &str = "secrets-store.csi.x-k8s.io";

/// A namespace of the shared control plane.
pub(crate) struct Cluster {
    plane: &'static ControlPlane,
    namespace: String,
}

impl Cluster {
    pub(crate) async fn new() -> Result<Self> {
        let plane = shared().await?;
        let namespace = unique_name("shop");
        plane.api().create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await?;
        Ok(Self { plane, namespace })
    }

    pub(crate) fn api(&self) -> &Api {
        self.plane.api()
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        self.plane.kubeconfig()
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Makes a service account, with the annotation that EKS reads if a role is given.
    pub(crate) async fn service_account(&self, name: &str, role: Option<&str>) -> Result<()> {
        let annotations = match role {
            Some(role) => json!({"eks.amazonaws.com/role-arn": role}),
            None => json!({}),
        };
        let object = json!({"metadata": {"name": name, "annotations": annotations}});
        self.api().create(&self.path("serviceaccounts", ""), &object).await?;
        Ok(())
    }

    /// A token of the API server's own for a service account.
    pub(crate) async fn token(&self, service_account: &str, audience: &str) -> Result<String> {
        let request = json!({"spec": {"audiences": [audience], "expirationSeconds": 3600}});
        let path = format!("{}/token", self.path("serviceaccounts", service_account));
        let answer = self.api().create(&path, &request).await?;
        Ok(answer["status"]["token"].as_str().with_context(|| format!("no token in {answer}"))?.to_owned())
    }

    /// Makes or replaces a ConfigMap.
    pub(crate) async fn config_map(&self, name: &str, data: &[(&str, &str)]) -> Result<()> {
        let data: serde_json::Map<_, _> = data.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
        let object = json!({"metadata": {"name": name}, "data": data});
        self.put(&self.path("configmaps", ""), name, object).await
    }

    /// Makes or replaces a SecretProviderClass of AWS's provider.
    pub(crate) async fn class(&self, name: &str, parameters: Value) -> Result<()> {
        self.class_as(name, json!({"provider": "aws", "parameters": parameters})).await
    }

    /// Makes or replaces a SecretProviderClass.
    pub(crate) async fn class_as(&self, name: &str, spec: Value) -> Result<()> {
        let object = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "SecretProviderClass",
            "metadata": {"name": name},
            "spec": spec,
        });
        self.put(&self.path("secretproviderclasses", ""), name, object).await
    }

    /// Makes a pod of a service account on a node; the volume is its own then.
    pub(crate) async fn pod_of(&self, volume: PodVolume, service_account: &str) -> Result<PodVolume> {
        let object = json!({
            "metadata": {"name": volume.pod()},
            "spec": {
                "serviceAccountName": service_account,
                "nodeName": "node-a",
                "containers": [{"name": "app", "image": "example.test/app"}],
            },
        });
        let made = self.api().create(&self.path("pods", ""), &object).await?;
        let uid = made["metadata"]["uid"].as_str().with_context(|| format!("no uid in {made}"))?;
        let name = volume.pod().to_owned();
        Ok(volume.of_pod(&name, uid))
    }

    /// The events about a pod, as their reasons and messages.
    pub(crate) async fn events(&self, volume: &PodVolume) -> Result<Vec<(String, String)>> {
        let listed = self.api().get(&self.path("events", "")).await?;
        let about = listed["items"].as_array().into_iter().flatten().filter(|event| {
            [&event["involvedObject"], &event["regarding"]].iter().any(|object| object["uid"] == *volume.uid())
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(about.map(|event| (text(&event["reason"]), text(&event["message"]))).collect())
    }

    /// Waits for an event about a pod with all of these words in its message, and gives that.
    pub(crate) async fn event(&self, volume: &PodVolume, words: &[&str]) -> Result<String> {
        eventually(SOON, async || {
            let events = self.events(volume).await?;
            let found = events.iter().find(|(_, message)| words.iter().all(|word| message.contains(word)));
            let (_, message) = found.with_context(|| format!("no event with {words:?} among {events:?}"))?;
            Ok(message.clone())
        })
        .await
    }

    /// The SecretProviderClassPodStatus of a pod and a class.
    pub(crate) async fn class_status(&self, volume: &PodVolume, class: &str) -> Result<Value> {
        let name = format!("{}-{}-{class}", volume.pod(), self.namespace);
        self.api().get(&self.path("secretproviderclasspodstatuses", &name)).await
    }

    /// Whether there is no such object.
    pub(crate) async fn ensure_absent(&self, kind: &str, name: &str) -> Result<()> {
        match self.api().get(&self.path(kind, name)).await {
            Ok(object) => anyhow::bail!("it is there: {object}"),
            Err(error) => {
                let status = error.downcast_ref::<Refusal>().map(|refusal| refusal.status);
                ensure!(status == Some(404), "{error:#}");
                Ok(())
            }
        }
    }

    /// The API path of this namespace's objects of a kind, or of one of them.
    pub(crate) fn path(&self, kind: &str, name: &str) -> String {
        let root = if kind.starts_with("secretprovider") { format!("apis/{GROUP}/v1") } else { "api/v1".to_owned() };
        let path = format!("/{root}/namespaces/{}/{kind}", self.namespace);
        if name.is_empty() { path } else { format!("{path}/{name}") }
    }

    async fn put(&self, collection: &str, name: &str, mut object: Value) -> Result<()> {
        let path = format!("{collection}/{name}");
        match self.api().get(&path).await {
            Ok(old) => {
                object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
                self.api().replace(&path, &object).await?;
            }
            Err(_) => drop(self.api().create(collection, &object).await?),
        }
        Ok(())
    }
}

/// The control plane of this test process: it ends with it.
async fn shared() -> Result<&'static ControlPlane> {
    static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
    SHARED
        .get_or_try_init(async || {
            let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
            for (kind, plural) in [
                ("SecretProviderClass", "secretproviderclasses"),
                ("SecretProviderClassPodStatus", "secretproviderclasspodstatuses"),
            ] {
                define(plane.api(), kind, plural).await?;
            }
            let node = json!({
                "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/region": bed::aws::REGION}},
            });
            plane.api().create("/api/v1/nodes", &node).await?;
            Ok(plane)
        })
        .await
}

/// Defines one of the Secrets Store CSI driver's objects, with any fields, and waits until it is served.
async fn define(api: &Api, kind: &str, plural: &str) -> Result<()> {
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            // The API server wants a word on names below k8s.io.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": GROUP,
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": anything}}],
        },
    });
    api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
    eventually(SOON + Duration::from_secs(20), async || api.get(&format!("/apis/{GROUP}/v1/{plural}")).await).await?;
    Ok(())
}
