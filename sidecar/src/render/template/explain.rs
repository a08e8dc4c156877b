//! Errors of the template engine, told anew.
//!
//! The engine's texts can quote values. From an error that arose with values at hand only its kind
//! and its place are taken; the words are ours, or those of the template.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::ops::Range;

use minijinja::{Error, ErrorKind};

use super::data::Data;
use super::filter::Problem;
use super::{FUEL, TemplateError};
use crate::render::RenderError;
use crate::render::selector::nearest;

/// Longest piece of the template that an error quotes, in characters.
const QUOTE_MAX: usize = 100;

/// Why a template has no result for the values it was given. Lines count from 1; expressions are
/// quoted from the template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// A field of a value is used that does not exist, or that is null.
    #[error(
        "the template's line {line}: `{expression}` has no value: there is no field `{field}`, or it is null{}; store it, or allow for it with `| default(\"…\")`",
        nearest.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
    )]
    Missing {
        /// Where.
        line: usize,
        /// What was to be worked out.
        expression: String,
        /// The field's name.
        field: String,
        /// An existing field of a similar name.
        nearest: Option<String>,
    },
    /// A name is used that no value has.
    #[error(
        "the template's line {line}: no value has the name `{name}`{}; name one, or allow for it with `| default(\"…\")`",
        nearest.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
    )]
    Unnamed {
        /// Where.
        line: usize,
        /// The name.
        name: String,
        /// The name of a value, much like it.
        nearest: Option<String>,
    },
    /// A field is asked for of a value that has none.
    #[error(
        "the template's line {line}: `{expression}` asks for a field of `{name}`, which is {}",
        reason.as_ref().map_or_else(|| "neither a JSON object nor an array".to_owned(), |reason| format!("not JSON with fields: {reason}"))
    )]
    NoFields {
        /// Where.
        line: usize,
        /// What was to be worked out.
        expression: String,
        /// The value's name.
        name: String,
        /// Why it could not be read as JSON.
        reason: Option<Box<RenderError>>,
    },
    /// Something without a value is used, and which field or name is to blame cannot be told.
    #[error(
        "the template's line {line}: `{expression}` has no value: a field or name in it does not exist or is null; allow for it with `| default(\"…\")`"
    )]
    Undefined {
        /// Where.
        line: usize,
        /// What was to be worked out.
        expression: String,
    },
    /// An operation, filter or test was given what it cannot work on.
    #[error("the template's line {line}: `{expression}` cannot be worked out: {problem}")]
    Operation {
        /// Where.
        line: usize,
        /// What was to be worked out.
        expression: String,
        /// What is in the way.
        problem: &'static str,
    },
    /// A binary value was used as a text.
    #[error("the template uses the value `{name}` as text, and it is binary: write it as `{{{{ {name} | base64 }}}}`")]
    Binary {
        /// The value's name.
        name: String,
    },
    /// The work bound was passed.
    #[error(
        "the template takes more work than one file may ({FUEL} steps): take a loop out of a loop, or make several files"
    )]
    TooMuch,
    /// The result is longer than 1 MiB.
    #[error("the template makes more than 1048576 bytes: make several files")]
    TooLarge,
}

/// What is wrong with a template that does not parse. No value is at hand yet.
pub(super) fn syntax(error: &Error, text: &str) -> TemplateError {
    let problem = error.detail().unwrap_or("it is no template").to_owned();
    let start = error.range().map(|range| range.start).filter(|start| text.is_char_boundary(*start));
    let column = start.map(|start| text[..start].chars().rev().take_while(|c| *c != '\n').count() + 1);
    let line = start.map(|start| text[..start].matches('\n').count() + 1).or(error.line()).unwrap_or(1);
    TemplateError::Syntax { line, column, hint: hint(&problem), problem }
}

fn hint(problem: &str) -> Option<&'static str> {
    const ALONE: [&str; 8] = ["include", "import", "from", "extends", "block", "macro", "call", "do"];
    if problem.contains("unknown statement") && ALONE.iter().any(|word| problem.contains(word)) {
        return Some("a template stands alone: it has no include, import, block or macro");
    }
    if problem.contains("end of input") || problem.contains("end of template") {
        return Some("a `{{`, `{%` or block is not closed");
    }
    problem
        .contains("unexpected")
        .then_some("a `{{` or `{%` of the text itself is written `{{ \"{{\" }}` or in `{% raw %}`")
}

/// Why rendering `text` with `data` failed.
pub(super) fn failure(error: &Error, text: &str, names: &BTreeSet<String>, data: &Data) -> RenderError {
    let line = error.line().unwrap_or(1);
    let piece = error.range().map(|range| tag(text, range)).unwrap_or_default();
    let expression = quoted(piece);
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateFault::TooMuch.into();
    }
    if let Some(Problem(problem)) = error.source().and_then(|source| source.downcast_ref()) {
        return TemplateFault::Operation { line, expression, problem }.into();
    }
    // A failing operation may also be one on a field that is not there; not so if that was allowed for.
    let is_undefined = error.kind() == ErrorKind::UndefinedError;
    if is_undefined || !(has_word(piece, "default") || has_word(piece, "d") || has_word(piece, "defined")) {
        // A key that stands in the template is no secret, wherever it came from.
        if let Some(miss) = data.misses().into_iter().find(|miss| has_word(piece, &miss.key)) {
            let (field, nearest) = (miss.key.to_string(), miss.nearest());
            return TemplateFault::Missing { line, expression, field, nearest }.into();
        }
        if let Some(name) = names.iter().find(|name| has_word(piece, name) && !data.has(name)) {
            let nearest = nearest(name, data.names()).map(str::to_owned);
            return TemplateFault::Unnamed { line, name: name.clone(), nearest }.into();
        }
        if let Some((name, reason)) = data.plain().find(|(name, _)| asks_field(piece, name)) {
            let reason = reason.cloned().map(Box::new);
            return TemplateFault::NoFields { line, expression, name: name.to_owned(), reason }.into();
        }
    }
    if is_undefined {
        return TemplateFault::Undefined { line, expression }.into();
    }
    TemplateFault::Operation { line, expression, problem: problem(error.kind()) }.into()
}

/// What went wrong, by its kind alone.
fn problem(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::TooManyArguments => "it has an argument too many",
        ErrorKind::MissingArgument => "an argument is missing",
        ErrorKind::UnknownFilter => "it names a filter that does not exist",
        ErrorKind::UnknownTest => "it names a test that does not exist",
        ErrorKind::UnknownFunction => "it calls a function that does not exist",
        ErrorKind::UnknownMethod => "values have no methods: use a filter, such as `| items`",
        ErrorKind::CannotUnpack => "an item is not made of as many parts as there are names: `| items` makes pairs",
        ErrorKind::NonKey => "what is used as a key cannot be one",
        ErrorKind::NonPrimitive => "it needs a text, number or boolean",
        _ => "an operation in it does not fit the types or sizes it is given",
    }
}

/// What stands in the tag around `range`: the engine's own range can be as small as a filter's name.
fn tag(text: &str, range: Range<usize>) -> &str {
    let (Some(before), Some(after)) = (text.get(..range.end), text.get(range.end..)) else { return "" };
    let start = before.rfind("{{").max(before.rfind("{%")).map_or(range.start, |at| at + 2);
    let end = [after.find("}}"), after.find("%}")].into_iter().flatten().min().unwrap_or(0);
    text.get(start..range.end + end).unwrap_or_default().trim_matches(['-', '+']).trim()
}

/// A piece of the template as an error quotes it: on one line, and short.
fn quoted(piece: &str) -> String {
    let mut line = piece.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(QUOTE_MAX) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Whether `word` stands in `text` and is not part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    words(text, word).next().is_some()
}

/// Whether `text` asks for a field of `name`.
fn asks_field(text: &str, name: &str) -> bool {
    words(text, name).any(|end| text[end..].trim_start().starts_with(['.', '[']))
}

/// The ends of each `word` in `text`.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).map(move |(at, _)| (at, at + word.len())).filter_map(move |(start, end)| {
        (!text[..start].ends_with(joins) && !text[end..].starts_with(joins)).then_some(end)
    })
}
