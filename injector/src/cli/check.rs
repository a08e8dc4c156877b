//! `coffer-injector check`: reads SecretProviderClass manifests without a cluster and without AWS.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use coffer_injector::class::manifest::{CheckedClass, Outcome, check};
use coffer_runtime::process::Exit;

use super::{answer, complain};

/// Check SecretProviderClass manifests, without a cluster and without AWS
///
/// Reads YAML and JSON, one manifest or many, and looks at every SecretProviderClass of the provider `aws` among them.
/// Exit codes: 0 when all can be mounted, 2 when one cannot. Warnings change nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Manifests; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

impl Check {
    pub(super) fn run(self) -> Exit {
        let mut exit = Exit::Done;
        let mut found = 0;
        for path in &self.files {
            let from_stdin = path.as_os_str() == "-";
            let file = if from_stdin { "standard input".to_owned() } else { path.display().to_string() };
            let text = if from_stdin { read(io::stdin().lock()) } else { File::open(path).and_then(read) };
            let classes = text.map_err(|error| error.to_string());
            match classes.and_then(|text| check(&text).map_err(|fault| fault.to_string())) {
                Ok(classes) => {
                    found += classes.len();
                    for class in &classes {
                        exit = if tell(&file, class) { exit } else { Exit::Usage };
                    }
                }
                Err(error) => {
                    complain(&format!("{file}: {error}"));
                    exit = Exit::Usage;
                }
            }
        }
        if found == 0 && exit == Exit::Done {
            complain("there is no SecretProviderClass to check; name files that hold one");
            exit = Exit::Usage;
        }
        exit
    }
}

/// Reads no more than shows that it is too much.
fn read(source: impl Read) -> io::Result<String> {
    const MOST: u64 = 32 << 20;
    let mut text = String::new();
    source.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

/// Tells what came of a class, and whether it can be mounted.
fn tell(file: &str, CheckedClass { name, outcome }: &CheckedClass) -> bool {
    match outcome {
        Ok(outcome) => {
            if let Outcome::Fine { lints, .. } = outcome {
                for lint in lints {
                    answer(&format!("{file}: {name}: warning: {lint}"));
                }
            }
            answer(&format!("{file}: {name}: {outcome}"));
        }
        Err(error) => answer(&format!("{file}: {name}: error: {error}")),
    }
    outcome.is_ok()
}
