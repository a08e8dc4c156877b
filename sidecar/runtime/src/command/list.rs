//! `list`: what a program knows, without anything that runs.

use clap::ValueEnum;

use super::answer;
use crate::process::Exit;
use crate::telemetry::{Listed, metrics_as_json, metrics_in_words};

/// List what there is to watch, without anything that runs
#[derive(Debug, clap::Args)]
pub struct List {
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

impl List {
    /// Answers with the families of each command that serves them.
    #[must_use]
    pub fn run(self, commands: &[(&str, Vec<Listed>)]) -> Exit {
        let What::Metrics = self.what;
        answer(&self.output.metrics(commands));
        Exit::Done
    }
}

/// Whom a list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// People.
    #[value(help = None)]
    Text,
    /// Programs.
    #[value(help = None)]
    Json,
}

impl Output {
    /// The families of each command.
    #[must_use]
    pub fn metrics(self, commands: &[(&str, Vec<Listed>)]) -> String {
        match self {
            Self::Text => metrics_in_words(commands),
            Self::Json => format!("{:#}", metrics_as_json(commands)),
        }
    }
}
