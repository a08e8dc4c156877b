mod anything;
mod refusals;
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
