//! An AdmissionReview in, its answer out.

use crate::kubernetes::Kubernetes;

use super::mutation::Settings;

/// Answers the API server.
#[derive(Debug)]
pub struct Reviewer {
    settings: Settings,
    kubernetes: Option<Kubernetes>,
}

impl Reviewer {
    /// One with these settings; without the API, roles of service accounts are not known.
    #[must_use]
    pub fn new(settings: Settings, kubernetes: Option<Kubernetes>) -> Self {
        Self { settings, kubernetes }
    }
}
