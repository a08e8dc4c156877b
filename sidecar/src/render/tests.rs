use proptest::prelude::*;

use super::*;

fn text(value: &str) -> Value {
    Value::Text(Secret::copy_of(value.as_bytes()))
}

fn rendered(value: &str, select: &str, format: Format) -> Result<String, String> {
    let selector = (!select.is_empty()).then(|| Selector::new(select).unwrap());
    render(&text(value), selector.as_ref(), format)
        .map(|secret| String::from_utf8(secret.expose().to_vec()).unwrap())
        .map_err(|error| error.to_string())
}

#[test]
fn a_whole_value_passes_untouched() {
    let bytes = b"\xff\0 not text\n";
    let binary = Value::Binary(Secret::copy_of(bytes));
    assert_eq!(render(&binary, None, Format::Raw).unwrap().expose(), bytes);
    assert_eq!(render(&binary, None, Format::Base64).unwrap().expose(), b"/wAgbm90IHRleHQK");
    assert_eq!(rendered(" hunter2\n", "", Format::Raw).unwrap(), " hunter2\n");
    assert_eq!(rendered("", "", Format::Base64).unwrap(), "");
    let json = "{ \"b\" : 1.50 ,\r\n \"a\": \"\\ud800\", \"a\": 1e999 }\n";
    assert_eq!(rendered(json, "", Format::Json).unwrap(), json);
}

#[test]
fn a_selection_renders_by_its_type() {
    let value = r#" {"s": "a\"b\u00e9", "n": 1.50, "big": 123456789012345678901234567890, "e": -0.0E+10, "t": true, "a": [ 1.0, {"z": 1, "b": [] } ], "o": {}} "#;
    for (select, raw, json) in [
        ("s", "a\"bé", r#""a\"bé""#),
        ("n", "1.50", "1.50"),
        ("big", "123456789012345678901234567890", "123456789012345678901234567890"),
        ("e", "-0.0E+10", "-0.0E+10"),
        ("t", "true", "true"),
        ("a", r#"[1.0,{"z":1,"b":[]}]"#, r#"[1.0,{"z":1,"b":[]}]"#),
        ("o", "{}", "{}"),
        ("a[?z].z | [0]", "1", "1"),
    ] {
        assert_eq!(rendered(value, select, Format::Raw).unwrap(), raw, "{select}");
        assert_eq!(rendered(value, select, Format::Json).unwrap(), json, "{select}");
    }
    assert_eq!(rendered(value, "n", Format::Base64).unwrap(), "MS41MA==");
}

#[test]
fn errors_say_where_and_how_to_mend_it() {
    for (value, select, format, message) in [
        (
            "hunter2",
            "",
            Format::Json,
            "the value is not JSON (at line 1, column 1): store JSON, or use the format `raw` or `base64` without `select`",
        ),
        (
            "{\n\"a\" 1}",
            "a",
            Format::Raw,
            "the value is not JSON (at line 2, column 5): store JSON, or use the format `raw` or `base64` without `select`",
        ),
        (
            r#"{"password": ""}"#,
            "pasword",
            Format::Raw,
            "`pasword` selects nothing: no such field, or it is null; did you mean `password`?",
        ),
        (
            r#"{"my-key": ""}"#,
            "my_key",
            Format::Raw,
            r#"`my_key` selects nothing: no such field, or it is null; did you mean `"my-key"`?"#,
        ),
        (
            r#"{"tls.crt": ""}"#,
            "tls.crt",
            Format::Raw,
            r#"`tls.crt` selects nothing: no such field, or it is null; did you mean `"tls.crt"`?"#,
        ),
        (
            r#"{"db": {"user": ""}}"#,
            "db.USER",
            Format::Raw,
            "`db.USER` selects nothing: no such field, or it is null; did you mean `user`?",
        ),
        (r#"{"zebra": "", "a": null}"#, "a", Format::Raw, "`a` selects nothing: no such field, or it is null"),
        (
            r#"{"user": ""}"#,
            "{user: user, pass: password}",
            Format::Json,
            "`{user: user, pass: password}` selects nothing for its part `pass`: no such field, or it is null",
        ),
        (
            r#"{"a": 1}"#,
            "join(',', a)",
            Format::Raw,
            "`join(',', a)`: join() wants an array as argument 2, which is: number",
        ),
        (
            r#"[1]"#,
            "",
            Format::Dotenv,
            "`dotenv` writes the entries of a JSON object, and this is an array: select an object, or use `raw` or `json`",
        ),
        (
            r#"{"A": 1, "my-key": 1}"#,
            "",
            Format::Dotenv,
            "`dotenv` cannot have the key `my-key`: a name is letters, digits and `_`, and starts with no digit; rename it with a selector such as `{NAME: \"the key\"}`",
        ),
        (
            r#"{"A": "\u0000"}"#,
            "",
            Format::Dotenv,
            "`dotenv` cannot hold the value of the key `A`: it has a NUL, which no environment variable can hold; use `json`",
        ),
        (
            r#"{"ключ": null}"#,
            "",
            Format::Properties,
            "`properties` cannot hold the value of the key number 1: it is null; store a value, select other fields, or use `json` or `yaml`",
        ),
        (
            r#"{"a": 1, "b": {"c": 1, "c": 2}}"#,
            "a",
            Format::Raw,
            "the value's JSON has the key `c` twice in one object: remove one",
        ),
    ] {
        assert_eq!(rendered(value, select, format).unwrap_err(), message);
    }
    assert_eq!(
        render(&Value::Binary(Secret::copy_of(b"{}")), None, Format::Yaml).unwrap_err().to_string(),
        "the value is binary: use the format `raw` or `base64`, and no `select`"
    );
    assert_eq!(
        "yml".parse::<Format>().unwrap_err().to_string(),
        "`yml` is not a format; the formats are raw, json, dotenv, yaml, properties, base64, and for several files pem; did you mean `yaml`?"
    );
}

/// One value for each way to fail, with the same word in every place a value can hold it.
#[test]
fn no_error_holds_any_part_of_a_value() {
    let canary = "c4n4ry";
    let deep = "[".repeat(200) + "\"c4n4ry\"" + &"]".repeat(200);
    let long_key = format!(r#"{{"{}": "c4n4ry"}}"#, "k".repeat(1100));
    let cases: &[(&str, &str, Format)] = &[
        ("c4n4ry", "a", Format::Raw),
        ("c4n4ry", "", Format::Json),
        (r#"{"a": c4n4ry}"#, "", Format::Yaml),
        (r#"{"a": "c4n4ry}"#, "a", Format::Raw),
        (r#"{"a": "c4n4ry\x"}"#, "a", Format::Raw),
        (r#"{"a": "c4n4ry\ud800"}"#, "a", Format::Raw),
        (&deep, "[0]", Format::Raw),
        (r#"{"a": "c4n4ry", "a": "c4n4ry"}"#, "a", Format::Raw),
        (r#"{"a": "c4n4ry"}"#, "b", Format::Raw),
        (r#"{"a": "c4n4ry"}"#, "{b: b}", Format::Raw),
        (r#"{"a": "c4n4ry"}"#, "sum(a)", Format::Raw),
        (r#"{"a": ["c4n4ry", 1]}"#, "sort(a)", Format::Raw),
        (r#"{"a": ["c4n4ry"]}"#, "sort_by(a, &b)", Format::Raw),
        (
            r#"{"a": ["c4n4ry"]}"#,
            "[a,a]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]|[@,@]",
            Format::Raw,
        ),
        (r#""c4n4ry""#, "", Format::Dotenv),
        (r#"{"a-b": "c4n4ry"}"#, "", Format::Dotenv),
        (r#"{"a": "c4n4ry\u0000"}"#, "", Format::Dotenv),
        (r#"{"a": "c4n4ry", "b": null}"#, "", Format::Properties),
        (&long_key, "", Format::Yaml),
    ];
    for (value, select, format) in cases {
        let selector = (!select.is_empty()).then(|| Selector::new(select).unwrap());
        for value in [text(value), Value::Binary(Secret::copy_of(value.as_bytes()))] {
            let Err(error) = render(&value, selector.as_ref(), *format) else {
                panic!("{select} {format} did not fail")
            };
            let mut shown = format!("{error} {error:?} {error:#?} {value:?}");
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                shown += &format!("{error} {error:?}");
                source = error.source();
            }
            assert!(!shown.contains(canary), "{shown}");
        }
    }
}

proptest! {
    #[test]
    fn never_panics_and_never_shows_bytes(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            "[\\[{\"a:,\\\\u0d8}\\]1.e-]{0,40}".prop_map(String::into_bytes),
            r#"\{"a": "(\PC|\\n){0,8}", "b": \[(1|\{\}|null)(,-0\.5e9){0,3}\]\}"#.prop_map(String::into_bytes),
        ],
        select in prop_oneof![Just(None), "(a|b|@|b\\[0\\]|\\*|b\\[\\]|keys\\(@\\)|\\{A: a, B: b\\}|to_string\\(@\\))".prop_map(Some)],
    ) {
        let selector = select.map(|select| Selector::new(&select).unwrap());
        let value = match String::from_utf8(bytes) {
            Ok(text) => Value::Text(text.into()),
            Err(error) => Value::Binary(Secret::new(error.into_bytes())),
        };
        for format in Format::ALL {
            let _ = render(&value, selector.as_ref(), *format);
        }
    }

    #[test]
    fn json_stays_the_same_value(value in json()) {
        let text = value.to_string();
        for select in ["@", "[@] | [0]", "{a: @} | a", "to_array({a: @})[0].a"] {
            let value = if value.is_null() { continue } else { &value };
            let written = rendered(&text, select, Format::Json).unwrap();
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
        }
    }

    #[test]
    fn what_serde_json_refuses_is_refused(text in "[\\[{\"a:,\\\\u0d8}\\]1.e -]{0,12}") {
        let known = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        prop_assert_eq!(rendered(&text, "", Format::Json).is_ok(), known);
        if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
            let read = rendered(&text, "[@]", Format::Json);
            prop_assert!(read.is_ok() || text.trim() == "null" || read.unwrap_err().contains("twice"));
        } else if !known {
            prop_assert!(rendered(&text, "[@]", Format::Json).is_err());
        }
    }
}

/// Any JSON value.
pub(super) fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any_text().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map(any_text(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Any text, with the characters that formats trip over more often than chance has them.
pub(super) fn any_text() -> impl Strategy<Value = String> {
    let character = prop_oneof![
        any::<char>(),
        proptest::sample::select(
            "'\"\\$`#=:!{}[],&*?|<>~ \t\n\r\x0c\x7f\u{85}\u{a0}\u{2028}\u{feff}\u{fffe}😀-e1"
                .chars()
                .collect::<Vec<_>>()
        ),
    ];
    proptest::collection::vec(character, 0..12).prop_map(String::from_iter)
}
