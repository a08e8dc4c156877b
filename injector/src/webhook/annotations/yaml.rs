//! YAML of an annotation as a plain tree, and such a tree as YAML again.
//!
//! What is checked by the sidecar's own parser is carried over as a tree and not as text: so neither indentation nor
//! flow style, anchors, document markers or Windows' line ends can change what it says.

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Budget, Options};

/// As deep as the sidecar's own parser goes.
const DEPTH_MAX: usize = 16;
/// Nodes, those that aliases repeat included.
const NODES_MAX: usize = 20_000;
/// Bytes of all scalars, those that aliases repeat included.
const SCALARS_MAX: usize = 128 * 1024;

/// Why a text is no tree.
pub(super) enum Fault {
    /// It is not YAML: line and column from 1, 0 where unknown; and what, and the fix.
    Syntax((u64, u64), String),
    /// Its aliases repeat too much, or it has too many parts.
    TooLarge,
}

/// Reads one document, by the options of the sidecar's own parser.
pub(super) fn tree(text: &str) -> Result<Value, Fault> {
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    // So that `mode: 0440` is carried over as it was written.
    options.leading_zero_numbers_as_strings = true;
    options.strict_booleans = true;
    options.with_snippet = false;
    let mut budget = Budget::default();
    (budget.max_depth, budget.flow_nesting_limit) = (DEPTH_MAX, DEPTH_MAX);
    (budget.max_nodes, budget.max_total_scalar_bytes) = (NODES_MAX, SCALARS_MAX);
    options.budget = Some(budget);
    serde_saphyr::from_str_with_options::<Value>(text, options).map_err(|error| {
        if matches!(error, serde_saphyr::Error::Budget { .. }) {
            return Fault::TooLarge;
        }
        let place = error.location().map(|at| (at.line(), at.column())).unwrap_or_default();
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ");
        Fault::Syntax(place, message.to_owned())
    })
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
