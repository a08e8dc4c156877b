//! kubectl, as an administrator runs it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// kubectl, told where the API server is.
#[derive(Clone, Debug)]
pub(super) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    /// By the program that is all of Kubernetes; what it caches goes into `home`.
    pub(super) fn new(program: PathBuf, kubeconfig: PathBuf, home: PathBuf) -> Self {
        Self { program, kubeconfig, home }
    }

    /// Runs it: what it prints.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub(super) async fn run<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("kubectl").arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        command.env_clear().env("HOME", &self.home).stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.context("cannot run kubectl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl ({}): {}", output.status, said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}
