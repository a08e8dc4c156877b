mod anything;
mod doubts;
mod reading_rights;
mod refusals;
mod second;
mod shapes;
mod twice;

use serde_json::Value;

use super::*;

/// As `coffer-injector webhook` has them, with nothing said.
fn settings() -> Settings {
    Settings {
        image: "coffer:0.1.0".to_owned(),
        pull_policy: None,
        run_as_user: Some(10002),
        seccomp_profile: None,
        env: Vec::new(),
        token_audience: "sts.amazonaws.com".to_owned(),
    }
}

fn native() -> Surroundings {
    Surroundings { native_sidecars: true, role: None }
}

fn pod(yaml: &str) -> Value {
    crate::yaml::first(yaml).unwrap().0.unwrap().json().unwrap()
}

fn mutated(pod: &Value) -> Mutation {
    mutate(pod, &settings(), &native()).unwrap_or_else(|problems| panic!("{problems:?}")).unwrap()
}

fn service_account(pod: &Value) -> Option<&str> {
    Asked::of(pod).service_account(pod)
}

/// A pod that asks for one file, with more annotations and this spec.
fn with(annotations: &str, spec: &str) -> Value {
    pod(&format!(
        "metadata:\n  annotations:\n    coffer.dev/inject: 'true'\n    coffer.dev/file.db: secretsmanager:prod/db\n{annotations}\nspec: {spec}\n"
    ))
}

fn denied(pod: &Value) -> String {
    denied_around(pod, &native())
}

fn denied_around(pod: &Value, surroundings: &Surroundings) -> String {
    let problems = mutate(pod, &settings(), surroundings).unwrap_err();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
