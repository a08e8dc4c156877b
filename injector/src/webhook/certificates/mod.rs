//! The certificate that the webhook shows, and that the API server knows it by.
//!
//! Either the webhook's own ([`Own`]): a CA and a leaf in a Secret that the replicas share, renewed by the one that
//! holds a Lease, with an overlap in which the old and the new CA both verify. Or files that another keeps
//! ([`Files`]), such as cert-manager.
//!
//! ```text
//! the leader:    Secret + configuration ──► plan: what is due ──► Secret ──► caBundle of each webhook of ours
//! each replica:  Secret + configuration ──► what is shown, and whether the API server takes it
//! ```
//!
//! All that is decided is decided by pure functions over what the API server has and how late it is; a process keeps
//! nothing that another could not find again. What is lost is made anew: whoever wants other keys deletes what is in
//! the Secret. Even then the CA of before is trusted for two overlaps more, for its leaf is what is shown until the
//! API server knows the new one.
//!
//! RBAC for [`Own`], all of it by `resourceNames` but where said:
//!
//! | what for | rule |
//! |---|---|
//! | the Secret, which the manifests bring, empty | `get`, `list`, `watch`, `update` of `secrets`, in a Role |
//! | the Lease | `get`, `update` of `leases` of `coordination.k8s.io`, and `create` without a name, in that Role |
//! | `caBundle` | `get`, `list`, `watch`, `patch` of `mutatingwebhookconfigurations` of `admissionregistration.k8s.io`, in a ClusterRole |
//!
//! To make the Secret where it is missing would take `create` of `secrets`, which cannot be bound to a name; and who
//! may make one Secret of any type and read it may have the token of every service account of the namespace.
//!
//! For [`Files`]: `list` and `watch` of the configuration, if one is named.

mod authority;
mod certificate;
mod configuration;
mod files;
mod leader;
mod own;
mod plan;
mod shown;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_rustls::rustls::sign::CertifiedKey;

/// A certificate to show, as it changes.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// What to show; `None` until there is one.
    pub current: watch::Receiver<Option<Arc<CertifiedKey>>>,
    /// Whether it is valid and known to the API server; else why not, and the fix.
    pub ready: watch::Receiver<Result<(), String>>,
    /// Whether it will be renewed, as far as is known here; else what is in the way. What is shown may be good for long
    /// yet.
    pub renewal: watch::Receiver<Result<(), String>>,
    /// When what is shown ends, in seconds since 1970; `None` until there is one.
    pub ends: watch::Receiver<Option<i64>>,
}

/// Where the webhook keeps its own.
#[derive(Clone, Debug)]
pub struct Own {
    /// The namespace of the Secret, the Lease and the Service.
    pub namespace: String,
    /// The Secret.
    pub secret: String,
    /// The Lease whose holder renews.
    pub lease: String,
    /// The Service that the API server calls: the leaf is for `SERVICE.NAMESPACE.svc`.
    pub service: String,
    /// Further names and addresses that the leaf is for, where the configuration has a `url`.
    pub names: Vec<String>,
    /// The MutatingWebhookConfiguration whose `caBundle` is kept.
    pub configuration: String,
    /// Who this is, as the Lease shows it.
    pub identity: String,
    /// How long a leaf is good for.
    pub leaf: Duration,
    /// How long a CA is good for.
    pub authority: Duration,
    /// How long the API server is given to know a new CA before a leaf of it is shown, and how long the old one is
    /// trusted after that.
    pub overlap: Duration,
}

/// Files that another keeps.
#[derive(Clone, Debug)]
pub struct Files {
    /// The chain, leaf first: PEM.
    pub certificate: PathBuf,
    /// Its key: PEM.
    pub key: PathBuf,
    /// The MutatingWebhookConfiguration whose `caBundle` is to verify it; `None` not to look.
    pub configuration: Option<String>,
}
