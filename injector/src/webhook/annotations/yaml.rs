//! YAML of an annotation as a plain tree, and such a tree as YAML again.
//!
//! What is checked by the sidecar's own parser is carried over as a tree and not as text: so neither indentation nor
//! flow style, anchors, document markers or Windows' line ends can change what it says.

use std::cell::Cell;
use std::fmt;

use coffer::spec::yaml_options;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::{Error, with_deserializer_from_str_with_options};

/// What a whole tree may weigh, in bytes, what aliases repeat counted each time: the parser's own budgets count what is
/// written once.
const WEIGHT_MAX: usize = 512 * 1024;
/// What a node counts for beside its text, in bytes.
const NODE_WEIGHT: usize = 24;

/// Why a text is no tree.
pub(super) enum Fault {
    /// It is not YAML: line and column from 1, 0 where unknown; and why.
    Syntax((u64, u64), String),
    /// Its aliases repeat too much, or it has too many parts.
    TooLarge,
}

/// Reads one document, by the options of the sidecar's own parser.
pub(super) fn tree(text: &str) -> Result<Value, Fault> {
    let room = Cell::new(Some(WEIGHT_MAX));
    let read = with_deserializer_from_str_with_options(text, yaml_options(), |yaml| Growing(&room).deserialize(yaml));
    read.map_err(|error| {
        if room.get().is_none() || is_of_budget(&error) {
            return Fault::TooLarge;
        }
        let place = error.location().map(|at| (at.line(), at.column())).unwrap_or_default();
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ");
        // What follows is for programmers.
        let message = message.split(", set ").next().unwrap_or(message);
        Fault::Syntax(place, message.to_owned())
    })
}

fn is_of_budget(error: &Error) -> bool {
    match error {
        Error::Budget { .. } => true,
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => is_of_budget(error),
        _ => false,
    }
}

/// A tree that takes up room; `None` once there is none left.
#[derive(Clone, Copy)]
struct Growing<'a>(&'a Cell<Option<usize>>);

impl Growing<'_> {
    fn take<E: serde::de::Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.0.get().and_then(|left| left.checked_sub(bytes.saturating_add(NODE_WEIGHT)));
        self.0.set(left);
        left.map(drop).ok_or_else(|| E::custom("too large"))
    }

    fn plain<E: serde::de::Error>(self, value: impl Into<Value>) -> Result<Value, E> {
        self.take(0)?;
        Ok(value.into())
    }
}

impl<'de> DeserializeSeed<'de> for Growing<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Growing<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.plain(())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.plain(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.plain(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.plain(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.plain(value)
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        // Where it may stand at all, a number is as good as its text.
        self.plain(value.to_string())
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        self.plain(value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.plain(value)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.take(text.len())?;
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.take(0)?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.take(0)?;
        let mut entries = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.take(key.len())?;
            let value = map.next_value_seed(self)?;
            if entries.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(Value::Object(entries))
    }
}

/// A tree on one line, every text in quotes.
pub(super) fn line(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, to: &mut String) {
    match value {
        Value::String(text) => write_text(text, to),
        Value::Array(values) => {
            to.push('[');
            for (at, value) in values.iter().enumerate() {
                to.push_str(if at == 0 { "" } else { ", " });
                write(value, to);
            }
            to.push(']');
        }
        Value::Object(entries) => {
            to.push('{');
            for (at, (key, value)) in entries.iter().enumerate() {
                to.push_str(if at == 0 { "" } else { ", " });
                write_text(key, to);
                to.push_str(": ");
                write(value, to);
            }
            to.push('}');
        }
        plain => to.push_str(&plain.to_string()),
    }
}

/// A text in double quotes (YAML 1.2.2, 5.7); what is not printable there (5.1) or could end a line is escaped.
fn write_text(text: &str, to: &mut String) {
    to.push('"');
    for c in text.chars() {
        match c {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            '\u{0}'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                to.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => to.push(c),
        }
    }
    to.push('"');
}
