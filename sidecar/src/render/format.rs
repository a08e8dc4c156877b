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
    /// A key store; see [`super::pkcs12`]. Not deterministic: made anew only for a new version.
    #[cfg(feature = "pkcs12")]
    Pkcs12,
}

/// A format that does not exist was named, or one that this build does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFormat {
    text: String,
    nearest: Option<&'static str>,
}

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text == "pkcs12" {
            return f.write_str("`pkcs12` is not in this build of coffer; build it with the cargo feature `pkcs12`");
        }
        write!(f, "`{}` is not a format; the formats are ", self.text)?;
        for format in Format::ALL {
            write!(f, "{format}, ")?;
        }
        write!(f, "and for several files {PEM}")?;
        self.nearest.map_or(Ok(()), |near| write!(f, "; did you mean `{near}`?"))
    }
}

impl std::error::Error for UnknownFormat {}

/// What configuration calls the splitting of a value into several files; see [`super::split_tls`].
pub const PEM: &str = "pem";

impl Format {
    /// Every format of this build.
    pub const ALL: &[Self] = &[
        Self::Raw,
        Self::Json,
        Self::Dotenv,
        Self::Yaml,
        Self::Properties,
        Self::Base64,
        #[cfg(feature = "pkcs12")]
        Self::Pkcs12,
    ];

    /// Whether the same value always gives the same bytes.
    #[must_use]
    pub fn is_deterministic(self) -> bool {
        match self {
            #[cfg(feature = "pkcs12")]
            Self::Pkcs12 => false,
            _ => true,
        }
    }

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
            #[cfg(feature = "pkcs12")]
            Self::Pkcs12 => "pkcs12",
        }
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.iter().copied().find(|format| format.as_str() == text).ok_or_else(|| UnknownFormat {
            text: text.to_owned(),
            nearest: selector::nearest(text, Self::ALL.iter().map(|format| format.as_str()).chain([PEM])),
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
