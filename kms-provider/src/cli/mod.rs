//! The command line.

mod decrypt;
mod doctor;
mod flags;
mod http;
mod reader;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use coffer_kms::metrics::families;
use coffer_runtime::command::{Failed, List};

/// Kubernetes' KMS plugin on AWS KMS: encrypts what an API server stores in etcd.
///
/// Without a command it serves, with every flag of the AWS Encryption Provider: swap the binary, and it
/// reads and writes the same data.
#[derive(Debug, Parser)]
#[command(
    name = "coffer-kms",
    version,
    args_conflicts_with_subcommands = true,
    // Of a flag that is there twice the last counts, as it does with pflag; lists add up.
    args_override_self = true,
    subcommand_negates_reqs = true,
    after_help = EXAMPLE
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: serve::Serve,
}

const EXAMPLE: &str = "\
A control plane with one key:
  coffer-kms --key arn:aws:kms:eu-west-1:123456789012:key/ID --region eu-west-1 \\
             --listen /var/run/kmsplugin/socket.sock

Amazon EKS itself takes no KMS plugin: this is for control planes of your own.
Exit codes: 0 done, 1 failed at run time, 2 wrong use or configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the KMS API on unix sockets (what is done without a command)
    Serve(Box<serve::Serve>),
    Doctor(Box<doctor::Doctor>),
    Decrypt(Box<decrypt::Decrypt>),
    List(List),
}

impl Arguments {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            None => self.serve.run().into(),
            Some(Command::Serve(serve)) => serve.run().into(),
            Some(Command::Doctor(doctor)) => doctor.run().into(),
            Some(Command::Decrypt(decrypt)) => decrypt.run().into(),
            Some(Command::List(list)) => list.run(&[("serve", families())]).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Arguments;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn doctor_takes_a_plugins_own_line() {
        let line = "coffer-kms doctor --encryption-config f --key a,b --listen /a,/b --health-port :1 --socket-mode 0660 \
                    --write-format local-kek --status-version v2 --debug";
        Arguments::try_parse_from(line.split_whitespace()).unwrap();
    }
}
