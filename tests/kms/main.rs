//! `coffer-kms` on its sockets against a real KMS API: one file for each behaviour.

mod faults;
mod fixture;
mod flags;
mod follow;
mod formats;
mod hardening;
mod health;
mod identity;
mod input;
mod leaks;
mod life;
mod local_kek;
mod metrics;
mod replica;
mod routing;
mod sharing;
mod two_keys;
