//! Each part of the chart on and off, and what a newcomer gets wrong. There is no node: what an API server takes and
//! refuses is what is looked at.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions, cluster::Api};
use serde_json::{Value, json};

use super::objects::{Objects, objects};
use super::{RELEASE, SYSTEM, apply, nothing, uninstall};

const QUEUE: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/coffer-push";
const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555";

/// The objects that tell which parts are there.
const PARTS: [&str; 6] = [
    "deployments.apps coffer-system/coffer-injector",
    "daemonsets.apps coffer-system/coffer-csi",
    "daemonsets.apps coffer-system/coffer-csi-takeover",
    "daemonsets.apps coffer-system/coffer-provider",
    "deployments.apps coffer-system/coffer-notifier",
    "configmaps coffer-system/coffer-kms",
];

/// Values with this part on and every other one off.
fn only(part: &str, values: Value) -> Value {
    let mut all = nothing();
    all[part] = values;
    all[part]["enabled"] = json!(true);
    all
}

/// The names of what is there now and was not before.
async fn added(api: &Api, before: &Objects) -> Result<BTreeSet<String>> {
    let now = objects(api).await?;
    Ok(now.into_keys().filter(|name| !before.contains_key(name)).collect())
}

#[tokio::test]
async fn each_part_is_there_when_it_is_on_and_leaves_nothing_when_it_is_off() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let api = plane.api();
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": SYSTEM}})).await?;
    let before = objects(api).await?;
    let [injector, csi, takeover, provider, notifier, kms] = PARTS;
    let cases: [(&str, Value, &[&str]); 9] = [
        ("nothing", nothing(), &[]),
        ("the default", json!({}), &[injector, csi]),
        ("webhook", only("webhook", json!({})), &[injector]),
        ("csi", only("csi", json!({})), &[csi]),
        ("takeover", only("takeover", json!({})), &[takeover]),
        ("provider", only("provider", json!({})), &[provider]),
        ("notifier", only("notifier", json!({"queue": QUEUE})), &[notifier]),
        ("kms", only("kms", json!({"key": KEY})), &[kms]),
        ("policies", json!({"networkPolicy": {"enabled": true}}), &[injector, csi]),
    ];
    for (name, values, parts) in cases {
        let case = async {
            apply(&plane, "install", &values, &[]).await?;
            let made = added(api, &before).await?;
            let found: Vec<_> = PARTS.into_iter().filter(|part| made.contains(*part)).collect();
            ensure!(found == parts, "the parts are {found:?}");
            let policies = made.iter().filter(|name| name.starts_with("networkpolicies.")).count();
            ensure!((policies > 0) == (name == "policies"), "{policies} policies among {made:?}");
            uninstall(&plane).await?;
            let left = added(api, &before).await?;
            ensure!(left.is_empty(), "it leaves {left:?}");
            Ok(())
        };
        case.await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_mistake_in_the_values_is_named_and_changes_nothing() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let before = objects(plane.api()).await?;
    let cases: [(Value, &[&str]); 7] = [
        (json!({"webhok": {"enabled": false}}), &["webhok"]),
        (json!({"webhook": {"replica": 3}}), &["webhook", "replica"]),
        (json!({"csi": {"resources": {"requests": {}}, "tolerance": []}}), &["csi", "tolerance"]),
        (json!({"webhook": {"replicas": "two"}}), &["webhook", "replicas", "integer"]),
        (json!({"image": {"tag": "latest"}}), &["image.tag", "latest", "version"]),
        (json!({"notifier": {"enabled": true}}), &["notifier.queue", "QueueUrl"]),
        (json!({"kms": {"enabled": true}}), &["kms.key", "ARN"]),
    ];
    for (values, words) in cases {
        let flags = ["--create-namespace"];
        let refused = apply(&plane, "install", &values, &flags).await;
        let said = format!("{:#}", refused.err().with_context(|| format!("{values} was taken"))?);
        ensure!(words.iter().all(|word| said.contains(word)), "{values}: {said}");
    }
    // Where the kinds of the Prometheus Operator are missing, it is them that the message names.
    for (switch, kind) in [("podMonitors", "PodMonitor"), ("rules", "PrometheusRule")] {
        let refused =
            apply(&plane, "install", &json!({"monitoring": {switch: {"enabled": true}}}), &["--create-namespace"])
                .await;
        let said = format!("{:#}", refused.err().with_context(|| format!("{switch} was taken"))?);
        ensure!(said.contains(kind) && said.contains("CRDs"), "{switch}: {said}");
    }
    let releases = plane.helm(["list", "--all-namespaces", "--output=json"]).await?;
    ensure!(releases.trim() == "[]", "{RELEASE} is there: {releases}");
    let mut left = added(plane.api(), &before).await?;
    // `--create-namespace` comes before all else.
    left.remove(&format!("namespaces /{SYSTEM}"));
    ensure!(left.is_empty(), "it leaves {left:?}");
    Ok(())
}
