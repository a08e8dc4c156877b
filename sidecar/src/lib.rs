//! Coffer's engine: secrets from AWS Secrets Manager and Parameter Store, published as one atomic
//! set of files and kept fresh.
//!
//! ```text
//! spec ──► identity ──► source ──► render ──► volume ──► notify
//!  what     as whom      fetch      bytes      publish    tell the app
//!                          ▲                     │
//!            push ──►   schedule ◄── status ◄────┘
//! ```
//!
//! [`engine`] turns the wheel, [`reload`] follows the config file, [`child`] runs a program with what was
//! fetched, and [`api`] answers programs that ask for secrets over HTTP.

pub mod api;
pub mod child;
mod digest;
pub mod engine;
mod epoch;
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
