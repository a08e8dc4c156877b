//! What a Go program makes of a scalar: go-yaml v2's resolve.go, then the conversion to a string that
//! sigs.k8s.io/yaml does for a field of the type string.

use super::Scalar;

/// What a scalar means by YAML 1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Null,
    Bool(bool),
    /// A number, as Go writes it out.
    Number(String),
    Text(String),
}

impl Scalar {
    pub(crate) fn meaning(&self) -> Meaning {
        if self.plain { of_plain(&self.text) } else { Meaning::Text(self.text.clone()) }
    }

    /// As a field of the type string has it; `None` for nothing, which leaves a field as it is.
    pub(crate) fn as_string(&self) -> Option<String> {
        match self.meaning() {
            Meaning::Null => None,
            Meaning::Bool(value) => Some(value.to_string()),
            Meaning::Number(text) | Meaning::Text(text) => Some(text),
        }
    }
}

fn of_plain(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Meaning::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Meaning::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Meaning::Number("NaN".to_owned()),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Meaning::Number("+Inf".to_owned()),
        "-.inf" | "-.Inf" | "-.INF" => return Meaning::Number("-Inf".to_owned()),
        _ => {}
    }
    let number = match text.as_bytes()[0] {
        b'+' | b'-' | b'0'..=b'9' => {
            let digits = text.replace('_', "");
            integer(&digits).or_else(|| float(&digits))
        }
        b'.' => float(text),
        _ => None,
    };
    number.map_or_else(|| Meaning::Text(text.to_owned()), Meaning::Number)
}

/// strconv.ParseInt and ParseUint with base 0: a leading zero is octal.
fn integer(text: &str) -> Option<String> {
    let (sign, rest) = match text.as_bytes()[0] {
        b'-' => ("-", &text[1..]),
        b'+' => ("+", &text[1..]),
        _ => ("", text),
    };
    let (radix, digits) = match rest.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &rest[2..]),
        [b'0', b'o' | b'O', ..] => (8, &rest[2..]),
        [b'0', b'b' | b'B', ..] => (2, &rest[2..]),
        [b'0', _, ..] => (8, &rest[1..]),
        _ => (10, rest),
    };
    // from_str_radix takes a sign of its own.
    let digits = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_alphanumeric()))?;
    let size = u64::from_str_radix(digits, radix).ok()?;
    match sign {
        "-" => (size <= 1 << 63).then(|| (-i128::from(size)).to_string()),
        // ParseUint takes no sign.
        "+" => i64::try_from(size).ok().map(|number| number.to_string()),
        _ => Some(size.to_string()),
    }
}

/// go-yaml's `yamlStyleFloat`, written as `strconv.FormatFloat(value, 'g', -1, 32)`.
fn float(text: &str) -> Option<String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let ok = is_digits(whole)
        && is_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && is_digits(exponent));
    let value: f64 = Some(text).filter(|_| ok)?.parse().ok()?;
    value.is_finite().then(|| go_float(value))
}

fn go_float(value: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "as the Go program rounds it")]
    let value = value as f32;
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    // The shortest digits that are this number, as Go has them.
    let shortest = format!("{value:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
