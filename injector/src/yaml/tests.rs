use proptest::prelude::*;

use super::*;

fn only(text: &str) -> Rc<Node> {
    first(text).unwrap().0.unwrap()
}

/// What sigs.k8s.io/yaml 1.6.0 makes of a scalar for a field of the type string; `None` leaves it empty.
#[test]
fn scalars_are_read_as_a_go_program_reads_them() {
    for (text, expected) in SCALARS {
        let node = only(&format!("- {text}\n"));
        let Kind::List(items) = &node.kind else { panic!("{text}") };
        assert_eq!(items[0].text().as_deref(), *expected, "{text}");
    }
}

const SCALARS: &[(&str, Option<&str>)] = &[
    ("", None),
    ("~", None),
    ("null", None),
    ("Null", None),
    ("nUll", Some("nUll")),
    ("'null'", Some("null")),
    ("y", Some("true")),
    ("Y", Some("true")),
    ("yes", Some("true")),
    ("yEs", Some("yEs")),
    ("on", Some("true")),
    ("True", Some("true")),
    ("n", Some("false")),
    ("No", Some("false")),
    ("OFF", Some("false")),
    ("off ", Some("false")),
    ("\"y\"", Some("y")),
    ("'on'", Some("on")),
    ("!!str y", Some("y")),
    ("!!str 0600", Some("0600")),
    ("!!int '0600'", Some("384")),
    ("3", Some("3")),
    ("0600", Some("384")),
    ("0o600", Some("384")),
    ("00", Some("0")),
    ("08", Some("8")),
    ("0x1F", Some("31")),
    ("0b101", Some("5")),
    ("-0b101", Some("-5")),
    ("+5", Some("5")),
    ("-5", Some("-5")),
    ("-0", Some("0")),
    ("1_000", Some("1000")),
    ("1__0", Some("10")),
    ("1_0.5", Some("10.5")),
    ("_1", Some("_1")),
    ("123456789012", Some("123456789012")),
    ("9223372036854775807", Some("9223372036854775807")),
    ("18446744073709551615", Some("18446744073709551615")),
    ("+18446744073709551615", Some("1.8446744e+19")),
    ("-9223372036854775808", Some("-9223372036854775808")),
    ("18446744073709551616", Some("1.8446744e+19")),
    ("12345678901234567890123456789012", Some("1.2345679e+31")),
    ("1.10", Some("1.1")),
    ("1.", Some("1")),
    (".5", Some("0.5")),
    ("-.5", Some("-0.5")),
    ("-0.0", Some("-0")),
    ("1e3", Some("1000")),
    ("1e5", Some("100000")),
    ("1e6", Some("1e+06")),
    ("1E-5", Some("1e-05")),
    ("0.0001", Some("0.0001")),
    ("123456.7", Some("123456.7")),
    ("1234567.5", Some("1.2345675e+06")),
    ("1e39", Some("+Inf")),
    ("1e999", Some("1e999")),
    (".inf", Some("+Inf")),
    ("-.inf", Some("-Inf")),
    (".nan", Some("NaN")),
    ("..", Some("..")),
    (".", Some(".")),
    ("-", None),
    ("+", Some("+")),
    ("1.2.3", Some("1.2.3")),
    ("2020-01-01", Some("2020-01-01")),
    ("12:30:45", Some("12:30:45")),
    ("0x", Some("0x")),
    ("0xZZ", Some("0xZZ")),
    ("1e", Some("1e")),
    ("arn:aws:ssm:eu-west-1:123456789012:parameter/a", Some("arn:aws:ssm:eu-west-1:123456789012:parameter/a")),
    ("plain text # and a comment", Some("plain text")),
];

#[test]
fn the_first_document_is_read_and_the_second_noticed() {
    for text in ["", "\n\n", "# nothing\n"] {
        assert!(first(text).unwrap().0.is_none(), "{text:?}");
    }
    assert!(only("---\n").is_null());
    assert!(first("---\n- a\n...\n").unwrap().1.is_none());
    let (document, more) = first("- a\n---\n}{ no yaml").unwrap();
    assert!(matches!(&document.unwrap().kind, Kind::List(items) if items.len() == 1));
    assert_eq!(more.unwrap().line, 2);
    assert_eq!(all("a: 1\n---\nb: 2\n").unwrap().len(), 2);
}

#[test]
fn aliases_and_merges_repeat_what_they_name() {
    let node = only("- &base {a: 1, b: 2}\n- *base\n- {b: 0, <<: *base, a: 3}\n- {<<: [*base, {a: 9, c: 9}]}\n");
    let Kind::List(items) = &node.kind else { panic!() };
    let text = |at: usize, key: &str| items[at].get(key).and_then(|node| node.text());
    assert_eq!(text(1, "b").as_deref(), Some("2"));
    assert_eq!((text(2, "a").as_deref(), text(2, "b").as_deref()), (Some("3"), Some("2")));
    assert_eq!((text(3, "a").as_deref(), text(3, "c").as_deref()), (Some("1"), Some("9")));
}

#[test]
fn what_is_no_yaml_is_told_with_place_and_fix() {
    for (text, expected) in [
        (
            "- a: b: c\n",
            "mapping values are not allowed in this context; a text with `: ` in it needs quotes, and keys of one mapping the same indentation",
        ),
        ("a:\n\t- b\n", "tabs disallowed within this context (block indentation); indent with spaces"),
        ("- &a [*a]\n", "this alias stands in what it repeats"),
        ("? [a]\n: b\n", "a key of a mapping is a text, and this is a list"),
        ("~: b\n", "a key is missing before this `:`"),
        ("<<: a\n", "`<<` merges a mapping, or a list of mappings"),
        ("!!binary aGk=\n", "`!!binary` is not read: write the text itself"),
    ] {
        let fault = first(text).unwrap_err();
        assert_eq!(fault.text, expected, "{text:?}");
        assert!(fault.place.line > 0, "{text:?}");
    }
}

/// A bomb: each line holds the one before ten times.
fn bomb(lines: usize) -> String {
    let mut text = "- &a0 xxxxxxxxxx\n".to_owned();
    for line in 1..lines {
        let before = format!("*a{}, ", line - 1).repeat(10);
        text.push_str(&format!("- &a{line} [{}]\n", before.trim_end_matches(", ")));
    }
    text
}

#[test]
fn bombs_of_every_kind_are_refused() {
    assert!(first(&bomb(3)).is_ok());
    let too_long = "with its aliases written out this is far too long: write out only what is needed";
    assert_eq!(first(&bomb(12)).unwrap_err().text, too_long);
    for open in ["[", "{a: ", "- ", "? "] {
        assert!(first(&open.repeat(100_000)).is_err(), "{open}");
    }
    assert!(first(&format!("{}{}", "[".repeat(30), "]".repeat(30))).is_ok());
    let merges = format!("- &m {{{}}}\n- {{{}}}\n", "a: b, ".repeat(1000), "<<: *m, ".repeat(1000));
    assert_eq!(first(&merges).unwrap_err().text, too_long);
}

proptest! {
    #[test]
    fn nothing_panics_and_nothing_grows(
        text in prop_oneof![
            any::<String>(),
            "[-\\[\\]{}:,?&*a!|>'\"#%~<0. \n\t]{0,60}",
            "(- |  |a: |&a |\\*a|<<: |\\[|\\]|\\{|\\}|, |!!str |!!int |\n|\\||'|\"|0x1|1e5|---\n|b){0,40}",
        ],
    ) {
        if let Ok((Some(node), _)) = first(&text) {
            prop_assert!(node.weight <= (text.len() * EXPANSION_MAX).max(1 << 20));
        }
        let _ = all(&text);
    }
}
