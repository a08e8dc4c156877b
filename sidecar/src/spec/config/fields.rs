//! Reading values out of YAML nodes: each mistake is noted with its place and its fix.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Component, PathBuf};
use std::time::Duration;

use super::super::yaml::{Key, Kind, Node};
use super::super::{Place, nearest};
use super::Problem;
use super::table::Mapping;

/// The mistakes found so far.
#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, place: Place, text: impl Into<String>) {
        self.0.push(Problem { place, text: text.into() });
    }

    pub(super) fn parsed<T, E: fmt::Display>(&mut self, place: Place, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(place, format!("`{key}`: {error}"))).ok()
    }
}

/// The entries of a mapping whose keys are known beforehand.
pub(super) struct Fields(Vec<(Key, Node)>);

impl Fields {
    pub(super) fn of(node: Node, mapping: &Mapping, problems: &mut Problems) -> Option<Self> {
        Self::among(node, mapping.what, &mapping.names(), problems)
    }

    /// The same for a mapping that takes not all keys of its table, or has a name of its own.
    pub(super) fn among(node: Node, what: &str, known: &[&str], problems: &mut Problems) -> Option<Self> {
        let entries = match node.kind {
            Kind::Map(entries) => entries,
            other => {
                let fix = format!("write `key: value` lines; known are {}", known.join(", "));
                problems.add(node.place, format!("{what} is a mapping of keys to values, not {}; {fix}", other.noun()));
                return None;
            }
        };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            let hint = match nearest(&key.name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", known.join(", ")),
            };
            problems.add(key.place, format!("unknown key `{}` in {what}; {hint}", key.name));
        }
        Some(Self(entries))
    }

    /// Takes the value of a key out; a key without a value counts as absent.
    pub(super) fn take(&mut self, key: &str) -> Option<Node> {
        let at = self.0.iter().position(|(known, _)| known.name == key)?;
        let (_, node) = self.0.swap_remove(at);
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(known, _)| known.name == key)
    }

    pub(super) fn place_of(&self, key: &str) -> Option<Place> {
        self.0.iter().find(|(known, _)| known.name == key).map(|(_, node)| node.place)
    }
}

pub(super) fn text(node: &Node, key: &str, problems: &mut Problems) -> Option<String> {
    match &node.kind {
        Kind::Text(text) => Some(text.clone()),
        Kind::Integer(number) => Some(number.to_string()),
        other => {
            problems.add(node.place, format!("`{key}` takes a text, not {}", other.noun()));
            None
        }
    }
}

pub(super) fn boolean(node: &Node, key: &str, problems: &mut Problems) -> Option<bool> {
    match node.kind {
        Kind::Bool(value) => Some(value),
        _ => {
            problems.add(node.place, format!("`{key}` takes `true` or `false`"));
            None
        }
    }
}

pub(super) fn list(node: Node, key: &str, problems: &mut Problems) -> Option<Vec<Node>> {
    match node.kind {
        Kind::List(nodes) => Some(nodes),
        other => {
            problems
                .add(node.place, format!("`{key}` takes a list (each entry starts with `- `), not {}", other.noun()));
            None
        }
    }
}

/// A time between the two of `range`.
pub(super) fn duration(
    node: &Node,
    key: &str,
    range: RangeInclusive<Duration>,
    problems: &mut Problems,
) -> Option<Duration> {
    const EXAMPLE: &str = "write a number with a unit, such as `60s`, `5m` or `1h30m`";
    let parsed = match &node.kind {
        Kind::Text(text) => {
            humantime::parse_duration(text).map_err(|_| format!("`{key}: {text}` is no duration; {EXAMPLE}"))
        }
        Kind::Integer(number) => Err(format!("`{key}: {number}` has no unit; {EXAMPLE}")),
        other => Err(format!("`{key}` is {}; {EXAMPLE}", other.noun())),
    };
    let shown = |time: &Duration| humantime::format_duration(*time).to_string();
    match parsed {
        Ok(time) if range.contains(&time) => Some(time),
        Ok(_) => {
            let (least, most) = (shown(range.start()), shown(range.end()));
            problems.add(node.place, format!("`{key}` takes a time from {least} to {most}"));
            None
        }
        Err(text) => {
            problems.add(node.place, text);
            None
        }
    }
}

/// An address to listen on.
pub(super) fn address(node: &Node, key: &str, problems: &mut Problems) -> Option<SocketAddr> {
    let address = text(node, key, problems)?;
    let parsed = address.parse();
    if parsed.is_err() {
        problems.add(node.place, format!("`{key}: {address}` is no address; write one such as `127.0.0.1:9465`"));
    }
    parsed.ok()
}

/// An absolute path without `..`; `what` it is of, for messages.
pub(super) fn absolute_path(node: &Node, key: &str, what: &str, problems: &mut Problems) -> Option<PathBuf> {
    let path = PathBuf::from(text(node, key, problems)?);
    let shown = path.display();
    if !path.is_absolute() {
        problems.add(node.place, format!("`{key}: {shown}` is relative; write the absolute path of {what}"));
        return None;
    }
    if path.components().any(|part| part == Component::ParentDir) {
        problems.add(node.place, format!("`{key}: {shown}` holds `..`; write the path without it"));
        return None;
    }
    Some(path)
}
