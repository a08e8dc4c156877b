//! The command line.

mod check;
mod exec;
mod install;
mod progress;
mod run;
mod service;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use coffer::metrics::families;
use coffer::reload::ConfigFile;
use coffer_runtime::command::{Failed, List, answer, complain};

/// Secrets from AWS Secrets Manager and Parameter Store, as files on tmpfs that stay fresh.
#[derive(Debug, Parser)]
#[command(name = "coffer", version, after_help = EXAMPLE)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = "\
A config file:
  region: eu-west-1              # else AWS_REGION, the profile or the instance
  refresh: 60s
  volumes:
    - path: /run/secrets/app     # on a tmpfs
      files:
        - {name: db.json, from: \"secretsmanager:prod/db\"}
        - {name: db-password, from: \"secretsmanager:prod/db\", select: password}
        - {name: log-level, from: \"parameterstore:/prod/app/log-level\"}

Exit codes: 0 done, 1 failed at run time, 2 wrong use or configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Exec(exec::Exec),
    Check(check::Check),
    Status(status::Show),
    Install(install::Install),
    List(List),
}

impl Arguments {
    /// The exit code: 0, 1 or 2 for what Coffer did itself, any for a program that it ran.
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Run(run) => run.run().into(),
            Command::Exec(exec) => exec.run(),
            Command::Check(check) => check.run().into(),
            Command::Status(status) => status.run().into(),
            Command::Install(install) => install.run().into(),
            Command::List(list) => list.run(&[("run", families()), ("exec", families())]).into(),
        }
    }
}

/// The config file of a command.
#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The config file
    #[arg(long, short, value_name = "FILE", env = "COFFER_CONFIG", default_value = "/etc/coffer/coffer.yaml")]
    config: PathBuf,
}

impl ConfigArgument {
    fn file(&self) -> ConfigFile {
        ConfigFile::new(&self.config)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn the_example_in_the_help_is_a_valid_config() {
        let from = super::EXAMPLE.find("  region:").unwrap();
        let to = super::EXAMPLE.find("\n\nExit").unwrap();
        coffer::spec::Config::parse("help", &super::EXAMPLE[from..to], &|_| unreachable!()).unwrap();
    }
}
