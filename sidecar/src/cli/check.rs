//! `coffer check`: validates a config file without AWS.

use std::collections::BTreeMap;

use coffer::spec::{Config, Content, FileSpec, Naming, VolumeSpec, schema};
use coffer_runtime::process::Exit;

use super::{ConfigArgument, answer, complain};

/// Check a config file, without AWS and without touching anything
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgument,

    /// Print the JSON Schema of config files instead, for editors, and check none
    #[arg(long)]
    schema: bool,
}

impl Check {
    pub(super) fn run(self) -> Exit {
        if self.schema {
            answer(&format!("{:#}", schema()));
            return Exit::Done;
        }
        match self.config.file().load() {
            Ok(config) => {
                answer(&summary(&self.config.config.display().to_string(), &config));
                Exit::Done
            }
            Err(error) => {
                complain(&error.to_string());
                Exit::Usage
            }
        }
    }
}

fn summary(file: &str, config: &Config) -> String {
    let mut text = format!("{file}: ok");
    for volume in &config.volumes {
        let refresh = humantime::format_duration(volume.refresh);
        let told = match volume.on_change.actions.len() {
            0 => String::new(),
            count => format!(", {} on change", plural(count, "action", "actions")),
        };
        let path = volume.path.display();
        text.push_str(&format!("\n  {path}: {}, refreshed about every {refresh}{told}", contents(volume)));
    }
    if !config.env.is_empty() {
        text.push_str(&format!("\n  for `coffer exec`: {}", plural(config.env.len(), "variable", "variables")));
    }
    if let Some(push) = &config.push {
        text.push_str(&format!("\n  push: {}", push.queue.as_str()));
    }
    if let Some(api) = &config.api {
        text.push_str(&format!("\n  api: {}", api.listen));
    }
    text
}

/// What a volume holds, counted by kind.
fn contents(volume: &VolumeSpec) -> String {
    let kind = |file: &FileSpec| match (&file.content, &file.naming) {
        (Content::Template { .. }, _) => ("template", "templates"),
        (Content::Tls { .. }, _) => ("TLS pair", "TLS pairs"),
        (Content::Value { .. }, Naming::Tree { .. }) => ("path of parameters", "paths of parameters"),
        (Content::Value { .. }, Naming::File(_)) => ("file", "files"),
    };
    let mut counted: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for file in &volume.files {
        *counted.entry(kind(file)).or_default() += 1;
    }
    let counted: Vec<String> = counted.into_iter().map(|((one, many), count)| plural(count, one, many)).collect();
    counted.join(", ")
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
