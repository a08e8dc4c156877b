//! What is written and read, byte for byte, by both versions of the API.

use anyhow::{Result, ensure};
use serde_json::json;
use tonic::Code;

use crate::fixture::{Fixture, id_of, refused};

/// The longest that KMS encrypts.
const LONGEST: usize = 4096;

#[tokio::test]
async fn both_versions_write_and_read_kms_ciphertexts_behind_a_31() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--decrypt-cache-ttl=0"]).await?;
    let api = &plugin.api;
    for plaintext in [b"s".to_vec(), vec![0; 32], vec![0x31; 100], (0..=255).cycle().take(LONGEST).collect()] {
        let v2 = api.encrypt(&plaintext).await?;
        ensure!(v2.key_id == key && v2.annotations.is_empty(), "{v2:?}");
        let v1 = api.encrypt_v1(&plaintext).await?;
        for ciphertext in [&v2.ciphertext, &v1] {
            ensure!(ciphertext[0] == 0x31, "{ciphertext:?}");
            ensure!(fixture.kms_decrypt(&ciphertext[1..], json!({})).await? == plaintext);
            ensure!(api.decrypt(ciphertext, &key).await? == plaintext);
            ensure!(api.decrypt_v1(ciphertext).await? == plaintext);
        }
        ensure!(v1 != v2.ciphertext, "each Encrypt has its own ciphertext");
    }
    // A seed's ciphertext fits what an API server takes.
    let seed = api.encrypt(&[7; 32]).await?.ciphertext;
    ensure!(seed.len() < 1024, "{} bytes", seed.len());

    // What was asked of KMS: the key as it is named, no context, and on Decrypt no key.
    let calls = fixture.proxy.calls();
    let fields = |operation: &str| {
        let call = calls.iter().rev().find(|call| call.operation == operation);
        call.map(|call| call.request.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>()))
    };
    ensure!(fields("Encrypt") == Some(Some(vec!["KeyId".to_owned(), "Plaintext".to_owned()])));
    ensure!(fields("Decrypt") == Some(Some(vec!["CiphertextBlob".to_owned()])));
    ensure!(calls.iter().filter(|call| call.operation == "Encrypt").all(|call| call.request["KeyId"] == key));
    Ok(())
}

#[tokio::test]
async fn what_kms_alone_has_encrypted_is_read_as_the_other_plugin_reads_it() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.multi_region_key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let blob = fixture.kms_encrypt(&key, b"seed").await?;
    ensure!(blob[0] != 0x31, "as at AWS");
    let prefixed = [b"1", &blob[..]].concat();
    ensure!(plugin.api.decrypt_v1(&blob).await? == b"seed");
    ensure!(plugin.api.decrypt_v1(&prefixed).await? == b"seed");
    ensure!(plugin.api.decrypt(&prefixed, &key).await? == b"seed");
    refused(plugin.api.decrypt(&blob, &key).await, Code::InvalidArgument, &["begins with", "0x31"])?;
    // Any key_id that was once told will do, and none.
    for key_id in [id_of(&key), "alias/once", "arn:aws:kms:eu-west-1:1:key/elsewhere", ""] {
        ensure!(plugin.api.decrypt(&prefixed, key_id).await? == b"seed", "{key_id}");
    }
    Ok(())
}

#[tokio::test]
async fn the_key_id_is_the_flag_whatever_the_key_is_called() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    fixture.kms("CreateAlias", json!({"AliasName": "alias/etcd", "TargetKeyId": key})).await?;
    let alias = key.replace(&format!("key/{}", id_of(&key)), "alias/etcd");
    for name in [key.as_str(), id_of(&key), "alias/etcd", &alias] {
        let plugin = fixture.serve(name, &[]).await?;
        let status = plugin.api.status().await?;
        ensure!(status.key_id == name && status.version == "v2beta1", "{status:?}");
        let answer = plugin.api.encrypt(b"seed").await?;
        ensure!(answer.key_id == name, "{answer:?}");
        ensure!(plugin.api.decrypt(&answer.ciphertext, name).await? == b"seed");
        plugin.stop().await?;
    }
    ensure!(fixture.proxy.calls().iter().all(|call| ["Encrypt", "Decrypt"].contains(&call.operation.as_str())));
    Ok(())
}

#[tokio::test]
async fn versions_are_those_of_the_other_plugin_or_as_told() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--status-version=v2"]).await?;
    ensure!(plugin.api.status().await?.version == "v2");
    let version = plugin.api.version().await?;
    ensure!((version.version.as_str(), version.runtime_name.as_str()) == ("v1beta1", "AWSKMS"), "{version:?}");
    let numbers: Vec<_> = version.runtime_version.split('.').collect();
    ensure!(numbers.len() == 3 && numbers[0].parse::<u32>().is_ok(), "{version:?}");
    Ok(())
}

#[tokio::test]
async fn data_goes_over_from_process_to_process() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let context = "--encryption-context=cluster=prod";
    let first = fixture.serve(&key, &[context]).await?;
    let (v2, v1) = (first.api.encrypt(b"seed").await?, first.api.encrypt_v1(b"dek").await?);
    first.stop().await?;
    let second = fixture.serve(&key, &[context]).await?;
    ensure!(second.api.decrypt(&v2.ciphertext, &v2.key_id).await? == b"seed");
    ensure!(second.api.decrypt_v1(&v1).await? == b"dek");
    second.stop().await?;
    let third = fixture.serve(&key, &[]).await?;
    let words = ["InvalidCiphertextException", "--encryption-context"];
    refused(third.api.decrypt(&v2.ciphertext, &v2.key_id).await, Code::InvalidArgument, &words)?;
    refused(third.api.decrypt_v1(&v1).await, Code::InvalidArgument, &words)
}
