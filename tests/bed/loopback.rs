//! Ports and addresses on loopback.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// A port on 127.0.0.1 that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot bind a port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// A loopback address that, as good as surely, nobody else uses, in this process or another: every
/// port of it stays free through a restart.
pub fn own_address() -> Ipv4Addr {
    Ipv4Addr::new(127, fastrand::u8(1..255), fastrand::u8(..), fastrand::u8(1..255))
}
