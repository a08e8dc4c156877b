//! `coffer-injector csi` before a kubelet's clients: one file for each behaviour.

mod cluster;
mod fixture;
