//! What an application is told: which volume, how many swaps, which files changed. No values.

use std::path::Path;

use serde::Serialize;

use super::agenda::Batch;
use super::{Swap, SwappedFile};

/// The longest list of names in an environment variable, in bytes: execve(2) takes 128 KiB
/// (`MAX_ARG_STRLEN`) for one, its name included.
const NAMES_MAX: usize = 64 * 1024;
/// The last line of a list that was cut. No file can be called so.
const CUT: &str = "...";

/// The set in place and what has changed since the last message.
pub(super) struct Message<'a> {
    volume: &'a Path,
    files: &'a [SwappedFile],
    batch: &'a Batch,
}

impl<'a> Message<'a> {
    /// `swap` is the latest; `batch` are all that this message stands for.
    pub(super) fn new(volume: &'a Path, swap: &'a Swap, batch: &'a Batch) -> Self {
        Self { volume, files: &swap.files, batch }
    }

    pub(super) fn volume(&self) -> &'a Path {
        self.volume
    }

    pub(super) fn swaps(&self) -> u64 {
        self.batch.swaps
    }

    /// The message as a JSON object.
    pub(super) fn json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'b> {
            event: &'static str,
            volume: std::borrow::Cow<'b, str>,
            swaps: u64,
            files: Vec<File<'b>>,
        }
        #[derive(Serialize)]
        struct File<'b> {
            name: &'b str,
            from: &'b str,
            version: &'b str,
            changed: bool,
        }
        let file = |file: &'a SwappedFile| File {
            name: file.name.as_str(),
            from: &file.from,
            version: &file.version,
            changed: self.batch.changed.contains(&file.name),
        };
        let body = Body {
            event: "publish",
            volume: self.volume.to_string_lossy(),
            swaps: self.batch.swaps,
            files: self.files.iter().map(file).collect(),
        };
        // Texts and numbers alone: there is nothing that could not be written.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// The names of changed files, one a line; those that are gone too. A list that is too long for
    /// the kernel ends with the line `...`.
    pub(super) fn changed(&self) -> String {
        let mut lines = String::new();
        for name in &self.batch.changed {
            if !lines.is_empty() {
                lines.push('\n');
            }
            if lines.len() + name.as_str().len() > NAMES_MAX {
                lines.push_str(CUT);
                break;
            }
            lines.push_str(name.as_str());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::FileName;

    fn name(text: &str) -> FileName {
        FileName::new(text).unwrap()
    }

    #[test]
    fn tells_every_file_of_the_set_and_which_changed() {
        let file = |of: &str| SwappedFile { name: name(of), from: format!("secretsmanager:{of}"), version: "1".into() };
        let swap = Swap { first: false, files: vec![file("a"), file("b")], changed: [name("b")].into() };
        let batch = Batch { swaps: 2, changed: [name("b"), name("gone")].into() };
        let message = Message::new(Path::new("/v"), &swap, &batch);
        assert_eq!(
            String::from_utf8(message.json()).unwrap(),
            r#"{"event":"publish","volume":"/v","swaps":2,"files":[{"name":"a","from":"secretsmanager:a","version":"1","changed":false},{"name":"b","from":"secretsmanager:b","version":"1","changed":true}]}"#
        );
        assert_eq!(message.changed(), "b\ngone");
    }

    #[test]
    fn a_list_of_names_that_is_too_long_says_so() {
        let swap = Swap { first: false, files: Vec::new(), changed: Default::default() };
        let changed = (0..1000).map(|at| name(&format!("{at:0200}"))).collect();
        let lines = Message::new(Path::new("/v"), &swap, &Batch { swaps: 1, changed }).changed();
        assert!(lines.len() < NAMES_MAX + 256, "{}", lines.len());
        assert_eq!(lines.lines().last(), Some(CUT));
        assert!(FileName::new(CUT).is_err());
    }
}
