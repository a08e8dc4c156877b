//! `--replica-region`: a multi-region key decrypts elsewhere while its own region does not.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Fault, Rule, Times};
use serde_json::json;
use tokio::time::sleep;
use tonic::Code;

use crate::fixture::{Fixture, PATIENCE, refused};

const HOME: &str = "eu-west-1";
const ELSEWHERE: &str = "us-east-1";

fn at(region: &'static str, fault: Fault) -> Rule {
    Rule::new(fault).when(move |call| call.region.as_deref() == Some(region))
}

/// The regions that were asked to decrypt, and the keys that they were told, since the log was cleared.
fn asked(fixture: &Fixture) -> Vec<(String, String)> {
    let calls = fixture.proxy.calls_to("Decrypt").into_iter();
    let told = |field: Option<&str>| field.unwrap_or("none").to_owned();
    calls.map(|call| (told(call.region.as_deref()), told(call.request["KeyId"].as_str()))).collect()
}

#[tokio::test]
async fn decrypt_goes_on_in_the_other_region_and_comes_back() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.multi_region_key().await?;
    fixture.kms("ReplicateKey", json!({"KeyId": key, "ReplicaRegion": ELSEWHERE})).await?;
    let flags = ["--replica-region", ELSEWHERE, "--decrypt-cache-ttl=0", "--probe-interval=1h"];
    let plugin = fixture.serve(&key, &flags).await?;
    ensure!(plugin.api.status().await?.key_id == key);
    let answer = plugin.api.encrypt(b"seed").await?;
    let read = async || plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await;
    fixture.proxy.clear_log();
    ensure!(read().await? == b"seed");
    ensure!(asked(&fixture) == [(HOME.to_owned(), "none".to_owned())], "{:?}", asked(&fixture));

    for fault in [Fault::Hang, Fault::Status(500), Fault::Throttle] {
        fixture.proxy.fault(at(HOME, fault.clone()));
        let began = Instant::now();
        ensure!(read().await? == b"seed", "{fault:?}");
        ensure!(began.elapsed() < PATIENCE, "{fault:?}: {:?}", began.elapsed());
        // From then on the other region is asked first.
        fixture.proxy.clear_log();
        for _ in 0..5 {
            ensure!(read().await? == b"seed");
        }
        let replica = key.replace(HOME, ELSEWHERE);
        ensure!(asked(&fixture) == vec![(ELSEWHERE.to_owned(), replica); 5], "{:?}", asked(&fixture));
        fixture.proxy.clear_faults();
        // Should that fail too, its own region is back.
        fixture.proxy.fault(at(ELSEWHERE, Fault::Status(500)));
        ensure!(read().await? == b"seed", "{fault:?}");
        fixture.proxy.clear_faults();
    }
    ensure!(plugin.process.stderr().contains(&format!("\"region\":\"{ELSEWHERE}\"")), "the log does not tell where");

    // Both fail: its own region's reason.
    fixture.fault(Fault::Status(500));
    refused(read().await, Code::Unavailable, &["KMSInternalException"])?;
    fixture.proxy.clear_faults();
    ensure!(read().await? == b"seed");
    Ok(())
}

#[tokio::test]
async fn after_half_a_minute_its_own_region_is_asked_first_again() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.multi_region_key().await?;
    fixture.kms("ReplicateKey", json!({"KeyId": key, "ReplicaRegion": ELSEWHERE})).await?;
    let flags = ["--replica-region", ELSEWHERE, "--decrypt-cache-ttl=0", "--probe-interval=1h"];
    let plugin = fixture.serve(&key, &flags).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    fixture.proxy.fault(at(HOME, Fault::Status(500)).operation("Decrypt"));
    ensure!(plugin.api.decrypt(&answer.ciphertext, &key).await? == b"seed");
    fixture.proxy.clear_faults();
    sleep(Duration::from_secs(30)).await;
    fixture.proxy.clear_log();
    ensure!(plugin.api.decrypt(&answer.ciphertext, &key).await? == b"seed");
    ensure!(asked(&fixture) == [(HOME.to_owned(), "none".to_owned())], "{:?}", asked(&fixture));
    Ok(())
}

#[tokio::test]
async fn a_replica_that_is_not_there_does_not_make_a_short_outage_long() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.multi_region_key().await?;
    let flags = ["--replica-region", ELSEWHERE, "--decrypt-cache-ttl=0", "--probe-interval=1h"];
    let plugin = fixture.serve(&key, &flags).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    let read = async || plugin.api.decrypt(&answer.ciphertext, &key).await;
    // As many as one call makes tries.
    fixture.proxy.fault(at(HOME, Fault::Status(500)).operation("Decrypt").times(Times::First(3)));
    refused(read().await, Code::Unavailable, &["KMSInternalException"])?;
    for _ in 0..3 {
        ensure!(read().await? == b"seed");
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_at_home_is_not_asked_for_elsewhere() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.multi_region_key().await?;
    fixture.kms("ReplicateKey", json!({"KeyId": key, "ReplicaRegion": ELSEWHERE})).await?;
    let flags = ["--replica-region", ELSEWHERE, "--decrypt-cache-ttl=0"];
    let plugin = fixture.serve(&key, &flags).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    fixture.kms("DisableKey", json!({"KeyId": key})).await?;
    fixture.proxy.clear_log();
    let read = plugin.api.decrypt(&answer.ciphertext, &key).await;
    refused(read, Code::FailedPrecondition, &["DisabledException"])?;
    ensure!(asked(&fixture).iter().all(|(region, _)| region == HOME), "{:?}", asked(&fixture));
    Ok(())
}
