use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use coffer_runtime::Secret;
use proptest::prelude::*;
use serde_json::{Value as Tree, json};

use super::Format;
use crate::render::tests::{any_text, json};
use crate::render::{Value, render};

fn rendered(value: &Tree, format: Format) -> Vec<u8> {
    let value = Value::Text(value.to_string().into());
    render(&value, None, format).unwrap().expose().to_vec()
}

fn lines(value: &Tree, format: Format) -> String {
    String::from_utf8(rendered(value, format)).unwrap()
}

#[test]
fn dotenv_quotes_only_what_needs_it() {
    for (value, line) in [
        (json!("plain-1.2/3:4,5@6%7+8=9"), "K=plain-1.2/3:4,5@6%7+8=9\n"),
        (json!(""), "K=\n"),
        (json!(true), "K=true\n"),
        (json!("two words # $HOME \"x\" \\n\n"), "K='two words # $HOME \"x\" \\n\n'\n"),
        (json!("it's \"so\""), "K=\"it's \\\"so\\\"\"\n"),
        (json!("C:\\"), "K=\"C:\\\\\"\n"),
        (json!("it's $5"), "K='it'\\''s $5'\n"),
        (json!("~"), "K='~'\n"),
        (json!({"a": [1.5]}), "K='{\"a\":[1.5]}'\n"),
    ] {
        assert_eq!(lines(&json!({ "K": value }), Format::Dotenv), line);
    }
    assert_eq!(lines(&json!({"B": 1, "A": 2}), Format::Dotenv), "B=1\nA=2\n");
    assert_eq!(lines(&json!({}), Format::Dotenv), "");
}

#[test]
fn yaml_quotes_every_string() {
    let value = json!({"b": "yes", "a": "1\u{85}\u{7f}", "": null, "n": [1.5, {"k": "no"}], "t": true});
    assert_eq!(
        lines(&value, Format::Yaml),
        "\"b\": \"yes\"\n\"a\": \"1\\u0085\\u007F\"\n\"\": null\n\"n\": [1.5,{\"k\":\"no\"}]\n\"t\": true\n"
    );
    assert_eq!(lines(&json!({}), Format::Yaml), "{}\n");
}

#[test]
fn properties_escapes_as_java_does() {
    let value = json!({"a b": "  x y ", "c:d": "é😀=\\\n\u{0}", "n": 1, "o": {"k": 1}});
    assert_eq!(
        lines(&value, Format::Properties),
        "a\\ b=\\  x y \nc\\:d=\\u00E9\\uD83D\\uDE00\\=\\\\\\n\\u0000\nn=1\no={\"k\"\\:1}\n"
    );
}

/// What `sh` has in its environment after it has read the file.
pub(in crate::render) fn shell_reads(file: &[u8]) -> HashMap<Vec<u8>, Vec<u8>> {
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(file).unwrap();
    let output = Command::new("/bin/sh")
        .args(["-c", "set -ea; . \"$1\"; exec /usr/bin/env -0", "sh"])
        .arg(path.path())
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let variables = output.stdout.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    variables
        .map(|variable| {
            let split = variable.iter().position(|byte| *byte == b'=').unwrap();
            (variable[..split].to_vec(), variable[split + 1..].to_vec())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_shell_reads_dotenv_exactly(values in proptest::collection::vec(any_text(), 1..24)) {
        let values: Vec<String> = values.into_iter().map(|value| value.replace('\0', "")).collect();
        let named = values.iter().enumerate().map(|(number, value)| (format!("K_{number}"), json!(value)));
        let read = shell_reads(&rendered(&Tree::Object(named.collect()), Format::Dotenv));
        for (number, value) in values.iter().enumerate() {
            let found = read.get(format!("K_{number}").as_bytes()).map(|value| OsStr::from_bytes(value));
            prop_assert_eq!(found, Some(OsStr::new(value)));
        }
    }
}

proptest! {
    #[test]
    fn raw_and_base64_keep_every_byte(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let value = Value::Binary(Secret::copy_of(&bytes));
        let raw = render(&value, None, Format::Raw).unwrap();
        prop_assert_eq!(raw.expose(), &bytes[..]);
        let text = render(&value, None, Format::Base64).unwrap();
        let text = str::from_utf8(text.expose()).unwrap();
        prop_assert_eq!(aws_smithy_types::base64::decode(text).unwrap(), bytes);
    }

    #[test]
    fn a_json_reader_reads_json(value in json()) {
        prop_assert_eq!(serde_json::from_slice::<Tree>(&rendered(&value, Format::Json)).unwrap(), value);
    }

    #[test]
    fn dotenvy_reads_dotenv(value in any_text()) {
        let value = value.replace(['\0', '\r'], "");
        // The one writing of such a value that a shell reads is not one this reader reads.
        prop_assume!(!(value.contains(['$', '`']) && value.contains('\\')));
        let file = rendered(&json!({"A": value, "B": "1"}), Format::Dotenv);
        let read: Vec<_> = dotenvy::from_read_iter(&*file).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, [("A".to_owned(), value), ("B".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn a_yaml_reader_reads_yaml(entries in proptest::collection::btree_map(any_text(), json(), 0..5)) {
        let value = Tree::Object(entries.into_iter().collect());
        prop_assert_eq!(serde_saphyr::from_str::<Tree>(&lines(&value, Format::Yaml)).unwrap(), value);
    }

    #[test]
    fn a_properties_reader_reads_properties(entries in proptest::collection::btree_map(any_text(), any_text(), 0..5)) {
        // This reader knows no surrogate pairs, which Java writes and reads.
        let basic = |text: String| text.replace(|c| c > '\u{ffff}', "");
        let entries: BTreeMap<_, _> = entries.into_iter().map(|(key, value)| (basic(key), basic(value))).collect();
        let file = rendered(&json!(entries), Format::Properties);
        prop_assert!(file.is_ascii());
        let read: BTreeMap<_, _> = java_properties::read(&*file).unwrap().into_iter().collect();
        prop_assert_eq!(read, entries);
    }
}
