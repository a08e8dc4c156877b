//! `coffer-kms decrypt`: what an API server stored, read without one.

use std::fs;

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::{ControlPlane, ControlPlaneOptions, Process, cluster::Stored};
use serde_json::{Value, json};

use crate::fixture::{
    Kms, PLAINTEXT,
    Resource::{self, ConfigMap, Secret},
    SOON, Served, Version, encryption,
};

#[tokio::test]
async fn an_object_can_be_read_with_no_api_server_left() -> Result<()> {
    let kms = Kms::new().await?;
    let key = kms.key("kms").await?;
    let plugin = kms.serve(&[&key]).await?;
    let config = encryption([
        (Secret, vec![Version::V2.provider("aws-v2", &key.socket)]),
        (ConfigMap, vec![Version::V1.provider("aws-v1", &key.socket)]),
    ]);
    let options = ControlPlaneOptions::default().feature_gate("KMSv1=true").encryption(config);
    let plane = ControlPlane::start(options).await?;
    let mut stored = Vec::new();
    for (resource, version) in [(Secret, Version::V2), (ConfigMap, Version::V1)] {
        resource.create(&plane, "db").await?;
        stored.push((resource, version, resource.stored(&plane, "db").await?));
    }
    plane.stop().await?;
    plugin.stop().await?;

    for (resource, version, stored) in stored {
        // The value by itself, and its key beside it.
        let raw = decrypt(&kms, &key, &stored.value, &["--output=raw", &at(resource, "db")]).await?;
        ensure!(raw.stdout().contains(PLAINTEXT), "{version}: {}", raw.stdout());
        let json = decrypt(&kms, &key, &stored.value, &[&at(resource, "db")]).await?;
        check(resource, &json)?;
        // As `etcdctl get -w json` prints it, which has the key in it.
        let json = decrypt(&kms, &key, printed(resource, &stored).to_string().as_bytes(), &[]).await?;
        check(resource, &json)?;

        // The value is bound to its key.
        let refused = run(&kms, &key, &stored.value, &[&at(resource, "other")]).await?;
        ensure!(refused.wait(SOON).await?.code() == Some(1), "{}", refused.stderr());
        ensure!(refused.stderr().contains("/registry/"), "{}", refused.stderr());
        ensure!(!(refused.stdout() + &refused.stderr()).contains(PLAINTEXT), "it told the plaintext");
    }
    Ok(())
}

fn at(resource: Resource, name: &str) -> String {
    format!("--etcd-key={}", resource.key(name))
}

fn printed(resource: Resource, stored: &Stored) -> Value {
    let key = BASE64_STANDARD.encode(resource.key("db"));
    json!({"header": {}, "kvs": [{"key": key, "value": BASE64_STANDARD.encode(&stored.value)}], "count": 1})
}

/// Runs the command, which must succeed.
async fn decrypt(kms: &Kms, key: &Served, value: &[u8], args: &[&str]) -> Result<Process> {
    let process = run(kms, key, value, args).await?;
    let status = process.status()?;
    ensure!(status.is_some_and(|status| status.success()), "{status:?}: {}", process.stderr());
    Ok(process)
}

/// Runs the command to its end.
async fn run(kms: &Kms, key: &Served, value: &[u8], args: &[&str]) -> Result<Process> {
    let file = key.socket.with_extension("value");
    fs::write(&file, value)?;
    let process = kms.coffer_kms().arg("decrypt").arg(format!("--key={}", key.key)).args(args).arg(file).start()?;
    process.wait(SOON).await?;
    Ok(process)
}

fn check(resource: Resource, process: &Process) -> Result<()> {
    let object: Value = serde_json::from_str(&process.stdout())?;
    let (kind, password) = match resource {
        Secret => ("Secret", BASE64_STANDARD.encode(PLAINTEXT)),
        ConfigMap => ("ConfigMap", PLAINTEXT.to_owned()),
    };
    ensure!(object["kind"] == kind && object["metadata"]["name"] == "db", "{object}");
    ensure!(object["data"]["password"] == password, "{object}");
    Ok(())
}
