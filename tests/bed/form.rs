//! `application/x-www-form-urlencoded`, the body of AWS's query protocol.

use serde_json::{Map, Value};

/// The body that says `fields`.
pub(crate) fn encode<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let pairs = fields.into_iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// The fields that `body` says, as an object of strings.
pub(crate) fn decode(body: &str) -> Map<String, Value> {
    let pairs = body.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), Value::String(unescape(value)))
        })
        .collect()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let body = encode([("RoleArn", "arn:aws:iam::123456789012:role/ä b+c&d=e%"), ("Empty", "")]);
        assert!(body.is_ascii() && !body.contains(' '));
        let fields = decode(&body);
        assert_eq!(fields["RoleArn"], "arn:aws:iam::123456789012:role/ä b+c&d=e%");
        assert_eq!(fields["Empty"], "");
    }

    #[test]
    fn decodes_plus_and_leaves_a_broken_escape() {
        assert_eq!(decode("a=x+y&b=100%&c=%zz")["a"], "x y");
        assert_eq!(decode("a=x+y&b=100%&c=%zz")["b"], "100%");
        assert_eq!(decode("a=x+y&b=100%&c=%zz")["c"], "%zz");
    }
}
