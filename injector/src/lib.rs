//! Coffer's engine, brought to pods.
//!
//! ```text
//! kubelet ──► csi ──► form ──► (class) ──► the sidecar's spec ──► engine ──► tmpfs of the pod
//!              │                                                    ▲
//!              └──► pod: who asks, its tokens ──► identity ─────────┘
//! ```

pub mod class;
pub mod kubernetes;
pub mod lease;
pub mod notifier;
pub mod pod;
pub mod proto;
pub mod rotations;
