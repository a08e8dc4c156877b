//! `coffer-kms list`: what the program knows, without anything that runs.

use clap::ValueEnum;
use coffer_kms::metrics::families;
use coffer_runtime::command::answer;
use coffer_runtime::process::Exit;
use coffer_runtime::telemetry::{metrics_as_json, metrics_in_words};

/// List what there is to watch, without anything that runs
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// metrics: every family that /metrics may show, with its labels
    #[arg(value_name = "WHAT")]
    what: What,

    /// text; or json, for programs
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Metrics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl List {
    pub(super) fn run(self) -> Exit {
        let What::Metrics = self.what;
        let commands = [("serve", families())];
        answer(&match self.output {
            Output::Text => metrics_in_words(&commands),
            Output::Json => format!("{:#}", metrics_as_json(&commands)),
        });
        Exit::Done
    }
}
