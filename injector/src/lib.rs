//! Coffer's engine, brought to pods.

pub mod proto;
