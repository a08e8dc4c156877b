//! A real Kubernetes API server, and `coffer-kms` behind it.

mod csi;
mod decrypt;
mod fixture;
mod node;
mod outage;
mod plain;
mod rotation;
mod storage;
mod swap;
