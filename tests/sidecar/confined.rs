//! Runs a command under a seccomp profile: `confined PROFILE.json COMMAND…`. What a container
//! runtime does before it starts a container's program, and nothing else of a container.

use std::{ffi::OsString, os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::{Context, Result};
use bed::seccomp::Profile;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || arguments.next().context("usage: confined PROFILE.json COMMAND…");
    let (profile, command): (OsString, OsString) = (next()?, next()?);
    Profile::load(Path::new(&profile))?.apply()?;
    let failure = Command::new(&command).args(arguments).exec();
    Err(failure).with_context(|| format!("cannot run {}", command.display()))
}
