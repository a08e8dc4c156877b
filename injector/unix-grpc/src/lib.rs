//! gRPC servers on unix sockets that Kubernetes' own Go clients can talk to.
//!
//! ```text
//! --listen ──► Address ──► Socket ──► serve ──► routes
//!              parse       bind        │ who connects: Peers
//!                                      │ what they say: authority::Repaired
//! ```
//!
//! [`Address`] is where, [`Socket`] is the listening socket with its file, [`serve()`] runs a server on it
//! until told to stop, and [`connect`] is a client's end, for a look at a running server. [`authority`] is
//! the reason for this crate: without it, clients that dial a path are refused before a server sees them.

mod account;
mod address;
pub mod authority;
mod client;
mod connection;
mod inherited;
mod peers;
mod serve;
mod socket;

pub use account::{AccountError, Group, User};
pub use address::{Address, AddressError};
pub use client::{ConnectError, connect};
pub use inherited::{Handle, Inherited, InheritedError};
pub use peers::{Peer, Peers};
pub use serve::{ServeError, serve};
pub use socket::{Access, BindError, Mode, ModeError, Socket};
