//! The command line.

mod check;
mod run;
mod status;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use coffer::spec::Config;
use coffer_runtime::process::Exit;

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
    Check(check::Check),
    Status(status::Show),
}

impl Arguments {
    pub(crate) fn run(self) -> Exit {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Check(check) => check.run(),
            Command::Status(status) => status.run(),
        }
    }
}

/// Largest config file that is read, in bytes: a Kubernetes ConfigMap holds no more.
const CONFIG_MAX: u64 = 1024 * 1024;

/// Reads and checks a config file; the error is for people.
fn load(path: &Path) -> Result<Config, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|error| format!("{shown}: cannot be read: {error}"))?.len();
    if size > CONFIG_MAX {
        return Err(format!("{shown}: has {size} bytes; a config file has at most {CONFIG_MAX}"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
    Config::parse(&shown.to_string(), &text).map_err(|error| error.to_string())
}

/// Prints an answer on standard output.
fn answer(text: &str) {
    // A reader that has gone away (`| head`) is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints why a command failed, on standard error.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "error: {text}");
}

/// The config file of a command.
#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The config file
    #[arg(long, short, value_name = "FILE", env = "COFFER_CONFIG", default_value = "/etc/coffer/coffer.yaml")]
    config: PathBuf,
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
        coffer::spec::Config::parse("help", &super::EXAMPLE[from..to]).unwrap();
    }
}
