//! Whatever comes as a pod: no panic, and a problem where it is none.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::webhook::patch;

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "api",
            "coffer",
            "coffer-secrets",
            "true",
            "Always",
            "/run/coffer/coffer",
            "exec",
            "--"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = prop::sample::select(vec![
            "name",
            "env",
            "volumeMounts",
            "mountPath",
            "command",
            "value",
            "securityContext",
            "runAsUser",
            "resources",
            "limits",
            "memory",
            "restartPolicy",
            "fsGroup",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5).prop_map(|entries| Value::Object(
                entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

/// A pod that asks for something, with anything in one place.
fn spoiled() -> impl Strategy<Value = Value> {
    let whole = json!({
        "metadata": { "name": "api", "annotations": {
            "coffer.dev/inject": "true", "coffer.dev/file.db": "secretsmanager:prod/db", "coffer.dev/mode": "sidecar",
            "coffer.dev/isolate-identity": "false", "eks.amazonaws.com/skip-containers": "x", "coffer.dev/status": "x",
        } },
        "spec": {
            "os": { "name": "linux" }, "nodeSelector": { "a": "b" }, "restartPolicy": "Always", "hostNetwork": true,
            "shareProcessNamespace": false, "securityContext": { "fsGroup": 1, "runAsUser": 1 },
            "initContainers": [{ "name": "coffer", "command": ["/coffer"], "restartPolicy": "Always", "env": [{ "name": "A", "value": "b" }] }],
            "containers": [{
                "name": "api", "image": "x", "command": ["/run/coffer/coffer", "exec", "--", "a"], "args": ["b"],
                "env": [{ "name": "AWS_ROLE_ARN", "value": "x" }], "resources": { "limits": { "memory": "1Mi" } },
                "volumeMounts": [{ "name": "coffer-program", "mountPath": "/run/coffer" }],
                "securityContext": { "runAsUser": 1 },
            }],
            "volumes": [{ "name": "coffer-secrets", "emptyDir": {} }, { "name": "data", "hostPath": { "path": "/x" } }],
        },
    });
    let mut places = Vec::new();
    collect(&whole, "", &mut places);
    (prop::sample::select(places), anything(), any::<bool>(), prop::sample::select(vec!["sidecar", "init", "exec"]))
        .prop_map(move |(place, value, remove, mode)| {
            let mut pod = whole.clone();
            pod["metadata"]["annotations"]["coffer.dev/mode"] = json!(mode);
            let (parent, key) = place.rsplit_once('/').unwrap();
            match pod.pointer_mut(parent) {
                Some(Value::Object(object)) if remove => {
                    object.remove(&key.replace("~1", "/"));
                }
                _ => *pod.pointer_mut(&place).unwrap() = value,
            }
            pod
        })
}

fn collect(value: &Value, place: &str, places: &mut Vec<String>) {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, value)| (key.replace('/', "~1"), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (key, value) in below {
        places.push(format!("{place}/{key}"));
        collect(value, &format!("{place}/{key}"), places);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_spoiled_pod_is_mutated_or_told(pod in spoiled(), native_sidecars: bool) {
        let surroundings = Surroundings { native_sidecars, role: None };
        let _ = service_account(&pod);
        match mutate(&pod, &settings(), &surroundings) {
            Ok(Some(mutation)) => {
                let steps = patch::between(&pod, &mutation.pod);
                prop_assert!(!steps.is_empty());
                let again = mutate(&mutation.pod, &settings(), &surroundings);
                prop_assert_eq!(again.map(|again| again.unwrap().pod.to_string()), Ok(mutation.pod.to_string()));
            }
            Ok(None) => {}
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|problem| !problem.text.is_empty()));
            }
        }
    }

    #[test]
    fn anything_at_all_is_no_reason_to_panic(pod in anything()) {
        let _ = mutate(&pod, &settings(), &native());
        let in_metadata = json!({ "metadata": pod, "spec": pod });
        let _ = mutate(&in_metadata, &settings(), &native());
        let asks = json!({ "metadata": { "annotations": { "coffer.dev/inject": "true", "coffer.dev/file.a": "secretsmanager:a" } }, "spec": pod });
        let _ = mutate(&asks, &settings(), &native());
    }
}
