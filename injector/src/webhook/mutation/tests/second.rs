//! What a second pass leaves as it is, and what it does not.

use serde_json::json;

use super::*;

fn container<'p>(pod: &'p Value, name: &str) -> &'p Value {
    let all = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    all.into_iter().find(|container| container["name"] == name).unwrap()
}

fn add(pod: &mut Value, container: Value) {
    pod["spec"]["containers"].as_array_mut().unwrap().push(container);
}

const API: &str = "{containers: [{name: api, command: [/api]}]}";

#[test]
fn containers_that_come_later_are_left_alone() {
    let signal = "    coffer.dev/on-change: '{signal: HUP, process: nginx}'";
    let user = "{shareProcessNamespace: true, containers: [{name: api, securityContext: {runAsUser: 1000}}]}";
    for (annotations, spec, later) in [
        ("", API, json!({ "name": "late" })),
        ("", API, json!({ "name": "late", "volumeMounts": [{ "name": "x", "mountPath": "/run/secrets/coffer" }] })),
        ("    coffer.dev/mode: init", API, json!({ "name": "late" })),
        ("    coffer.dev/mode: exec", API, json!({ "name": "late", "args": ["run"] })),
        ("    coffer.dev/mode: exec", API, json!({ "name": "late", "command": ["/late"] })),
        (signal, user, json!({ "name": "late" })),
    ] {
        let mut pod = mutated(&with(annotations, spec)).pod;
        add(&mut pod, later.clone());
        assert_eq!(mutated(&pod).pod, pod, "{annotations}");
    }
    // Without ours there, a status alone says nothing.
    let forged = mutated(&with("    coffer.dev/status: x", "{containers: [{name: api}, {name: b}]}"));
    assert_eq!(container(&forged.pod, "b")["volumeMounts"][0]["name"], "coffer-secrets");
}

#[test]
fn an_image_and_its_policy_stay_as_others_have_made_them() {
    let settings = Settings { pull_policy: Some("IfNotPresent".to_owned()), ..settings() };
    let mut pod = mutate(&with("", API), &settings, &native()).unwrap().unwrap().pod;
    let ours = &mut pod["spec"]["initContainers"][0];
    ours["image"] = json!("mirror.example/coffer:0.1.0");
    ours["imagePullPolicy"] = json!("Always");
    assert_eq!(mutate(&pod, &settings, &native()).unwrap().unwrap().pod, pod);
}

#[test]
fn quantities_are_as_they_are_stored_and_those_of_others_stay() {
    let annotations = "    coffer.dev/resources: '{requests: {cpu: 0.5, memory: 1024Mi}, limits: {memory: 2048Mi}}'\n    \
                       coffer.dev/size-limit: '1000000'";
    let mut pod = mutated(&with(annotations, API)).pod;
    let stored = json!({ "requests": { "cpu": "500m", "memory": "1Gi" }, "limits": { "memory": "2Gi" } });
    assert_eq!(container(&pod, "coffer")["resources"], stored);
    assert_eq!(pod["spec"]["volumes"][0]["emptyDir"]["sizeLimit"], "1M");
    let ours = &mut pod["spec"]["initContainers"][0];
    ours["resources"]["limits"]["cpu"] = json!("700m");
    ours["resources"]["requests"]["ephemeral-storage"] = json!("1Gi");
    // Another way to write the same.
    ours["resources"]["requests"]["cpu"] = json!("0.5");
    ours["terminationMessagePath"] = json!("/dev/termination-log");
    ours["startupProbe"]["successThreshold"] = json!(1);
    ours["resizePolicy"] = json!([{ "resourceName": "cpu", "restartPolicy": "NotRequired" }]);
    assert_eq!(mutated(&pod).pod, pod);
    // One field that is not as it is to be takes no others with it.
    pod["spec"]["initContainers"][0]["resources"]["requests"]["memory"] = json!("1Mi");
    let again = mutated(&pod).pod;
    assert_eq!(container(&again, "coffer")["resources"]["requests"]["memory"], "1Gi");
    assert_eq!(container(&again, "coffer")["resources"]["limits"]["cpu"], "700m");
}

#[test]
fn nobody_loosens_what_is_ours() {
    let pod = mutated(&with("", API)).pod;
    let mut changed = pod.clone();
    let ours = &mut changed["spec"]["initContainers"][0];
    ours["args"] = json!(["--allow-disk"]);
    ours["envFrom"] = json!([{ "secretRef": { "name": "x" } }]);
    ours["lifecycle"] = json!({ "postStart": { "exec": { "command": ["/x"] } } });
    ours["securityContext"]["privileged"] = json!(true);
    ours["securityContext"]["capabilities"]["add"] = json!(["SYS_ADMIN"]);
    ours["securityContext"]["runAsUser"] = json!(0);
    ours["volumeMounts"][0]["subPath"] = json!("x");
    ours["startupProbe"]["exec"]["command"] = json!(["/bin/true"]);
    changed["spec"]["volumes"][0]["emptyDir"]["medium"] = json!("");
    assert_eq!(mutated(&changed).pod, pod);
}

#[test]
fn a_command_behind_another_wrapper_is_not_wrapped_twice() {
    let mut pod = mutated(&with("    coffer.dev/mode: exec", API)).pod;
    let api = &mut pod["spec"]["containers"][0];
    let ours = api["command"].take();
    api["args"] = ours.clone();
    api["command"] = json!(["/vault/vault-env"]);
    assert_eq!(mutated(&pod).pod, pod);
    let api = &mut pod["spec"]["containers"][0];
    api["args"] = json!(["--", "/run/coffer/coffer", "exec", "--config=/old", "--", "/api", "--", "x"]);
    let again = mutated(&pod).pod;
    let expected = json!(["--", ours[0], "exec", "--config=/etc/coffer/coffer.yaml", "--", "/api", "--", "x"]);
    assert_eq!(container(&again, "api")["args"], expected);
    assert_eq!(container(&again, "api")["command"], json!(["/vault/vault-env"]));
    // And given back where it is no more asked for.
    pod["metadata"]["annotations"].as_object_mut().unwrap().remove("coffer.dev/mode");
    assert_eq!(container(&mutated(&pod).pod, "api")["args"], json!(["--", "/api", "--", "x"]));
}

#[test]
fn eks_pod_identity_goes_before_the_role_of_the_account_and_nothing_swings_back() {
    let surroundings =
        Surroundings { native_sidecars: true, role: Some("arn:aws:iam::123456789012:role/shop-api".to_owned()) };
    let pass = |pod: &Value| mutate(pod, &settings(), &surroundings).unwrap().unwrap().pod;
    let mut pod = pass(&with("", API));
    assert!(container(&pod, "coffer").to_string().contains("AWS_ROLE_ARN"));
    let folder = "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount";
    for list in ["initContainers", "containers"] {
        let container = &mut pod["spec"][list][0];
        for (name, value) in [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials".to_owned()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", format!("{folder}/eks-pod-identity-token")),
        ] {
            let env = container.as_object_mut().unwrap().entry("env").or_insert_with(|| json!([]));
            env.as_array_mut().unwrap().push(json!({ "name": name, "value": value }));
        }
        let mounts = container["volumeMounts"].as_array_mut().unwrap();
        mounts.push(json!({ "name": "eks-pod-identity-token", "mountPath": folder, "readOnly": true }));
    }
    let second = pass(&pod);
    let ours = container(&second, "coffer").to_string();
    assert!(!ours.contains("AWS_ROLE_ARN") && !ours.contains("AWS_WEB_IDENTITY_TOKEN_FILE"), "{ours}");
    assert!(
        ours.contains("AWS_CONTAINER_CREDENTIALS_FULL_URI") && !second.to_string().contains("coffer-token"),
        "{ours}"
    );
    assert_eq!(pass(&second).to_string(), second.to_string());
    // Whoever names a role means it.
    pod["metadata"]["annotations"]["coffer.dev/role-arn"] = json!("arn:aws:iam::123456789012:role/other");
    assert!(container(&pass(&pod), "coffer").to_string().contains("role/other"));
}

#[test]
fn a_static_pod_is_left_as_it_is_and_told() {
    let mirror = "    kubernetes.io/config.mirror: abc";
    for annotations in [mirror.to_owned(), format!("{mirror}\n    coffer.dev/modus: x")] {
        let pod = with(&annotations, API);
        let mutation = mutated(&pod);
        assert_eq!(mutation.pod, pod);
        assert!(mutation.warnings[0].starts_with("remove Coffer's annotations from this static pod"));
    }
}
