//! `coffer-injector csi` before a kubelet's clients: one file for each behaviour.

mod cluster;
mod files;
mod fixture;
mod forms;
mod hostile;
mod identity;
mod leaks;
mod node;
mod outage;
mod provider;
mod publish;
mod refusals;
mod republish;
mod rotation;
mod sharing;
mod sync;
