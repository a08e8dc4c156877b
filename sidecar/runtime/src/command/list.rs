//! `list`: what a program knows, without anything that runs.

use clap::ValueEnum;
use serde_json::Value;

use super::answer;
use crate::process::Exit;
use crate::telemetry::{Listed, metrics_as_json, metrics_in_words};

/// List what there is to watch, without anything that runs
#[derive(Debug, clap::Args)]
pub struct List {
    /// metrics: every family that /metrics may show, with its labels
    #[arg(value_name = "WHAT")]
    what: What,

    #[command(flatten)]
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
        self.output.metrics(commands)
    }
}

/// For whom a list is.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// text; or json, for programs
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Output {
    /// Answers with one of these: in words for people, as JSON for programs.
    #[must_use]
    pub fn tell(&self, words: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Exit {
        answer(&match self.output {
            Format::Text => words(),
            Format::Json => format!("{:#}", json()),
        });
        Exit::Done
    }

    /// Answers with the families of each command.
    #[must_use]
    pub fn metrics(&self, commands: &[(&str, Vec<Listed>)]) -> Exit {
        self.tell(|| metrics_in_words(commands), || metrics_as_json(commands))
    }
}
