//! SecretProviderClassPodStatus.

use std::time::Duration;

use anyhow::{Result, ensure};
use bed::eventually;
use coffer_injector::kubernetes::PodStatus;
use serde_json::{Value, json};

use crate::fixture::{Namespace, SOON, managers};

const STATUSES: &str = "secrets-store.csi.x-k8s.io/v1/secretproviderclasspodstatuses";

fn objects(entries: &[(&str, &str)]) -> Vec<(String, String)> {
    entries.iter().map(|(id, version)| ((*id).to_owned(), (*version).to_owned())).collect()
}

/// Waits until the status is as given.
async fn becomes(test: &Namespace, status: &Value) -> Result<Value> {
    let name = format!("app-{}-aws", test.name);
    let there = eventually(SOON, async || {
        let found = test.get(STATUSES, &name).await?;
        ensure!(found["status"] == *status, "{found}");
        Ok(found)
    });
    there.await
}

fn status(target_path: &str, objects: &[(&str, &str)]) -> Value {
    let objects: Vec<_> = objects.iter().map(|(id, version)| json!({"id": id, "version": version})).collect();
    json!({
        "podName": "app",
        "secretProviderClassName": "aws",
        "mounted": true,
        "targetPath": target_path,
        "objects": objects,
    })
}

#[tokio::test]
async fn a_status_is_as_the_secrets_store_driver_keeps_it() -> Result<()> {
    let test = Namespace::new().await?;
    let pod = test.pod("app", &json!([])).await?;
    let statuses = PodStatus::start(&test.kubernetes, "node-1");
    statuses.mounted(&pod, "aws", "/target/a", &objects(&[("db", "v1"), ("app", "3")]));
    let made = becomes(&test, &status("/target/a", &[("app", "3"), ("db", "v1")])).await?;
    let labels = json!({"internal.secrets-store.csi.k8s.io/node-name": "node-1"});
    ensure!(made["metadata"]["labels"] == labels, "{made}");
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "app", "uid": pod.uid}]);
    ensure!(made["metadata"]["ownerReferences"] == owner, "{made}");
    ensure!(managers(&made) == ["coffer-injector"], "{made}");

    let requests = test.traffic.count("", "") + test.traffic.count("GET", "") + test.traffic.writes();
    statuses.mounted(&pod, "aws", "/target/a", &objects(&[("app", "3"), ("db", "v1")]));
    statuses.mounted(&pod, "aws", "/target/a", &objects(&[("app", "3"), ("db", "v2")]));
    let changed = becomes(&test, &status("/target/a", &[("app", "3"), ("db", "v2")])).await?;
    ensure!(test.traffic.count("", "") + test.traffic.count("GET", "") + test.traffic.writes() == requests + 2);

    // Another process, as after a restart, looks and does not write.
    let writes = test.traffic.writes();
    let restarted = PodStatus::start(&test.kubernetes, "node-1");
    restarted.mounted(&pod, "aws", "/target/a", &objects(&[("app", "3"), ("db", "v2")]));
    let looked = test.traffic.count("GET", STATUS_PATH);
    eventually(SOON, async || {
        ensure!(test.traffic.count("GET", STATUS_PATH) > looked - 1);
        Ok(())
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(test.traffic.writes() == writes);
    let found = becomes(&test, &status("/target/a", &[("app", "3"), ("db", "v2")])).await?;
    ensure!(found["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]);
    Ok(())
}

const STATUS_PATH: &str = "/secretproviderclasspodstatuses/";

#[tokio::test]
async fn two_volumes_of_one_class_share_a_status() -> Result<()> {
    let test = Namespace::new().await?;
    let pod = test.pod("app", &json!([])).await?;
    let statuses = PodStatus::start(&test.kubernetes, "node-1");
    statuses.mounted(&pod, "aws", "/target/b", &objects(&[("db", "v1")]));
    statuses.mounted(&pod, "aws", "/target/a", &objects(&[("app", "1")]));
    becomes(&test, &status("/target/a", &[("app", "1"), ("db", "v1")])).await?;
    statuses.unmounted("/target/a");
    becomes(&test, &status("/target/b", &[("db", "v1")])).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_of_the_same_name_takes_the_status_over() -> Result<()> {
    let test = Namespace::new().await?;
    let mut pod = test.pod("app", &json!([])).await?;
    let statuses = PodStatus::start(&test.kubernetes, "node-1");
    statuses.mounted(&pod, "aws", "/target/a", &objects(&[("db", "v1")]));
    becomes(&test, &status("/target/a", &[("db", "v1")])).await?;
    pod.uid = "another".to_owned();
    statuses.mounted(&pod, "aws", "/target/b", &objects(&[("db", "v1")]));
    let found = becomes(&test, &status("/target/b", &[("db", "v1")])).await?;
    ensure!(found["metadata"]["ownerReferences"][0]["uid"] == "another", "{found}");
    Ok(())
}

#[tokio::test]
async fn what_could_not_be_written_is_written_once_it_can_be() -> Result<()> {
    let test = Namespace::new().await?;
    let pod = test.pod("app", &json!([])).await?;
    test.traffic.cut(true);
    let statuses = PodStatus::start(&test.kubernetes, "node-1");
    statuses.mounted(&pod, "aws", "/target/a", &objects(&[("db", "v1")]));
    eventually(SOON, async || {
        ensure!(test.traffic.count("GET", STATUS_PATH) > 0);
        Ok(())
    })
    .await?;
    test.traffic.cut(false);
    becomes(&test, &status("/target/a", &[("db", "v1")])).await?;
    Ok(())
}
