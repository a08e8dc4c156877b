//! Pods of many shapes, each with the pod that it becomes beside it.
//!
//! `NAME.in.yaml` begins with a comment that says what is around the pod; `NAME.out.yaml` with the warnings, or the
//! denial. `UPDATE_SHAPES=1` writes the second anew: look at the difference.

use std::fmt::Write as _;
use std::path::Path;

use super::*;

/// What the first line of a pod says: words after `# with:`.
fn around(text: &str) -> (Settings, Surroundings) {
    let (mut settings, mut surroundings) = (settings(), native());
    let line = text.lines().next().and_then(|line| line.strip_prefix("# with: ")).unwrap_or_default();
    for word in line.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("no-native-sidecars", _) => surroundings.native_sidecars = false,
            ("role", role) => surroundings.role = Some(role.to_owned()),
            ("no-user", _) => settings.run_as_user = None,
            ("seccomp", file) => settings.seccomp_profile = Some(file.to_owned()),
            ("env", pair) => {
                let (name, value) = pair.split_once(':').unwrap();
                settings.env.push((name.to_owned(), value.to_owned()));
            }
            (other, _) => panic!("what is `{other}`?"),
        }
    }
    (settings, surroundings)
}

fn told(text: &str) -> String {
    let (settings, surroundings) = around(text);
    let pod = pod(text);
    let mut told = String::new();
    match mutate(&pod, &settings, &surroundings) {
        Ok(Some(mutation)) => {
            for warning in &mutation.warnings {
                writeln!(told, "# warning: {warning}").unwrap();
                // The API server cuts there (k8s.io/apiserver, pkg/endpoints/filters/warning.go).
                assert!(warning.chars().count() < 250, "{warning}");
            }
            told.push_str(&crate::yaml::write(&mutation.pod));
            let again = mutate(&mutation.pod, &settings, &surroundings).unwrap().unwrap();
            assert_eq!(again.pod.to_string(), mutation.pod.to_string(), "a second pass");
            all_explained(&pod, &mutation);
            nothing_lost(&pod, &mutation.pod, "");
        }
        Ok(None) => told.push_str("# unchanged\n"),
        Err(problems) => {
            for problem in problems {
                writeln!(told, "# denied: {problem}").unwrap();
            }
        }
    }
    told
}

/// Whatever the author wrote is still there, but for what the modes `exec` and `isolate-identity` change.
fn nothing_lost(before: &Value, after: &Value, place: &str) {
    let name = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                if ["command", "env", "volumeMounts"].contains(&key.as_str()) || key.contains("skip-containers") {
                    continue;
                }
                let after = after.get(key).unwrap_or_else(|| panic!("{place}/{key} is lost"));
                nothing_lost(value, after, &format!("{place}/{key}"));
            }
        }
        (Value::Array(before), Value::Array(after)) if before.iter().all(|item| name(item).is_some()) => {
            for value in before {
                let after = after.iter().find(|other| name(other) == name(value));
                nothing_lost(value, after.unwrap_or_else(|| panic!("{place}: {value} is lost")), place);
            }
        }
        // Nothing is as good as no field.
        (Value::Null, _) => {}
        (before, after) => assert_eq!(before, after, "{place}"),
    }
}

/// Each thing that was added has its reason.
fn all_explained(before: &Value, mutation: &Mutation) {
    let explained = |what: &str| assert!(mutation.reasons.iter().any(|reason| reason.what == what), "why {what}?");
    let name = |item: &Value| item["name"].as_str().unwrap().to_owned();
    let names = |list: &Value| list.as_array().into_iter().flatten().map(name).collect::<Vec<_>>();
    for (key, value) in mutation.pod["metadata"]["annotations"].as_object().unwrap() {
        if before["metadata"]["annotations"].get(key) != Some(value) {
            explained(&format!("metadata.annotations[{key}]"));
        }
    }
    for list in ["initContainers", "containers", "volumes"] {
        let known = names(&before["spec"][list]);
        for item in mutation.pod["spec"][list].as_array().into_iter().flatten() {
            let place = format!("spec.{list}[{}]", name(item));
            let Some(at) = known.iter().position(|known| *known == name(item)) else {
                explained(&place);
                continue;
            };
            let former = &before["spec"][list][at];
            for mount in names(&item["volumeMounts"]) {
                if !names(&former["volumeMounts"]).contains(&mount) {
                    explained(&format!("{place}.volumeMounts[{mount}]"));
                }
            }
            if former["command"] != item["command"] {
                explained(&format!("{place}.command"));
            }
            for variable in names(&item["env"]).iter().filter(|variable| !names(&former["env"]).contains(variable)) {
                let along = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_STS_REGIONAL_ENDPOINTS"].contains(&variable.as_str());
                explained(&format!("{place}.env[{}]", if along { "AWS_ROLE_ARN" } else { variable }));
            }
        }
    }
    assert!(mutation.reasons.iter().all(|reason| !reason.why.is_empty() && !reason.why.contains('\n')));
}

#[test]
fn pods_become_what_is_beside_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/webhook/mutation/shapes");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let pods: Vec<_> = paths.iter().filter(|path| path.to_string_lossy().ends_with(".in.yaml")).collect();
    assert!(pods.len() >= 30, "{}", pods.len());
    let mut wrong = Vec::new();
    for path in pods {
        let told = told(&std::fs::read_to_string(path).unwrap());
        let out = path.to_string_lossy().replace(".in.yaml", ".out.yaml");
        if std::env::var_os("UPDATE_SHAPES").is_some() {
            std::fs::write(&out, &told).unwrap();
        } else if std::fs::read_to_string(&out).unwrap_or_default() != told {
            wrong.push(format!("{out} is not what is made:\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
