//! The programs that are all of Kubernetes, and Helm.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tokio::sync::OnceCell;

/// The script that builds them.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/build");

/// Where the one that is all of Kubernetes is; built at the first call on this machine.
pub(super) async fn kubernetes() -> Result<PathBuf> {
    static PATH: OnceCell<PathBuf> = OnceCell::const_new();
    path(&PATH, "kube").await
}

/// Where the command `helm` is; built at the first call on this machine.
pub(super) async fn helm() -> Result<PathBuf> {
    static PATH: OnceCell<PathBuf> = OnceCell::const_new();
    path(&PATH, "helm").await
}

async fn path(known: &OnceCell<PathBuf>, name: &'static str) -> Result<PathBuf> {
    known.get_or_try_init(async || tokio::task::spawn_blocking(|| build(name)).await?).await.cloned()
}

fn build(name: &str) -> Result<PathBuf> {
    // It may take minutes, and so its words go to the terminal.
    let output = Command::new(SCRIPT)
        .arg(name)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {SCRIPT}"))?;
    ensure!(output.status.success(), "{SCRIPT} {name} failed, see above");
    Ok(String::from_utf8(output.stdout)?.trim_end().into())
}
