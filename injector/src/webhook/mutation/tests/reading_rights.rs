//! Who can read the files, and as whom they are written.

use super::*;

fn fs_group(pod: &Value) -> Option<u64> {
    mutated(pod).pod["spec"]["securityContext"]["fsGroup"].as_u64()
}

#[test]
fn files_that_are_closed_to_the_group_stay_closed() {
    for volume in [
        "secret: {secretName: k, defaultMode: 256}",
        "secret: {secretName: k, items: [{key: a, path: a, mode: 256}]}",
        "configMap: {name: k, defaultMode: 384}",
        "downwardAPI: {defaultMode: 256}",
        "projected: {defaultMode: 256}",
        "projected: {sources: [{secret: {name: k, items: [{key: a, path: a, mode: 256}]}}]}",
    ] {
        let pod = with("", &format!("{{volumes: [{{name: ssh, {volume}}}], containers: [{{name: api}}]}}"));
        assert_eq!(fs_group(&pod), None, "{volume}");
        let config = mutated(&pod).pod["metadata"]["annotations"]["coffer.dev/injected-config"].to_string();
        assert!(config.contains("mode: 0444"), "{config}");
    }
    let open = "{volumes: [{name: a, secret: {secretName: k, defaultMode: 288}}], containers: [{name: api}]}";
    assert_eq!(fs_group(&with("", open)), Some(10001));
}

fn warned(files: &str, spec: &str) -> Vec<String> {
    let annotations = format!("    coffer.dev/files: \"{files}\"");
    mutated(&with(&annotations, spec)).warnings
}

#[test]
fn a_mode_that_keeps_the_application_out_is_told() {
    let closed = "- {name: a, from: 'secretsmanager:a', mode: '0400'}";
    let group = "- {name: a, from: 'secretsmanager:a', mode: '0440'}";
    let plain = "{containers: [{name: api}]}";
    let claim = "{volumes: [{name: d, persistentVolumeClaim: {claimName: x}}], containers: [{name: api}]}";
    let told = warned(closed, plain);
    assert!(told[0].starts_with("coffer.dev/files: write `mode: \"0440\"` for `a`: with 0400"), "{told:?}");
    assert!(warned(group, plain).is_empty());
    assert!(warned(group, claim)[0].contains("write `mode: \"0444\"` for `a`: with 0440"));
    assert!(warned("{mode: '0440', files: [{name: a, from: 'secretsmanager:a'}]}", claim)[0].contains("for `a`"));
    assert!(warned("- {name: a, from: 'secretsmanager:a'}", claim).is_empty());
    for user in [0, 10002] {
        let own = format!("{{securityContext: {{runAsUser: {user}}}, containers: [{{name: api}}]}}");
        assert!(warned(closed, &own).is_empty(), "{user}");
    }
}

#[test]
fn owners_that_cannot_be_given_are_denied() {
    let owned = |owner: &str, spec: &str| {
        let files = format!("    coffer.dev/files: \"{{{owner}, files: [{{name: a, from: 'secretsmanager:a'}}]}}\"");
        with(&files, spec)
    };
    let plain = "{containers: [{name: api}]}";
    let told = denied(&owned("uid: 1000", plain));
    assert!(told.contains("`uid: 1000` cannot be: Coffer runs as user 10002"), "{told}");
    let told = denied(&owned("gid: 1000", plain));
    assert!(told.contains("`gid: 1000` cannot be") && told.contains("set `fsGroup: 1000`"), "{told}");
    mutated(&owned("uid: 10002, gid: 10001", plain));
    mutated(&owned("gid: 1000", "{securityContext: {fsGroup: 1000}, containers: [{name: api}]}"));
    mutated(&owned("gid: 7", "{securityContext: {supplementalGroups: [7]}, containers: [{name: api}]}"));
}

#[test]
fn a_pod_of_root_gets_ours_a_user_even_where_the_cluster_gives_users() {
    let settings = Settings { run_as_user: None, ..settings() };
    let user = |security: &str| {
        let pod = with("", &format!("{{securityContext: {security}, containers: [{{name: api}}]}}"));
        let pod = mutate(&pod, &settings, &native()).unwrap().unwrap().pod;
        pod["spec"]["initContainers"][0]["securityContext"]["runAsUser"].as_u64()
    };
    assert_eq!(user("{runAsUser: 0}"), Some(10002));
    assert_eq!(user("{runAsUser: 1000}"), None);
    assert_eq!(user("{}"), None);
}
