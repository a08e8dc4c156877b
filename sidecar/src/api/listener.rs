//! Connections, bounded in number and in silence.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// How long a client may say nothing: longer than an answer may take.
const SILENCE: Duration = Duration::from_secs(75);
/// File descriptors for everything but clients: AWS, volumes, health and metrics.
const OTHER_DESCRIPTORS: usize = 256;
/// What a limit of descriptors leaves to clients in any case.
const CONNECTIONS_MIN: usize = 16;

/// Hands out no more than so many connections at a time; further clients wait in the kernel's queue.
pub(super) struct Bounded {
    listener: TcpListener,
    seats: Arc<Semaphore>,
}

impl Bounded {
    /// Takes fewer connections than asked for where the process may not have as many descriptors.
    pub(super) fn new(listener: TcpListener, connections: usize) -> Self {
        let possible = room_for(connections);
        if possible < connections {
            tracing::warn!(
                connections = possible,
                "the limit of open files leaves the API fewer connections than {connections}; raise it (RLIMIT_NOFILE)"
            );
        }
        Self { listener, seats: Arc::new(Semaphore::new(possible)) }
    }
}

/// How many of `connections` there are descriptors for, once the process has taken what it may: the
/// soft limit is often 1024, for the sake of old programs that use select(2).
fn room_for(connections: usize) -> usize {
    let needed = connections + OTHER_DESCRIPTORS;
    let count = |limit: Option<u64>| limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let mut limit = count(current);
    if limit < needed {
        let raised = needed.min(count(maximum));
        let asked = Rlimit { current: Some(raised as u64), maximum };
        if setrlimit(Resource::Nofile, asked).is_ok() {
            limit = raised;
        }
    }
    connections.min(limit.saturating_sub(OTHER_DESCRIPTORS).max(CONNECTIONS_MIN))
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Nobody closes the semaphore.
        let seat = Arc::clone(&self.seats).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // As AWS's agent has it: what leaves here passes no router. An answer in one piece need not wait
        // for another to go with. Neither is worth losing a client for.
        let _ = stream.set_ttl(1);
        let _ = stream.set_nodelay(true);
        let silence = Box::pin(tokio::time::sleep(SILENCE));
        (Connection { stream, silence, _seat: seat }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A client's connection, which ends when it has been silent for too long.
pub(super) struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    _seat: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn heard(&mut self) {
        self.silence.as_mut().reset(Instant::now() + SILENCE);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.heard();
            return read;
        }
        ready!(self.silence.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.heard();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        if written.is_ready() {
            self.heard();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn bounded(connections: usize) -> (Bounded, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Bounded::new(listener, connections), address)
    }

    #[tokio::test]
    async fn one_more_than_there_are_seats_waits_for_one_to_leave() {
        let (mut listener, address) = bounded(1).await;
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let (first, _) = listener.accept().await;
        let wait = Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, listener.accept()).await.is_err());
        drop(first);
        listener.accept().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_let_go_and_one_that_speaks_is_not() {
        let (mut listener, address) = bounded(1).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = listener.accept().await;
        let mut byte = [0];
        for _ in 0..3 {
            tokio::time::sleep(SILENCE / 2).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(connection.read(&mut byte).await.unwrap(), 1);
        }
        let ended = connection.read(&mut byte).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(room_for(10), 10);
        assert!(room_for(usize::MAX / 2) < usize::MAX / 2);
    }
}
