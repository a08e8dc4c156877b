//! Warnings.

use super::*;

fn isolated(container: &str, volume: &str) -> (Value, Vec<String>) {
    let spec = format!("{{volumes: [{{name: v, {volume}}}], containers: [{{name: api, {container}}}]}}");
    let mutation = mutated(&with("    coffer.dev/isolate-identity: 'true'", &spec));
    (mutation.pod["spec"]["containers"][0].clone(), mutation.warnings)
}

#[test]
fn what_was_written_by_hand_stays_and_is_told() {
    for variable in [
        "AWS_ROLE_ARN",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    ] {
        let (container, told) = isolated(&format!("env: [{{name: {variable}, value: x}}]"), "emptyDir: {}");
        assert_eq!(container["env"][0]["name"], variable);
        let expected =
            format!("coffer.dev/isolate-identity: take `{variable}` from the container `api`: written by hand");
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:?}");
    }
    // A pair that names a token of its own, beside the mount of EKS.
    let (container, told) = isolated(
        "env: [{name: AWS_ROLE_ARN, value: x}, {name: AWS_WEB_IDENTITY_TOKEN_FILE, value: /own/token}], volumeMounts: \
         [{name: aws-iam-token, mountPath: /eks}]",
        "emptyDir: {}",
    );
    assert_eq!((container["env"].as_array().unwrap().len(), told.len()), (2, 1));
}

#[test]
fn ways_to_the_identity_are_told() {
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    let token = |audience: &str| {
        format!("projected: {{sources: [{{serviceAccountToken: {{audience: {audience}, path: t}}}}]}}")
    };
    for audience in ["sts.amazonaws.com", "sts.amazonaws.com.cn"] {
        let (_, told) = isolated(mount, &token(audience));
        assert!(
            told.len() == 1 && told[0].contains("take `v` from the container `api`: AWS takes its token"),
            "{told:?}"
        );
    }
    assert!(isolated(mount, &token("vault")).1.is_empty());
    assert!(isolated("image: x", &token("sts.amazonaws.com")).1.is_empty(), "it is not mounted");
    for path in ["/", "/var", "/var/lib", "/var/lib/", "/var/lib/kubelet", "/var/lib/kubelet/pods", "/proc"] {
        let (_, told) = isolated(mount, &format!("hostPath: {{path: {path}}}"));
        assert!(told.len() == 1 && told[0].contains("the tokens of its node's pods lie there"), "{path}: {told:?}");
    }
    assert!(isolated(mount, "hostPath: {path: /var/log}").1.is_empty());
    let (_, told) = isolated("securityContext: {privileged: true}", "emptyDir: {}");
    assert!(told.len() == 1 && told[0].contains("take `privileged` from"), "{told:?}");
}

#[test]
fn a_limit_alone_is_the_request_too() {
    let guaranteed = "{containers: [{name: api, resources: {limits: {cpu: 1, memory: 1Gi}}}]}";
    let limits = "    coffer.dev/resources: '{limits: {cpu: 10m, memory: 48Mi}}'";
    let mutation = mutated(&with(limits, guaranteed));
    let resources = &mutation.pod["spec"]["initContainers"][0]["resources"];
    assert_eq!(resources["requests"], resources["limits"]);
    assert!(mutation.warnings.is_empty(), "{:?}", mutation.warnings);
    assert!(mutated(&with("", guaranteed)).warnings[0].contains("Burstable"));
}

#[test]
fn the_largest_volume_fits_into_the_limit() {
    let pod = mutated(&with("    coffer.dev/size-limit: 64Gi", "{containers: [{name: api}]}")).pod;
    // 64Gi and the 32Mi of the program.
    assert_eq!(pod["spec"]["initContainers"][0]["resources"]["limits"]["memory"], "65568Mi");
}

#[test]
fn resources_of_the_whole_pod_have_their_own_rules() {
    let spec = |memory: &str| {
        format!(
            "{{resources: {{limits: {{cpu: 1, memory: {memory}}}}}, containers: [{{name: api, resources: {{limits: {{cpu: 1, \
             memory: 1Gi}}}}}}]}}"
        )
    };
    assert!(mutated(&with("", &spec("2Gi"))).warnings.is_empty(), "no word of Guaranteed");
    let told = mutated(&with("", &spec("20Mi"))).warnings;
    assert!(told[0].starts_with("coffer.dev/resources: raise the pod's own `resources.limits.memory`"), "{told:?}");
}

#[test]
fn a_config_of_a_map_is_asked_where_it_listens() {
    let mut pod = with("    coffer.dev/config: api", "{containers: [{name: api}]}");
    pod["metadata"]["annotations"].as_object_mut().unwrap().remove("coffer.dev/file.db");
    let listen = |pod: &Value| {
        let mutation = mutated(pod);
        let env = mutation.pod["spec"]["initContainers"][0]["env"].as_array().unwrap().clone();
        let why = mutation.reasons.into_iter().find(|reason| reason.what == "spec.volumes[coffer-config]").unwrap().why;
        assert!(why.contains("`volumes[].path` in it is to be /run/secrets/coffer"), "{why}");
        env.into_iter().find(|variable| variable["name"] == "COFFER_LISTEN").unwrap()["value"].clone()
    };
    assert_eq!(listen(&pod), "127.0.0.1:9465");
    pod["metadata"]["annotations"]["coffer.dev/listen"] = "127.0.0.1:9000".into();
    assert_eq!(listen(&pod), "127.0.0.1:9000");
}
