//! What costs a call to KMS and what does not.

use std::time::Duration;

use anyhow::{Result, ensure};
use bed::{Fault, Rule, Times, eventually};
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;

use crate::fixture::{Fixture, refused};

#[tokio::test]
async fn a_thousand_equal_decrypts_are_one_call_whoever_leaves() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    fixture.proxy.fault(Rule::new(Fault::Slow(Duration::from_millis(800))).operation("Decrypt"));
    let ask = || {
        let (api, answer) = (plugin.api.clone(), answer.clone());
        async move { api.decrypt(&answer.ciphertext, &answer.key_id).await }
    };
    let first = tokio::spawn(ask());
    let asked = || fixture.decrypts_of(std::slice::from_ref(&answer.ciphertext)).len();
    eventually(Duration::from_secs(5), async || {
        ensure!(asked() == 1, "KMS was not asked yet");
        Ok(())
    })
    .await?;
    let hurried = plugin.api.within(Duration::from_millis(100));
    let mut rest = JoinSet::new();
    for _ in 0..1_000 {
        rest.spawn(ask());
    }
    first.abort();
    ensure!(hurried.decrypt(&answer.ciphertext, &answer.key_id).await.is_err(), "answered before KMS did");
    for read in rest.join_all().await {
        ensure!(read? == b"seed");
    }
    ensure!(asked() == 1, "{} calls", asked());
    Ok(())
}

#[tokio::test]
async fn a_shared_call_that_fails_fails_for_all_and_is_forgotten() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    let denied = Rule::new(Fault::AccessDenied).operation("Decrypt").times(Times::First(1));
    fixture.proxy.set_latency(Duration::from_millis(300));
    fixture.proxy.fault(denied);
    let mut all = JoinSet::new();
    for _ in 0..100 {
        let (api, answer) = (plugin.api.clone(), answer.clone());
        all.spawn(async move { api.decrypt(&answer.ciphertext, &answer.key_id).await });
    }
    for refusal in all.join_all().await {
        refused(refusal, Code::PermissionDenied, &["AccessDeniedException"])?;
    }
    ensure!(plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"seed");
    ensure!(fixture.decrypts_of(&[answer.ciphertext]).len() == 2);
    Ok(())
}

#[tokio::test]
async fn a_hundred_ciphertexts_are_a_hundred_calls_however_often_they_are_asked_for() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--probe-interval=1h"]).await?;
    let mut ciphertexts = Vec::new();
    for number in 0..100_u8 {
        ciphertexts.push(plugin.api.encrypt(&[number; 32]).await?.ciphertext);
    }
    fixture.proxy.clear_log();
    for _ in 0..3 {
        // A few at a time: a second try goes beside one that LocalStack is slow with.
        for (part, some) in ciphertexts.chunks(10).enumerate() {
            let mut all = JoinSet::new();
            for (number, ciphertext) in some.iter().cloned().enumerate() {
                let (api, key) = (plugin.api.clone(), key.clone());
                all.spawn(async move { anyhow::Ok((part * 10 + number, api.decrypt(&ciphertext, &key).await?)) });
            }
            for read in all.join_all().await {
                let (number, plaintext) = read?;
                ensure!(plaintext == [u8::try_from(number)?; 32], "a wrong plaintext for {number}");
            }
        }
    }
    let calls = fixture.proxy.count("Decrypt");
    ensure!(calls == 100, "{calls} calls");
    let source = async |source: &str| plugin.metric("coffer_kms_decrypt_sources_total", &[("source", source)]).await;
    ensure!(source("miss").await? == 100.0 && source("hit").await? == 200.0);
    // v1 gets the same from the same memory.
    ensure!(plugin.api.decrypt_v1(&ciphertexts[7]).await? == [7; 32]);
    ensure!(fixture.proxy.count("Decrypt") == 100);
    Ok(())
}

#[tokio::test]
async fn without_the_cache_each_asks_and_those_at_once_share() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--decrypt-cache-ttl", "0"]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    for _ in 0..5 {
        ensure!(plugin.api.decrypt(&answer.ciphertext, &key).await? == b"seed");
    }
    let asked = || fixture.decrypts_of(std::slice::from_ref(&answer.ciphertext)).len();
    ensure!(asked() == 5, "{} calls", asked());
    ensure!(plugin.metric("coffer_kms_decrypt_cache_entries", &[]).await? == 0.0);
    // An outage has nothing to bridge it.
    fixture.fault(Fault::Status(500));
    refused(plugin.api.decrypt(&answer.ciphertext, &key).await, Code::Unavailable, &[])
}

#[tokio::test]
async fn the_cache_holds_as_many_as_it_may() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let flags = ["--decrypt-cache-size=3", "--decrypt-cache-ttl=2s", "--decrypt-cache-max-stale=0"];
    let plugin = fixture.serve(&key, &flags).await?;
    let mut ciphertexts = Vec::new();
    for number in 0..5_u8 {
        ciphertexts.push(plugin.api.encrypt(&[number]).await?.ciphertext);
    }
    for ciphertext in &ciphertexts {
        plugin.api.decrypt(ciphertext, &key).await?;
    }
    ensure!(plugin.metric("coffer_kms_decrypt_cache_entries", &[]).await? == 3.0);
    let asked = || fixture.decrypts_of(&ciphertexts).len();
    ensure!(asked() == 5);
    plugin.api.decrypt(&ciphertexts[4], &key).await?;
    ensure!(asked() == 5);
    plugin.api.decrypt(&ciphertexts[0], &key).await?;
    ensure!(asked() == 6);
    // And only for its time.
    sleep(Duration::from_secs(2)).await;
    plugin.api.decrypt(&ciphertexts[4], &key).await?;
    ensure!(asked() == 7);
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_only_polls_costs_what_the_probes_cost() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let calls = fixture.proxy.calls().len();
    ensure!(calls == 2, "{calls} calls at the start");
    for _ in 0..200 {
        plugin.api.status().await?;
        plugin.api.version().await?;
    }
    for path in ["/healthz", "/livez", "/readyz", "/metrics"] {
        ensure!(plugin.get(path).await?.0 == 200, "{path}");
    }
    ensure!(fixture.proxy.calls().len() == 2);
    Ok(())
}
