//! The test bed: real parts to run Coffer's programs against, and instruments to watch them.
//!
//! - [`LocalStack`] stands in for AWS; [`Aws`] seeds it and asks what it holds.
//! - [`FaultProxy`] goes between a program and LocalStack: it logs every call and answers as
//!   AWS does on a bad day.
//! - [`Program`] runs one of our binaries as a child, [`Proc`] looks into it from outside.
//! - [`SetReader`] and [`FileWatch`] see a volume as an application sees it.
//! - [`TlsFront`] puts TLS before any of them.
//! - [`seccomp::Profile`] is a seccomp profile as a container runtime reads it.
//! - [`ControlPlane`] is Kubernetes itself, etcd and API server; a [`Node`] of it runs pods, which reach the rest of the bed
//!   by a [`cluster::Forward`].
//! - [`aws_encryption_provider`] is the plugin that `coffer-kms` replaces, or a stand-in for it.
//! - [`csi::Kubelet`] is a kubelet's end of a CSI driver, in a mount namespace of its own.
//! - [`secrets_store_driver`] is the CSI driver that `coffer-injector provider` answers.
//! - [`Metrics`] are what a program tells at `/metrics`.
//! - [`TokenFile`] is a pod's web-identity token.
//! - [`webhook`] is the API server's end of an admission webhook.
//!
//! Whatever starts here ends with the test: a process, a thread or a folder lives no longer
//! than the value that stands for it, and LocalStack no longer than the test process.

mod aep;
pub mod aws;
mod cases;
pub mod cluster;
pub mod csi;
mod form;
mod go_program;
mod http;
mod localstack;
mod loopback;
mod metrics;
mod proc;
mod program;
pub mod proxy;
pub mod seccomp;
mod secrets_store;
mod service;
mod tls;
mod tmpfs;
mod token;
mod unique;
mod volume;
mod wait;
mod watch;
pub mod webhook;

pub use self::{
    aep::aws_encryption_provider,
    aws::Aws,
    cases::{Case, side_by_side},
    cluster::{ControlPlane, ControlPlaneOptions, Node, NodeOptions},
    http::http_get,
    localstack::LocalStack,
    loopback::{free_port, own_address},
    metrics::Metrics,
    proc::{Memory, Proc},
    program::{Process, Program},
    proxy::{Call, Fault, FaultProxy, Outcome, Rule, Times},
    secrets_store::secrets_store_driver,
    service::Service,
    tls::TlsFront,
    tmpfs::tmpfs_dir,
    token::{TokenFile, web_identity_token},
    unique::{unique_account, unique_id, unique_name},
    volume::{SetReader, Snapshot},
    wait::eventually,
    watch::{FileEvent, FileWatch},
};
pub use rustix::process::Signal;
