use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value as Tree;

use super::*;

fn found(json: &str, selector: &str) -> Result<String, RenderError> {
    let found = Selector::new(selector).unwrap().find(&Json::parse(json).unwrap())?;
    let mut text = String::new();
    found.write(&mut |piece| text.push_str(piece));
    Ok(text)
}

#[test]
fn says_what_is_wrong_and_what_was_meant() {
    for (selector, message) in [
        ("", "a selector may not be empty: leave `select` out to take the whole value"),
        (
            "my-key",
            "`my-key` is not JMESPath: it cannot go on with '-' at column 3; a key of more than letters, digits and `_` needs double quotes: `\"my-key\"`",
        ),
        (
            "{a: my-key.b}",
            "`{a: my-key.b}` is not JMESPath: it cannot go on with '-' at column 7; a key of more than letters, digits and `_` needs double quotes: `\"my-key\"`",
        ),
        (
            "пароль.a",
            "`пароль.a` is not JMESPath: it cannot go on with 'п' at column 1; a key of more than letters, digits and `_` needs double quotes: `\"пароль\"`",
        ),
        (
            "my key",
            "`my key` is not JMESPath: it cannot go on with 'k' at column 4; a key of more than letters, digits and `_` needs double quotes: `\"my key\"`",
        ),
        (
            "2fa",
            "`2fa` is not JMESPath: it cannot go on with '2' at column 1; a key of more than letters, digits and `_` needs double quotes: `\"2fa\"`",
        ),
        (
            "$.password",
            "`$.password` is not JMESPath: it cannot go on with '$' at column 1; JMESPath has no `$` for the whole value: start with the key",
        ),
        (
            ".password",
            "`.password` is not JMESPath: it cannot go on with '.' at column 1; a selector starts with the key, and `.` joins keys: `db.password`",
        ),
        ("a[?b = 'c']", "`a[?b = 'c']` is not JMESPath: it cannot go on with '=' at column 6; comparing is `==`"),
        ("foo(", "`foo(` is not JMESPath: it ends too early"),
        ("a.\"b", "`a.\"b` is not JMESPath: the \" at column 3 is not closed"),
        ("'password'", "`'password'` is a constant, not a key: write the key bare, or in double quotes"),
        ("a[?lenght(@)]", "`lenght` at column 4 is not a function of JMESPath; did you mean `length`?"),
        ("sort_by(a, b)", "sort_by() at column 1 takes an array, and an expression such as `&name`"),
        (
            "x\u{2028}y\n- path: /etc",
            "`x\\u{2028}y\\n- path: /etc` is not JMESPath: it cannot go on with '\\u{2028}' at column 2",
        ),
        ("{a: b,\n\"a\": c}", "`{a: b,\\n\"a\": c}` names the key `a` twice: remove one"),
        ("'a\nb'", "`'a\\nb'` is a constant, not a key: write the key bare, or in double quotes"),
        ("a.[&b]", "`&` at column 4 makes an expression for `map`, `sort_by`, `min_by` or `max_by` only"),
        ("{a: b, a: c}", "`{a: b, a: c}` names the key `a` twice: remove one"),
        ("a[::0]", "the slice that ends at column 6 has the step 0, which goes nowhere"),
        (
            "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!a",
            "a selector may nest at most 40 operators, and this goes deeper at column 41",
        ),
    ] {
        assert_eq!(Selector::new(selector).unwrap_err().to_string(), message);
    }
    let nothing = found("{}", "a.\n\"b\"").unwrap_err().to_string();
    assert!(nothing.starts_with("`a.\\n\"b\"` selects nothing"), "{nothing}");
    assert_eq!(Selector::new(&"a".repeat(1025)), Err(SelectorError::TooLong(1025)));
}

#[test]
fn equal_by_text_and_free_to_cross_threads() {
    fn shared<T: Send + Sync + Clone + Eq + Hash>(_: &T) {}
    let selector = Selector::new("a.b").unwrap();
    shared(&selector);
    assert_eq!(selector, Selector::new("a.b").unwrap());
    assert_ne!(selector, Selector::new("a . b").unwrap());
    assert_eq!(format!("{selector:?} {}", selector.as_str()), "Selector(\"a.b\") a.b");
}

#[test]
fn keeps_order_and_digits_through_every_construct() {
    let json = r#"{"z": {"b": 1.50, "a": 12345678901234567890123}, "list": [{"id": 9007199254740993, "k": 2.0}, {"id": 9007199254740992, "k": 1.00}]}"#;
    for (selector, result) in [
        ("z", r#"{"b":1.50,"a":12345678901234567890123}"#),
        ("z.*", "[1.50,12345678901234567890123]"),
        ("keys(@)", r#"["z","list"]"#),
        ("values(z)", "[1.50,12345678901234567890123]"),
        ("{b: z.a, a: z.b}", r#"{"b":12345678901234567890123,"a":1.50}"#),
        ("merge(z, `{\"c\": 1.10, \"b\": 2.20}`)", r#"{"b":2.20,"a":12345678901234567890123,"c":1.10}"#),
        ("list[?id == `9007199254740992`].k | [0]", "1.00"),
        ("list[?id < `9007199254740993`].id", "[9007199254740992]"),
        ("sort_by(list, &id)[*].k", "[1.00,2.0]"),
        ("max_by(list, &id).id", "9007199254740993"),
        ("min(list[].k)", "1.00"),
        ("reverse(list)[0].k", "1.00"),
        ("to_string(z.b)", "\"1.50\""),
        ("to_number('1.50')", "1.50"),
        ("abs(`-1.50`)", "1.50"),
        ("ceil(`12345678901234567890123`)", "12345678901234567890123"),
        ("sum(`[1, 2.5]`)", "3.5"),
        ("sum(`[1, 2]`)", "3"),
        ("[nope, z.b] | [?@] | [0]", "1.50"),
        ("nope || z.b", "1.50"),
        ("list[*].{k: k, n: n}", r#"[{"k":2.0,"n":null},{"k":1.00,"n":null}]"#),
        ("list[::-2147483647].k", "[1.00]"),
        ("list[::2147483647].k", "[2.0]"),
    ] {
        assert_eq!(found(json, selector).unwrap(), result, "{selector}");
    }
    assert_eq!(
        found(json, "sum(list[].id)").unwrap_err().to_string(),
        "`sum(list[].id)`: sum() goes beyond 2^53, above which digits would be lost"
    );
}

#[test]
fn numbers_compare_by_value_to_the_last_digit() {
    for (smaller, greater) in [
        ("-1", "0"),
        ("-2", "-1"),
        ("-1e5", "-1e-5"),
        ("0", "1e-400"),
        ("1e400", "1e401"),
        ("0.30000000000000004", "0.30000000000000005"),
        ("99999999999999999999", "100000000000000000000"),
        ("1e-99999999999999999999", "1e99999999999999999999"),
    ] {
        assert_eq!(found(&format!("[{smaller},{greater}]"), "[0] < [1]").unwrap(), "true", "{smaller} {greater}");
    }
    for equal in ["[1, 1.0]", "[1e2, 100.00]", "[0, -0.0e5]", "[-0.01, -1E-2]"] {
        assert_eq!(found(equal, "[0] == [1]").unwrap(), "true", "{equal}");
    }
}

/// Each would double the result, or its cost, with every few characters.
#[test]
fn work_is_bounded() {
    let json = format!("[{}]", vec![r#"{"a": "b"}"#; 5000].join(","));
    let literal = "`[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]`";
    let nested = |inner: String, _| format!("length(map(&{inner}, {literal}))");
    for selector in [
        format!("@{}", "|[@,@]".repeat(19)),
        format!("@{}", "|[@,@][]".repeat(9)),
        format!("to_string(@){}", "|to_string([@,@])".repeat(9)),
        format!("@{}", "|[@,@]".repeat(15)) + "|@==@",
        (0..9).fold("type(@)".to_owned(), nested),
        "join(to_string(@), @[].a)".to_owned(),
    ] {
        let begun = Instant::now();
        let error = found(&json, &selector).unwrap_err();
        assert!(matches!(error, RenderError::TooMuch { .. }), "{selector} {error}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{selector} took {:?}", begun.elapsed());
    }
}

/// A quarter of the stack that Rust gives a thread, and less than musl's default leaves free.
const SMALL_STACK: usize = 512 << 10;

fn with_small_stack(test: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(SMALL_STACK).spawn(test).unwrap().join().unwrap();
}

#[test]
fn the_deepest_selectors_fit_a_small_stack() {
    let deepest = |unit: &str, end: &str| {
        let grown = (1..=LENGTH_MAX / unit.len()).map(|count| unit.repeat(count) + end);
        grown
            .map(|text| Selector::new(&text))
            .take_while(|made| !matches!(made, Err(SelectorError::TooDeep { .. })))
            .count()
    };
    with_small_stack(move || {
        for (unit, end) in [
            ("!", "a"),
            ("&", "a"),
            ("(", "a"),
            ("[", "a"),
            ("{a:", "a"),
            ("[?", "a"),
            ("a[?", "a"),
            ("length(", "a"),
            ("map(&", "a"),
            ("[*]", ""),
            ("[]", ""),
            ("[?a]", ""),
            ("[1:]", ""),
            ("*.", "a"),
            ("a.*.", "a"),
            ("a.", "a"),
            ("a|", "a"),
            ("a||", "a"),
            ("a&&", "a"),
            ("a==", "a"),
            ("a.[", "a"),
            ("a.{b:", "a"),
            ("`[", ""),
            ("`[{\"a\":", ""),
        ] {
            let accepted = deepest(unit, end);
            assert!(accepted <= NESTING_MAX, "{unit} {accepted}");
        }
        let json = Json::parse(&("[".repeat(128) + "1" + &"]".repeat(128))).unwrap();
        for (open, inside, close) in [
            ("!", "@", ""),
            ("(", "@", ")"),
            ("[", "@", "]"),
            ("{a:", "@", "}"),
            ("@|", "@", ""),
            ("length(", "@", ")"),
            ("to_array(", "@", ")"),
            ("[0].", "[@]", ""),
            ("[0]|", "[@]", ""),
            ("[*]", "", ""),
            ("[?@]", "", ""),
            ("[?", "@", "]"),
            ("", "`[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]` == @", ""),
            ("[]", "", ""),
            ("@||", "@", ""),
            ("@&&", "@", ""),
            ("map(&", "@", ",@)"),
            ("not_null(", "@", ")"),
        ] {
            for count in 0..=NESTING_MAX {
                if let Ok(selector) = Selector::new(&(open.repeat(count) + inside + &close.repeat(count))) {
                    let found = selector.find(&json);
                    let mut length = 0;
                    if let Ok(found) = found {
                        found.write(&mut |piece| length += piece.len());
                    }
                }
            }
        }
    });
}

#[test]
fn deep_json_fits_a_small_stack() {
    with_small_stack(|| {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[[],", "]")] {
            assert!(Json::parse(&(open.repeat(127) + "[]" + &close.repeat(127))).is_ok());
            for depth in [129, 10_000] {
                let refused = Json::parse(&(open.repeat(depth) + "1" + &close.repeat(depth)));
                assert_eq!(refused.err(), Some(RenderError::TooDeep));
            }
        }
    });
}

#[test]
fn token_soup_fits_a_small_stack() {
    let token = proptest::sample::select(vec![
        "a", "b", "\"c\"", "'d'", "`1`", "`[{}]`", ".", ".", "[", "]", "[]", "[*]", "[?", "[0]", "[::2]", "{a:", "{",
        "}", "(", ")", "!", "&", "&&", "|", "||", "==", "<", "*", "@", ",", ":", "1", "-1", "length(", "map(&",
        "sort_by(", " ",
    ]);
    let soup = proptest::collection::vec(token, 0..120).prop_map(|tokens| tokens.concat());
    with_small_stack(move || {
        let json = Json::parse(r#"{"a": [{"a": 1, "b": ["x"]}, [2]], "b": {"a": "y"}, "c": null}"#).unwrap();
        proptest!(ProptestConfig::with_cases(4000), |(text in soup)| {
            if let Ok(selector) = Selector::new(&text) {
                let _ = selector.find(&json);
            }
        });
    });
}

/// Expressions that parse, over the keys that [`documents`] have.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(vec![
        "a",
        "b",
        "c",
        "@",
        "`1`",
        "'x'",
        "`[1,\"x\"]`",
        "`{\"a\":[2]}`",
        "`null`",
        "`true`",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(4, 24, 3, |inner| {
        let postfix = proptest::sample::select(vec![
            ".a",
            ".b",
            "[0]",
            "[-1]",
            "[*]",
            "[]",
            ".*",
            "[1:]",
            "[::-1]",
            "[:-1]",
            "[?a]",
            "[*].b",
            "[].c",
            ".*.a",
            "[?@==`1`]",
        ]);
        let unary = proptest::sample::select(vec![
            "!(",
            "length(",
            "keys(",
            "values(",
            "type(",
            "to_array(",
            "reverse(",
            "sort(",
            "max(",
            "min(",
            "sum(",
            "to_string(",
            "map(&a,",
            "map(&@,",
            "not_null(",
        ]);
        let binary = proptest::sample::select(vec![" || ", " && ", " == ", " != ", " < ", " >= ", " | "]);
        prop_oneof![
            (inner.clone(), postfix).prop_map(|(inner, postfix)| inner + postfix),
            (unary, inner.clone()).prop_map(|(open, inner)| format!("{open}{inner})")),
            (inner.clone(), binary, inner.clone()).prop_map(|(left, op, right)| format!("({left}){op}({right})")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("[{left}, {right}]")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{{a: {left}, b: {right}}}")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("contains({left}, {right})")),
            (inner.clone(), inner).prop_map(|(left, right)| format!("sort_by({left}, &{right})")),
        ]
    })
}

/// JSON over few keys, so that expressions meet something; the keys sorted, as the reference has them.
fn documents() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Tree::Null),
        any::<bool>().prop_map(Into::into),
        (-3..4).prop_map(Into::into),
        Just(1.5.into()),
        "[xy1]{0,2}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map("[abc]", inner, 0..4)
                .prop_map(|map| Tree::Object(map.into_iter().collect())),
        ]
    })
}

/// Texts that are numbers, as numbers: the reference writes the float that a sum of nothing is as `0.0`.
fn by_value(json: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match json {
        Value::String(text) => text.parse::<f64>().map_or(Value::String(text), Value::from),
        Value::Number(number) => number.as_f64().map_or(Value::Number(number), Value::from),
        Value::Array(items) => items.into_iter().map(by_value).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, by_value(value))).collect(),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The jmespath crate's own interpreter is the reference where its results are exact.
    #[test]
    fn agrees_with_the_reference(text in expressions(), json in documents()) {
        let Ok(selector) = Selector::new(&text) else { return Ok(()) };
        let expected = jmespath::compile(&text).unwrap().search(&json);
        let ours = found(&json.to_string(), selector.as_str());
        match (expected, ours) {
            (Ok(expected), Ok(ours)) => {
                let expected = serde_json::from_str(&expected.to_string()).unwrap();
                let ours = serde_json::from_str(&ours).unwrap();
                prop_assert_eq!(by_value(expected), by_value(ours));
            }
            // Stricter by design: a result that is null, or a part of it.
            (Ok(expected), Err(RenderError::Missing { .. })) => prop_assert!(expected.to_string().contains("null")),
            (Ok(_), Err(error)) => prop_assert!(false, "{}", error),
            (Err(expected), Ok(ours)) => prop_assert!(false, "{} {}", expected, ours),
            (Err(_), Err(_)) => {}
        }
    }
}
