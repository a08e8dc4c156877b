//! The injector's way with the Kubernetes API, at a real API server.

mod certificates;
mod events;
mod fixture;
mod follow;
mod pod_status;
mod reads;
mod secrets;
