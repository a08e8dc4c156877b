//! The chart `deploy/helm/coffer`, put into a real cluster by `helm` as a user does it: what is elsewhere here than on AWS
//! is said by values, and by nothing else.

mod confined;
mod lifecycle;
mod objects;
mod rights;
mod switches;

use std::fs;

use anyhow::{Context, Result, ensure};
use bed::{ControlPlane, eventually};
use serde_json::{Value, json};

use crate::fixture::SOON;
use crate::webhook::{Ground, Pod, pod};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/coffer");

/// The release, and its namespace.
const RELEASE: &str = "coffer";
const SYSTEM: &str = "coffer-system";

/// Has Helm wait until all that it has put there is ready.
const WAIT: [&str; 2] = ["--wait", "--timeout=150s"];

/// How pods reach what is elsewhere here than in a cluster on AWS, as variables.
struct Reach {
    /// AWS, for who asks with the identity of a pod.
    aws: Value,
    /// The API server.
    api: Vec<Value>,
}

impl Reach {
    /// As variables of a container.
    fn both(&self) -> Vec<Value> {
        let aws = self.aws.as_object().into_iter().flatten();
        let aws = aws.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
        [self.api.as_slice(), &variables(aws)].concat()
    }
}

fn reach(ground: &Ground) -> Reach {
    let api = ground.to_api.address();
    let api = [("KUBERNETES_SERVICE_HOST", api.ip().to_string()), ("KUBERNETES_SERVICE_PORT", api.port().to_string())];
    Reach {
        aws: json!({
            "AWS_ENDPOINT_URL": format!("http://{}", ground.to_aws.address()),
            "AWS_EC2_METADATA_DISABLED": "true",
        }),
        api: variables(api.map(|(name, value)| (name.to_owned(), value))),
    }
}

/// Variables as a container has them.
fn variables(pairs: impl IntoIterator<Item = (String, String)>) -> Vec<Value> {
    pairs.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// Runs a command of Helm's that takes the release, the chart and values: what it prints.
async fn apply(plane: &ControlPlane, command: &str, values: &Value, flags: &[&str]) -> Result<String> {
    let file = plane.folder().join("values.json");
    fs::write(&file, values.to_string())?;
    let file = file.to_string_lossy();
    let args = [command, RELEASE, CHART, "--namespace", SYSTEM, "--values", &*file];
    plane.helm(args.iter().chain(flags)).await
}

/// Removes the release.
async fn uninstall(plane: &ControlPlane) -> Result<String> {
    plane.helm(["uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout=120s"]).await
}

/// Values by which every part is off.
fn nothing() -> Value {
    let off = json!({"enabled": false});
    json!({"webhook": off, "csi": off})
}

/// A pod whose volume a driver mounts, and which shows its files as one with a sidecar does.
fn mounting(driver: &str, attributes: &Value) -> Value {
    let mut mounting = pod(&json!({}));
    mounting["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "secrets", "mountPath": "/run/secrets/coffer", "readOnly": true}]);
    mounting["spec"]["volumes"] =
        json!([{"name": "secrets", "csi": {"driver": driver, "readOnly": true, "volumeAttributes": attributes}}]);
    mounting
}

/// Waits until a pod's file `password` holds that.
async fn becomes(pod: &Pod<'_>, expected: &str) -> Result<()> {
    eventually(SOON, async || {
        let found = pod.read("password").await?;
        ensure!(found == expected, "{} has {found:?}, not {expected:?}", pod.name);
        Ok(())
    })
    .await
}

/// Checks what Coffer's pods have said since they run, in which the API server's no would show, and that none has ended.
async fn no_refusals(ground: &Ground) -> Result<()> {
    let pods = ground.plane.api().get(&format!("/api/v1/namespaces/{SYSTEM}/pods")).await?;
    let pods = pods["items"].as_array().context("no list")?;
    let staying: Vec<_> = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
    ensure!(!staying.is_empty(), "there are no pods");
    for pod in staying {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let said = ground.plane.kubectl(["logs", "--namespace", SYSTEM, name]).await?;
        for bad in ["is forbidden", "panicked"] {
            ensure!(!said.contains(bad), "{name} said:\n{said}");
        }
        ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{name} ended: {}", pod["status"]);
    }
    Ok(())
}
