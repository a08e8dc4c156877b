//! `coffer-kms doctor`: an encryption config and the plugins in it, before an API server starts with them.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use coffer_kms::doctor::config::{Options, check};
use coffer_kms::doctor::{Report, probe};
use coffer_runtime::process::Exit;
use coffer_unix_grpc::Address;
use zeroize::Zeroizing;

use super::Failed;
use super::flags::{FormatFlags, HealthFlags, KeyFlags, SocketFlags};

/// Check an API server's encryption config, and the plugins behind its sockets
///
/// Each plugin is asked as an API server asks it: how it is, then to encrypt and decrypt random bytes. Nothing is
/// changed. The exit code is 0 when nothing failed, 1 otherwise. With the flags of the plugin, its sockets are
/// looked for in the config.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// The file of the API server's --encryption-provider-config
    #[arg(long, value_name = "FILE")]
    encryption_config: PathBuf,

    /// The API server has --encryption-provider-config-automatic-reload
    #[arg(long)]
    automatic_reload: bool,

    /// Only read the file: no socket is looked at
    #[arg(long)]
    offline: bool,

    /// text: a line for each finding; json: one object
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: OutputFlag,

    #[command(flatten)]
    keys: KeyFlags,

    #[command(flatten)]
    sockets: SocketFlags,

    #[command(flatten)]
    formats: FormatFlags,

    #[command(flatten)]
    health: HealthFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputFlag {
    /// A line for each finding
    Text,
    /// One object
    Json,
}

impl Doctor {
    pub(super) fn run(&self) -> Exit {
        match self.report() {
            Ok(report) => {
                let text = match self.output {
                    OutputFlag::Text => report.to_string(),
                    OutputFlag::Json => report.to_json(),
                };
                // A reader that has gone away (`| head`) is no failure of ours.
                let _ = writeln!(io::stdout(), "{text}");
                if report.is_sound() { Exit::Done } else { Exit::Failed }
            }
            Err(failed) => failed.exit(),
        }
    }

    fn report(&self) -> Result<Report, Failed> {
        let listen = self.listen()?;
        let shown = self.encryption_config.display().to_string();
        let text = std::fs::read_to_string(&self.encryption_config)
            .map(Zeroizing::new)
            .map_err(|error| Failed::usage(format!("--encryption-config {shown}: {error}")))?;
        let mut report = Report::new(shown);
        let checked = check(&text, Options { automatic_reload: self.automatic_reload, listen: &listen });
        report.extend(checked.findings);
        if !self.offline {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::at_run_time)?;
            report.extend(runtime.block_on(probe(&checked.stanzas)));
        }
        Ok(report)
    }

    /// Where the plugin listens, if its flags are given. They are looked at as it would itself.
    fn listen(&self) -> Result<Vec<Address>, Failed> {
        self.formats.limits().check().map_err(Failed::usage)?;
        if self.keys.key.is_empty() {
            return self.sockets.named().map_err(Failed::usage);
        }
        let plan = self.keys.plan().map_err(Failed::usage)?;
        self.sockets.addresses(plan.writers.len()).map_err(Failed::usage)
    }
}
