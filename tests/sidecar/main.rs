//! `coffer run` and its sister commands against a real AWS API: one file for each behaviour.

mod api;
mod calls;
mod endpoints;
mod examples;
mod exec;
mod fallback;
mod faults;
mod fixture;
mod formats;
mod hardening;
mod identity;
mod leaks;
mod life;
mod mistakes;
mod ops;
mod permission;
mod publish;
mod push;
mod refresh;
mod reload;
mod repair;
mod restart;
mod room;
mod rotation;
mod start;
