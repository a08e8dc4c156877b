//! `coffer-kms` on its sockets against a real KMS API: one file for each behaviour.

mod faults;
mod fixture;
mod follow;
mod formats;
mod health;
mod input;
mod life;
mod local_kek;
mod replica;
mod routing;
mod sharing;
mod two_keys;
