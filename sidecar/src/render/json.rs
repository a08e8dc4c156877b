//! JSON as a secret is rendered from it: order of keys and digits of numbers exactly as stored.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::RenderError;

/// How deep arrays and objects may nest, as in serde_json. It keeps every recursion over a value
/// within a small thread's stack.
const DEPTH_MAX: usize = 128;

/// A JSON value whose texts are wiped when dropped.
///
/// Not `serde_json::Value`: that one turns `1.50` into `1.5` and an integer above 64 bits into a
/// float, and a secret of digits must come out as it went in.
pub(super) enum Json {
    Null,
    Bool(bool),
    /// A number as it was written.
    Number(Zeroizing<String>),
    String(Zeroizing<String>),
    Array(Vec<Arc<Self>>),
    Object(Vec<Entry>),
}

/// One key of an object and what it holds.
pub(super) type Entry = (Zeroizing<String>, Arc<Json>);

/// Where a piece of output goes; called with one piece after the other.
pub(super) type Out<'a> = &'a mut dyn FnMut(&str);

impl Json {
    /// Reads a whole JSON text. An object that holds a key twice is refused: which of the two is
    /// meant cannot be known.
    pub(super) fn parse(text: &str) -> Result<Arc<Self>, RenderError> {
        Self::from_raw(raw(text)?, 0)
    }

    fn from_raw(raw: &RawValue, depth: usize) -> Result<Arc<Self>, RenderError> {
        match raw.get().as_bytes().first() {
            Some(b'[' | b'{') if depth == DEPTH_MAX => Err(RenderError::TooDeep),
            Some(b'[') => Self::array(raw, depth),
            Some(b'{') => Self::object(raw, depth),
            _ => Self::scalar(raw.get()).map(Arc::new),
        }
    }

    // Loops, and each kind on its own, keep the recursion's frames small.
    fn array(raw: &RawValue, depth: usize) -> Result<Arc<Self>, RenderError> {
        let raws = items(raw)?;
        let mut items = Vec::with_capacity(raws.len());
        for raw in raws {
            items.push(Self::from_raw(raw, depth + 1)?);
        }
        Ok(Arc::new(Self::Array(items)))
    }

    fn object(raw: &RawValue, depth: usize) -> Result<Arc<Self>, RenderError> {
        let members = members(raw)?;
        let mut entries = Vec::with_capacity(members.len());
        for (key, raw) in members {
            entries.push((key, Self::from_raw(raw, depth + 1)?));
        }
        Ok(Arc::new(Self::Object(entries)))
    }

    fn scalar(text: &str) -> Result<Self, RenderError> {
        Ok(match text {
            "null" => Self::Null,
            "true" => Self::Bool(true),
            "false" => Self::Bool(false),
            _ if text.starts_with('"') => {
                // Known to be JSON; what can still fail is half a surrogate pair.
                Self::String(Zeroizing::new(serde_json::from_str(text).map_err(|_| RenderError::Surrogate)?))
            }
            _ => Self::Number(Zeroizing::new(text.to_owned())),
        })
    }

    /// The JSON name of the value's type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// What the key of an object holds; nothing when the value is no object.
    pub(super) fn field(&self, name: &str) -> Option<&Arc<Self>> {
        match self {
            Self::Object(entries) => entries.iter().find(|(key, _)| **key == *name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Roughly the bytes of the compact text, counted no further than `limit`.
    pub(super) fn weight(&self, limit: usize) -> usize {
        let mut sum = 1;
        match self {
            Self::Null | Self::Bool(_) => sum = 4,
            Self::Number(text) | Self::String(text) => sum += text.len(),
            Self::Array(items) => {
                for item in items {
                    if sum > limit {
                        break;
                    }
                    sum += 1 + item.weight(limit - sum);
                }
            }
            Self::Object(entries) => {
                for (key, value) in entries {
                    if sum > limit {
                        break;
                    }
                    sum += 4 + key.len();
                    sum += value.weight(limit.saturating_sub(sum));
                }
            }
        }
        sum
    }

    /// Writes the value as a string's own text, or else as compact JSON.
    pub(super) fn write_plain(&self, out: Out<'_>) {
        match self {
            Self::String(text) => out(text),
            other => other.write(out),
        }
    }

    /// What [`Self::write_plain`] writes, in memory of exactly its size.
    pub(super) fn to_plain(&self) -> Zeroizing<String> {
        let mut length = 0;
        self.write_plain(&mut |piece| length += piece.len());
        let mut text = Zeroizing::new(String::with_capacity(length));
        self.write_plain(&mut |piece| text.push_str(piece));
        text
    }

    /// Writes the value as compact JSON.
    pub(super) fn write(&self, out: Out<'_>) {
        match self {
            Self::Null => out("null"),
            Self::Bool(true) => out("true"),
            Self::Bool(false) => out("false"),
            Self::Number(text) => out(text),
            Self::String(text) => write_string(text, out),
            Self::Array(items) => {
                let mut before = "[";
                for item in items {
                    out(before);
                    item.write(out);
                    before = ",";
                }
                out(if items.is_empty() { "[]" } else { "]" });
            }
            Self::Object(entries) => {
                let mut before = "{";
                for (key, value) in entries {
                    out(before);
                    write_string(key, out);
                    out(":");
                    value.write(out);
                    before = ",";
                }
                out(if entries.is_empty() { "{}" } else { "}" });
            }
        }
    }
}

/// Equality as JMESPath has it: objects without regard to order, numbers by value. Numbers are
/// compared digit by digit: two long account numbers must not become one in a float.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => compare_numbers(a, b).is_eq(),
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => {
                let b: HashMap<&str, &Arc<Self>> = b.iter().map(|(key, value)| (key.as_str(), value)).collect();
                a.len() == b.len()
                    && a.iter().all(|(key, value)| b.get(key.as_str()).is_some_and(|found| *found == value))
            }
            _ => false,
        }
    }
}

/// Compares two numbers by value, exactly.
pub(super) fn compare_numbers(a: &str, b: &str) -> Ordering {
    let (a, b) = (Decimal::of(a), Decimal::of(b));
    match (a.negative, b.negative) {
        (false, false) => a.compare_size(&b),
        (true, true) => b.compare_size(&a),
        (a_negative, b_negative) => b_negative.cmp(&a_negative),
    }
}

/// Writes a JSON string. Beyond what JSON demands it escapes whatever YAML 1.2 does not count as
/// printable or could take for a line break (§5.1, §5.4), so that the same text is both.
pub(super) fn write_string(text: &str, out: Out<'_>) {
    out("\"");
    let mut plain = 0;
    for (at, character) in text.char_indices() {
        let short = match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => "",
            _ => continue,
        };
        out(&text[plain..at]);
        plain = at + character.len_utf8();
        if short.is_empty() {
            write_utf16_escape(character, out);
        } else {
            out(short);
        }
    }
    out(&text[plain..]);
    out("\"");
}

/// Writes a character as `\uXXXX`, as two of them above U+FFFF.
pub(super) fn write_utf16_escape(character: char, out: Out<'_>) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        out("\\u");
        for shift in [12, 8, 4, 0] {
            let digit = usize::from(*unit >> shift & 0xf);
            out(&"0123456789ABCDEF"[digit..=digit]);
        }
    }
}

/// Whether `text` is JSON, and nothing more: a text that only passes through is not taken apart.
pub(super) fn check(text: &str) -> Result<(), RenderError> {
    raw(text).map(drop)
}

/// A key as an error may name it, at `position` (from 0) among its object's keys. Keys are names,
/// not values; one that does not look like a name is told by its position.
pub(super) fn label(key: &str, position: usize) -> String {
    if is_name(key) { format!("`{key}`") } else { format!("number {}", position + 1) }
}

/// Whether `key` is short and plain enough to stand in an error.
pub(super) fn is_name(key: &str) -> bool {
    (1..=64).contains(&key.len()) && key.chars().all(|c| c.is_ascii_graphic() || c == ' ')
}

fn raw(text: &str) -> Result<&RawValue, RenderError> {
    serde_json::from_str(text).map_err(not_json)
}

/// serde_json's messages can quote what they found; only the place is taken over.
#[expect(clippy::needless_pass_by_value, reason = "map_err hands it over")]
fn not_json(error: serde_json::Error) -> RenderError {
    RenderError::NotJson { line: error.line(), column: error.column() }
}

fn items(array: &RawValue) -> Result<Vec<&RawValue>, RenderError> {
    serde_json::from_str(array.get()).map_err(not_json)
}

fn members(object: &RawValue) -> Result<Vec<Member<'_>>, RenderError> {
    // Known to be JSON; what can still fail is half a surrogate pair in a key.
    let Members(members) = serde_json::from_str(object.get()).map_err(|_| RenderError::Surrogate)?;
    let mut seen = HashSet::with_capacity(members.len());
    match members.iter().enumerate().find(|(_, (key, _))| !seen.insert(key.as_str())) {
        Some((position, (key, _))) => Err(RenderError::RepeatedKey { key: label(key, position) }),
        None => Ok(members),
    }
}

/// A number's value: `0.digits × 10^exponent`, with neither leading nor trailing zeros in `digits`.
struct Decimal {
    negative: bool,
    digits: Zeroizing<Vec<u8>>,
    exponent: i64,
}

impl Decimal {
    fn of(text: &str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits = Zeroizing::new(Vec::with_capacity(mantissa.len()));
        digits.extend(whole.bytes().chain(fraction.bytes()));
        let leading = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..leading);
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if digits.is_empty() {
            return Self { negative: false, digits, exponent: i64::MIN };
        }
        // An exponent beyond 64 bits is as good as the greatest.
        let power = power.parse().unwrap_or(if power.starts_with('-') { -i64::MAX } else { i64::MAX });
        let shift = i64::try_from(whole.len()).unwrap_or(i64::MAX) - i64::try_from(leading).unwrap_or(i64::MAX);
        Self { negative, digits, exponent: power.saturating_add(shift) }
    }

    fn compare_size(&self, other: &Self) -> Ordering {
        self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits))
    }
}

/// The members of an object in their order, none lost and none decoded but the keys.
struct Members<'a>(Vec<Member<'a>>);

type Member<'a> = (Zeroizing<String>, &'a RawValue);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    members.push((Zeroizing::new(key), value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
