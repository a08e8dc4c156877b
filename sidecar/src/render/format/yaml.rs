//! [`Format::Yaml`].

use coffer_runtime::Secret;

use crate::render::json::{Json, label, write_string};
use crate::render::{RenderError, written};

use super::{Format, entries};

/// YAML wants a key's colon on the same line and within this many characters (§7.4.2, §8.2.2).
const KEY_MAX: usize = 1024;

pub(in crate::render) fn yaml(json: &Json) -> Result<Secret, RenderError> {
    let entries = entries(json, Format::Yaml)?;
    for (position, (key, value)) in entries.iter().enumerate() {
        if is_long(key) || has_long_key(value) {
            return Err(RenderError::Key {
                format: Format::Yaml,
                key: label(key, position),
                reason: "a key, there or deeper down, is over 1024 characters long; use `json`",
            });
        }
    }
    Ok(written(|out| {
        if entries.is_empty() {
            out("{}\n");
        }
        for (key, value) in entries {
            write_string(key, out);
            out(": ");
            // JSON whose strings are written with YAML's escapes is YAML.
            value.write(out);
            out("\n");
        }
    }))
}

fn has_long_key(json: &Json) -> bool {
    match json {
        Json::Array(items) => items.iter().any(|item| has_long_key(item)),
        Json::Object(entries) => entries.iter().any(|(key, value)| is_long(key) || has_long_key(value)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

/// Whether `key` as written, with quotes and escapes, takes more than a YAML key may.
fn is_long(key: &str) -> bool {
    let mut length = 0;
    write_string(key, &mut |piece| length += piece.chars().count());
    length > KEY_MAX
}
