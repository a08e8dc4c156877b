//! Coffer's engine: secrets from AWS Secrets Manager and Parameter Store, published as one atomic
//! set of files and kept fresh.
//!
//! ```text
//! spec ──► identity ──► source ──► render ──► volume
//!  what     as whom      fetch      bytes      publish
//!                          ▲                     │
//!                       schedule ◄── status ◄────┘
//! ```

pub mod api;
pub mod child;
mod digest;
pub mod engine;
pub mod file;
pub mod identity;
pub mod journal;
pub mod metrics;
pub mod notify;
pub mod push;
pub mod reload;
pub mod render;
pub mod schedule;
pub mod source;
pub mod spec;
pub mod status;
pub mod volume;
