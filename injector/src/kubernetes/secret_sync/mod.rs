//! `secretObjects`: Kubernetes Secrets made of a volume's files, for those who ask for them.
//!
//! ```text
//! class + files ──► plan ──► owner and label checked, compared ──► body ──► create or patch
//! ```
//!
//! A Secret belongs to the owners of the pods that use it, and Kubernetes removes it with the last of them.
//! One that was not made for this is never touched.

mod body;
mod error;
mod plan;
mod stored;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Method, Request, header};
use coffer_runtime::Secret;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Secret as ApiSecret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::client::Body;
use kube::core::Status;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use self::body::Wiped;
pub use self::error::SyncError;
use self::plan::{Print, Wanted};
use self::stored::Stored;
use super::{Class, Events, FIELD_MANAGER, Kubernetes, KubernetesError, NameParts, ObjectName, Verb};
use crate::pod::Pod;

/// The label of every Secret that was made of a SecretProviderClass; the Secrets Store CSI driver's own.
const MANAGED: &str = "secrets-store.csi.k8s.io/managed";
/// The reason of an event, as the Secrets Store CSI driver has it.
const REASON: &str = "FailedToCreateSecret";
/// How long a Secret that was found or made as it should be is taken to be so.
const CONFIRMED: Duration = Duration::from_secs(60);
/// How often a write is begun anew because someone else came first.
const CONFLICTS_MAX: usize = 8;

/// Makes Kubernetes Secrets. A clone is the same one.
#[derive(Clone)]
pub struct SecretSync(Arc<Inner>);

struct Inner {
    kubernetes: Kubernetes,
    events: Events,
    print: Print,
    confirmed: Mutex<HashMap<ObjectName, Known>>,
}

/// What is known of a Secret, locked while it is written.
type Known = Arc<AsyncMutex<Option<Confirmed>>>;

/// How a Secret was found, or made.
struct Confirmed {
    print: [u8; 32],
    owners: BTreeSet<String>,
    until: Instant,
}

impl SecretSync {
    /// RBAC: `get`, `create` and `patch` of `secrets`, `get` of `pods`.
    ///
    /// # Errors
    /// When the kernel has no random bytes.
    pub fn new(kubernetes: &Kubernetes, events: &Events) -> std::io::Result<Self> {
        let (kubernetes, events) = (kubernetes.clone(), events.clone());
        Ok(Self(Arc::new(Inner { kubernetes, events, print: Print::random()?, confirmed: Mutex::default() })))
    }

    /// Makes or updates the Secrets that `class` lists, out of the files of the pod's volume: their paths within
    /// it, and their content. What is there already, and as it should be, is not written.
    ///
    /// Returns what could not be made, each for itself; it is logged and told on the pod, too. The files are read
    /// before this returns, so that the work may go on without them.
    pub fn publish<'a>(
        &self,
        pod: &Pod,
        class: &Class,
        files: impl IntoIterator<Item = (&'a str, &'a Secret)>,
    ) -> impl Future<Output = Vec<SyncError>> + Send + 'static {
        let (inner, pod) = (Arc::clone(&self.0), pod.clone());
        let planned = plan::plan(class, &files.into_iter().collect());
        async move {
            if planned.is_empty() {
                return Vec::new();
            }
            let owners = inner.kubernetes.owners(&pod).await;
            let made = planned.into_iter().map(async |wanted| inner.make(&wanted?, owners.as_deref()).await);
            let failed: Vec<SyncError> = join_all(made).await.into_iter().filter_map(Result::err).collect();
            for error in &failed {
                let text = error.to_string();
                tracing::warn!(%pod, "{text}");
                inner.events.warn(&pod, REASON, &text);
            }
            failed
        }
    }
}

impl fmt::Debug for SecretSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSync").finish_non_exhaustive()
    }
}

impl Inner {
    /// Brings one Secret about.
    async fn make(
        &self,
        wanted: &Wanted,
        owners: Result<&[OwnerReference], &KubernetesError>,
    ) -> Result<(), SyncError> {
        let owners = owners.map_err(|error| SyncError::Api { secret: wanted.object.clone(), source: error.clone() })?;
        let print = self.print.of(wanted);
        let confirmed = self.confirmed(&wanted.object);
        // One at a time for each Secret: the pods of a ReplicaSet come together and want the same.
        let mut confirmed = confirmed.lock().await;
        let now = Instant::now();
        let known = confirmed.as_ref().filter(|known| known.print == print && now < known.until);
        if known.is_some_and(|known| owners.iter().all(|owner| known.owners.contains(&owner.uid))) {
            return Ok(());
        }
        *confirmed = None;
        let owners = self.write(wanted, owners).await?;
        *confirmed = Some(Confirmed { print, owners, until: now + CONFIRMED.mul_f64(0.8 + 0.4 * fastrand::f64()) });
        Ok(())
    }

    /// Creates or changes it unless it is as it should be; gives the uids of its owners.
    async fn write(&self, wanted: &Wanted, owners: &[OwnerReference]) -> Result<BTreeSet<String>, SyncError> {
        let object = &wanted.object;
        let api = |source| SyncError::Api { secret: object.clone(), source };
        let mut last = KubernetesError::Conflict { object: object.clone() };
        for _ in 0..CONFLICTS_MAX {
            let written = match self.request(Verb::Get, object, None).await {
                Ok(found) => {
                    let stored = Stored::read(object, &found)?;
                    let Some(change) = stored.change(wanted, owners)? else {
                        return Ok(stored.owners());
                    };
                    self.request(Verb::Patch, object, Some(change.body)).await.map(|_| change.owners)
                }
                Err(KubernetesError::NotFound { .. }) => {
                    let uids = owners.iter().map(|owner| owner.uid.clone()).collect();
                    self.request(Verb::Create, object, Some(body::create(wanted, owners))).await.map(|_| uids)
                }
                Err(error) => return Err(api(error)),
            };
            match written {
                Ok(owners) => return Ok(owners),
                // Another came first, or removed it in between.
                Err(error @ (KubernetesError::Conflict { .. } | KubernetesError::NotFound { .. })) => last = error,
                Err(error) => return Err(api(error)),
            }
        }
        Err(api(last))
    }

    /// One request about a Secret, past the client's own reading and writing: it would copy values, and log
    /// what it cannot read.
    async fn request(&self, verb: Verb, object: &ObjectName, body: Option<Wiped>) -> Result<Wiped, KubernetesError> {
        let NameParts { namespace, name, .. } = &**object;
        let collection = format!("/api/v1/namespaces/{namespace}/secrets");
        let (method, path, content) = match verb {
            Verb::Create => (Method::POST, format!("{collection}?fieldManager={FIELD_MANAGER}"), "application/json"),
            Verb::Patch => (
                Method::PATCH,
                format!("{collection}/{name}?fieldManager={FIELD_MANAGER}"),
                "application/merge-patch+json",
            ),
            _ => (Method::GET, format!("{collection}/{name}"), "application/json"),
        };
        // The answer to a write would be the whole Secret once more.
        let accepted = if verb == Verb::Get { "application/json" } else { METADATA_ONLY };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, accepted)
            .header(header::CONTENT_TYPE, content)
            .body(body.map_or_else(Body::empty, |body| Body::from(body.into_bytes())))
            .map_err(kube::Error::HttpError);
        let client = self.kubernetes.client();
        let exchange = async move {
            let response = client.send(request?).await?;
            let code = response.status();
            let answer = Wiped::of(response.into_body().collect_bytes().await?);
            if code.is_success() {
                return Ok(answer);
            }
            let status = serde_json::from_slice::<Status>(answer.as_ref());
            let status = status.unwrap_or_else(|_| Status::failure("", "").with_code(code.as_u16()));
            Err(kube::Error::Api(error::without_values(status).boxed()))
        };
        self.kubernetes.inner.requests.call(verb, object, exchange).await
    }

    /// What is known of a Secret, forgetting those that are known no longer.
    fn confirmed(&self, object: &ObjectName) -> Known {
        let mut all = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= all.capacity() {
            let now = Instant::now();
            let known = |known: &Known| {
                // Whoever has it locked uses it.
                known.try_lock().map_or(true, |known| known.as_ref().is_some_and(|known| now < known.until))
            };
            all.retain(|_, entry| Arc::strong_count(entry) > 1 || known(entry));
        }
        Arc::clone(all.entry(object.clone()).or_default())
    }
}

const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// The name of a Secret in an error.
fn secret(namespace: &str, name: &str) -> Result<ObjectName, KubernetesError> {
    ObjectName::of::<ApiSecret>(namespace, name)
}
