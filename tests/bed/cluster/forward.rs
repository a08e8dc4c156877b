//! A way from pods to a server on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// This machine, as every pod with a network of its own sees it, whatever its node: the first address of those set
/// aside for tests (RFC 2544), which no node gives to a pod.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// How many clients may wait to be let in.
const BACKLOG: i32 = 128;

/// Passes on every byte between pods and a server on loopback, which pods do not reach by themselves: the API server,
/// LocalStack, a fault proxy.
///
/// It listens where pods have a line to, and so nothing but a pod of this machine reaches it. It runs on a thread of its
/// own and ends when dropped, and every open connection with it.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    _end: oneshot::Sender<()>,
}

impl Forward {
    /// Starts one to a server, on a free port.
    ///
    /// `to` is `ADDRESS:PORT`, and may be the URL of a server, as the bed's servers tell it.
    pub fn to(to: &str) -> Result<Self> {
        let to = to.split_once("://").map_or(to, |(_, rest)| rest).trim_end_matches('/');
        let to: SocketAddr = to.parse().with_context(|| format!("{to} is no address and port"))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        // The address comes with the first pod, and this is there before.
        sockopt::set_ip_freebind(&socket, true)?;
        bind(&socket, &SocketAddr::from((GATEWAY, 0))).with_context(|| format!("cannot bind a port on {GATEWAY}"))?;
        listen(&socket, BACKLOG)?;
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr()?;
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
        thread::Builder::new().name("forward".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = accept(listener, to) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { address, _end: end })
    }

    /// Where pods reach the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(listener: std::net::TcpListener, to: SocketAddr) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (mut client, _) = listener.accept().await?;
        // A server that is not there ends the client's connection, as it would its own.
        tokio::spawn(async move {
            client.set_nodelay(true)?;
            let mut server = TcpStream::connect(to).await?;
            server.set_nodelay(true)?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}
