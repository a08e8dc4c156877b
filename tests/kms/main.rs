//! `coffer-kms` on its sockets against a real KMS API: one file for each behaviour.

mod faults;
mod fixture;
mod formats;

mod health;
mod life;
mod local_kek;
mod sharing;
mod two_keys;
