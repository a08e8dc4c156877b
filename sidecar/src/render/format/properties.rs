//! [`Format::Properties`].

use coffer_runtime::Secret;

use crate::render::json::{Json, Out, write_utf16_escape};
use crate::render::{RenderError, written};

use super::{Format, entries, refuse_null};

pub(in crate::render) fn properties(json: &Json) -> Result<Secret, RenderError> {
    let format = Format::Properties;
    let entries = entries(json, format)?;
    refuse_null(entries, format)?;
    Ok(written(|out| {
        for (key, value) in entries {
            write_escaped(key, true, out);
            out("=");
            write_properties_value(&value.to_plain(), out);
            out("\n");
        }
    }))
}

/// Writes what may stand after the `=` of an entry.
pub(in crate::render) fn write_properties_value(text: &str, out: Out<'_>) {
    write_escaped(text, false, out);
}

/// Escapes as `java.util.Properties.store` does: every space of a key, but only a leading one of
/// a value, since after that the value has begun.
fn write_escaped(text: &str, is_key: bool, out: Out<'_>) {
    let mut plain = 0;
    for (at, character) in text.char_indices() {
        let escape = match character {
            ' ' if is_key || at == 0 => "\\ ",
            '\t' => "\\t",
            '\n' => "\\n",
            '\r' => "\\r",
            '\x0c' => "\\f",
            '\\' => "\\\\",
            '=' => "\\=",
            ':' => "\\:",
            '#' => "\\#",
            '!' => "\\!",
            ' '..='~' => continue,
            _ => "",
        };
        out(&text[plain..at]);
        plain = at + character.len_utf8();
        if escape.is_empty() {
            write_utf16_escape(character, out);
        } else {
            out(escape);
        }
    }
    out(&text[plain..]);
}
