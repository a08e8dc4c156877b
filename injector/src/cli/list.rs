//! `coffer-injector list`: what the program knows, without anything that runs.

use clap::ValueEnum;
use coffer_injector::webhook::annotations::{ANNOTATIONS, Annotation, PREFIX};
use coffer_injector::{csi, notifier, provider, webhook};
use coffer_runtime::command::Output;
use coffer_runtime::process::Exit;
use serde_json::{Value, json};

/// List what there is to watch and what there is to write, without anything that runs
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// annotations: those that the webhook reads; metrics: every family that /metrics may show, with its labels
    #[arg(value_name = "WHAT")]
    what: What,

    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Annotations,
    Metrics,
}

impl List {
    pub(super) fn run(self) -> Exit {
        match self.what {
            What::Annotations => self.output.tell(annotations_in_words, annotations_as_json),
            What::Metrics => self.output.metrics(&[
                ("csi", csi::families()),
                ("notifier", notifier::families()),
                ("provider", provider::families()),
                ("webhook", webhook::metrics::families()),
            ]),
        }
    }
}

fn annotations_in_words() -> String {
    let line = |Annotation { name, takes, meaning, default }: &Annotation| {
        format!("{PREFIX}{name}\n  {meaning}\n  takes: {takes}\n  without it: {default}\n")
    };
    ANNOTATIONS.iter().map(line).collect::<Vec<String>>().join("\n").trim_end().to_owned()
}

fn annotations_as_json() -> Value {
    let one = |Annotation { name, takes, meaning, default }: &Annotation| json!({ "name": format!("{PREFIX}{name}"), "takes": takes, "meaning": meaning, "default": default });
    ANNOTATIONS.iter().map(one).collect()
}
