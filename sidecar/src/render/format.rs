//! How the bytes of a file are written.

mod dotenv;
mod properties;
#[cfg(test)]
pub(super) mod tests;
mod yaml;

use std::fmt;
use std::str::FromStr;

pub(super) use self::dotenv::dotenv;
pub(super) use self::properties::{properties, write_properties_value};
pub(super) use self::yaml::yaml;
use super::json::{Entry, Json, label};
use super::{RenderError, selector};

/// How the bytes of a file are written. [`super::render`] has the rules all of them share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Format {
    /// The bytes as they are; no newline is added.
    #[default]
    Raw,
    /// JSON (RFC 8259).
    Json,
    /// `KEY=value` lines: a fragment of POSIX shell, so that `set -a; . ./file` sets each variable
    /// to exactly its value.
    ///
    /// There is no standard for such files. Other readers are served as far as the shell's reading
    /// allows: a value stands bare where nothing in it could be special (also right for `docker run
    /// --env-file`, which knows no quotes), or else in single quotes, or else in double quotes.
    /// python-dotenv, node's dotenv and Docker Compose then read what the shell reads, newlines and
    /// `#` included, but for these values, where no writing suits all:
    ///
    /// - with a carriage return: python-dotenv and node read a newline in its place;
    /// - with `${`: python-dotenv interpolates whatever the quotes (`interpolate=False` stops it);
    /// - with `'` and also `"` or `\`, or with `\\`, or with `\` at the end: node keeps the escaping
    ///   backslashes;
    /// - with `'` and also `$` or a backquote: python-dotenv and Compose fail on it, and node keeps
    ///   the quoting;
    /// - with `$` or a backquote, and also `\\` or `\` at the end: python-dotenv reads one backslash
    ///   for the two, and fails on the one at the end, as Compose does.
    ///
    /// A NUL and `null` are refused: an environment has neither. Numbers, booleans, arrays and
    /// objects are written as their JSON text.
    Dotenv,
    /// A YAML 1.2 block mapping: keys and strings in double quotes, so that nothing is taken for
    /// another type; numbers, booleans and null as in the JSON; arrays and objects inside as JSON.
    /// A YAML 1.1 reader takes a number such as `1e5`, with an exponent but no point, for a string.
    Yaml,
    /// What `java.util.Properties.load` reads (its Javadoc is the definition). Pure ASCII, so that
    /// it reads the same as Latin-1 and as UTF-8. `null` is refused: Properties has none.
    Properties,
    /// Base64 in the standard alphabet with padding (RFC 4648 §4), on one line without a newline:
    /// an encoding of the bytes that [`Format::Raw`] would give.
    Base64,
}

/// A format that does not exist was named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a format; the formats are raw, json, dotenv, yaml, properties and base64{}",
    nearest.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
)]
pub struct UnknownFormat {
    text: String,
    nearest: Option<Format>,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::Raw, Self::Json, Self::Dotenv, Self::Yaml, Self::Properties, Self::Base64];

    /// The name it has in configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Json => "json",
            Self::Dotenv => "dotenv",
            Self::Yaml => "yaml",
            Self::Properties => "properties",
            Self::Base64 => "base64",
        }
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|format| format.as_str() == text).ok_or_else(|| UnknownFormat {
            text: text.to_owned(),
            nearest: selector::nearest(text, Self::ALL.iter().map(|format| format.as_str()))
                .and_then(|name| name.parse().ok()),
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The entries that `format` is to write.
fn entries(json: &Json, format: Format) -> Result<&[Entry], RenderError> {
    match json {
        Json::Object(entries) => Ok(entries),
        Json::Null => Err(RenderError::NotObject { format, found: "null" }),
        Json::Bool(_) => Err(RenderError::NotObject { format, found: "a boolean" }),
        Json::Number(_) => Err(RenderError::NotObject { format, found: "a number" }),
        Json::String(_) => Err(RenderError::NotObject { format, found: "a string" }),
        Json::Array(_) => Err(RenderError::NotObject { format, found: "an array" }),
    }
}

/// Refuses `null` where the format has no word for it. Empty would be another value.
fn refuse_null(entries: &[Entry], format: Format) -> Result<(), RenderError> {
    match entries.iter().position(|(_, value)| matches!(**value, Json::Null)) {
        None => Ok(()),
        Some(position) => Err(RenderError::Unwritable {
            format,
            key: label(&entries[position].0, position),
            reason: "it is null; store a value, select other fields, or use `json` or `yaml`",
        }),
    }
}
