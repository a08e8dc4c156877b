//! Helm, as an administrator runs it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// The command `helm`, told where the API server is.
#[derive(Clone, Debug)]
pub(super) struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    /// By this program; what it keeps and caches goes into `home`.
    pub(super) fn new(program: PathBuf, kubeconfig: PathBuf, home: PathBuf) -> Self {
        Self { program, kubeconfig, home }
    }

    /// Runs it: what it prints.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub(super) async fn run<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        // Nothing of this machine's own Helm: no plugin, no repository, no context.
        command.env_clear().env("HOME", &self.home).env("KUBECONFIG", &self.kubeconfig);
        for part in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{part}_HOME"), self.home.join("helm").join(part.to_lowercase()));
        }
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("cannot run helm")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm ({}): {}", output.status, said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}
