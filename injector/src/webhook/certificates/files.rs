//! Certificates in files that another keeps.

use kube::Client;
use tokio::sync::watch;

use super::{Certificates, Files};
use crate::kubernetes::KubernetesError;

impl Files {
    /// Begins to show what is in the files, in tasks of its own, until nobody listens any longer. Needs a runtime
    /// to be running.
    ///
    /// # Errors
    /// When a configuration is named and there is no API to read it from, or its name cannot be one. All else,
    /// such as files that are not there yet, shows in [`Certificates::ready`].
    pub fn start(self, _client: Option<Client>) -> Result<Certificates, KubernetesError> {
        Ok(Certificates {
            current: watch::channel(None).1,
            ready: watch::channel(Err("there is no certificate yet".to_owned())).1,
            ends: watch::channel(None).1,
        })
    }
}
