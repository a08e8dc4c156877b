//! `coffer-injector webhook`: asked by a client that is like the API server and by some that are not, and by a real
//! API server.

mod answers;
mod cluster;
mod drain;
mod fixture;
mod garbage;
mod hardening;
mod leaks;
mod limits;
mod roles;
