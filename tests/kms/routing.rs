//! Which key a ciphertext goes to: `--decrypt-key`, `--decrypt-context` and `--decrypt-policy`.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tonic::Code;

use crate::fixture::{Fixture, base64, id_of, refused};

/// The keys that KMS was told for a ciphertext, in order.
fn keys_asked(fixture: &Fixture, ciphertext: &[u8]) -> Vec<String> {
    let blob = base64(&ciphertext[1..]);
    let calls = fixture.proxy.calls_to("Decrypt");
    let of_it = calls.iter().filter(|call| call.request["CiphertextBlob"] == blob);
    of_it.map(|call| call.request["KeyId"].as_str().unwrap_or("none").to_owned()).collect()
}

#[tokio::test]
async fn listed_keys_are_told_to_kms_and_no_other_key_is_asked() -> Result<()> {
    let fixture = Fixture::new().await?;
    let (old, new, other) = (fixture.key().await?, fixture.key().await?, fixture.key().await?);
    let plugin = fixture.serve(&old, &[]).await?;
    let by_old = plugin.api.encrypt(b"old").await?;
    let by_old_v1 = plugin.api.encrypt_v1(b"old too").await?;
    plugin.stop().await?;

    let plugin = fixture.serve(&new, &["--decrypt-key", &old]).await?;
    let by_new = plugin.api.encrypt(b"new").await?;
    ensure!(by_new.key_id == new, "{by_new:?}");
    fixture.proxy.clear_log();
    // v2 is routed by its key_id.
    ensure!(plugin.api.decrypt(&by_old.ciphertext, &by_old.key_id).await? == b"old");
    ensure!(keys_asked(&fixture, &by_old.ciphertext) == [old.as_str()]);
    ensure!(plugin.api.decrypt(&by_new.ciphertext, &by_new.key_id).await? == b"new");
    ensure!(keys_asked(&fixture, &by_new.ciphertext) == [new.as_str()]);
    // v1 tries, and goes on with what worked.
    let mut tried = 0;
    for number in 0..3_u8 {
        let ciphertext = [b"1", &fixture.kms_encrypt(&old, &[number]).await?[..]].concat();
        ensure!(plugin.api.decrypt_v1(&ciphertext).await? == [number]);
        let asked = keys_asked(&fixture, &ciphertext);
        ensure!(asked.last() == Some(&old), "{asked:?}");
        tried += asked.len();
    }
    ensure!(tried <= 4, "{tried} calls for three ciphertexts");
    ensure!(plugin.api.decrypt_v1(&by_old_v1).await? == b"old too");
    ensure!(plugin.api.status().await?.healthz == "ok");

    // A key_id that nobody knows costs no call, and the answer says what to do.
    let by_other = [b"1", &fixture.kms_encrypt(&other, b"other").await?[..]].concat();
    let unknown = plugin.api.decrypt(&by_other, &other).await;
    refused(unknown, Code::InvalidArgument, &[&other, "--decrypt-key", "--decrypt-policy any"])?;
    refused(plugin.api.decrypt(&by_old.ciphertext, "").await, Code::InvalidArgument, &["--decrypt-key"])?;
    ensure!(keys_asked(&fixture, &by_other).is_empty());
    // Nor does a false key_id open another key's door, not even for what is cached.
    let words = ["IncorrectKeyException", "--decrypt-key"];
    refused(plugin.api.decrypt(&by_old.ciphertext, &new).await, Code::InvalidArgument, &words)?;
    refused(plugin.api.decrypt(&by_other, &new).await, Code::InvalidArgument, &words)?;
    refused(plugin.api.decrypt_v1(&by_other).await, Code::InvalidArgument, &words)?;
    ensure!(plugin.api.status().await?.healthz == "ok", "another's data says nothing of our key");
    Ok(())
}

#[tokio::test]
async fn every_name_of_a_key_leads_to_it() -> Result<()> {
    let fixture = Fixture::new().await?;
    let (old, new) = (fixture.key().await?, fixture.key().await?);
    fixture.kms("CreateAlias", json!({"AliasName": "alias/etcd", "TargetKeyId": old})).await?;
    let by_old = [b"1", &fixture.kms_encrypt(&old, b"old").await?[..]].concat();
    // Listed by its id, and by the alias that it was once named by.
    let keys = format!("{},alias/etcd", id_of(&old));
    let plugin = fixture.serve(&new, &["--decrypt-key", &keys, "--decrypt-cache-ttl=0"]).await?;
    for key_id in [old.as_str(), id_of(&old), "alias/etcd", &format!("{old}#m=0123456789abcdef#t=1700000000")] {
        let read = plugin.api.decrypt(&by_old, key_id).await;
        ensure!(read.with_context(|| key_id.to_owned())? == b"old");
    }
    Ok(())
}

#[tokio::test]
async fn a_new_encryption_context_reads_what_the_old_one_wrote() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--encryption-context=cluster=old"]).await?;
    let old = plugin.api.encrypt(b"old").await?;
    let old_v1 = plugin.api.encrypt_v1(b"old too").await?;
    plugin.stop().await?;
    let flags = ["--encryption-context=cluster=new", "--decrypt-key", &key, "--decrypt-context=cluster=old"];
    let plugin = fixture.serve(&key, &flags).await?;
    let new = plugin.api.encrypt(b"new").await?;
    ensure!(fixture.kms_decrypt(&new.ciphertext[1..], json!({"cluster": "new"})).await? == b"new");
    ensure!(plugin.api.decrypt(&new.ciphertext, &key).await? == b"new");
    ensure!(plugin.api.decrypt(&old.ciphertext, &key).await? == b"old");
    ensure!(plugin.api.decrypt_v1(&old_v1).await? == b"old too");
    ensure!(plugin.api.status().await?.healthz == "ok");
    Ok(())
}

#[tokio::test]
async fn any_key_is_read_by_default_and_counted() -> Result<()> {
    let fixture = Fixture::new().await?;
    let (key, other) = (fixture.key().await?, fixture.key().await?);
    let plugin = fixture.serve(&key, &[]).await?;
    let unlisted = || plugin.metric("coffer_kms_unlisted_key_decrypts_total", &[]);
    let own = plugin.api.encrypt(b"own").await?;
    plugin.api.decrypt(&own.ciphertext, &key).await?;
    ensure!(unlisted().await? == 0.0);
    for number in 0..3_u8 {
        let ciphertext = [b"1", &fixture.kms_encrypt(&other, &[number]).await?[..]].concat();
        ensure!(plugin.api.decrypt(&ciphertext, &other).await? == [number]);
        ensure!(keys_asked(&fixture, &ciphertext) == ["none"]);
    }
    ensure!(unlisted().await? == 3.0);
    let said = plugin.stop().await?;
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("data of a key that is not listed")).collect();
    ensure!(warnings.len() == 1 && warnings[0].contains(&other) && warnings[0].contains("--decrypt-key"), "{said}");

    let plugin = fixture.serve(&key, &["--decrypt-key", &other, "--decrypt-policy=any"]).await?;
    let ciphertext = [b"1", &fixture.kms_encrypt(&other, b"listed").await?[..]].concat();
    ensure!(plugin.api.decrypt(&ciphertext, "anything").await? == b"listed");
    ensure!(plugin.metric("coffer_kms_unlisted_key_decrypts_total", &[]).await? == 0.0);
    plugin.stop().await?;

    // The other way round: nothing listed but the key itself.
    let plugin = fixture.serve(&key, &["--decrypt-policy=listed"]).await?;
    refused(plugin.api.decrypt(&ciphertext, &other).await, Code::InvalidArgument, &["--decrypt-key"])?;
    refused(plugin.api.decrypt(&ciphertext, &key).await, Code::InvalidArgument, &["IncorrectKeyException"])?;
    ensure!(plugin.api.decrypt(&own.ciphertext, &key).await? == b"own");
    ensure!(keys_asked(&fixture, &own.ciphertext).last() == Some(&key));
    Ok(())
}

#[tokio::test]
async fn an_old_key_in_trouble_is_no_trouble_of_the_new_one() -> Result<()> {
    let fixture = Fixture::new().await?;
    let (old, new) = (fixture.key().await?, fixture.key().await?);
    let by_old = [b"1", &fixture.kms_encrypt(&old, b"old").await?[..]].concat();
    fixture.kms("DisableKey", json!({"KeyId": old})).await?;
    let plugin = fixture.serve(&new, &["--decrypt-key", &old, "--probe-interval=1s"]).await?;
    for _ in 0..5 {
        let read = plugin.api.decrypt(&by_old, &old).await;
        refused(read, Code::FailedPrecondition, &["DisabledException", "enable it"])?;
        // v1 asks both, and the disabled key's answer tells more than "not mine".
        refused(plugin.api.decrypt_v1(&by_old).await, Code::FailedPrecondition, &["DisabledException"])?;
    }
    ensure!(plugin.api.status().await?.healthz == "ok");
    ensure!(plugin.healthz(200).await? == "OK");
    let by_new = plugin.api.encrypt_v1(b"new").await?;
    ensure!(plugin.api.decrypt_v1(&by_new).await? == b"new");
    Ok(())
}
