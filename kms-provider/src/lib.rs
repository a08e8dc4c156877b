//! Kubernetes' KMS plugin on AWS KMS: what a cluster's API server asks to wrap the keys that its
//! Secrets are encrypted with.
//!
//! An API server calls over a unix socket (`api`); its ciphertext is told apart by its first byte
//! (`ciphertext`) and goes to AWS KMS (`remote`) or to a local KEK that KMS has wrapped (`kek`).

pub mod doctor;
pub mod etcd;
pub mod proto;
pub mod remote;
mod trouble;

pub use trouble::{Kind, Trouble};
