//! A real Kubernetes API server: `coffer-kms` behind it, the driver on its nodes, the webhook before its pods, and the
//! chart that brings all of them.

mod csi;
mod decrypt;
mod fixture;
mod helm;
mod node;
mod outage;
mod plain;
mod rotation;
mod storage;
mod swap;
mod webhook;
