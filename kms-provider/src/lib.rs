//! Kubernetes' KMS plugin on AWS KMS: what a cluster's API server asks to wrap the keys that its
//! Secrets are encrypted with.

pub mod audit;
pub mod cache;
pub mod ciphertext;
mod deadline;
pub mod follow;
pub mod health;
pub mod kek;
pub mod key;
pub mod proto;
pub mod remote;
mod trouble;

pub use trouble::{Kind, Trouble};
