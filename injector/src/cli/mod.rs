//! The command line.

mod check;
mod common;
mod csi;
mod list;
mod notifier;
mod pod_arguments;
mod provider;
mod render;
mod webhook;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use coffer_runtime::command::{Failed, answer, complain};

/// Secrets from AWS in pods, as volumes or by a sidecar, each fetched under its own pod's identity and kept fresh.
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
    List(list::List),
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
            Command::List(list) => list.run().into(),
            Command::Notifier(notifier) => notifier.run().into(),
            Command::Provider(provider) => provider.run().into(),
            Command::Render(render) => render.run().into(),
            Command::Webhook(webhook) => webhook.run().into(),
        }
    }
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
