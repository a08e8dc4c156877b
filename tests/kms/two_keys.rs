//! Two keys on two sockets of one process: neither knows of the other's trouble.

use std::time::Duration;

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bed::{Call, Fault, Rule};
use serde_json::json;
use tokio::time::sleep;
use tonic::Code;

use crate::fixture::{Api, Fixture, Plugin, id_of, refused};

/// Whether a call to KMS is about that key: LocalStack's ciphertexts begin with the key's id.
fn is_about(call: &Call, key: &str) -> bool {
    let named = call.request["KeyId"].as_str().is_some_and(|name| name.contains(id_of(key)));
    let blob = call.request["CiphertextBlob"].as_str().and_then(|blob| BASE64_STANDARD.decode(blob).ok());
    named || blob.is_some_and(|blob| blob.starts_with(id_of(key).as_bytes()))
}

struct Pair {
    fixture: Fixture,
    plugin: Plugin,
    keys: [String; 2],
    second: Api,
}

impl Pair {
    async fn new() -> Result<Self> {
        let fixture = Fixture::new().await?;
        let keys = [fixture.key().await?, fixture.key().await?];
        let program = fixture.program(&[&keys[0], &keys[1]]).arg("--probe-interval=1s");
        let plugin = fixture.start(program).await?;
        let second = fixture.api(1).await?;
        plugin.api.becomes("ok").await?;
        second.becomes("ok").await?;
        Ok(Self { fixture, plugin, keys, second })
    }

    /// The second key is in trouble, and the first is not, for some probes.
    async fn only_the_second_says(&self, words: &str) -> Result<()> {
        let status = self.second.becomes(words).await?;
        ensure!(status.key_id == self.keys[1], "{status:?}");
        for _ in 0..15 {
            let status = self.plugin.api.status().await?;
            ensure!(status.healthz == "ok" && status.key_id == self.keys[0], "{status:?}");
            let answer = self.plugin.api.encrypt(b"seed").await?;
            ensure!(answer.key_id == self.keys[0]);
            ensure!(self.plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"seed");
            sleep(Duration::from_millis(100)).await;
        }
        let body = self.plugin.healthz(500).await?;
        ensure!(body.contains("key 2 of --key") && !body.contains("key 1"), "{body}");
        ensure!(self.plugin.get("/readyz").await?.0 == 200);
        for (key, healthy) in self.keys.iter().zip([1.0, 0.0]) {
            let told = self.plugin.metric("coffer_kms_key_healthy", &[("key", key)]).await?;
            ensure!((told - healthy).abs() < 0.1, "{key}: {told}");
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_disabled_key_is_told_on_its_own_socket_only() -> Result<()> {
    let pair = Pair::new().await?;
    pair.fixture.kms("DisableKey", json!({"KeyId": pair.keys[1]})).await?;
    pair.only_the_second_says("DisabledException").await?;
    refused(pair.second.encrypt(b"seed").await, Code::FailedPrecondition, &["DisabledException"])?;
    pair.fixture.kms("EnableKey", json!({"KeyId": pair.keys[1]})).await?;
    pair.second.becomes("ok").await?;
    ensure!(pair.plugin.healthz(200).await? == "OK");
    pair.plugin.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_denied_or_hanging_key_is_told_on_its_own_socket_only() -> Result<()> {
    let pair = Pair::new().await?;
    for (fault, words, code) in [
        (Fault::AccessDenied, "AccessDeniedException", Code::PermissionDenied),
        (Fault::Hang, "in time", Code::DeadlineExceeded),
    ] {
        let key = pair.keys[1].clone();
        pair.fixture.proxy.fault(Rule::new(fault).when(move |call| is_about(call, &key)));
        pair.only_the_second_says(words).await?;
        refused(pair.second.encrypt(b"seed").await, code, &[words])?;
        pair.fixture.proxy.clear_faults();
        pair.second.becomes("ok").await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_key_has_its_own_encryption_context() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let program = fixture
        .program(&[&key, &key])
        .arg("--encryption-context=cluster=one,\"note=a,b\"")
        .arg("--encryption-context=cluster=two");
    let plugin = fixture.start(program).await?;
    let second = fixture.api(1).await?;
    plugin.api.becomes("ok").await?;
    second.becomes("ok").await?;
    let (one, two) = (plugin.api.encrypt(b"first").await?, second.encrypt(b"second").await?);
    let context = json!({"cluster": "one", "note": "a,b"});
    ensure!(fixture.kms_decrypt(&one.ciphertext[1..], context).await? == b"first");
    ensure!(fixture.kms_decrypt(&two.ciphertext[1..], json!({"cluster": "two"})).await? == b"second");
    ensure!(plugin.api.decrypt(&one.ciphertext, &key).await? == b"first");
    ensure!(second.decrypt_v1(&two.ciphertext).await? == b"second");
    let words = ["InvalidCiphertextException", "--encryption-context"];
    refused(plugin.api.decrypt(&two.ciphertext, &key).await, Code::InvalidArgument, &words)?;
    refused(second.decrypt_v1(&one.ciphertext).await, Code::InvalidArgument, &words)?;
    ensure!(second.status().await?.healthz == "ok");
    Ok(())
}

#[tokio::test]
async fn one_list_of_each_flag_is_as_good_as_one_flag_for_each() -> Result<()> {
    let fixture = Fixture::new().await?;
    let keys = [fixture.key().await?, fixture.key().await?];
    let sockets = format!("{},unix://{}", fixture.socket(0).display(), fixture.socket(1).display());
    let program = fixture.program(&[]).args(["--key", &keys.join(","), "--listen", &sockets]);
    let plugin = fixture.start(program).await?;
    for (place, key) in keys.iter().enumerate() {
        let api = fixture.api(place).await?;
        api.becomes("ok").await?;
        ensure!(api.status().await?.key_id == *key);
        ensure!(api.encrypt(b"seed").await?.key_id == *key);
    }
    plugin.stop().await?;
    Ok(())
}
