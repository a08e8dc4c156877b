//! Makes the driver known to the kubelet, which finds the socket among its plugins' and asks
//! (pkg/kubelet/pluginmanager).

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::proto::registration::registration_server::{Registration, RegistrationServer};
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

/// What the kubelet has said of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It has not asked yet.
    NotYet,
    /// It knows the driver.
    Yes,
    /// It refused the driver, and asks no more until the socket is made anew.
    Refused(String),
}

/// Answers the kubelet.
pub(super) struct Registrar {
    driver: String,
    endpoint: String,
    state: watch::Sender<Registered>,
}

impl Registrar {
    /// `endpoint` is the path of the CSI socket as the kubelet sees it.
    pub(super) fn new(driver: &str, endpoint: &str) -> Self {
        let state = watch::Sender::new(Registered::NotYet);
        Self { driver: driver.to_owned(), endpoint: endpoint.to_owned(), state }
    }

    pub(super) fn state(&self) -> watch::Receiver<Registered> {
        self.state.subscribe()
    }

    pub(super) fn into_service(self) -> RegistrationServer<Self> {
        RegistrationServer::new(self)
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.driver.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!(driver = self.driver, "the kubelet knows the driver");
            self.state.send_replace(Registered::Yes);
        } else {
            tracing::error!(driver = self.driver, "the kubelet refused the driver: {error}");
            self.state.send_replace(Registered::Refused(error));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
