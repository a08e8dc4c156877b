//! What every Coffer process shares, and nothing else: AWS clients and credentials, secret
//! memory, telemetry, process life, and how commands speak.

pub mod aws;
pub mod command;
pub mod process;
mod secret;
pub mod telemetry;

pub use secret::Secret;

/// The version in the user agent, `--version` and the build metric.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
