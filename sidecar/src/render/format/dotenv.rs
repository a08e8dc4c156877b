//! [`Format::Dotenv`].

use coffer_runtime::Secret;

use crate::render::json::{Json, Out, label};
use crate::render::{RenderError, written};

use super::{Format, entries, refuse_null};

pub(in crate::render) fn dotenv(json: &Json) -> Result<Secret, RenderError> {
    let format = Format::Dotenv;
    let entries = entries(json, format)?;
    refuse_null(entries, format)?;
    let mut lines = Vec::with_capacity(entries.len());
    for (position, (key, value)) in entries.iter().enumerate() {
        if !is_name(key) {
            return Err(RenderError::Key {
                format,
                key: label(key, position),
                reason: "a name is letters, digits and `_`, and starts with no digit; rename it with a selector such as `{NAME: \"the key\"}`",
            });
        }
        let text = value.to_plain();
        if text.contains('\0') {
            return Err(RenderError::Unwritable {
                format,
                key: label(key, position),
                reason: "it has a NUL, which no environment variable can hold; use `json`",
            });
        }
        lines.push((key, text));
    }
    Ok(written(|out| {
        for (key, text) in &lines {
            out(key);
            out("=");
            write_value(text, out);
            out("\n");
        }
    }))
}

/// Whether `key` is a Name of POSIX (XBD 3.216), which is what a shell can assign to.
fn is_name(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Quotes as POSIX sh reads (XCU 2.2), choosing among its ways the one most other readers share.
fn write_value(text: &str, out: Out<'_>) {
    let bare = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    // Within single quotes python-dotenv and Compose take a backslash before these, or before the
    // closing quote, for an escape; the shell takes every backslash for itself.
    let single = !text.contains('\'') && !text.contains("\\\\") && !text.ends_with('\\');
    if text.chars().all(bare) {
        out(text);
    } else if single {
        out("'");
        out(text);
        out("'");
    } else if !text.contains(['$', '`']) {
        // Within double quotes these two escapes are the only ones the readers agree on.
        out("\"");
        escape(text, &['"', '\\'], "\\", out);
        out("\"");
    } else {
        // A quote closed, escaped, opened again: other readers fail on it, which is better than a
        // stray backslash in a password, as `"\$"` would give them.
        out("'");
        escape(text, &['\''], "'\\'", out);
        out("'");
    }
}

/// Writes `text` with `prefix` before each of the `special` characters.
fn escape(text: &str, special: &[char], prefix: &str, out: Out<'_>) {
    let mut plain = 0;
    for (at, _) in text.match_indices(special) {
        out(&text[plain..at]);
        out(prefix);
        plain = at;
    }
    out(&text[plain..]);
}
