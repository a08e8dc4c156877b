//! Modes and owners of files, and what a process without privileges may not promise.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
};

use anyhow::{Result, ensure};
use rustix::process::geteuid;

use crate::{
    faults::pair,
    fixture::{Fixture, ends_with, skip},
};

const NOBODY: u32 = 65534;

/// Runs as a user without privileges, as containers should.
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Moves everything that the sidecar needs to where `nobody` may have it.
fn give_to_nobody(fixture: &Fixture) -> Result<bed::Program> {
    chown(fixture.folder(), Some(NOBODY), Some(NOBODY))?;
    let token = fixture.path("token");
    fs::write(&token, fixture.token.token())?;
    Ok(fixture.run().env("AWS_WEB_IDENTITY_TOKEN_FILE", token).under(AS_NOBODY))
}

fn mode(fixture: &Fixture, name: &str) -> Result<u32> {
    Ok(fs::metadata(fixture.volume().join(name))?.mode() & 0o7777)
}

#[tokio::test]
async fn files_have_the_mode_that_stands_nearest_to_them() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "value").await?;
    let entry = |name: &str, mode: &str| format!("{{name: {name}, from: 'secretsmanager:prod/db'{mode}}}");
    fixture.config("1h", [entry("default", ""), entry("own", ", mode: 0400"), entry("wide", ", mode: 0644")])?;
    fixture.once().await?;
    ensure!(mode(&fixture, "default")? == 0o440 && mode(&fixture, "own")? == 0o400 && mode(&fixture, "wide")? == 0o644);

    let config = fs::read_to_string(fixture.config_path())?;
    fixture.write_config(&format!("mode: 0600\n{config}"))?;
    fixture.once().await?;
    ensure!(mode(&fixture, "default")? == 0o600, "a changed mode alone is a change");
    ensure!(mode(&fixture, "own")? == 0o400 && mode(&fixture, "wide")? == 0o644);
    Ok(())
}

#[tokio::test]
async fn files_are_given_to_the_owner_and_group_that_are_asked_for() -> Result<()> {
    if !geteuid().is_root() {
        return skip("root, to give files away");
    }
    let fixture = pair("1h").await?;
    let config = fs::read_to_string(fixture.config_path())?;
    fixture.write_config(&format!("{config}    uid: 1000\n    gid: 2000\n"))?;
    fixture.once().await?;
    for name in ["db", "level"] {
        let metadata = fs::metadata(fixture.volume().join(name))?;
        ensure!((metadata.uid(), metadata.gid()) == (1000, 2000), "{name}: {} {}", metadata.uid(), metadata.gid());
    }
    let mut watch = bed::FileWatch::new(&fixture.volume())?;
    fixture.once().await?;
    ensure!(watch.events()?.is_empty(), "a restart gives away what is given already");
    Ok(())
}

#[tokio::test]
async fn owners_that_the_process_may_not_give_to_are_refused_at_the_start() -> Result<()> {
    let fixture = pair("1h").await?;
    let config = fs::read_to_string(fixture.config_path())?;
    for (line, whom) in [("uid: 1", "uid 1"), ("gid: 1", "gid 1"), ("{uid: 1, gid: 1}", "uid 1 and gid 1")] {
        let lines = line.trim_matches(['{', '}']).replace(", ", "\n    ");
        fixture.write_config(&format!("{config}    {lines}\n"))?;
        let program = if geteuid().is_root() { give_to_nobody(&fixture)? } else { fixture.run() };
        let process = program.start()?;
        ends_with(&process, 2).await?;
        let said = process.stderr();
        let expected = format!("error: files in {} cannot be given to {whom}: ", fixture.volume().display());
        ensure!(said.contains(&expected) && said.contains("CHOWN"), "{said}");
        ensure!(!fixture.volume().exists(), "something is left of it");
    }
    ensure!(fixture.proxy.calls().is_empty(), "AWS was asked first");
    Ok(())
}

#[tokio::test]
async fn it_needs_no_privileges() -> Result<()> {
    if !geteuid().is_root() {
        // Every other test proves it.
        return Ok(());
    }
    let fixture = pair("1h").await?;
    let process = give_to_nobody(&fixture)?.arg("--once").start()?;
    ends_with(&process, 0).await?;
    let metadata = fs::metadata(fixture.volume().join("db"))?;
    ensure!(metadata.uid() == NOBODY && fixture.read("db")? == "old");
    Ok(())
}
