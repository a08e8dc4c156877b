//! Whom to tell of a new set.

use std::path::Path;

use coffer::spec::{Means, OnChange, Recipient};
use serde_json::Value;

use super::known::nearest;
use super::yaml::{self, tree};
use super::{Faults, shown};

/// Most bytes of `on-change`.
const SIZE_MAX: usize = 16 * 1024;
/// The word for starting the application anew.
const RESTART: &str = "restart";

/// What `on-change` says.
#[derive(Debug)]
pub(super) enum Told {
    /// The application is started anew.
    Restart,
    /// Actions of the sidecar: as they were written, and as they are meant.
    Actions(Vec<Value>, OnChange),
}

impl Told {
    pub(super) fn read(annotation: &str, text: &str) -> Result<Self, Faults> {
        if text.len() > SIZE_MAX {
            return Err(Faults::of(format!("holds {} bytes, and may hold {SIZE_MAX}", text.len())));
        }
        // First, for it bounds what aliases may repeat.
        let tree = match tree(text) {
            Err(yaml::Fault::TooLarge) => return Err(Faults::of("has too many parts, or aliases that repeat them")),
            tree => tree.ok(),
        };
        let is_restart = |value: &Value| value.as_str() == Some(RESTART);
        match &tree {
            Some(Value::String(word)) => return Self::word(word),
            Some(Value::Array(list)) if list.iter().any(is_restart) => {
                return match list.len() {
                    1 => Ok(Self::Restart),
                    _ => Err(Faults::of(
                        "`restart` stands alone: what is started anew need not be told; remove it, or the other actions",
                    )),
                };
            }
            Some(Value::Array(list)) if list.is_empty() => {
                return Err(Faults::of("tells nobody; add an action, or remove the annotation"));
            }
            _ => {}
        }
        let meant = OnChange::parse(annotation, text).map_err(|error| {
            let mut faults = Faults::default();
            for problem in error.problems {
                faults.at((problem.place.line, problem.place.column), problem.text);
            }
            faults
        })?;
        match tree {
            Some(Value::Array(list)) => Ok(Self::Actions(list, meant)),
            Some(one @ Value::Object(_)) => Ok(Self::Actions(vec![one], meant)),
            _ => Err(Faults::of("cannot be carried over; write texts in quotes")),
        }
    }

    fn word(word: &str) -> Result<Self, Faults> {
        if word == RESTART {
            return Ok(Self::Restart);
        }
        let fix = match nearest(word, [RESTART, "http", "signal", "exec", "touch"]) {
            Some(RESTART) => "did you mean `restart`?".to_owned(),
            Some("signal") => "write it as `signal: HUP` with `process: NAME` on the next line".to_owned(),
            Some("exec") => "write it as `exec: [/path/of/program, argument]`".to_owned(),
            Some("touch") => "write it as `touch: /path/of/file`".to_owned(),
            _ => "write one such as `http: http://127.0.0.1:8080/-/reload`".to_owned(),
        };
        Err(Faults::of(format!("`{}` is no action; {fix}", shown(word))))
    }

    /// What touches the volume itself, which is its publisher's alone.
    pub(super) fn touching(&self, volume: &str) -> Option<String> {
        let Self::Actions(_, meant) = self else { return None };
        let touched = meant.touched().find(|path| path.starts_with(Path::new(volume)))?;
        Some(format!("`touch: {}` lies in the volume {volume}; touch a file outside of it", touched.display()))
    }

    /// What a container of its own can hardly do for the application.
    pub(super) fn doubts(&self) -> Vec<String> {
        let Self::Actions(_, meant) = self else { return Vec::new() };
        let doubt = |means: &Means| match means {
            Means::Exec { program, .. } => Some(format!(
                "`exec: {}` runs in Coffer's own container, whose image has no program but Coffer, and not in the \
                 application's",
                program.display()
            )),
            Means::Touch { path } => Some(format!(
                "`touch: {}` is done in Coffer's own container, which has no folder of the application's but the volume",
                path.display()
            )),
            Means::Signal { to: Recipient::PidFile(path), .. } => Some(format!(
                "`pid_file: {}` is read in Coffer's own container, which has no folder of the application's but the \
                 volume; write `process` with the name of its program",
                path.display()
            )),
            Means::Http { .. } | Means::Signal { .. } => None,
        };
        meant.actions.iter().filter_map(|action| doubt(&action.means)).collect()
    }
}
