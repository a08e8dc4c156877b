//! Kubernetes' KMS plugin on AWS KMS: what a cluster's API server asks to wrap the keys that its
//! Secrets are encrypted with.
//!
//! ```text
//!                       ┌─ kek: opened with a local KEK ───────────┐
//! socket ─► service ─► ciphertext                                  ├─► keyring ─► remote ─► AWS KMS
//!            v1, v2     └─ cache: asked before, or being asked ────┘    │  ▲
//!                                                                 health  probe, follow
//! ```
//!
//! A [`service::Door`] is one socket with its [`keyring::Keyring`]: a key to encrypt with, others to decrypt
//! with, and what is known of their [`health`]. [`probe`] keeps that fresh; [`follow`] tells when a key
//! has changed behind its name. [`remote`] makes the calls, within a caller's deadline. [`Trouble`] is what
//! goes wrong, wherever it does.

pub mod audit;
pub mod cache;
pub mod ciphertext;
mod deadline;
pub mod doctor;
pub mod etcd;
mod flight;
pub mod follow;
pub mod health;
pub mod kek;
pub mod key;
pub mod keyring;
pub mod metrics;
pub mod probe;
pub mod proto;
pub mod remote;
pub mod route;
pub mod service;
mod trouble;

pub use trouble::{Kind, Trouble};
