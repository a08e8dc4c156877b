//! The control plane by itself, with no plugin: what the other tests build on.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions, Program, cluster::Refusal, eventually};

use crate::fixture::{PLAINTEXT, Resource::Secret, SOON, files_with_plaintext};

#[tokio::test]
async fn without_a_plugin_a_secret_is_in_etcd_as_it_is() -> Result<()> {
    let mut plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    Secret.create(&plane, "db").await?;
    let stored = Secret.stored(&plane, "db").await?;
    ensure!(stored.contains(PLAINTEXT), "{stored:?}");
    ensure!(files_with_plaintext(&plane)?.contains("/etcd/"));
    plane.restart_api_server().await?;
    Secret.read(&plane, "db").await?;
    ensure!(plane.kubectl(["get", "secrets", "--output=name"]).await? == "secret/db\n");
    ensure!(Secret.stored(&plane, "db").await? == stored);
    ensure!(plane.health("readyz").await? == (200, "ok".to_owned()));

    let refused = Secret.read(&plane, "none").await.unwrap_err();
    let refusal = refused.downcast_ref::<Refusal>().context("no refusal")?;
    ensure!((refusal.status, refusal.reason.as_str()) == (404, "NotFound"), "{refusal}");
    let version = plane.api().get("/version").await?;
    let go_mod = include_str!("kube/go.mod");
    ensure!(version["gitVersion"].as_str().is_some_and(|version| go_mod.contains(version)), "{version}");
    plane.stop().await
}

#[tokio::test]
async fn a_control_plane_ends_with_the_test_that_is_killed() -> Result<()> {
    let this = std::env::current_exe()?;
    let args = ["--ignored", "--exact", "plain::a_control_plane_that_is_left", "--nocapture"];
    let test = Program::new(&this.to_string_lossy()).args(args).start()?;
    let marked = eventually(SOON * 3, async || {
        let text = test.stdout();
        let (_, rest) = text.split_once("<<").with_context(|| format!("{text}{}", test.stderr()))?;
        Ok(rest.split_once(">>").context("cut short")?.0.to_owned())
    });
    let folder = marked.await?;
    ensure!(Path::new(&folder).is_dir());
    test.kill()?;
    let gone = eventually(SOON, async || {
        ensure!(!Path::new(&folder).exists(), "{folder} is still there");
        for process in std::fs::read_dir("/proc")? {
            // Processes come and go meanwhile.
            let line = std::fs::read(process?.path().join("cmdline")).unwrap_or_default();
            ensure!(!String::from_utf8_lossy(&line).contains(&folder), "a process of it still runs");
        }
        Ok(())
    });
    gone.await
}

#[tokio::test]
#[ignore = "started, and killed, by another test"]
async fn a_control_plane_that_is_left() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    writeln!(std::io::stdout(), "<<{}>>", plane.folder().display())?;
    tokio::time::sleep(Duration::from_secs(600)).await;
    Ok(())
}
