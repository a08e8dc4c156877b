//! HTTPS for the API server, over a certificate that may change while it serves.
//!
//! Anyone in the cluster's network may connect, and is not to be able to keep the API server out, or to have more memory
//! taken for him than the process has:
//!
//! | what | limit |
//! |---|---|
//! | a handshake | [`HANDSHAKE`] |
//! | a connection until its first answer | [`FIRST`] beside what requests take |
//! | one that has had an answer, and is silent | [`IDLE`] |
//! | connections | [`MOST`]; a new one takes the place of another, see `Life::worth` |
//! | a body of up to [`body::SMALL`] | [`body::PATIENCE`] to come; there are no more of them than connections |
//! | a larger one | [`body::PATIENCE_BIG`] to come, and [`MOST_BYTES`](super::review::MOST_BYTES) |
//! | all larger ones at a time | [`body::MOST_AT_ONCE`], by the length that each announces; waited for [`body::TURN`] |
//!
//! So whoever sends large bodies slowly holds up large bodies, for some seconds each time, and no others: nearly every
//! review is a small one. Whoever has more connections than there are places, and asks on each, can have those of the API
//! server cut between two requests, which then makes another. Against that there are network policies.

mod body;
mod connection;
mod requests;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::HashMap;
use std::future::{Future, pending};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use self::connection::{Connection, Life};
use self::requests::Requests;
use super::certificates::Certificates;
use super::metrics::{Cut, Metrics};
use super::review::Reviewer;

/// How long a client may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a client may be connected without asking anything.
const FIRST: Duration = Duration::from_secs(10);
/// How long one may be silent that has asked before. It has to be the API server that ends a connection, for it may be
/// sending on one that is ended here: it keeps idle ones for 90 s (`IdleConnTimeout` of `defaultTransport` in
/// k8s.io/apimachinery, pkg/util/net/http.go).
const IDLE: Duration = Duration::from_secs(300);
/// How long one that has had no answer yet may take to ask when the process ends.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Clients at a time. Every API server has a few connections.
const MOST: usize = 512;
/// How long nothing is accepted after the kernel refused to: nearly always for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What answers the API server.
#[derive(Debug)]
pub struct Server {
    requests: Arc<Requests>,
    tls: Arc<ServerConfig>,
    metrics: Metrics,
    leaving: Arc<AtomicBool>,
}

impl Server {
    /// One that shows whichever certificate is current.
    ///
    /// # Errors
    /// When TLS cannot be set up: a fault of the build.
    pub fn new(reviewer: Reviewer, certificates: &Certificates, metrics: Metrics) -> Result<Self, String> {
        let tls = tls::config(certificates.current.clone()).map_err(|error| error.to_string())?;
        let requests = Arc::new(Requests::new(reviewer, metrics.clone()));
        Ok(Self { requests, tls: Arc::new(tls), metrics, leaving: Arc::default() })
    }

    /// Has clients make a new connection for each request, some time before [`serve`](Self::serve) is to end. One that
    /// finds its connection closed by then does not repeat what it had sent: it fails.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Serves until `shutdown` ends. Then nothing is accepted any more but what the kernel has accepted already, and what
    /// was asked is answered; after `grace`, connections that are still there are cut.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>, grace: Duration) {
        let (end, ending) = watch::channel(false);
        let mut clients = Clients::default();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                stream = accept(&listener) => self.admit(stream, &mut clients, &ending),
                () = clients.one_ends() => {}
            }
            self.metrics.connected(clients.open.len());
        }
        self.leave();
        // To their clients they are connected, and a request may be on its way.
        while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            self.admit(stream, &mut clients, &ending);
        }
        drop(listener);
        end.send_replace(true);
        if timeout(grace, clients.all_end()).await.is_err() {
            let left = clients.open.len();
            tracing::warn!(left, "connections are cut: their requests took longer than {grace:?} after the end");
            (0..left).for_each(|_| self.metrics.cut(Cut::Ending));
            clients.tasks.shutdown().await;
        }
    }

    fn admit(&self, stream: TcpStream, clients: &mut Clients, ending: &watch::Receiver<bool>) {
        if clients.open.len() >= MOST {
            clients.cut_one(&self.metrics);
        }
        let life = Arc::<Life>::default();
        let connection = Connection {
            requests: Arc::clone(&self.requests),
            metrics: self.metrics.clone(),
            life: Arc::clone(&life),
            leaving: Arc::clone(&self.leaving),
            ending: ending.clone(),
        };
        let tls = TlsAcceptor::from(Arc::clone(&self.tls));
        let task = clients.tasks.spawn(connection.serve(stream, tls));
        clients.open.insert(task.id(), (life, task));
    }
}

/// Those who are connected.
#[derive(Debug, Default)]
struct Clients {
    tasks: JoinSet<()>,
    open: HashMap<Id, (Arc<Life>, AbortHandle)>,
}

impl Clients {
    /// Waits for the end of one; for good while there is none.
    async fn one_ends(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => pending().await,
        };
        self.open.remove(&id);
    }

    async fn all_end(&mut self) {
        while !self.open.is_empty() {
            self.one_ends().await;
        }
    }

    /// Cuts the one that can best be spared.
    fn cut_one(&mut self, metrics: &Metrics) {
        let least = self.open.iter().min_by_key(|(_, (life, _))| life.worth()).map(|(id, _)| *id);
        if let Some((_, task)) = least.and_then(|id| self.open.remove(&id)) {
            task.abort();
            metrics.cut(Cut::Crowded);
        }
    }
}

/// The next client.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // It went before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections; trying again");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
