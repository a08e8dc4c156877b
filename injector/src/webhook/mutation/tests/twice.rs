//! A pod that comes again, after others have changed it.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::webhook::patch;

const ROLE: &str = "arn:aws:iam::123456789012:role/shop-api";

/// EKS's webhook (aws/amazon-eks-pod-identity-webhook, pkg/handler/handler.go), with a region and regional STS.
fn eks(pod: &Value, pod_identity: bool) -> Value {
    let mut pod = pod.clone();
    let skipped =
        pod["metadata"]["annotations"]["eks.amazonaws.com/skip-containers"].as_str().unwrap_or_default().to_owned();
    let (volume, folder, token) = match pod_identity {
        true => (
            "eks-pod-identity-token",
            "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount",
            "eks-pod-identity-token",
        ),
        false => ("aws-iam-token", "/var/run/secrets/eks.amazonaws.com/serviceaccount", "token"),
    };
    let file = format!("{folder}/{token}");
    let pair = match pod_identity {
        true => [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.as_str()),
        ],
        false => [("AWS_ROLE_ARN", ROLE), ("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str())],
    };
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            if skipped.split(',').any(|name| container["name"] == name) {
                continue;
            }
            let has = |name: &str| container["env"].as_array().is_some_and(|env| env.iter().any(|v| v["name"] == name));
            let mut new = Vec::new();
            if !has("AWS_STS_REGIONAL_ENDPOINTS") {
                new.push(json!({ "name": "AWS_STS_REGIONAL_ENDPOINTS", "value": "regional" }));
            }
            if !has("AWS_REGION") && !has("AWS_DEFAULT_REGION") {
                new.push(json!({ "name": "AWS_DEFAULT_REGION", "value": "eu-west-1" }));
                new.push(json!({ "name": "AWS_REGION", "value": "eu-west-1" }));
            }
            if !has(pair[0].0) && !has(pair[1].0) {
                new.extend(pair.iter().map(|(name, value)| json!({ "name": name, "value": value })));
            }
            push(container, "env", new);
            let mounted = container["volumeMounts"].as_array().is_some_and(|m| m.iter().any(|m| m["name"] == volume));
            if !mounted {
                push(container, "volumeMounts", vec![json!({ "name": volume, "readOnly": true, "mountPath": folder })]);
            }
        }
    }
    let volumes = pod["spec"].as_object_mut().unwrap().entry("volumes").or_insert_with(|| json!([]));
    let volumes = volumes.as_array_mut().unwrap();
    if !volumes.iter().any(|known| known["name"] == volume) {
        volumes.insert(
            0,
            json!({ "name": volume, "projected": { "sources": [{ "serviceAccountToken": { "path": token } }] } }),
        );
    }
    pod
}

fn push(container: &mut Value, list: &str, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    let list = container.as_object_mut().unwrap().entry(list).or_insert_with(|| json!([]));
    list.as_array_mut().unwrap().extend(items);
}

/// What the API server fills in.
fn defaulted(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let spec = pod["spec"].as_object_mut().unwrap();
    let is_on_host = spec.get("hostNetwork").is_some_and(|host| host == true);
    spec.entry("restartPolicy").or_insert_with(|| json!("Always"));
    spec.entry("terminationGracePeriodSeconds").or_insert_with(|| json!(30));
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let container = container.as_object_mut().unwrap();
            for (key, value) in
                [("terminationMessagePath", "/dev/termination-log"), ("imagePullPolicy", "IfNotPresent")]
            {
                container.entry(key).or_insert_with(|| json!(value));
            }
            let resources = container.entry("resources").or_insert_with(|| json!({}));
            for kind in ["limits", "requests"] {
                for quantity in
                    resources.get_mut(kind).and_then(Value::as_object_mut).into_iter().flat_map(|q| q.values_mut())
                {
                    *quantity = quantity::canonical(quantity);
                }
            }
            // A limit is a request where there is none.
            for (resource, limit) in resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default() {
                let requests = resources.as_object_mut().unwrap().entry("requests").or_insert_with(|| json!({}));
                requests.as_object_mut().unwrap().entry(resource).or_insert(limit);
            }
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                port.as_object_mut().unwrap().entry("protocol").or_insert_with(|| json!("TCP"));
                if is_on_host {
                    port["hostPort"] = port["containerPort"].clone();
                }
            }
            if let Some(probe) = container.get_mut("startupProbe") {
                probe["successThreshold"] = json!(1);
            }
            for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
                    field["apiVersion"] = json!("v1");
                }
            }
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(size) = volume.pointer_mut("/emptyDir/sizeLimit") {
            *size = quantity::canonical(size);
        }
        for kind in ["configMap", "downwardAPI", "projected"] {
            if let Some(source) = volume.get_mut(kind) {
                source["defaultMode"] = json!(420);
            }
            let fields = volume.pointer_mut(&format!("/{kind}/items")).and_then(Value::as_array_mut);
            for field in fields.into_iter().flatten().filter_map(|item| item.get_mut("fieldRef")) {
                field["apiVersion"] = json!("v1");
            }
        }
    }
    pod
}

fn again(pod: &Value, surroundings: &Surroundings) -> Value {
    mutate(pod, &settings(), surroundings).unwrap_or_else(|problems| panic!("{problems:?}")).unwrap().pod
}

fn pods() -> impl Strategy<Value = (Value, Surroundings)> {
    let modes = prop::sample::select(vec![
        vec![("mode", "sidecar")],
        vec![("isolate-identity", "true")],
        vec![("role-arn", "arn:aws:iam::123456789012:role/other"), ("region", "eu-central-1")],
        vec![("mode", "init"), ("isolate-identity", "true")],
        vec![("mode", "exec"), ("containers", "api"), ("on-change", "restart")],
        vec![("mode", "exec"), ("containers", "api"), ("role-arn", "arn:aws:iam::123456789012:role/other")],
        vec![("position", "last"), ("listen", "127.0.0.1:9999")],
        vec![("metrics", "9467")],
        vec![("metrics", "[::]:9467"), ("network", "host")],
        vec![("position", "after:migrate")],
        vec![("resources", "{requests: {cpu: 0.5, memory: 1024Mi}, limits: {memory: 2048Mi}}")],
        vec![("resources", "{limits: {cpu: 1000m, memory: 1e9}}"), ("size-limit", "1000000")],
        vec![("resources", "{requests: {cpu: 0.5}, limits: {ephemeral-storage: 1024Ki}}"), ("size-limit", "1.5Gi")],
        // Pods whose containers cannot all be wrapped, signalled or mounted into, once others have added theirs.
        vec![("mode", "exec"), ("command", "true")],
        vec![("mode", "exec"), ("command", "true"), ("only", "api"), ("on-change", "restart")],
        vec![("on-change", "{signal: HUP, process: nginx}")],
    ]);
    let around = (any::<bool>(), prop::option::of(Just(ROLE.to_owned())), any::<bool>(), any::<bool>(), any::<bool>());
    (modes, around).prop_map(|(annotations, (native_sidecars, role, pvc, job, config))| {
        let mut pod = json!({
            "metadata": { "name": "api", "annotations": { "coffer.dev/inject": "true" } },
            "spec": {
                "initContainers": [{ "name": "migrate", "image": "api:1" }],
                "containers": [
                    { "name": "api", "image": "api:1", "command": ["/server"], "env": [{ "name": "A", "value": "b" }] },
                    { "name": "metrics", "image": "metrics:1" },
                ],
            },
        });
        let has = |wanted: &str| annotations.iter().any(|(name, _)| *name == wanted);
        let config = config && !has("region") && !has("on-change");
        if has("command") {
            // All are wrapped, or with files the only one.
            pod["spec"]["initContainers"] = json!([]);
            pod["spec"]["containers"][1]["command"] = json!(["/metrics"]);
            if has("only") || config {
                pod["spec"]["containers"].as_array_mut().unwrap().truncate(1);
            }
        }
        if has("network") {
            pod["spec"]["hostNetwork"] = json!(true);
        }
        let is_bare = has("command") && !has("only") && !config;
        if annotations.iter().any(|(_, value)| value.contains("signal")) {
            pod["spec"]["shareProcessNamespace"] = json!(true);
            for container in pod["spec"]["containers"].as_array_mut().unwrap() {
                container["securityContext"] = json!({ "runAsUser": 1000 });
            }
        }
        let (name, value) = if config { ("config", "api-coffer") } else { ("file.db", "secretsmanager:prod/db") };
        let content = (!is_bare).then_some((name, value));
        for (name, value) in
            annotations.into_iter().chain(content).filter(|(name, _)| !["command", "only", "network"].contains(name))
        {
            pod["metadata"]["annotations"][format!("coffer.dev/{name}")] = json!(value);
        }
        if pvc {
            pod["spec"]["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "x" } }]);
        }
        if job {
            pod["spec"]["restartPolicy"] = json!("Never");
        }
        (pod, Surroundings { native_sidecars, role })
    })
}

/// What another webhook does.
fn others() -> impl Strategy<Value = fn(&Value) -> Value> {
    prop::sample::select(vec![
        (|pod| eks(pod, false)) as fn(&Value) -> Value,
        |pod| eks(pod, true),
        defaulted,
        |pod| {
            let mut pod = pod.clone();
            pod["spec"]["containers"].as_array_mut().unwrap().insert(0, json!({ "name": "istio-proxy", "image": "x" }));
            pod["spec"]["initContainers"]
                .as_array_mut()
                .unwrap()
                .insert(0, json!({ "name": "istio-init", "image": "x" }));
            pod
        },
        |pod| {
            let mut pod = pod.clone();
            let list = pod["spec"]["initContainers"].as_array_mut().unwrap();
            if !list.iter().any(|container| container["name"] == "linkerd-proxy") {
                list.push(json!({ "name": "linkerd-proxy", "restartPolicy": "Always" }));
            }
            pod
        },
        |pod| {
            let mut pod = pod.clone();
            for list in ["initContainers", "containers"] {
                for container in pod["spec"][list].as_array_mut().unwrap() {
                    push(container, "env", vec![json!({ "name": "DD_AGENT_HOST", "value": "x" })]);
                    push(container, "volumeMounts", vec![json!({ "name": "agent", "mountPath": "/agent" })]);
                }
            }
            push(&mut pod["spec"], "volumes", vec![json!({ "name": "agent", "emptyDir": {} })]);
            pod
        },
        |pod| {
            let mut pod = pod.clone();
            push(&mut pod["spec"], "containers", vec![json!({ "name": "late", "image": "x" })]);
            pod
        },
        |pod| {
            let mut pod = pod.clone();
            let mount = json!({ "name": "theirs", "mountPath": "/run/secrets/coffer/below" });
            push(
                &mut pod["spec"],
                "containers",
                vec![json!({ "name": "agent", "image": "x", "volumeMounts": [mount] })],
            );
            push(&mut pod["spec"], "volumes", vec![json!({ "name": "theirs", "emptyDir": {} })]);
            pod
        },
        // A mirror of images, AlwaysPullImages and LimitRanger.
        |pod| {
            let mut pod = pod.clone();
            for list in ["initContainers", "containers"] {
                for container in pod["spec"][list].as_array_mut().unwrap() {
                    let image = container["image"].as_str().unwrap_or_default().rsplit('/').next().unwrap().to_owned();
                    container["image"] = json!(format!("mirror.example/{image}"));
                    container["imagePullPolicy"] = json!("Always");
                    if container["resources"]["limits"]["cpu"].is_null() {
                        container["resources"]["limits"]["cpu"] = json!("500m");
                    }
                }
            }
            pod
        },
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_second_pass_changes_nothing((pod, surroundings) in pods()) {
        let once = again(&pod, &surroundings);
        prop_assert_eq!(again(&once, &surroundings).to_string(), once.to_string());
    }

    #[test]
    fn what_the_api_server_fills_in_is_no_change((pod, surroundings) in pods()) {
        let stored = defaulted(&again(&pod, &surroundings));
        prop_assert_eq!(patch::between(&stored, &again(&stored, &surroundings)), vec![]);
    }

    #[test]
    fn after_others_a_second_pass_completes_and_a_third_changes_nothing(
        (pod, surroundings) in pods(), before in prop::option::of(others()), between in prop::collection::vec(others(), 1..4),
    ) {
        // Names stand once in a pod.
        let distinct = |pod: &Value| {
            ["initContainers", "containers", "volumes"].into_iter().all(|list| {
                let mut names: Vec<_> = pod["spec"][list].as_array().into_iter().flatten().map(|i| i["name"].to_string()).collect();
                names.sort();
                names.windows(2).all(|pair| pair[0] != pair[1])
            })
        };
        // What comes before the first pass may be denied for good reasons.
        let before = before.map(|other| other(&pod)).filter(|pod| mutate(pod, &settings(), &surroundings).is_ok());
        let pod = before.unwrap_or(pod);
        let mut changed = again(&pod, &surroundings);
        for other in between {
            let next = other(&changed);
            if distinct(&next) {
                changed = next;
            }
        }
        let second = again(&changed, &surroundings);
        prop_assert_eq!(again(&second, &surroundings).to_string(), second.to_string());
        for list in ["initContainers", "containers", "volumes"] {
            for item in changed["spec"][list].as_array().into_iter().flatten() {
                // A token of our own makes way for EKS Pod Identity.
                let is_there = second["spec"][list].as_array().unwrap().iter().any(|other| other["name"] == item["name"])
                    || item["name"] == "coffer-token";
                prop_assert!(is_there, "{} is lost", item["name"]);
            }
        }
    }

    #[test]
    fn an_isolated_identity_is_ours_alone_in_either_order(
        role in prop::option::of(Just(ROLE.to_owned())), pod_identity: bool, first: bool,
    ) {
        let surroundings = Surroundings { native_sidecars: true, role };
        let pod = json!({
            "metadata": { "annotations": {
                "coffer.dev/inject": "true", "coffer.dev/isolate-identity": "true", "coffer.dev/file.db": "secretsmanager:prod/db",
            } },
            "spec": { "initContainers": [{ "name": "migrate" }], "containers": [{ "name": "api" }, { "name": "b" }] },
        });
        let mut pod = if first { eks(&pod, pod_identity) } else { pod };
        for _ in 0..2 {
            pod = eks(&again(&pod, &surroundings), pod_identity);
        }
        pod = again(&pod, &surroundings);
        let keys = ["AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
        for list in ["initContainers", "containers"] {
            for container in pod["spec"][list].as_array().unwrap() {
                let text = container.to_string();
                let has = keys.iter().any(|key| text.contains(key)) || text.contains("-token\"");
                prop_assert_eq!(has, container["name"] == "coffer", "{}", pod);
            }
        }
    }
}

#[test]
fn a_thousand_runs_give_one_patch() {
    let pod = pod(include_str!("../shapes/exec_files.in.yaml"));
    let surroundings = Surroundings { native_sidecars: true, role: Some(ROLE.to_owned()) };
    let bytes = || {
        let mutation = mutate(&pod, &settings(), &surroundings).unwrap().unwrap();
        serde_json::to_vec(&patch::between(&pod, &mutation.pod)).unwrap()
    };
    let first = bytes();
    assert!((1..1000).all(|_| bytes() == first));
}

#[test]
fn what_an_annotation_no_longer_asks_for_goes() {
    let text = include_str!("../shapes/exec_files.in.yaml");
    let surroundings = Surroundings { native_sidecars: true, role: Some(ROLE.to_owned()) };
    let mut pod = again(&pod(text), &surroundings);
    let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.retain(|name, _| !["coffer.dev/mode", "coffer.dev/on-change"].contains(&name.as_str()));
    let sidecar = again(&pod, &surroundings);
    assert_eq!(sidecar["spec"]["containers"][0]["command"], json!(["/server"]));
    assert_eq!(sidecar["spec"]["containers"][0]["volumeMounts"].as_array().unwrap().len(), 1);
    assert_eq!(sidecar["spec"]["initContainers"].as_array().unwrap().len(), 1);
    assert!(!sidecar["spec"]["containers"].to_string().contains("AWS_ROLE_ARN"));
    assert!(!sidecar.to_string().contains("coffer-program"));
}

#[test]
fn no_value_of_the_application_is_in_what_is_added() {
    let mutation = mutated(&pod(include_str!("../shapes/irsa_mount_first.in.yaml")));
    let ours = &mutation.pod["spec"]["initContainers"][0];
    let file = ours["env"].as_array().unwrap().iter().find(|v| v["name"] == "AWS_WEB_IDENTITY_TOKEN_FILE").unwrap();
    assert_eq!(file["value"], "/var/run/secrets/eks.amazonaws.com/serviceaccount/token");
    assert!(!ours.to_string().contains("kubernetes.io"), "the API server's token is none of ours");
}
