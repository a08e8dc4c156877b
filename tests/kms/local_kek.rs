//! `--write-format local-kek`: one call to KMS for many objects, and KMS keeps its say.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Fault, eventually};
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;

use crate::fixture::{Fixture, base64, id_of, refused};

const WRITES: &str = "--write-format=local-kek";

#[tokio::test]
async fn many_objects_cost_one_call_to_write_and_one_to_read() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[WRITES, "--probe-interval=1h"]).await?;
    fixture.proxy.clear_log();
    let mut all = JoinSet::new();
    for number in 0..300_u16 {
        let api = plugin.api.clone();
        all.spawn(async move {
            let plaintext = format!("object {number}, which nobody else is to see").into_bytes();
            let ciphertext = match number % 2 {
                0 => api.encrypt(&plaintext).await?.ciphertext,
                _ => api.encrypt_v1(&plaintext).await?,
            };
            anyhow::Ok((plaintext, ciphertext))
        });
    }
    let objects = all.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    for (plaintext, ciphertext) in &objects {
        ensure!(ciphertext.starts_with(&[0xC5, 0x01]), "{:?}", &ciphertext[..2]);
        ensure!(ciphertext.len() < 1024, "{} bytes", ciphertext.len());
        ensure!(!ciphertext.windows(8).any(|part| part == &plaintext[..8]), "the plaintext stands in it");
    }
    let mut distinct: Vec<_> = objects.iter().map(|(_, ciphertext)| ciphertext).collect();
    distinct.sort();
    distinct.dedup();
    ensure!(distinct.len() == objects.len());
    let calls = fixture.proxy.calls();
    ensure!(calls.len() == 1 && calls[0].operation == "Encrypt", "{calls:?}");
    plugin.stop().await?;

    // Read by one that writes so, and by one that has never heard of it.
    for flags in [&[WRITES, "--probe-interval=1h"][..], &["--probe-interval=1h"]] {
        let reader = fixture.serve(&key, flags).await?;
        fixture.proxy.clear_log();
        let mut all = JoinSet::new();
        for (plaintext, ciphertext) in objects.clone() {
            let (api, key) = (reader.api.clone(), key.clone());
            all.spawn(async move {
                ensure!(api.decrypt(&ciphertext, &key).await? == plaintext);
                ensure!(api.decrypt_v1(&ciphertext).await? == plaintext);
                Ok(())
            });
        }
        all.join_all().await.into_iter().collect::<Result<()>>()?;
        let calls = fixture.proxy.calls();
        ensure!(calls.len() == 1 && calls[0].operation == "Decrypt", "{calls:?}");
        reader.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn both_formats_are_read_by_one_that_writes_either() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let old = fixture.serve(&key, &[]).await?;
    let written = old.api.encrypt(b"old").await?;
    old.stop().await?;
    let new = fixture.serve(&key, &[WRITES]).await?;
    ensure!(new.api.decrypt(&written.ciphertext, &written.key_id).await? == b"old");
    let answer = new.api.encrypt(b"new").await?;
    // Another key_id, so that an API server writes anew what it is asked to write.
    ensure!(answer.key_id == format!("{key}#local-kek") && new.api.status().await?.key_id == answer.key_id);
    ensure!(answer.annotations.is_empty() && answer.ciphertext[0] == 0xC5);
    ensure!(new.api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"new");
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_disabled_stops_within_the_revalidation() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[WRITES, "--local-kek-revalidate=2s"]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    fixture.kms("DisableKey", json!({"KeyId": key})).await?;
    let disabled = Instant::now();
    let refusal = async || refused(plugin.api.encrypt(b"seed").await, Code::FailedPrecondition, &["DisabledException"]);
    let refused_read = async || {
        let read = plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await;
        refused(read, Code::FailedPrecondition, &["DisabledException"])
    };
    // In use all the time: 2 s, and a round trip.
    eventually(Duration::from_secs(4), async || {
        refused_read().await?;
        refusal().await
    })
    .await?;
    ensure!(disabled.elapsed() < Duration::from_secs(4), "{:?}", disabled.elapsed());
    for _ in 0..10 {
        refused_read().await?;
        refusal().await?;
    }
    fixture.kms("EnableKey", json!({"KeyId": key})).await?;
    ensure!(plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"seed");
    let again = plugin.api.encrypt(b"seed").await?;
    ensure!(plugin.api.decrypt(&again.ciphertext, &again.key_id).await? == b"seed");
    Ok(())
}

#[tokio::test]
async fn one_that_was_not_in_use_meanwhile_is_not_used_unasked() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[WRITES, "--local-kek-revalidate=1s"]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    fixture.kms("DisableKey", json!({"KeyId": key})).await?;
    sleep(Duration::from_secs(2)).await;
    let read = plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await;
    refused(read, Code::FailedPrecondition, &["DisabledException"])?;
    refused(plugin.api.encrypt(b"seed").await, Code::FailedPrecondition, &["DisabledException"])
}

#[tokio::test]
async fn an_outage_is_bridged_for_max_unverified() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let flags = [WRITES, "--local-kek-revalidate=1s", "--local-kek-max-unverified=6s"];
    let plugin = fixture.serve(&key, &flags).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    let began = Instant::now();
    fixture.fault(Fault::Status(500));
    while began.elapsed() < Duration::from_secs(4) {
        ensure!(plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"seed");
        let again = plugin.api.encrypt(b"more").await?;
        ensure!(plugin.api.decrypt(&again.ciphertext, &again.key_id).await? == b"more");
        sleep(Duration::from_millis(50)).await;
    }
    ensure!(plugin.process.stderr().contains("KMS does not confirm a local KEK"));
    eventually(Duration::from_secs(6), async || {
        let read = plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await;
        refused(read, Code::Unavailable, &["cannot be reached"])
    })
    .await?;
    refused(plugin.api.encrypt(b"more").await, Code::Unavailable, &["cannot be reached"])?;
    fixture.proxy.clear_faults();
    ensure!(plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"seed");
    plugin.api.encrypt(b"more").await?;
    Ok(())
}

#[tokio::test]
async fn a_kek_is_used_so_often_and_so_long() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let wrapped = |ciphertext: &[u8]| {
        let length = usize::from(u16::from_be_bytes([ciphertext[2], ciphertext[3]]));
        ciphertext[4..4 + length].to_vec()
    };
    let plugin = fixture.serve(&key, &[WRITES, "--local-kek-max-uses=10"]).await?;
    let mut keks = Vec::new();
    for _ in 0..40 {
        let ciphertext = plugin.api.encrypt(b"seed").await?.ciphertext;
        ensure!(plugin.api.decrypt(&ciphertext, &key).await? == b"seed");
        keks.push(wrapped(&ciphertext));
    }
    keks.dedup();
    ensure!((4..=8).contains(&keks.len()), "{} KEKs for 40 uses", keks.len());
    plugin.stop().await?;

    let plugin = fixture.serve(&key, &[WRITES, "--local-kek-max-age=1s"]).await?;
    let one = plugin.api.encrypt(b"seed").await?.ciphertext;
    sleep(Duration::from_secs(1)).await;
    let other = plugin.api.encrypt(b"seed").await?.ciphertext;
    ensure!(wrapped(&one) != wrapped(&other));
    for ciphertext in [one, other] {
        ensure!(plugin.api.decrypt(&ciphertext, &key).await? == b"seed");
    }
    Ok(())
}

#[tokio::test]
async fn damage_anywhere_is_found_and_another_context_is_no_key() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[WRITES, "--encryption-context=cluster=one"]).await?;
    let whole = plugin.api.encrypt(b"seed").await?.ciphertext;
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x01;
        // Where the wrapped KEK is damaged, KMS is asked, and cannot say more than that.
        let Err(status) = plugin.api.decrypt(&damaged, &key).await else {
            anyhow::bail!("damage at {place} of {} was not found", whole.len());
        };
        let codes = [Code::InvalidArgument, Code::FailedPrecondition];
        ensure!(codes.contains(&status.code()), "at {place}: {status:?}");
    }
    for length in 0..whole.len() {
        let cut = plugin.api.decrypt(&whole[..length], &key).await;
        refused(cut, Code::InvalidArgument, &[])?;
    }
    ensure!(plugin.api.decrypt(&whole, &key).await? == b"seed");
    ensure!(plugin.api.status().await?.healthz == "ok");
    plugin.stop().await?;
    let other = fixture.serve(&key, &[WRITES, "--encryption-context=cluster=two"]).await?;
    refused(other.api.decrypt(&whole, &key).await, Code::InvalidArgument, &["InvalidCiphertextException"])
}

#[tokio::test]
async fn the_kek_goes_to_kms_and_nowhere_else() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[WRITES, "--probe-interval=1h", "--log-level=debug"]).await?;
    fixture.proxy.clear_log();
    let answer = plugin.api.encrypt(b"seed, which nobody else is to see").await?;
    let asked = fixture.proxy.calls_to("Encrypt").remove(0).request;
    ensure!(asked["Plaintext"] != base64(b"seed, which nobody else is to see"), "the seed went to KMS");
    let kek = asked["Plaintext"].as_str().unwrap_or_default().to_owned();
    ensure!(asked["KeyId"] == key && kek.len() == 44, "{asked}");
    plugin.api.decrypt(&answer.ciphertext, id_of(&key)).await?;
    for (name, expected) in [("coffer_kms_local_keks", 1.0), ("coffer_kms_local_kek_uses", 1.0)] {
        let found = plugin.metric(name, &[]).await?;
        ensure!((found - expected).abs() < 0.1, "{name} {found}");
    }
    let (_, metrics) = plugin.get("/metrics").await?;
    let said = plugin.stop().await? + &metrics;
    ensure!(!said.contains(&kek[..40]) && !said.contains("nobody else is to see"), "a secret was told");
    Ok(())
}
