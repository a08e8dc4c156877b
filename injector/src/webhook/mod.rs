//! The mutating admission webhook: adds the sidecar to pods that ask for it by annotations.
//!
//! ```text
//! AdmissionReview ──► review ──► annotations: the wish ──► mutation: the pod as it is to be ──► patch
//!                                                              ▲
//!                             what is around it: the role of its service account, native sidecars
//! ```
//!
//! All between the review and the patch is pure, and [`manifest`] is the same code offline.

pub mod annotations;
pub mod certificates;
pub mod manifest;
pub mod metrics;
pub mod mutation;
pub mod native_sidecars;
pub mod patch;
pub mod review;
pub mod server;
