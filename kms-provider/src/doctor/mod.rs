//! Looks at an encryption config and at the sockets in it, as an API server would, and says what is wrong
//! before one has to start with it.
//!
//! [`config::check`] reads the file and is pure; [`probe`] asks the plugin behind each socket; a [`Report`]
//! has what both found.

pub mod config;
pub mod probe;
mod report;

pub use probe::probe;
pub use report::{Finding, Level, Place, Report};
