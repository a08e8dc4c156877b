//! `secretObjects`: Kubernetes Secrets made of a volume's files, for those who ask for them.

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::{csi::PodVolume, eventually};
use serde_json::{Value, json};

use crate::fixture::{Driver, Fixture, SOON};

fn class(data: &Value) -> Value {
    json!({
        "provider": "aws",
        "parameters": {"objects": "\
- {objectName: prod/db, objectType: secretsmanager, objectAlias: db, jmesPath: [{path: password, objectAlias: password}]}
- {objectName: /prod/level, objectType: ssmparameter, objectAlias: level}
"},
        "secretObjects": [
            {"secretName": "app", "type": "Opaque", "labels": {"team": "shop"}, "data": data},
        ],
    })
}

fn two_keys() -> Value {
    json!([{"objectName": "password", "key": "PASSWORD"}, {"objectName": "level", "key": "level"}])
}

async fn with_class(flags: &[&str], spec: Value) -> Result<(Fixture, Driver, PodVolume)> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    cluster.class_as("app", spec).await?;
    let driver = fixture.start(flags).await?;
    let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    let volume = cluster.pod_of(volume, "api").await?;
    Ok((fixture, driver, volume))
}

async fn secret(fixture: &Fixture) -> Result<Value> {
    let cluster = fixture.cluster();
    eventually(SOON, async || cluster.api().get(&cluster.path("secrets", "app")).await).await
}

fn value(secret: &Value, key: &str) -> Result<String> {
    let text = secret["data"][key].as_str().with_context(|| format!("no {key}"))?;
    Ok(String::from_utf8(BASE64_STANDARD.decode(text)?)?)
}

#[tokio::test]
async fn a_secret_is_made_and_follows_its_files() -> Result<()> {
    let (fixture, driver, volume) = with_class(&["--sync-secrets", "--refresh=1s"], class(&two_keys())).await?;
    fixture.kubelet.publish(&volume).await?;
    let made = secret(&fixture).await?;
    ensure!(value(&made, "PASSWORD")? == "one" && value(&made, "level")? == "info");
    ensure!(made["type"] == "Opaque" && made["metadata"]["labels"]["team"] == "shop", "{}", made["metadata"]);
    ensure!(made["metadata"]["labels"]["secrets-store.csi.k8s.io/managed"] == "true", "{}", made["metadata"]);
    // Without a controller the pod itself is the owner: Kubernetes removes it with the last one.
    ensure!(made["metadata"]["ownerReferences"][0]["uid"] == *volume.uid(), "{}", made["metadata"]);
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    fixture.becomes(&volume, "password", "two").await?;
    eventually(SOON, async || {
        ensure!(value(&secret(&fixture).await?, "PASSWORD")? == "two");
        Ok(())
    })
    .await?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn without_the_flag_nothing_is_made() -> Result<()> {
    let (fixture, driver, volume) = with_class(&[], class(&two_keys())).await?;
    fixture.kubelet.publish(&volume).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    fixture.cluster().ensure_absent("secrets", "app").await?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_secret_of_somebody_elses_is_not_touched() -> Result<()> {
    let (fixture, driver, volume) = with_class(&["--sync-secrets"], class(&two_keys())).await?;
    let cluster = fixture.cluster();
    let theirs = json!({"metadata": {"name": "app"}, "stringData": {"PASSWORD": "theirs"}});
    cluster.api().create(&cluster.path("secrets", ""), &theirs).await?;
    // The pod has its files all the same.
    fixture.kubelet.publish(&volume).await?;
    cluster.event(&volume, &["app", "secrets-store.csi.k8s.io/managed"]).await?;
    let found = secret(&fixture).await?;
    ensure!(value(&found, "PASSWORD")? == "theirs" && found["data"]["level"].is_null(), "it was taken over");
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_key_of_a_file_that_is_not_there_is_told() -> Result<()> {
    let keys = json!([{"objectName": "pasword", "key": "PASSWORD"}]);
    let (fixture, driver, volume) = with_class(&["--sync-secrets"], class(&keys)).await?;
    fixture.kubelet.publish(&volume).await?;
    fixture.cluster().event(&volume, &["pasword", "did you mean `password`"]).await?;
    fixture.cluster().ensure_absent("secrets", "app").await?;
    driver.ensure_serves().await
}
