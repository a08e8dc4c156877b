use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn applied(before: &Value, steps: &[Step]) -> Value {
    let patch: json_patch::Patch = serde_json::from_value(json!(steps)).unwrap();
    let mut object = before.clone();
    json_patch::patch(&mut object, &patch).unwrap();
    object
}

fn steps(before: &Value, after: &Value) -> Vec<String> {
    let steps = between(before, after);
    assert_eq!(applied(before, &steps), *after);
    steps.iter().map(|step| serde_json::to_string(step).unwrap()).collect()
}

#[test]
fn what_is_the_same_takes_no_step() {
    let pod = json!({ "spec": { "containers": [{ "name": "a" }], "x": [1, [2]], "y": null } });
    assert!(between(&pod, &pod).is_empty());
    assert!(between(&json!({ "a": 1, "b": 2 }), &json!({ "b": 2, "a": 1 })).is_empty());
}

#[test]
fn a_new_container_before_others_is_one_step() {
    let before = json!({ "c": [{ "name": "a", "x": 1 }, { "name": "b" }] });
    let after = json!({ "c": [{ "name": "new" }, { "name": "a", "x": 2 }, { "name": "b" }] });
    assert_eq!(
        steps(&before, &after),
        [r#"{"op":"add","path":"/c/0","value":{"name":"new"}}"#, r#"{"op":"replace","path":"/c/1/x","value":2}"#]
    );
}

#[test]
fn what_moves_is_taken_away_and_put_in_elsewhere() {
    let list = |names: &[&str]| json!(names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>());
    assert_eq!(
        steps(&list(&["a", "b", "c", "d"]), &list(&["b", "c", "d", "a"])),
        [r#"{"op":"remove","path":"/0"}"#, r#"{"op":"add","path":"/3","value":{"name":"a"}}"#]
    );
}

#[test]
fn lists_without_names_are_compared_from_both_ends() {
    assert_eq!(
        steps(&json!(["server", "--port=1"]), &json!(["coffer", "--", "server", "--port=1"])),
        [r#"{"op":"add","path":"/0","value":"coffer"}"#, r#"{"op":"add","path":"/1","value":"--"}"#]
    );
    assert_eq!(
        steps(&json!([1, 2, 3, 4]), &json!([1, 4])),
        [r#"{"op":"remove","path":"/2"}"#, r#"{"op":"remove","path":"/1"}"#]
    );
    let doubled = json!([{ "name": "a" }, { "name": "a" }]);
    assert_eq!(steps(&doubled, &json!([{ "name": "a" }])), [r#"{"op":"remove","path":"/1"}"#]);
}

#[test]
fn keys_are_escaped() {
    assert_eq!(
        steps(&json!({}), &json!({ "coffer.dev/a~b": "x" })),
        [r#"{"op":"add","path":"/coffer.dev~1a~0b","value":"x"}"#]
    );
}

#[test]
fn another_type_is_replaced_whole() {
    assert_eq!(
        steps(&json!({ "a": [1] }), &json!({ "a": { "0": 1 } })),
        [r#"{"op":"replace","path":"/a","value":{"0":1}}"#]
    );
    assert_eq!(steps(&json!(null), &json!([])), [r#"{"op":"replace","path":"","value":[]}"#]);
}

#[test]
fn long_lists_take_no_long_time() {
    let list = |names: Vec<usize>| json!(names.iter().map(|n| json!({ "name": n.to_string() })).collect::<Vec<_>>());
    let before = list((0..20_000).collect());
    let after = list((0..20_000).rev().collect());
    let begun = std::time::Instant::now();
    assert_eq!(between(&before, &after).len(), 2 * 19_999);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// Few names and keys, so that two values often have them in common.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4).prop_map(Value::from),
        "[ab~/]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        let named =
            ("[a-e]", "[a-c]", inner.clone()).prop_map(|(name, key, value)| json!({ "name": name, key: value }));
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec(named, 0..6).prop_map(Value::from),
            proptest::collection::vec(("[a-c~/]{1,2}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn applied_it_gives_what_was_wanted(before in value(), after in value()) {
        let steps = between(&before, &after);
        prop_assert_eq!(&applied(&before, &steps), &after);
        prop_assert_eq!(&between(&before, &after), &steps);
        prop_assert_eq!(steps.is_empty(), before == after);
    }
}
