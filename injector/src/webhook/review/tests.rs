//! Reviews as they come, and as they should not.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;

fn reviewer() -> Reviewer {
    let settings = Settings {
        image: "registry.example/coffer:1".to_owned(),
        pull_policy: None,
        run_as_user: Some(10002),
        seccomp_profile: None,
        env: Vec::new(),
        token_audience: "sts.amazonaws.com".to_owned(),
    };
    Reviewer::new(settings, None, watch::channel(Some(true)).1, Metrics::default())
}

fn answer(body: &[u8]) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(reviewer().answer(body, RoleUnknown::GoOn, None))
}

/// What the API server does with an answer.
fn response(answer: &Answer) -> Value {
    assert_eq!(answer.status, hyper::StatusCode::OK);
    let review: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&review["apiVersion"], &review["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    review["response"].clone()
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "annotations": {
            "coffer.dev/inject": "true",
            "coffer.dev/file.db": "secretsmanager:prod/db",
        }},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    })
}

fn review(object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "object": object,
        },
    })
}

#[test]
fn a_pod_that_asks_gets_a_patch_and_then_none() {
    let answered = answer(review(&pod()).to_string().as_bytes());
    assert_eq!(answered.outcome, Outcome::Injected);
    let response = response(&answered);
    let patch = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut patched = pod();
    json_patch::patch(&mut patched, &patch).unwrap();
    assert_eq!(answer(review(&patched).to_string().as_bytes()).outcome, Outcome::Complete);
}

#[test]
fn what_an_old_kubernetes_has_is_an_init_container_and_another() {
    let mut reviewer = reviewer();
    reviewer.native_sidecars = watch::channel(Some(false)).1;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let old = runtime.block_on(reviewer.answer(review(&pod()).to_string().as_bytes(), RoleUnknown::GoOn, None));
    assert_eq!(old.outcome, Outcome::Injected);
    reviewer.native_sidecars = watch::channel(None).1;
    let unknown = runtime.block_on(reviewer.answer(review(&pod()).to_string().as_bytes(), RoleUnknown::GoOn, None));
    assert_ne!(old, unknown);
    assert_eq!(unknown, answer(review(&pod()).to_string().as_bytes()));
}

#[test]
fn what_comes_beside_the_request_is_passed_over() {
    let mut more = review(&pod());
    more["request"]["unheardOf"] = json!({"a": [1, 2]});
    more["response"] = json!({"uid": "another"});
    assert_eq!(answer(more.to_string().as_bytes()), answer(review(&pod()).to_string().as_bytes()));
}

/// Any JSON, of the kind that annotations and pods are made of.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,30}".prop_map(Value::from),
        "coffer(.dev/[a-z.-]{0,12}|-secrets)?".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("(name|value|image|[a-z]{1,8}|coffer.dev/[a-z-]{1,12})", inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Puts a value in the place of the one that is found by going down those ways.
fn put(at: &mut Value, ways: &[usize], value: Value) {
    let Some((way, rest)) = ways.split_first() else { return *at = value };
    let inner = match at {
        Value::Object(map) if !map.is_empty() => {
            let way = way % map.len();
            map.values_mut().nth(way)
        }
        Value::Array(list) if !list.is_empty() => {
            let way = way % list.len();
            list.get_mut(way)
        }
        _ => None,
    };
    match inner {
        Some(inner) => put(inner, rest, value),
        None => *at = value,
    }
}

proptest! {
    #[test]
    fn no_body_is_a_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let answered = answer(&body);
        prop_assert_eq!(answered.outcome, Outcome::Invalid);
        prop_assert_eq!(answered.status, hyper::StatusCode::BAD_REQUEST);
        let text = String::from_utf8(answered.body).unwrap();
        prop_assert!(text.ends_with('\n') && text.lines().count() == 1, "{}", text);
    }

    #[test]
    fn no_review_is_a_panic(ways in prop::collection::vec(any::<usize>(), 0..8), value in any_json(), more in any_json()) {
        let mut odd = review(&pod());
        odd["request"]["object"]["spec"]["more"] = more;
        put(&mut odd, &ways, value);
        let body = odd.to_string();
        let answered = answer(body.as_bytes());
        prop_assert_eq!(&answer(body.as_bytes()), &answered);
        if answered.status == hyper::StatusCode::OK {
            let response = response(&answered);
            prop_assert_eq!(&response["uid"], &odd["request"]["uid"]);
            prop_assert_eq!(response["allowed"] == true, response["status"].is_null());
            prop_assert!(response["allowed"] == true || response["patch"].is_null());
        } else {
            prop_assert_eq!(answered.status, hyper::StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn any_annotations_are_answered(pairs in prop::collection::btree_map("[a-z-]{1,14}", ".{0,60}", 0..5)) {
        let mut odd = pod();
        for (name, value) in pairs {
            odd["metadata"]["annotations"][format!("coffer.dev/{name}")] = json!(value);
        }
        let response = response(&answer(review(&odd).to_string().as_bytes()));
        prop_assert!(response["allowed"].is_boolean());
    }
}
