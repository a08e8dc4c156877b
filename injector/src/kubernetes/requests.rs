//! Requests to the API server, within limits: of time for each, of number for all.

use std::future::Future;
use std::time::Duration;

use kube::Client;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{KubernetesError, ObjectName, Verb};

/// Longest wait for an answer: a mount has seconds, and most of them belong to AWS.
const ANSWER: Duration = Duration::from_secs(5);
/// How many requests are on their way at once. Each has a connection of its own, and a node that starts a
/// hundred pods is one of many.
const AT_ONCE: usize = 8;
/// Before a read that found no server is tried once more.
const PAUSE: Duration = Duration::from_millis(200);

/// Where requests go through.
pub(super) struct Requests {
    pub(super) client: Client,
    free: Semaphore,
}

impl Requests {
    pub(super) fn new(client: Client) -> Self {
        Self { client, free: Semaphore::new(AT_ONCE) }
    }

    /// Reads; once more when the server was just not there, as in the moment of its restart.
    pub(super) async fn read<T, Fut>(
        &self,
        object: &ObjectName,
        ask: impl Fn(Client) -> Fut + Send,
    ) -> Result<T, KubernetesError>
    where
        Fut: Future<Output = Result<T, kube::Error>> + Send,
    {
        match self.call(Verb::Get, object, ask(self.client.clone())).await {
            Err(KubernetesError::Unavailable { .. }) => {
                sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
                self.call(Verb::Get, object, ask(self.client.clone())).await
            }
            answer => answer,
        }
    }

    /// Makes one request.
    pub(super) async fn call<T>(
        &self,
        verb: Verb,
        object: &ObjectName,
        request: impl Future<Output = Result<T, kube::Error>> + Send,
    ) -> Result<T, KubernetesError> {
        // The semaphore is never closed.
        let _free = self.free.acquire().await.ok();
        match timeout(ANSWER, request).await {
            Ok(answer) => answer.map_err(|error| KubernetesError::read(verb, object, error)),
            Err(_) => Err(KubernetesError::timeout(verb, object, ANSWER)),
        }
    }
}
