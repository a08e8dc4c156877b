//! YAML as a tree in which every node knows its place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Options, Spanned};
use zeroize::Zeroizing;

use crate::doctor::report::{Finding, Place};

/// A node and where it stands.
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a node is. A text may be a key that other providers encrypt with: it is wiped, and has no `Debug`.
pub(super) enum Kind {
    Null,
    Text(Zeroizing<String>),
    Integer(i128),
    /// True, false, or a number that is no integer.
    Scalar,
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) name: String,
}

impl Kind {
    /// What to call it in a message.
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "a text",
            Self::Integer(_) | Self::Scalar => "a number or truth value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads one YAML document (JSON is YAML too). What is none is one finding.
pub(super) fn parse(text: &str) -> Result<Node, Finding> {
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    options.strict_booleans = true;
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let finding = explained(&error);
        match error.location() {
            Some(at) => finding.at(Place { line: at.line(), column: at.column() }),
            None => finding,
        }
    })
}

/// The parser's message without its place; with the fix where it is clear.
fn explained(error: &serde_saphyr::Error) -> Finding {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let message = first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ");
    if let Some(twice) = message.strip_prefix("duplicate mapping key: ") {
        let key = twice.split(", set ").next().unwrap_or(twice);
        return Finding::fail(format!("`{key}` stands here for the second time"), "keep one of them");
    }
    if message.starts_with("multiple YAML documents") {
        return Finding::fail("a second document starts here", "keep one EncryptionConfiguration in the file");
    }
    let fix = match message {
        _ if message.starts_with("tabs disallowed") => "indent with spaces",
        _ if message.starts_with("mapping values are not allowed") => {
            "put a text with `: ` in it in quotes, and look at the indentation"
        }
        _ => "mend the YAML, first of all its indentation",
    };
    Finding::fail(format!("no YAML: {message}"), fix)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Self { place: Place { line: node.referenced.line(), column: node.referenced.column() }, kind: node.value })
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

    fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
        Ok(Kind::Scalar)
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

    fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
        Ok(Kind::Scalar)
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned().into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Text(value.into()))
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
