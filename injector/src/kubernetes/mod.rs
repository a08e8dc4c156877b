//! The Kubernetes API, as far as a node needs it: a handful of objects, by name.
//!
//! Nothing is listed but by one name, and nothing is asked twice at once.

mod error;
mod follow;

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

pub use self::error::{KubernetesError, ObjectName, Verb};
pub use self::follow::follow;

/// Longest wait for a connection to the API server, TLS included.
const CONNECT: Duration = Duration::from_secs(3);

/// The Kubernetes API. A clone is the same one.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
}

impl Kubernetes {
    /// Connects as the given kubeconfig says, else as a pod in its cluster does, else not at all. Nothing is
    /// sent yet.
    ///
    /// # Errors
    /// When the kubeconfig, or what the kubelet mounted, cannot be used.
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Option<Self>, KubernetesError> {
        let config = match kubeconfig {
            Some(path) => from_file(path).await?,
            None if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() || !Path::new(TOKEN).exists() => {
                return Ok(None);
            }
            None => Config::incluster().map_err(|error| KubernetesError::InCluster { cause: error.to_string() })?,
        };
        let used = |cause: String| match kubeconfig {
            Some(path) => KubernetesError::Kubeconfig { path: path.to_owned(), cause },
            None => KubernetesError::InCluster { cause },
        };
        let client = client(config).map_err(|error| used(error.to_string()))?;
        Ok(Some(Self::of(client)))
    }

    /// The API behind a client that exists already, with limits of its own.
    #[must_use]
    pub fn of(client: Client) -> Self {
        Self { client }
    }

    /// For what this module does not offer: a lease, an object to [`follow`].
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

/// What the kubelet mounts into every pod that wants to ask the API.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

async fn from_file(path: &Path) -> Result<Config, KubernetesError> {
    let unusable = |cause: String| KubernetesError::Kubeconfig { path: path.to_owned(), cause };
    let file = Kubeconfig::read_from(path).map_err(|error| unusable(error.to_string()))?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(error.to_string()))
}

/// A client with our limits: its own are a minute and more, and a mount has seconds.
fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.connect_timeout = Some(CONNECT);
    // Ours are for each request as a whole.
    config.default_retry = false;
    Client::try_from(config)
}
