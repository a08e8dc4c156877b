//! The documents of a text: YAML with `---` between them, or JSON objects one after the other.

use serde_json::Value;

use super::{Fault, Place, TEXT_MAX};
use crate::yaml;

/// A document, and its text, so that one which does not change stays as it was written.
#[derive(Clone, Debug)]
pub struct Document<'t> {
    /// Its text, without the line that begins it.
    pub text: &'t str,
    /// The line of the whole text on which it begins, from 1.
    pub line: usize,
    /// What it holds; `None` where it is empty.
    pub object: Option<Value>,
}

/// All documents of a text.
///
/// # Errors
/// The first place that is neither YAML nor JSON.
pub fn documents(text: &str) -> Result<Vec<Document<'_>>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > TEXT_MAX {
        let told = format!("this has {} bytes, and at most {TEXT_MAX} are read", text.len());
        return Err(Fault { place: Place::default(), text: told });
    }
    if let Some(documents) = text.trim_start().starts_with('{').then(|| json(text)).flatten() {
        return Ok(documents);
    }
    let mut documents = Vec::new();
    for (line, text) in split(text) {
        let nodes = yaml::all(text).map_err(|fault| in_whole(fault, line))?;
        // A text after `...` is a document without `---`.
        if let [_, second, ..] = nodes.as_slice() {
            let told = "a second document begins here without `---` before it".to_owned();
            return Err(in_whole(Fault { place: second.place, text: told }, line));
        }
        let object = nodes.first().map(|node| node.json()).transpose().map_err(|fault| in_whole(fault, line))?;
        documents.push(Document { text, line, object: object.filter(|object| !object.is_null()) });
    }
    Ok(documents)
}

/// JSON objects; `None` if it is none, and perhaps YAML.
fn json(text: &str) -> Option<Vec<Document<'_>>> {
    let mut documents = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut begin = 0;
    while let Some(value) = values.next() {
        let object = value.ok()?;
        let end = values.byte_offset();
        let own = &text[begin..end];
        let blank = own.len() - own.trim_start().len();
        let line = 1 + text[..begin + blank].matches('\n').count();
        documents.push(Document { text: own.trim_start(), line, object: Some(object) });
        begin = end;
    }
    Some(documents)
}

/// The texts between `---`, with the line on which each begins. YAML 1.2, 9.1.2: nothing else begins a line so.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut begin, mut first_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if let Some(rest) = rest {
            parts.push((first_line, &text[begin..at]));
            // What follows on the same line belongs to the new document; `--- # a comment` too.
            begin = at + line.len() - rest.trim_start_matches([' ', '\t']).len();
            first_line = index + 1;
        }
        at += line.len();
    }
    parts.push((first_line, &text[begin..]));
    // Before the first `---` there are comments and directives at most.
    let says_nothing = |text: &str| {
        text.lines().all(|line| line.trim().is_empty() || line.starts_with(['#', '%']) || line.starts_with("..."))
    };
    if parts.len() > 1 && says_nothing(parts[0].1) && parts[0].1.trim_start().starts_with('%') {
        parts.remove(0);
    }
    parts.retain(|(_, text)| !text.trim().is_empty());
    parts
}

/// A fault of a part, at its place in the whole.
fn in_whole(fault: Fault, line: usize) -> Fault {
    let Place { line: within, column } = fault.place;
    Fault { place: Place { line: within.saturating_sub(1) + line, column }, text: fault.text }
}
