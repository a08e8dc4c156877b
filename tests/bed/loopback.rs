//! Ports and addresses on loopback.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result};

/// A port on 127.0.0.1 that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot bind a port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// A loopback address with that port, which no other caller gets: for a program that is told where to
/// listen before it starts, and again after it was killed.
pub fn own_address(port: u16) -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let [high, low] = (TAKEN.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes();
    let process = u8::try_from(std::process::id() % 250).unwrap_or_default() + 1;
    (Ipv4Addr::new(127, process, high, low), port).into()
}
