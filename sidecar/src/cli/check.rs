//! `coffer check`: validates a config file without AWS.

use coffer::spec::Config;
use coffer_runtime::process::Exit;

use super::{ConfigArgument, answer, complain, load};

/// Check a config file, without AWS and without touching anything
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Check {
    pub(super) fn run(self) -> Exit {
        match load(&self.config.config) {
            Ok(config) => {
                answer(&summary(&self.config.config.display().to_string(), &config));
                Exit::Done
            }
            Err(text) => {
                complain(&text);
                Exit::Usage
            }
        }
    }
}

fn summary(file: &str, config: &Config) -> String {
    let mut text = format!("{file}: ok");
    for volume in &config.volumes {
        let entries = volume.files.len();
        let refresh = humantime::format_duration(volume.refresh);
        text.push_str(&format!(
            "\n  {}: {entries} {}, refreshed every {refresh}",
            volume.path.display(),
            plural(entries)
        ));
    }
    text
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "entry" } else { "entries" }
}
