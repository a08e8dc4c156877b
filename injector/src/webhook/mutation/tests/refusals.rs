//! What is denied, with its fix.

use super::*;

#[test]
fn what_names_nothing_is_denied_with_the_nearest() {
    let spec = "{initContainers: [{name: migrate}], containers: [{name: api}, {name: worker}]}";
    for (annotation, expected) in [
        ("    coffer.dev/containers: apj", "coffer.dev/containers: there is no container `apj`; did you mean `api`?"),
        (
            "    coffer.dev/containers: nothing-like-it",
            "there is no container `nothing-like-it`; there are migrate, api, worker",
        ),
        ("    coffer.dev/containers: coffer", "`coffer` is Coffer's own container; name the application's"),
        (
            "    coffer.dev/position: after:migrat",
            "coffer.dev/position: there is no init container `migrat`; did you mean `migrate`?",
        ),
        (
            "    coffer.dev/position: last\n    coffer.dev/containers: migrate",
            "the init container `migrate` runs before Coffer and would find nothing",
        ),
        ("    coffer.dev/mode: exec\n    coffer.dev/containers: api,worker", "the container `worker` has no `command`"),
    ] {
        let told = denied(&with(annotation, spec));
        assert!(told.contains(expected), "{told}");
    }
    let both = denied(&with("    coffer.dev/containers: apj, workr", spec));
    assert_eq!(both.lines().count(), 2, "{both}");
    let none = denied(&with("    coffer.dev/position: after:x", "{containers: [{name: api}]}"));
    assert!(none.contains("there is no init container `x`: the pod has no init container"), "{none}");
}

#[test]
fn what_is_taken_is_denied() {
    for (spec, expected) in [
        ("{containers: [{name: coffer-init}]}", "a container `coffer-init` already"),
        ("{containers: [{name: api}], volumes: [{name: coffer-config}]}", "a volume `coffer-config` already"),
        (
            "{containers: [{name: api, volumeMounts: [{name: coffer-secrets, mountPath: /x}]}]}",
            "in the container `api` a mount of `coffer-secrets` already",
        ),
        (
            "{containers: [{name: api, volumeMounts: [{name: x, mountPath: /var/run/secrets/coffer/}]}]}",
            "coffer.dev/path: the container `api` has the volume `x` at /var/run/secrets/coffer/ already; say with this",
        ),
    ] {
        let told = denied(&with("", spec));
        assert!(told.contains(expected), "{told}");
    }
    let exec = "{containers: [{name: api, command: [a], volumeMounts: [{name: x, mountPath: /etc/coffer}]}]}";
    assert!(
        denied(&with("    coffer.dev/mode: exec", exec))
            .contains("the volume `x` at /etc/coffer already; mount it elsewhere")
    );
    // Of another container's mounts nothing is needed.
    let other = "{containers: [{name: api}, {name: b, volumeMounts: [{name: x, mountPath: /run/secrets/coffer}]}]}";
    mutated(&with("    coffer.dev/containers: api", other));
}

#[test]
fn signals_need_one_namespace_and_one_user() {
    let signal = "    coffer.dev/on-change: '{signal: HUP, process: nginx}'";
    let none = denied(&with(signal, "{containers: [{name: api}]}"));
    assert!(none.contains("`shareProcessNamespace: true`") && none.contains("the pod does not say it"), "{none}");
    let two = "{shareProcessNamespace: true, containers: [{name: a, securityContext: {runAsUser: 1}}, {name: b}]}";
    assert!(denied(&with(signal, two)).contains("set the same `runAsUser`"));
    let one = mutated(&with(&format!("{signal}\n    coffer.dev/containers: a"), two));
    assert_eq!(one.pod["spec"]["initContainers"][0]["securityContext"]["runAsUser"], 1);
    let root = "{shareProcessNamespace: true, securityContext: {runAsUser: 0}, containers: [{name: a}]}";
    assert!(denied(&with(signal, root)).contains("runs as root"));
}

#[test]
fn an_identity_cannot_be_kept_from_who_can_reach_into_us() {
    for field in ["shareProcessNamespace", "hostPID"] {
        let spec = format!("{{{field}: true, containers: [{{name: api}}]}}");
        let told = denied(&with("    coffer.dev/isolate-identity: 'true'", &spec));
        assert!(told.starts_with(&format!("coffer.dev/isolate-identity: `{field}: true` lets")), "{told}");
    }
}

#[test]
fn pods_that_cannot_be_are_denied() {
    for spec in [
        "{os: {name: windows}, containers: [{name: a}]}",
        "{nodeSelector: {kubernetes.io/os: windows}, containers: [{name: a}]}",
    ] {
        assert!(denied(&with("", spec)).contains("a pod for Windows"));
    }
    let mesh = "{containers: [{name: istio-proxy}]}";
    assert!(denied(&with("", mesh)).contains("all containers are a service mesh's"));
    assert!(denied(&with("", "{containers: []}")).contains("`spec.containers` is empty"));
    assert!(denied(&with("", "null")).contains("`spec` is nothing, and Kubernetes takes a mapping there"));
}

#[test]
fn annotations_that_are_no_texts_are_told_with_the_fix() {
    let told = denied(&pod("metadata: {annotations: {coffer.dev/inject: true}}\nspec: {containers: [{name: a}]}"));
    assert_eq!(told, "coffer.dev/inject: Kubernetes takes only texts as annotations; write it in quotes: \"true\"");
    let told =
        denied(&pod("metadata: {annotations: {coffer.dev/files: [{name: a}]}}\nspec: {containers: [{name: a}]}"));
    assert!(told.contains("write it as a text, after `|`"), "{told}");
}

#[test]
fn all_problems_are_told_at_once() {
    let annotations =
        "    coffer.dev/containers: apj\n    coffer.dev/position: after:x\n    coffer.dev/isolate-identity: 'true'";
    let told = denied(&with(annotations, "{hostPID: true, containers: [{name: api}]}"));
    assert!(told.contains("coffer.dev/position:") && told.contains("coffer.dev/isolate-identity:"), "{told}");
    let told = denied(&with("    coffer.dev/modus: x", "{containers: {}}"));
    assert!(told.contains("coffer.dev/modus:") && told.contains("`spec.containers` is a mapping"), "{told}");
}

#[test]
fn a_config_that_does_not_fit_is_denied() {
    let mut pod = with("", "{containers: [{name: api}]}");
    let file = |at: usize| format!("- {{name: file-{at}, from: 'secretsmanager:prod/{}'}}\n", "x".repeat(100));
    let files: String = (0..400).map(file).collect();
    let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.insert("somebody.example/else".to_owned(), "x".repeat(150_000).into());
    annotations.insert("coffer.dev/files".to_owned(), files.into());
    let told = denied(&pod);
    assert!(told.contains("would hold") && told.contains("put the list of files into a ConfigMap"), "{told}");
}

#[test]
fn the_account_is_asked_only_where_it_matters() {
    let spec = "{containers: [{name: api}]}";
    assert_eq!(service_account(&with("", spec)), Some("default"));
    assert_eq!(service_account(&with("", "{serviceAccountName: api, containers: [{name: api}]}")), Some("api"));
    assert_eq!(service_account(&with("", "{serviceAccount: old, containers: [{name: api}]}")), Some("old"));
    assert_eq!(service_account(&with("    coffer.dev/role-arn: arn:aws:iam::123456789012:role/a", spec)), None);
    assert_eq!(service_account(&pod("spec: {serviceAccountName: api}")), None);
    assert_eq!(service_account(&pod("metadata: {annotations: {coffer.dev/inject: 'false'}}")), None);
    assert_eq!(service_account(&pod("[]")), None);
}

#[test]
fn a_role_that_is_none_is_told_and_not_used() {
    let surroundings = Surroundings { native_sidecars: true, role: Some("api".to_owned()) };
    let pod = with("", "{containers: [{name: api}]}");
    let mutation = mutate(&pod, &settings(), &surroundings).unwrap().unwrap();
    assert!(mutation.warnings[0].contains("is no role's ARN, and not used: `api`"), "{:?}", mutation.warnings);
    assert!(!mutation.pod.to_string().contains("AWS_ROLE_ARN"));
}

#[test]
fn mounts_in_the_way_of_ours_are_denied() {
    let spec = |path: &str, kind: &str, more: &str| {
        format!(
            "{{volumes: [{{name: v, {kind}}}], containers: [{{name: api, command: [a], volumeMounts: [{{name: v, mountPath: \
             {path}{more}}}]}}]}}"
        )
    };
    let secret = "secret: {secretName: k}";
    let below = denied(&with("", &spec("/var/run/secrets/coffer/extra", secret, "")));
    assert!(below.contains("at /var/run/secrets/coffer/extra already, inside of /run/secrets/coffer"), "{below}");
    assert!(denied(&with("", &spec("/run/secrets/x/../coffer", secret, ""))).contains("already; say with this"));
    for (kind, more) in [
        (secret, ""),
        ("configMap: {name: k}", ""),
        ("projected: {sources: []}", ""),
        ("downwardAPI: {items: []}", ""),
        ("emptyDir: {}", ", readOnly: true"),
    ] {
        let told = denied(&with("", &spec("/run/secrets", kind, more)));
        assert!(told.contains("nobody can make /run/secrets/coffer in it; say with this annotation"), "{told}");
    }
    for path in ["/run", "/run/secrets", "/run/secrets/coffer2", "/var"] {
        mutated(&with("", &spec(path, "emptyDir: {}", "")));
    }
    let exec = denied(&with("    coffer.dev/mode: exec", &spec("/etc", secret, "")));
    assert!(exec.contains("coffer.dev/mode: ") && exec.contains("/etc/coffer in it; mount it elsewhere"), "{exec}");
}

#[test]
fn a_port_is_for_one_of_the_wrapped() {
    let spec = "{containers: [{name: api, command: [a]}, {name: b, command: [b]}]}";
    let mut pod = with(
        "    coffer.dev/mode: exec\n    coffer.dev/on-change: restart\n    coffer.dev/listen: '127.0.0.1:9000'",
        spec,
    );
    pod["metadata"]["annotations"].as_object_mut().unwrap().remove("coffer.dev/file.db");
    assert!(
        denied(&pod).starts_with("coffer.dev/listen: one process of a pod can have 127.0.0.1:9000"),
        "{}",
        denied(&pod)
    );
    pod["metadata"]["annotations"]["coffer.dev/containers"] = "api".into();
    mutated(&pod);
}

#[test]
fn a_port_of_the_application_is_not_for_metrics() {
    let spec = |ports: &str| format!("{{containers: [{{name: api}}, {{name: \"b\\n\", ports: [{ports}]}}]}}");
    let metrics = "    coffer.dev/metrics: '9467'";
    for ports in ["{containerPort: 9467}", "{containerPort: 80}, {containerPort: 9467, protocol: TCP}"] {
        let told = denied(&with(metrics, &spec(ports)));
        let text = "the container `b\\n` has port 9467, and the containers of a pod share their ports; write another";
        assert_eq!(told, format!("coffer.dev/metrics: {text}"), "{ports}");
    }
    for ports in ["{containerPort: 9466}", "{containerPort: 9467, protocol: UDP}", "9467", ""] {
        mutated(&with(metrics, &spec(ports)));
    }
}

#[test]
fn far_too_many_containers_are_refused_before_anything_is_done() {
    let containers: Vec<Value> = (0..20_000).map(|at| serde_json::json!({ "name": format!("a{at}") })).collect();
    let mut pod = with("    coffer.dev/isolate-identity: 'true'", "{containers: []}");
    pod["spec"]["containers"] = containers.into();
    assert_eq!(denied(&pod), "the pod has 20000 containers, and Coffer takes no more than 500; split it");
    pod["spec"]["containers"].as_array_mut().unwrap().truncate(500);
    mutated(&pod);
}

#[test]
fn no_more_is_told_than_can_be_read() {
    let name = "x\n".repeat(200);
    let containers: Vec<Value> = (0..300)
        .map(|at| {
            let mount = serde_json::json!({ "name": name, "mountPath": "/run/secrets/coffer" });
            serde_json::json!({ "name": format!("{name}{at}"), "volumeMounts": [mount] })
        })
        .collect();
    let mut pod = with("", "{containers: []}");
    pod["spec"]["containers"] = containers.into();
    let problems = mutate(&pod, &settings(), &native()).unwrap_err();
    assert_eq!((problems.len(), problems[39].to_string().as_str()), (40, "and 261 more; mend these first"));
    for problem in problems {
        let told = problem.to_string();
        assert!(told.len() < 600 && !told.contains('\n'), "{told}");
    }
    let odd = Problem { annotation: "coffer.dev/a\nb".to_owned(), text: "c\u{1b}[d".to_owned() };
    assert_eq!(odd.to_string(), "coffer.dev/a\\nb: c\\u{1b}[d");
}

#[test]
fn what_is_not_of_our_shape_is_taken_whatever_the_status_says() {
    let status = "    coffer.dev/status: x";
    for (spec, expected) in [
        ("{containers: [{name: api}, {name: coffer, image: shop, command: [/shop]}]}", "a container `coffer` already"),
        ("{containers: [{name: api}, {name: coffer, image: shop}]}", "a container `coffer` already"),
        (
            "{containers: [{name: api}], volumes: [{name: coffer-secrets, persistentVolumeClaim: {claimName: x}}]}",
            "a volume `coffer-secrets` already",
        ),
        (
            "{containers: [{name: api}], volumes: [{name: coffer-token, emptyDir: {}}]}",
            "a volume `coffer-token` already",
        ),
    ] {
        let told = denied(&with(status, spec));
        assert!(told.contains(expected), "{told}");
    }
}
