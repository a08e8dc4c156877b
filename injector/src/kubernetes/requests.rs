//! Requests to the API server, within limits: of time for each, of number for all.

use std::future::Future;
use std::time::Duration;

use kube::Client;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{KubernetesError, ObjectName, Verb};

/// Longest wait for an answer: a mount has seconds, and most of them belong to AWS.
const ANSWER: Duration = Duration::from_secs(5);
/// How many reads are on their way at once. Each has a connection of its own, and a node that starts a hundred
/// pods is one of many.
const READS: usize = 8;
/// How many requests that no mount waits for.
const OTHERS: usize = 4;
/// Before a read that found no server is tried once more.
const PAUSE: Duration = Duration::from_millis(200);

/// Where requests go through.
pub(super) struct Requests {
    pub(super) client: Client,
    reads: Semaphore,
    others: Semaphore,
}

impl Requests {
    pub(super) fn new(client: Client) -> Self {
        Self { client, reads: Semaphore::new(READS), others: Semaphore::new(OTHERS) }
    }

    /// Reads; once more when the server was just not there, as in the moment of its restart.
    pub(super) async fn read<T, Fut>(
        &self,
        object: &ObjectName,
        ask: impl Fn(Client) -> Fut + Send + Sync,
    ) -> Result<T, KubernetesError>
    where
        Fut: Future<Output = Result<T, kube::Error>> + Send,
    {
        // A mount's time runs while it waits for its turn, too.
        let read = || async {
            // The semaphore is never closed.
            let _turn = self.reads.acquire().await.ok();
            ask(self.client.clone()).await
        };
        match answer(Verb::Get, object, read()).await {
            Err(KubernetesError::Unavailable { .. }) => {
                sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
                answer(Verb::Get, object, read()).await
            }
            answer => answer,
        }
    }

    /// Makes a request that no mount waits for, once it is its turn.
    pub(super) async fn call<T>(
        &self,
        verb: Verb,
        object: &ObjectName,
        request: impl Future<Output = Result<T, kube::Error>> + Send,
    ) -> Result<T, KubernetesError> {
        let _turn = self.others.acquire().await.ok();
        answer(verb, object, request).await
    }
}

async fn answer<T>(
    verb: Verb,
    object: &ObjectName,
    request: impl Future<Output = Result<T, kube::Error>> + Send,
) -> Result<T, KubernetesError> {
    match timeout(ANSWER, request).await {
        Ok(answer) => answer.map_err(|error| KubernetesError::read(verb, object, error)),
        Err(_) => Err(KubernetesError::timeout(verb, object, ANSWER)),
    }
}
