//! Filters of our own, and how a value becomes text.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value as Any};
use zeroize::Zeroizing;

use super::data::{Binary, Node, Number};
use crate::render::format::write_properties_value;
use crate::render::json::{Json, Out};

/// How deep a list made by a template may nest when it is written. The language has no way to make
/// a list that holds itself, so this is for the stack alone.
const DEPTH_MAX: usize = 128;

/// Filters of minijinja that make lists of lists, write for people who debug, or make more of an
/// argument than they are charged for.
const REMOVED: [&str; 8] = ["batch", "chain", "format", "groupby", "pprint", "safe", "slice", "zip"];

/// What one of our filters has against a value. The texts hold nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Problem(pub(super) &'static str);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Problem {}

/// Puts our filters, and our way of writing values, into `environment`, and takes out of it what a
/// template is not to use.
pub(super) fn install(environment: &mut Environment<'static>) {
    for name in REMOVED {
        environment.remove_filter(name);
    }
    for name in ["debug", "dict", "namespace"] {
        environment.remove_global(name);
    }
    environment.set_formatter(write);
    for name in ["base64", "b64encode"] {
        environment.add_filter(name, base64);
    }
    environment.add_filter("b64decode", base64_decode);
    // The JSON that is written is YAML as well.
    for name in ["json", "tojson", "yaml"] {
        environment.add_filter(name, json);
    }
    environment.add_filter("properties", properties);
    environment.add_filter("shell", shell);
    environment.add_filter("urlencode", url_encode);
    // These two of minijinja's write Python's words for booleans.
    environment.add_filter("string", |state: &State, value: &Any| charged(state, &text(value)?));
    environment.add_filter("join", join);
    environment.add_filter("float", float);
}

/// Writes what an expression gives.
fn write(out: &mut Output, state: &mut State, value: &Any) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return Ok(out.write_str(text)?);
    }
    if value.is_undefined() {
        // An `if` without `else`; the engine has refused all others.
        return Ok(());
    }
    let text = text(value)?;
    state.consume_fuel(work(&text))?;
    Ok(out.write_str(&text)?)
}

/// What `value` is as a text of its own.
fn text(value: &Any) -> Result<Zeroizing<String>, Error> {
    if let Some(text) = value.as_str() {
        return Ok(Zeroizing::new(text.to_owned()));
    }
    if let Some(node) = value.downcast_object_ref::<Node>() {
        return Ok(node.to_text());
    }
    Ok(tree(value, 0, &mut 0)?.to_plain())
}

/// `value` as JSON.
fn tree(value: &Any, depth: usize, size: &mut usize) -> Result<Arc<Json>, Error> {
    let node = value.downcast_object_ref::<Node>();
    *size += node.map_or_else(|| value.as_str().map_or(1, str::len), Node::weight);
    if depth > DEPTH_MAX || *size > super::SIZE_MAX {
        return Err(problem("it is too large or nests too deep to be written"));
    }
    if let Some(node) = node {
        return Ok(node.json.clone());
    }
    if let Some(Number(digits)) = value.downcast_object_ref() {
        return Ok(Arc::new(Json::Number(digits.clone())));
    }
    if let Some(binary) = value.downcast_object_ref::<Binary>() {
        binary.misused();
        return Err(problem("it is binary"));
    }
    Ok(Arc::new(match value.kind() {
        ValueKind::Undefined => return Err(ErrorKind::UndefinedError.into()),
        ValueKind::None => return Err(problem("`none` has no text")),
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::Number => {
            let digits = Zeroizing::new(value.to_string());
            if digits.ends_with(|last: char| !last.is_ascii_digit()) {
                return Err(problem("it is not a finite number"));
            }
            Json::Number(digits)
        }
        ValueKind::String => Json::String(Zeroizing::new(value.as_str().unwrap_or_default().to_owned())),
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = Vec::new();
            for item in value.try_iter()? {
                items.push(tree(&item, depth + 1, size)?);
            }
            Json::Array(items)
        }
        ValueKind::Map => {
            let mut entries = Vec::new();
            for key in value.try_iter()? {
                let item = tree(&value.get_item(&key)?, depth + 1, size)?;
                let key = key.as_str().ok_or_else(|| problem("a key of it is not text"))?;
                entries.push((Zeroizing::new(key.to_owned()), item));
            }
            Json::Object(entries)
        }
        _ => return Err(problem("it is nothing that can be written")),
    }))
}

fn base64(state: &State, value: &Any) -> Result<Any, Error> {
    if let Some(binary) = value.downcast_object_ref::<Binary>() {
        return charged(state, &Zeroizing::new(STANDARD.encode(binary.bytes.expose())));
    }
    charged(state, &Zeroizing::new(STANDARD.encode(text(value)?.as_bytes())))
}

fn base64_decode(state: &State, value: &Any) -> Result<Any, Error> {
    let text = text(value)?;
    let bytes = STANDARD.decode(text.trim_ascii()).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| problem("it is not base64 (standard alphabet, with padding, on one line)"))?;
    let text = str::from_utf8(&bytes).map_err(|_| problem("what it decodes to is not text"))?;
    charged(state, text)
}

fn json(state: &State, value: &Any) -> Result<Any, Error> {
    let json = tree(value, 0, &mut 0)?;
    charged(state, &collected(|out| json.write(out)))
}

fn properties(state: &State, value: &Any) -> Result<Any, Error> {
    let text = text(value)?;
    charged(state, &collected(|out| write_properties_value(&text, out)))
}

/// One word of POSIX shell (XCU 2.2.2), always in single quotes.
fn shell(state: &State, value: &Any) -> Result<Any, Error> {
    let text = text(value)?;
    if text.contains('\0') {
        return Err(problem("it has a NUL, which no word of a shell can hold"));
    }
    charged(
        state,
        &collected(|out| {
            out("'");
            for (number, piece) in text.split('\'').enumerate() {
                out(if number > 0 { "'\\''" } else { "" });
                out(piece);
            }
            out("'");
        }),
    )
}

/// Percent-encodes all but the unreserved characters (RFC 3986 §2.3), so that the result can stand
/// in any part of a URL.
fn url_encode(state: &State, value: &Any) -> Result<Any, Error> {
    const HEX: &str = "0123456789ABCDEF";
    let text = text(value)?;
    charged(
        state,
        &collected(|out| {
            for character in text.chars() {
                let mut buffer = [0; 4];
                let character = character.encode_utf8(&mut buffer);
                if character.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
                    out(character);
                    continue;
                }
                for byte in character.bytes() {
                    let (high, low) = (usize::from(byte >> 4), usize::from(byte & 0xf));
                    out("%");
                    out(&HEX[high..=high]);
                    out(&HEX[low..=low]);
                }
            }
        }),
    )
}

#[expect(clippy::needless_pass_by_value, reason = "the engine hands it over")]
fn join(state: &State, value: &Any, joiner: Option<&Any>, kwargs: Kwargs) -> Result<Any, Error> {
    let attribute: Option<&str> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let joiner = joiner.map(text).transpose()?.unwrap_or_default();
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    let mut pieces = Vec::new();
    for item in value.try_iter()? {
        let piece = match attribute {
            Some(attribute) => text(&item.get_attr(attribute)?)?,
            None => text(&item)?,
        };
        // Before it is joined: many small items can have one large joiner.
        state.consume_fuel(1 + work(&piece) + work(&joiner))?;
        pieces.push(piece);
    }
    let joined = collected(|out| {
        for (number, piece) in pieces.iter().enumerate() {
            out(if number > 0 { &joiner } else { "" });
            out(piece);
        }
    });
    Ok(Any::from(joined.as_str()))
}

fn float(value: &Any) -> Result<Any, Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    let number = text(value)?.parse::<f64>().ok().filter(|number| number.is_finite());
    number.map(Any::from).ok_or_else(|| problem("it is not a number"))
}

/// Hands `text` to the engine, which charges for strings itself.
fn charged(state: &State, text: &str) -> Result<Any, Error> {
    state.consume_fuel(work(text))?;
    Ok(Any::from(text))
}

/// What passing `text` through costs in fuel.
fn work(text: &str) -> u64 {
    text.len() as u64 / 64
}

/// Runs `write` twice, to count and then to fill: memory that grows leaves copies behind.
fn collected(write: impl Fn(Out<'_>)) -> Zeroizing<String> {
    let mut length = 0;
    write(&mut |piece| length += piece.len());
    let mut text = Zeroizing::new(String::with_capacity(length));
    write(&mut |piece| text.push_str(piece));
    text
}

fn problem(text: &'static str) -> Error {
    Error::from(ErrorKind::InvalidOperation).with_source(Problem(text))
}
