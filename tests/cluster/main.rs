//! A real Kubernetes API server: `coffer-kms` behind it, the driver on its nodes, the webhook before its pods.

mod csi;
mod decrypt;
mod fixture;
mod node;
mod outage;
mod plain;
mod rotation;
mod storage;
mod swap;
mod webhook;
