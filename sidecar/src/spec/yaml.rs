//! YAML as a tree in which every node knows its place, so that an error can name it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Budget, Options, Spanned};

/// A place in a text: line and column, both from 1; 0 where the place is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1, in characters.
    pub column: u64,
}

/// What is written nests half as deep at the most.
const DEPTH_MAX: usize = 16;

/// A node and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a node is. Numbers stay apart from strings only so that a message can tell them apart.
#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) name: String,
}

impl Kind {
    /// What to call it in a message.
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// How YAML is read here, for whoever has to read the same text alike.
#[must_use]
pub fn yaml_options() -> Options {
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    // `mode: 0440` is octal to everyone who writes it; kept as text it can be read so.
    options.leading_zero_numbers_as_strings = true;
    options.strict_booleans = true;
    options.with_snippet = false;
    // Each level takes stack, in a debug build tens of kilobytes of a task's two megabytes.
    let mut budget = Budget::default();
    (budget.max_depth, budget.flow_nesting_limit) = (DEPTH_MAX, DEPTH_MAX);
    options.budget = Some(budget);
    options
}

/// Reads one YAML document. The error is where and what.
pub(super) fn parse(text: &str) -> Result<Node, (Place, String)> {
    serde_saphyr::from_str_with_options::<Node>(text, yaml_options()).map_err(|error| {
        let place = error.location().map(|at| Place { line: at.line(), column: at.column() }).unwrap_or_default();
        (place, plain_message(&error))
    })
}

/// The parser's own message without the place, which is told apart; with the fix where it is clear, and in
/// our words where its own are for programmers.
fn plain_message(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let message = first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ");
    if let Some(twice) = message.strip_prefix("duplicate mapping key: ") {
        let key = twice.split(", set ").next().unwrap_or(twice);
        return format!("duplicate key `{key}`; keep one of them");
    }
    let fix = match message {
        _ if message.starts_with("multiple YAML documents") => {
            return "a second document starts here; a config is one: remove the `---`".to_owned();
        }
        _ if message.starts_with("tabs disallowed") || message.ends_with("found a tab") => "; indent with spaces",
        _ if message.starts_with("mapping values are not allowed") => "; a text with `: ` in it needs quotes",
        _ => "",
    };
    format!("{message}{fix}")
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        let place = Place { line: spanned.referenced.line(), column: spanned.referenced.column() };
        Ok(Self { place, kind: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Kind, E> {
        Ok(Kind::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Kind::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let place = Place { line: key.referenced.line(), column: key.referenced.column() };
            entries.push((Key { place, name: key.value }, map.next_value()?));
        }
        Ok(Kind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_no_yaml_is_told_with_its_fix() {
        for (text, expected) in [
            ("a: 1\na: 2\n", "duplicate key `a`; keep one of them"),
            ("a: 1\n---\nb: 2\n", "a second document starts here; a config is one: remove the `---`"),
            ("a:\n\t- b\n", "tabs disallowed within this context (block indentation); indent with spaces"),
            ("- a: b\n\tc: d\n", "while scanning a plain scalar, found a tab; indent with spaces"),
            (
                "from: secretsmanager: prod/db\n",
                "mapping values are not allowed in this context; a text with `: ` in it needs quotes",
            ),
        ] {
            let (place, found) = super::parse(text).unwrap_err();
            assert_eq!(found, expected, "{text:?}");
            assert!(place.line > 0, "{text:?}");
        }
    }
}
