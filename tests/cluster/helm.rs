//! The chart `deploy/helm/coffer`, put into a real cluster by `helm` as a user does it: what is elsewhere here than on AWS
//! is said by values, and by nothing else.

mod objects;
mod rights;
mod switches;

use std::fs;

use anyhow::Result;
use bed::ControlPlane;
use serde_json::{Value, json};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/coffer");

/// The release, and its namespace.
const RELEASE: &str = "coffer";
const SYSTEM: &str = "coffer-system";

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
