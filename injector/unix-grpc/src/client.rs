//! A client's end of a socket, for programs that look at a running server.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Endpoint};

use crate::address::Address;

/// How long a server's queue of connections that is full is left alone.
const QUEUE_AGAIN: Duration = Duration::from_millis(20);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no such file, or nobody has the abstract name.
    #[error("there is no socket at {address}: the server is not running, or listens elsewhere")]
    Absent {
        /// Where.
        address: Address,
    },
    /// The path is that of something else.
    #[error("{address} is not a socket")]
    NotASocket {
        /// Where.
        address: Address,
    },
    /// The file is there, and nobody listens.
    #[error("nobody listens at {address}: the server that left it there was killed")]
    Stale {
        /// Where.
        address: Address,
    },
    /// The socket's mode, or that of a folder above it, keeps this user out.
    #[error("user {uid} may not connect to {address}: its mode, or that of a folder above it, forbids it")]
    Denied {
        /// Where.
        address: Address,
        /// Whom this process acts as.
        uid: u32,
    },
    /// It was not accepted in time.
    #[error("the server at {address} does not accept connections: tried for {waited:?}")]
    Timeout {
        /// Where.
        address: Address,
        /// How long was tried.
        waited: Duration,
    },
    /// A socket of systemd's has a path of its own, and only systemd knows it.
    #[error("{address} is the server's own name for a socket: give the path that its unit has in ListenStream=")]
    Inherited {
        /// As it was given.
        address: Address,
    },
    /// Something else.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// The connection is made, and not spoken on.
    #[error("cannot speak gRPC with {address}: {source}")]
    Transport {
        /// Where.
        address: Address,
        /// What the client says.
        source: tonic::transport::Error,
    },
}

/// Connects to a server, as `:authority` `localhost`. `timeout` is for making the connection, and then for
/// each request.
pub async fn connect(address: &Address, timeout: Duration) -> Result<Channel, ConnectError> {
    let first = dial(address, timeout).await?;
    let dialler = Dialler { address: address.clone(), timeout, first: Arc::new(Mutex::new(Some(first))) };
    let endpoint = Endpoint::from_static("http://localhost").timeout(timeout);
    let transport = |source| ConnectError::Transport { address: address.clone(), source };
    endpoint.connect_with_connector(dialler).await.map_err(transport)
}

async fn dial(address: &Address, timeout: Duration) -> Result<UnixStream, ConnectError> {
    let given = || address.clone();
    // The kernel's spelling of an abstract name begins with a NUL.
    let hidden;
    let place = match address {
        Address::Path(path) => path.as_path(),
        Address::Abstract(name) => {
            hidden = format!("\0{name}");
            Path::new(&hidden)
        }
        Address::Inherited(_) => return Err(ConnectError::Inherited { address: given() }),
    };
    let deadline = Instant::now() + timeout;
    let late = || ConnectError::Timeout { address: given(), waited: timeout };
    loop {
        let Ok(connected) = timeout_at(deadline, UnixStream::connect(place)).await else { return Err(late()) };
        let source = match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        return Err(match source.kind() {
            io::ErrorKind::WouldBlock if Instant::now() + QUEUE_AGAIN < deadline => {
                sleep(QUEUE_AGAIN).await;
                continue;
            }
            io::ErrorKind::WouldBlock => late(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ConnectError::Absent { address: given() },
            io::ErrorKind::PermissionDenied => {
                ConnectError::Denied { address: given(), uid: rustix::process::geteuid().as_raw() }
            }
            io::ErrorKind::ConnectionRefused => match address.path().map(Path::metadata) {
                // Nobody has the name.
                None => ConnectError::Absent { address: given() },
                Some(Ok(file)) if !file.file_type().is_socket() => ConnectError::NotASocket { address: given() },
                Some(_) => ConnectError::Stale { address: given() },
            },
            _ => ConnectError::Connect { address: given(), source },
        });
    }
}

/// Hands out the connection that is made already, and makes another when that is lost.
struct Dialler {
    address: Address,
    timeout: Duration,
    first: Arc<Mutex<Option<UnixStream>>>,
}

impl Service<http::Uri> for Dialler {
    type Response = TokioIo<UnixStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<UnixStream>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (address, timeout) = (self.address.clone(), self.timeout);
        Box::pin(async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => dial(&address, timeout).await.map(TokioIo::new),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    use tempfile::TempDir;

    use super::*;

    async fn refused(address: &str) -> String {
        connect(&address.parse().unwrap(), Duration::from_millis(100)).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn each_reason_is_told_apart() {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(
            refused(&path("none.sock")).await,
            format!("there is no socket at {}: the server is not running, or listens elsewhere", path("none.sock"))
        );
        assert!(refused("@coffer-no-such-name").await.starts_with("there is no socket at @coffer-no-such-name"));
        std::fs::write(path("file"), "").unwrap();
        assert_eq!(refused(&path("file")).await, format!("{} is not a socket", path("file")));
        assert!(refused(&path("file/s.sock")).await.starts_with("there is no socket at"));
        drop(UnixListener::bind(path("old.sock")).unwrap());
        assert_eq!(
            refused(&path("old.sock")).await,
            format!("nobody listens at {}: the server that left it there was killed", path("old.sock"))
        );
        assert!(refused("fd:kms").await.contains("give the path that its unit has in ListenStream="));
    }

    #[tokio::test]
    async fn a_server_that_accepts_nothing_is_given_up() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("s.sock");
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&socket, 0).unwrap();
        let _connection = UnixStream::connect(&path).await.unwrap();
        let error = refused(path.to_str().unwrap()).await;
        assert_eq!(error, format!("the server at {} does not accept connections: tried for 100ms", path.display()));
    }
}
