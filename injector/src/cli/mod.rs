//! The command line.

mod check;
mod common;
mod csi;
mod notifier;
mod pod_arguments;
mod provider;
mod render;
mod webhook;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use coffer_runtime::process::Exit;

/// Secrets from AWS as volumes of pods, each fetched under its own pod's identity and kept fresh.
#[derive(Debug, Parser)]
#[command(name = "coffer-injector", version, after_help = EXAMPLE)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "\
A volume of a pod, without any other object:
  volumes:
    - name: secrets
      csi:
        driver: csi.coffer.dev
        readOnly: true
        volumeAttributes:
          spec: |
            - {name: db.json, from: \"secretsmanager:prod/db\"}

Exit codes: 0 done, 1 failed at run time, 2 wrong use or configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    Check(Box<check::Check>),
    Csi(Box<csi::Csi>),
    Notifier(Box<notifier::Notify>),
    Provider(Box<provider::ProviderCommand>),
    Render(Box<render::Render>),
    Webhook(Box<webhook::Webhook>),
}

impl Arguments {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Check(check) => check.run().into(),
            Command::Csi(csi) => csi.run().into(),
            Command::Notifier(notifier) => notifier.run().into(),
            Command::Provider(provider) => provider.run().into(),
            Command::Render(render) => render.run().into(),
            Command::Webhook(webhook) => webhook.run().into(),
        }
    }
}

/// A command that failed: the exit code, and what to say.
struct Failed(Exit, String);

#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes by value")]
impl Failed {
    /// Says why, on standard error.
    fn exit(self) -> Exit {
        complain(&self.1);
        self.0
    }

    fn usage(error: impl ToString) -> Self {
        Self(Exit::Usage, error.to_string())
    }

    fn at_run_time(error: impl ToString) -> Self {
        Self(Exit::Failed, error.to_string())
    }
}

/// Prints what was asked for, on standard output.
fn answer(text: &str) {
    // A reader that has gone away (`| head`) is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints why a command failed, on standard error.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "error: {text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
