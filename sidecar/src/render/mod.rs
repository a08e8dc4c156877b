//! Secret values to file bytes: a field is selected, a format written. Pure: no I/O and no clock.

mod format;
mod json;
mod pem;
#[cfg(feature = "pkcs12")]
mod pkcs12;
mod selector;
mod set;
mod template;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coffer_runtime::Secret;

pub use self::format::{Format, PEM, UnknownFormat};
use self::json::{Json, Out};
pub use self::pem::{PemError, TlsFiles, split as split_tls};
use self::selector::one_line;
pub use self::selector::{Selector, SelectorError};
pub use self::set::{Collision, Origin, RenderedFile, RenderedSet};
pub use self::template::{Template, TemplateError, TemplateFault};

/// What a source returned.
#[derive(Debug)]
pub enum Value {
    /// A text: valid UTF-8.
    Text(Secret),
    /// Bytes of any kind.
    Binary(Secret),
}

/// Why a value has no rendering as asked for. Says where and how, never what: no variant holds
/// any part of a value. Names of keys may show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// A value that is not text was to be selected from, or written in a format of texts.
    #[error("the value is binary: use the format `raw` or `base64`, and no `select`")]
    Binary,
    /// `select`, or a format other than `raw` and `base64`, met a text that is not JSON. The place
    /// is where reading stopped, both counted from 1; column 0 is the end of the line before.
    #[error(
        "the value is not JSON (at line {line}, column {column}): store JSON, or use the format `raw` or `base64` without `select`"
    )]
    NotJson {
        /// Line of the value.
        line: usize,
        /// Column in bytes.
        column: usize,
    },
    /// The JSON holds half of a surrogate pair (`\ud800` alone), which no UTF-8 text can hold.
    #[error("the value's JSON has a `\\u` escape that is half a surrogate pair: store it with both halves")]
    Surrogate,
    /// The JSON nests more than 128 levels deep.
    #[error(
        "the value's JSON nests more than 128 levels deep: store it flatter, or use the format `raw` without `select`"
    )]
    TooDeep,
    /// An object holds a key twice, and which one is meant cannot be known.
    #[error("the value's JSON has the key {key} twice in one object: remove one")]
    RepeatedKey {
        /// The key in backquotes, or its position.
        key: String,
    },
    /// The selector found nothing, or JSON's `null`; or one part of a multi-select did.
    #[error(
        "`{}` selects nothing{}: no such field, or it is null{}",
        one_line(selector),
        part.as_ref().map(|part| format!(" for its part {part}")).unwrap_or_default(),
        nearest.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
    )]
    Missing {
        /// The selector.
        selector: String,
        /// Which part of a multi-select found nothing: a key in backquotes, or a position.
        part: Option<String>,
        /// An existing key much like the one that was named, spelled as a selector wants it.
        nearest: Option<String>,
    },
    /// A function of the selector was given what it cannot work on.
    #[error("`{}`: {function}() {problem}", one_line(selector))]
    Function {
        /// The selector.
        selector: String,
        /// The function's name.
        function: &'static str,
        /// What it wants and what it was given, by type.
        problem: String,
    },
    /// The selector multiplies the value, or goes over it again and again, beyond what any use
    /// has need of.
    #[error("`{}` takes too much work on this value: select in fewer or simpler steps", one_line(selector))]
    TooMuch {
        /// The selector.
        selector: String,
    },
    /// A format of keys and values met JSON that is not an object.
    #[error(
        "`{format}` writes the entries of a JSON object, and this is {found}: select an object, or use `raw` or `json`"
    )]
    NotObject {
        /// The format.
        format: Format,
        /// What was found, by type.
        found: &'static str,
    },
    /// A key of the object cannot be a key of the format.
    #[error("`{format}` cannot have the key {key}: {reason}")]
    Key {
        /// The format.
        format: Format,
        /// The key in backquotes, or its position.
        key: String,
        /// What the format's keys are, and the way out.
        reason: &'static str,
    },
    /// What a key holds cannot be written in the format.
    #[error("`{format}` cannot hold the value of the key {key}: {reason}")]
    Unwritable {
        /// The format.
        format: Format,
        /// The key in backquotes, or its position.
        key: String,
        /// What is in the way, and the way out.
        reason: &'static str,
    },
    /// The value is no TLS identity.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// A template has no result for its values.
    #[error(transparent)]
    Template(#[from] TemplateFault),
    /// An entry of a SecretProviderClass's `jmesPath` has no string in the value.
    #[error("{said}; {why}")]
    OfClass {
        /// What AWS's provider says of it, to the letter: people search for it.
        said: String,
        /// What is the matter, and the fix.
        why: String,
    },
}

impl Value {
    fn as_text(&self) -> Result<&str, RenderError> {
        let Self::Text(text) = self else { return Err(RenderError::Binary) };
        str::from_utf8(text.expose()).map_err(|_| RenderError::Binary)
    }
}

/// Renders `value`: what `select` finds in it, or all of it, written in `format`.
///
/// - Without `select`, [`Format::Raw`] gives the value's bytes untouched and [`Format::Base64`]
///   encodes them; text or binary.
/// - A selected string renders raw as its own text, a number or a boolean as it stands in the
///   JSON, an array or object as compact JSON. Order of keys and digits of numbers are kept: `1.50`
///   stays `1.50`, whatever its length.
/// - [`Format::Json`] passes a whole value through byte for byte once it is known to be JSON; what
///   was selected it writes as compact JSON, so a selected string comes quoted.
/// - The other formats write one entry for each key of an object, in the object's order.
///
/// The result has memory of its own of exactly its size, and JSON on the way is wiped; the one
/// copy that is not is the JSON library's buffer for a string with escapes in it.
pub fn render(value: &Value, select: Option<&Selector>, format: Format) -> Result<Secret, RenderError> {
    let (Value::Text(secret) | Value::Binary(secret)) = value;
    if select.is_none() {
        match format {
            Format::Raw => return Ok(Secret::copy_of(secret.expose())),
            Format::Base64 => return Ok(base64(secret)),
            Format::Json | Format::Dotenv | Format::Yaml | Format::Properties => {}
            #[cfg(feature = "pkcs12")]
            Format::Pkcs12 => return pkcs12::pkcs12(value, select),
        }
    }
    let json = match select {
        Some(selector) => selector.find_in(value)?,
        None => {
            let text = value.as_text()?;
            if format == Format::Json {
                json::check(text)?;
                return Ok(Secret::copy_of(text.as_bytes()));
            }
            Json::parse(text)?
        }
    };
    match format {
        Format::Raw => Ok(written(|out| json.write_plain(out))),
        Format::Base64 => Ok(base64(&written(|out| json.write_plain(out)))),
        Format::Json => Ok(written(|out| json.write(out))),
        Format::Dotenv => format::dotenv(&json),
        Format::Yaml => format::yaml(&json),
        Format::Properties => format::properties(&json),
        #[cfg(feature = "pkcs12")]
        Format::Pkcs12 => pkcs12::pkcs12(value, select),
    }
}

/// Standard alphabet with padding (RFC 4648 §4), on one line without an end.
fn base64(secret: &Secret) -> Secret {
    // Four digits for every three bytes begun; a value in memory is far from overflowing this.
    let mut text = vec![0; secret.len().div_ceil(3) * 4];
    STANDARD.encode_slice(secret.expose(), &mut text).expect("the buffer has the encoding's size");
    Secret::new(text)
}

/// Runs `write` twice, to count and then to fill: memory that grows leaves copies behind.
fn written(write: impl Fn(Out<'_>)) -> Secret {
    let mut length = 0;
    write(&mut |piece| length += piece.len());
    let mut bytes = Vec::with_capacity(length);
    write(&mut |piece| bytes.extend_from_slice(piece.as_bytes()));
    Secret::new(bytes)
}
