//! The program that is all of Kubernetes.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tokio::sync::OnceCell;

/// The script that builds it.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/build");

/// Where it is; built at the first call on this machine.
pub(super) async fn path() -> Result<PathBuf> {
    static PATH: OnceCell<PathBuf> = OnceCell::const_new();
    PATH.get_or_try_init(async || tokio::task::spawn_blocking(build).await?).await.cloned()
}

fn build() -> Result<PathBuf> {
    // It may take minutes, and so its words go to the terminal.
    let output = Command::new(SCRIPT)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {SCRIPT}"))?;
    ensure!(output.status.success(), "{SCRIPT} failed, see above");
    Ok(String::from_utf8(output.stdout)?.trim_end().into())
}
