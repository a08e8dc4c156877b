//! Values as an API server has stored them in etcd, read without one. Pure: whoever has the plaintext of
//! the DEK gets the object.
//!
//! [`Printed`] is what `etcdctl` gives out, [`Stored`] what one value of it is, [`Sealed`] one that a KMS
//! provider encrypted, and [`manifest`] the object in it, as `kubectl apply` takes it. [`extract`] goes the whole way.
//!
//! The rules are those of k8s.io/apiserver, `pkg/storage/value/encrypt`, read at v0.36.3.

mod error;
mod extract;
#[cfg(test)]
mod fixtures;
mod object;
mod printed;
mod seal;
mod stored;
#[cfg(test)]
mod tests;

pub use error::StoredError;
pub use extract::{ExtractError, Format, extract};
pub use object::manifest;
pub use printed::{Entry, Printed};
pub use seal::{DekSource, Sealed};
pub use stored::{Plain, Stored};

/// Which of Kubernetes' two KMS APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KmsApi {
    /// `v1beta1` on the socket, `apiVersion: v1` in an `EncryptionConfiguration`.
    V1,
    /// `v2` in both.
    V2,
}

impl KmsApi {
    /// As an `EncryptionConfiguration` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}
