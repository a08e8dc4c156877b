//! The Kubernetes API, as far as a node needs it: a handful of objects, by name.
//!
//! Nothing is listed but by one name, and nothing is asked twice at once. RBAC, all of it `get` but where said:
//!
//! | what for | rule |
//! |---|---|
//! | roles of pods | `serviceaccounts` |
//! | region, when no flag or variable names it | `nodes` |
//! | volumes with `configMap` | `configmaps` |
//! | volumes with `secretProviderClass` | `secretproviderclasses` of `secrets-store.csi.x-k8s.io` |
//! | [`PodStatus`] | `get`, `create`, `update` of `secretproviderclasspodstatuses` there |
//! | [`Events`] | `create` of `events` |
//! | [`SecretSync`], if wanted | `get`, `create`, `patch` of `secrets`; `pods` |
//! | [`follow`] | `list`, `watch` of the one object, by `resourceNames` |

mod cached;
mod class;
mod error;
mod events;
mod follow;
mod object;
mod pod_status;
mod requests;
mod secret_sync;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod as ApiPod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::DynamicObject;
use kube::{Api, Client, Config};

use self::cached::{Cached, Lifetime, Outage};
pub use self::class::{Class, SecretKey, SecretObject};
pub use self::error::{KubernetesError, Verb};
pub use self::events::Events;
pub use self::follow::{follow, follow_and_tell};
pub use self::object::{NameParts, ObjectName};
pub use self::pod_status::PodStatus;
use self::requests::Requests;
pub use self::secret_sync::{SecretSync, SyncError};
use crate::pod::Pod;

/// Longest wait for a connection to the API server, TLS included.
const CONNECT: Duration = Duration::from_secs(3);

/// By whom each field is, as the API server notes it in `managedFields`; at most 128 characters. Those who apply the same
/// object, such as Helm and Argo CD, read it in a conflict.
const FIELD_MANAGER: &str = "coffer-injector";

/// The annotation of a service account that names its role, as EKS has it.
const ROLE: &str = "eks.amazonaws.com/role-arn";
/// The label of a node that names its region, as every cloud provider sets it.
const REGION: &str = "topology.kubernetes.io/region";

/// The Kubernetes API. A clone is the same one, with the same memory.
///
/// What is read by name is kept for about a minute, a no for two seconds; whoever asks for the same object at
/// the same time shares one request; and while the API is away, what was last read is given.
#[derive(Clone)]
pub struct Kubernetes {
    inner: Arc<Inner>,
    /// Whether only what was read a moment ago is given from memory.
    young: bool,
}

struct Inner {
    requests: Arc<Requests>,
    roles: Cached<Option<String>>,
    regions: Cached<Option<String>>,
    config_maps: Cached<Arc<BTreeMap<String, String>>>,
    classes: Cached<Arc<Class>>,
    owners: Cached<Arc<Owners>>,
}

/// Whose a pod is.
struct Owners {
    uid: String,
    references: Vec<OwnerReference>,
}

impl Kubernetes {
    /// Connects as the given kubeconfig says, else as a pod in its cluster does, else not at all. Nothing is
    /// sent yet.
    ///
    /// # Errors
    /// When the kubeconfig, or what the kubelet mounted, cannot be used.
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Option<Self>, KubernetesError> {
        let config = match kubeconfig {
            Some(path) => from_file(path).await?,
            None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() || !Path::new(TOKEN).exists() => {
                return Ok(None);
            }
            None => Config::incluster().map_err(|error| KubernetesError::InCluster { cause: error.to_string() })?,
        };
        let used = |cause: String| match kubeconfig {
            Some(path) => KubernetesError::Kubeconfig { path: path.to_owned(), cause },
            None => KubernetesError::InCluster { cause },
        };
        let client = client(config).map_err(|error| used(error.to_string()))?;
        Ok(Some(Self::of(client)))
    }

    /// The API behind a client that exists already, with limits of its own.
    #[must_use]
    pub fn of(client: Client) -> Self {
        let outage = Arc::<Outage>::default();
        let text = |text: &Option<String>| if text.is_some() { Lifetime::Usual } else { Lifetime::Brief };
        let region = |region: &Option<String>| if region.is_some() { Lifetime::Forever } else { Lifetime::Brief };
        let inner = Arc::new(Inner {
            requests: Arc::new(Requests::new(client)),
            roles: Cached::new(&outage, text),
            regions: Cached::new(&outage, region),
            config_maps: Cached::new(&outage, |_| Lifetime::Usual),
            classes: Cached::new(&outage, |_| Lifetime::Usual),
            owners: Cached::new(&outage, |_| Lifetime::Usual),
        });
        Self { inner, young: false }
    }

    /// The same, for those who must not be told what was so a minute ago: at most two seconds old, which is
    /// enough for those who ask together.
    #[must_use]
    pub fn young(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), young: true }
    }

    /// For what this module does not offer: a lease, an object to [`follow`].
    #[must_use]
    pub fn client(&self) -> Client {
        self.inner.requests.client.clone()
    }

    /// The role of a service account: its annotation `eks.amazonaws.com/role-arn`.
    ///
    /// # Errors
    /// When there is no such service account, or it cannot be read.
    pub async fn role_of(&self, namespace: &str, service_account: &str) -> Result<Option<String>, KubernetesError> {
        let object = ObjectName::of::<ServiceAccount>(namespace, service_account)?;
        let ask = |client: Client, object: ObjectName| async move {
            let api = Api::<ServiceAccount>::namespaced(client, &object.namespace);
            let found = api.get_metadata(&object.name).await?;
            let role = found.metadata.annotations.and_then(|mut annotations| annotations.remove(ROLE));
            Ok(role.map(|role| role.trim().to_owned()).filter(|role| !role.is_empty()))
        };
        self.read(&self.inner.roles, object, ask).await
    }

    /// The region of a node: its label `topology.kubernetes.io/region`. Once found, it is never asked for again.
    ///
    /// # Errors
    /// When there is no such node, or it cannot be read.
    pub async fn region_of_node(&self, node: &str) -> Result<Option<String>, KubernetesError> {
        let object = ObjectName::of::<Node>("", node)?;
        let ask = |client: Client, object: ObjectName| async move {
            let found = Api::<Node>::all(client).get_metadata(&object.name).await?;
            let region = found.metadata.labels.and_then(|mut labels| labels.remove(REGION));
            Ok(region.filter(|region| !region.is_empty()))
        };
        self.read(&self.inner.regions, object, ask).await
    }

    /// The texts of a ConfigMap, by key.
    ///
    /// # Errors
    /// When there is no such ConfigMap, or it cannot be read.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<BTreeMap<String, String>>, KubernetesError> {
        let object = ObjectName::of::<ConfigMap>(namespace, name)?;
        let ask = |client: Client, object: ObjectName| async move {
            let found = Api::<ConfigMap>::namespaced(client, &object.namespace).get(&object.name).await?;
            Ok(Arc::new(found.data.unwrap_or_default()))
        };
        self.read(&self.inner.config_maps, object, ask).await
    }

    /// A SecretProviderClass.
    ///
    /// # Errors
    /// When there is none of that name, its kind is not installed, or it cannot be read.
    pub async fn class(&self, namespace: &str, name: &str) -> Result<Arc<Class>, KubernetesError> {
        let object = Class::object(namespace, name)?;
        let requests = Arc::clone(&self.inner.requests);
        let ask = || async move {
            let resource = Class::resource();
            let get = |client: Client| {
                let api = Api::<DynamicObject>::namespaced_with(client, &object.namespace, &resource);
                let name = object.name.clone();
                async move { api.get(&name).await }
            };
            let found = requests.read(&object, get).await?;
            Class::read(&object, found).map(Arc::new)
        };
        self.inner.classes.get(namespace, name, self.young, ask).await
    }

    /// Who is to own what is made for a pod: the pod's own owners, such as its ReplicaSet, or else the pod.
    async fn owners(&self, pod: &Pod) -> Result<Vec<OwnerReference>, KubernetesError> {
        let object = ObjectName::of::<ApiPod>(&pod.namespace, &pod.name)?;
        let ask = |client: Client, object: ObjectName| async move {
            let found = Api::<ApiPod>::namespaced(client, &object.namespace).get_metadata(&object.name).await?;
            let references = found.metadata.owner_references.unwrap_or_default();
            Ok(Arc::new(Owners { uid: found.metadata.uid.unwrap_or_default(), references }))
        };
        let owners = self.read(&self.inner.owners, object, ask).await?;
        let mut references = owners.references.clone();
        // A pod of the same name that came before or after it tells nothing of this one.
        if references.is_empty() || owners.uid != pod.uid {
            references = vec![pod_reference(pod)];
        }
        for reference in &mut references {
            // They own it and do not control it, and it must not keep them from going.
            reference.controller = None;
            reference.block_owner_deletion = None;
        }
        Ok(references)
    }

    async fn read<V, Fut>(
        &self,
        cached: &Cached<V>,
        object: ObjectName,
        ask: impl Fn(Client, ObjectName) -> Fut + Send + Sync + 'static,
    ) -> Result<V, KubernetesError>
    where
        V: Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<V, kube::Error>> + Send + 'static,
    {
        let requests = Arc::clone(&self.inner.requests);
        let (namespace, name) = (object.namespace.clone(), object.name.clone());
        let read = || async move { requests.read(&object, |client| ask(client, object.clone())).await };
        cached.get(&namespace, &name, self.young, read).await
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

/// How anything is created or replaced.
pub(crate) fn writing() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// How anything is patched.
pub(crate) fn patching() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

/// What the kubelet mounts into every pod that wants to ask the API.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How a pod is named as an owner.
fn pod_reference(pod: &Pod) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        ..OwnerReference::default()
    }
}

async fn from_file(path: &Path) -> Result<Config, KubernetesError> {
    let unusable = |cause: String| KubernetesError::Kubeconfig { path: path.to_owned(), cause };
    let file = Kubeconfig::read_from(path).map_err(|error| unusable(error.to_string()))?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(error.to_string()))
}

/// A client with our limits: its own are a minute and more, and a mount has seconds.
fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(CONNECT);
    // Ours are for each request as a whole.
    config.default_retry = false;
    Client::try_from(config)
}
