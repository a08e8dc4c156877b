//! A client's connection: repaired where `h2` needs it, and ended when it should.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::authority::Repaired;
use crate::peers::Peer;

/// How long a client may take to say that it speaks HTTP/2. From then on, its pings tell whether it lives.
const GREETING: Duration = Duration::from_secs(10);

/// The server's end of a connection.
pub(crate) struct Connection {
    stream: Repaired<UnixStream>,
    peer: Peer,
    /// Ends while the greeting has not come.
    greeting: Option<Pin<Box<Sleep>>>,
    /// Ends when the connection is to be cut; `None` from then on.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _seat: OwnedSemaphorePermit,
}

impl Connection {
    /// Is cut when `cut` becomes true, or when nobody is left who could make it so.
    pub(crate) fn new(
        stream: UnixStream,
        peer: Peer,
        mut cut: watch::Receiver<bool>,
        seat: OwnedSemaphorePermit,
    ) -> Self {
        let cut = async move {
            let _ = cut.wait_for(|cut| *cut).await;
        };
        Self {
            stream: Repaired::new(stream),
            peer,
            greeting: Some(Box::pin(tokio::time::sleep(GREETING))),
            cut: Some(Box::pin(cut)),
            _seat: seat,
        }
    }

    /// Whatever `h2` waits for, reading or room to write, this wakes it.
    fn end_if_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(context).is_pending()
        {
            return Ok(());
        }
        self.cut = None;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server ends"))
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.end_if_cut(context)?;
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.stream.is_greeted() {
            self.greeting = None;
        } else if let Some(greeting) = &mut self.greeting
            && greeting.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no greeting of HTTP/2 came")));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.end_if_cut(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
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
        self.end_if_cut(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
