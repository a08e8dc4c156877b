//! From YAML to JSON, as Kubernetes takes it, and back.

use std::rc::Rc;

use serde_json::{Map, Number, Value};

use super::{Fault, Kind, Meaning, Node, Scalar};

impl Node {
    /// It as JSON, as `sigs.k8s.io/yaml` makes it.
    pub(crate) fn json(&self) -> Result<Value, Fault> {
        Ok(match &self.kind {
            Kind::Scalar(scalar) => self.scalar(scalar)?,
            Kind::List(nodes) => Value::Array(nodes.iter().map(|node| node.json()).collect::<Result<_, _>>()?),
            Kind::Map(entries) => {
                let json = |(key, node): &(super::Key, Rc<Self>)| Ok((key.name.to_string(), node.json()?));
                Value::Object(entries.iter().map(json).collect::<Result<Map<_, _>, Fault>>()?)
            }
        })
    }

    fn scalar(&self, scalar: &Scalar) -> Result<Value, Fault> {
        Ok(match scalar.meaning() {
            Meaning::Null => Value::Null,
            Meaning::Bool(value) => Value::Bool(value),
            Meaning::Text(text) => Value::String(text),
            Meaning::Number(text) => {
                let number = number(&text, &scalar.text).ok_or_else(|| Fault {
                    place: self.place,
                    text: format!("`{text}` is no number that JSON knows; write a text in quotes"),
                })?;
                Value::Number(number)
            }
        })
    }
}

/// A number, from how it is written out and how it was written.
fn number(meaning: &str, written: &str) -> Option<Number> {
    // What Go writes of a float is rounded, for a text.
    let is_float = || written.contains(['.', 'e', 'E']) && !written.contains(['x', 'X']);
    if !is_float() {
        let signed = meaning.parse::<i64>().ok().map(Number::from);
        return signed.or_else(|| meaning.parse::<u64>().ok().map(Number::from));
    }
    let value: f64 = written.replace('_', "").parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within the range in which floats are exact")]
    match value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        true => Some(Number::from(value as i64)),
        false => Number::from_f64(value),
    }
}

/// An object as YAML: texts that another reader could take for something else are in quotes.
pub(crate) fn write(value: &Value) -> String {
    let options = serde_saphyr::ser_options! {
        // Wrapped lines of a command read worse than long ones.
        folded_wrap_chars: usize::MAX,
    };
    // Only a map with keys that are no texts, and the like, cannot be written: JSON has none.
    serde_saphyr::to_string_with_options(value, options).unwrap_or_else(|_| format!("{value:#}\n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::yaml::first;

    fn read(text: &str) -> Value {
        first(text).unwrap().0.unwrap().json().unwrap()
    }

    #[test]
    fn scalars_are_what_kubernetes_makes_of_them() {
        let text = "[yes, 'yes', 0440, '0440', 0x1F, 1e3, 1.5, -7, 18446744073709551615, ~, 1_000, 12:30, 2001-01-01]";
        let expected = json!([
            true,
            "yes",
            288,
            "0440",
            31,
            1000,
            1.5,
            -7,
            18_446_744_073_709_551_615_u64,
            null,
            1000,
            "12:30",
            "2001-01-01"
        ]);
        assert_eq!(read(text), expected);
        assert!(first("a: .inf").unwrap().0.unwrap().json().unwrap_err().text.contains("no number that JSON knows"));
    }

    #[test]
    fn the_last_of_two_keys_counts() {
        assert_eq!(read("{a: 1, b: 2, a: 3}"), json!({ "a": 3, "b": 2 }));
        assert_eq!(read("{b: &x {c: 1}, d: {<<: *x, e: 2}}"), json!({ "b": { "c": 1 }, "d": { "c": 1, "e": 2 } }));
    }

    #[test]
    fn what_is_written_reads_well() {
        let value = json!({
            "command": ["sh", "-c", "while :; do ls -l /run/secrets/coffer/ && sleep 60 && echo a rather long line of a command; done"],
            "files": "- name: a\n  from: b\n",
            "mode": "0440", "yes": "yes", "empty": {}, "none": [], "null": null,
        });
        let expected = "command:\n- sh\n- -c\n- while :; do ls -l /run/secrets/coffer/ && sleep 60 && echo a rather long line of a \
                        command; done\nfiles: |\n  - name: a\n    from: b\nmode: \"0440\"\n\"yes\": \"yes\"\nempty: {}\nnone: []\n\
                        \"null\": null\n";
        assert_eq!(write(&value), expected);
    }

    fn text() -> impl Strategy<Value = String> {
        let traps = prop::sample::select(vec![
            "yes",
            "no",
            "on",
            "off",
            "y",
            "n",
            "true",
            "True",
            "null",
            "~",
            "",
            " ",
            "0440",
            "1e3",
            "1_000",
            "0x1F",
            "0b1",
            "0o7",
            "12:30:45",
            "2001-01-01",
            "2001-01-01T00:00:00Z",
            ".inf",
            ".nan",
            "-",
            "--- a",
            "---",
            "...",
            "<<",
            "=",
            "a: b",
            "a #b",
            "# a",
            "&a",
            "*a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "\"",
            "'",
            "\\",
            "{",
            "[",
            "a\n",
            "\na",
            "a\n\n",
            " a\n b",
            "a\n b\n",
            "a \nb",
            "\ta\nb",
            "a\r\nb",
            "a\u{85}b",
            "a\u{2028}b",
            "\u{feff}a",
            "a\u{0}b",
            "a\u{7}b",
            "a\n# b\n",
            "- a\n- b\n",
            "a:\n  - {name: b}\n",
            "\n",
            "\n\n",
            "1",
            "-1",
            "+1",
            "1.",
            ".5",
            "0",
            "00",
            "08",
            "1e",
            "e1",
            "_1",
            "1 ",
        ]);
        prop_oneof![
            traps.prop_map(str::to_owned),
            any::<String>(),
            "[ \\n\\t:#\\-'\"a0{}\\[\\],&*!|>%~=<.]{0,12}",
            "[0-9a-fA-FxobeE_+.:\\-]{1,10}",
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1000.0..1000.0_f64).prop_map(Value::from),
            text().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text(), inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        #[test]
        fn what_is_written_is_what_is_read(value in value()) {
            let written = write(&value);
            let node = first(&written).map_err(|fault| TestCaseError::fail(format!("{fault}\n{written}")))?.0;
            prop_assert_eq!(node.unwrap().json().unwrap(), value, "{}", written);
        }
    }
}
