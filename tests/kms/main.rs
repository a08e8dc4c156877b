//! `coffer-kms` on its sockets against a real KMS API: one file for each behaviour.

mod faults;
mod fixture;
mod health;
mod life;
mod sharing;
mod two_keys;
