//! Coffer's engine, brought to pods.
//!
//! ```text
//! kubelet ──► csi ──► form ──► (class) ──► the sidecar's spec ──► engine ──► tmpfs of the pod
//!              │                                                    ▲
//!              └──► pod: who asks, its tokens ──► identity ─────────┘
//! ```

pub mod class;
pub mod csi;
mod deadline;
pub mod form;
pub mod identity;
pub mod kubernetes;
pub mod lease;
pub mod notifier;
mod plan;
pub mod pod;
pub mod proto;
pub mod provider;
mod refusal;
pub mod rotations;
pub mod webhook;
mod yaml;
