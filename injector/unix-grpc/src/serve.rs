//! A gRPC server on one socket, from its first connection to its last.

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::codegen::tokio_stream::StreamExt;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::address::Address;
use crate::connection::Connection;
use crate::peers::{Peer, Peers, Refusals};
use crate::socket::{File, Socket};

/// Clients at a time; more wait in the kernel's queue. The API server has one for each provider, the
/// kubelet one for each volume it is busy with.
const CONNECTIONS: usize = 512;
/// Requests at a time on one connection; a client keeps further ones back. Far above what a storm of an API
/// server brings, so that its Status is never among those kept back.
const STREAMS: u32 = 16_384;
/// How often a silent client is asked whether it is there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long nothing is accepted after the kernel refused to: nearly always for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How often at most the log tells that nothing is accepted.
const LOGS_APART: Duration = Duration::from_secs(10);
/// How often it is looked whether the socket's file is where clients look for it.
const FILE_EVERY: Duration = Duration::from_secs(10);
/// What connections that are cut may take to be gone.
const CUT: Duration = Duration::from_secs(1);

/// Why a server could not run, or did not run on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be watched by the runtime.
    #[error("cannot serve on {address}: {source}")]
    Register {
        /// Where.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody removed or replaced the socket's file, so that no new client would find the server. Started
    /// again, it has its place back, or says who has it.
    #[error("the socket's file at {address} was removed or replaced: no new client finds it; start again")]
    Lost {
        /// Where.
        address: Address,
    },
    /// The server ended by itself.
    #[error("the server on {address} ended: {source}")]
    Server {
        /// Where.
        address: Address,
        /// What the server says.
        source: tonic::transport::Error,
    },
}

/// Serves `routes` on `socket` until `shutdown` ends. Then nothing is accepted any more, the socket's file
/// is removed, clients are told to go (GOAWAY), and what they had asked for is answered; after `grace`,
/// connections that are still there are cut. If the future is dropped, they are cut at once.
///
/// It also ends, with an error, when the socket's file is lost.
///
/// A server on several sockets is several calls. Handlers find the [`Peer`] in the extensions of a request.
pub async fn serve(
    socket: Socket,
    routes: Routes,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
) -> Result<(), ServeError> {
    let (address, peers, listener, file) = socket.into_parts();
    let register = |source| ServeError::Register { address: address.clone(), source };
    let listener = UnixListener::from_std(listener).map_err(register)?;

    let (cut, when_cut) = watch::channel(false);
    let (accepted, connections) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = pin!(
        Server::builder()
            .max_concurrent_streams(STREAMS)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .add_routes(routes)
            .serve_with_incoming_shutdown(ReceiverStream::new(connections).map(Ok::<_, Infallible>), async {
                let _ = stopped.await;
            })
    );
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let failed = |source| ServeError::Server { address: address.clone(), source };

    let mut lost = false;
    tokio::select! {
        () = shutdown => {}
        never = accept(&listener, &address, &peers, &seats, when_cut, accepted) => match never {},
        () = file_lost(file.as_ref()) => lost = true,
        ended = &mut serving => return ended.map_err(failed),
    }
    // In this order: while the socket listens, nobody takes its path for free.
    drop(file);
    drop(listener);
    let _ = stop.send(());
    let ended = match timeout(grace, &mut serving).await {
        Ok(ended) => ended,
        Err(_) => {
            let left = CONNECTIONS - seats.available_permits();
            tracing::warn!(%address, left, "connections are cut: their requests took longer than {grace:?} after the end was called");
            let _ = cut.send(true);
            timeout(CUT, serving).await.unwrap_or(Ok(()))
        }
    };
    ended.map_err(failed)?;
    if lost { Err(ServeError::Lost { address }) } else { Ok(()) }
}

/// Hands on each connection that may be made.
async fn accept(
    listener: &UnixListener,
    address: &Address,
    peers: &Peers,
    seats: &Arc<Semaphore>,
    cut: watch::Receiver<bool>,
    accepted: mpsc::Sender<Connection>,
) -> Infallible {
    let address = address.to_string();
    let mut refusals = Refusals::default();
    let mut logged: Option<Instant> = None;
    let mut may_log = || {
        let may = logged.is_none_or(|at| at.elapsed() >= LOGS_APART);
        if may {
            logged = Some(Instant::now());
        }
        may
    };
    loop {
        if seats.available_permits() == 0 && may_log() {
            tracing::warn!(address, "{CONNECTIONS} clients are connected; others wait until one of them leaves");
        }
        // Nobody closes the semaphore.
        let Ok(seat) = Arc::clone(seats).acquire_owned().await else { return pending().await };
        let error = match listener.accept().await {
            Ok((stream, _)) => match Peer::of(&stream) {
                Ok(peer) if peers.admit(&peer) => {
                    // The server takes them as long as it runs, and nothing is accepted after that.
                    let _ = accepted.send(Connection::new(stream, peer, cut.clone(), seat)).await;
                    continue;
                }
                Ok(peer) => {
                    refusals.log(&peer, &address);
                    continue;
                }
                Err(error) => error,
            },
            // The client went before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => error,
        };
        if may_log() {
            tracing::error!(address, %error, "cannot accept connections; trying again");
        }
        sleep(ACCEPT_AGAIN).await;
    }
}

/// Ends when clients no longer find the socket: programs that remove what is at their path without a
/// question exist, and so do those that tidy up.
async fn file_lost(file: Option<&File>) {
    let Some(file) = file else { return pending().await };
    while file.is_in_place() {
        sleep(FILE_EVERY).await;
    }
}
