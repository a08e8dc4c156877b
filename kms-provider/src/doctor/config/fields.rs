//! Takes a tree apart, strictly as an API server does (its decoder is `EnableStrict`), and tells everything that
//! is wrong with its shape instead of the first thing.

use super::yaml::{Kind, Node};
use crate::doctor::report::{Finding, Place};

const NO_START: &str = "an API server does not start with it";

/// A mapping whose keys are all known. What has nothing after its colon counts as absent, as in Go.
pub(super) struct Fields<'n> {
    place: Place,
    entries: Vec<(&'n str, Place, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// `node` as a mapping with no other keys than `known`; `what` names it in messages.
    pub(super) fn of(node: &'n Node, what: &str, known: &[&str], findings: &mut Vec<Finding>) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else {
            let fix = format!("write a mapping with {}", list(known));
            findings.push(Finding::fail(format!("{what} is {}", node.kind.noun()), fix).at(node.place));
            return None;
        };
        for (key, _) in entries {
            if !known.contains(&key.name.as_str()) {
                let fix = nearest(&key.name, known)
                    .map_or_else(|| format!("{what} has {}", list(known)), |known| format!("write `{known}`"));
                let what = format!("{what} has no field `{}`, and {NO_START}", key.name);
                findings.push(Finding::fail(what, fix).at(key.place));
            }
        }
        let entries = entries
            .iter()
            .filter(|(key, node)| known.contains(&key.name.as_str()) && !matches!(node.kind, Kind::Null))
            .map(|(key, node)| (key.name.as_str(), key.place, node))
            .collect();
        Some(Self { place: node.place, entries })
    }

    /// Where the mapping starts.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The keys that have a value.
    pub(super) fn names(&self) -> Vec<&'n str> {
        self.entries.iter().map(|(name, ..)| *name).collect()
    }

    pub(super) fn node(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(key, ..)| *key == name).map(|(_, _, node)| *node)
    }

    /// Where the key stands, or else the mapping.
    pub(super) fn place_of(&self, name: &str) -> Place {
        self.entries.iter().find(|(key, ..)| *key == name).map_or(self.place, |(_, place, _)| *place)
    }

    /// A text, which in YAML may need its quotes.
    pub(super) fn text(&self, name: &str, findings: &mut Vec<Finding>) -> Option<&'n str> {
        let node = self.node(name)?;
        match &node.kind {
            Kind::Text(text) => Some(text),
            kind => {
                let what = format!("`{name}` is {}, and {NO_START}", kind.noun());
                findings.push(Finding::fail(what, "write a text; a number needs quotes to be one").at(node.place));
                None
            }
        }
    }

    /// A list that has something in it.
    pub(super) fn list(&self, name: &str, what: &str, findings: &mut Vec<Finding>) -> &'n [Node] {
        let node = self.node(name);
        match node.map(|node| &node.kind) {
            Some(Kind::List(nodes)) if !nodes.is_empty() => return nodes,
            None | Some(Kind::List(_)) => {
                let fix = format!("give it at least one: `{name}:` and under it lines that start with `- `");
                findings.push(Finding::fail(format!("{what} has no `{name}`"), fix).at(self.place_of(name)));
            }
            Some(kind) => {
                let fix = "start each of them with `- `";
                findings.push(
                    Finding::fail(format!("`{name}` of {what} is {}, not a list", kind.noun()), fix)
                        .at(self.place_of(name)),
                );
            }
        }
        &[]
    }
}

/// The known word nearest to `word`, if one is near.
pub(super) fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    let lower = word.to_lowercase();
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), *known))
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .min()
        .map(|(_, known)| known)
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
