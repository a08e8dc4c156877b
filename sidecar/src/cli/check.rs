//! `coffer check`: validates a config file without AWS.

use coffer::spec::{Config, Naming};
use coffer_runtime::process::Exit;

use super::{ConfigArgument, answer, complain};

/// Check a config file, without AWS and without touching anything
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgument,
}

impl Check {
    pub(super) fn run(self) -> Exit {
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
        let folders = volume.files.iter().filter(|file| matches!(file.naming, Naming::Tree { .. })).count();
        let files = plural(volume.files.len() - folders, "file");
        let folders =
            if folders == 0 { String::new() } else { format!(" and {} of parameters", plural(folders, "path")) };
        let refresh = humantime::format_duration(volume.refresh);
        text.push_str(&format!("\n  {}: {files}{folders}, refreshed about every {refresh}", volume.path.display()));
    }
    text
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
