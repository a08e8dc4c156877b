//! What Status and the HTTP paths tell: from memory, for a reason, and not at each gust of wind.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Fault, Rule, eventually};
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;

use crate::fixture::{Fixture, base64, refused};

#[tokio::test]
async fn one_failure_is_not_told_and_the_third_is() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    fixture.proxy.fault(Rule::new(Fault::AccessDenied).operation("Encrypt"));
    // Those that fail together are one failure.
    let together: JoinSet<_> = (0..5)
        .map(|_| {
            let api = plugin.api.clone();
            async move { api.encrypt(b"seed").await }
        })
        .collect();
    for one in together.join_all().await {
        refused(one, Code::PermissionDenied, &["AccessDeniedException"])?;
    }
    ensure!(plugin.api.status().await?.healthz == "ok" && plugin.get("/healthz").await?.0 == 200);
    // The probes find it to be more than weather.
    let healthz = plugin.api.becomes("AccessDeniedException").await?.healthz;
    ensure!(healthz.contains("encrypt fails: KMS refuses"), "{healthz}");
    ensure!(plugin.get("/healthz").await?.0 == 500);
    fixture.proxy.clear_faults();
    // A real call tells as much as a probe.
    plugin.api.encrypt(b"seed").await?;
    ensure!(plugin.api.status().await?.healthz == "ok");
    ensure!(plugin.healthz(200).await? == "OK");
    Ok(())
}

#[tokio::test]
async fn trouble_is_found_and_its_end_too_without_anyone_asking() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    fixture.kms("DisableKey", json!({"KeyId": key})).await?;
    refused(plugin.api.encrypt(b"seed").await, Code::FailedPrecondition, &["DisabledException"])?;
    ensure!(plugin.api.status().await?.healthz == "ok");
    // One failure makes the prober look, and it takes three.
    let told = Instant::now();
    let status = plugin.api.becomes("DisabledException").await?;
    ensure!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
    ensure!(status.key_id == key && status.healthz.starts_with("encrypt fails: KMS cannot use the key"), "{status:?}");
    let body = plugin.healthz(500).await?;
    ensure!(body.contains("key_unusable") && !body.contains(&key), "{body}");
    fixture.kms("EnableKey", json!({"KeyId": key})).await?;
    let over = Instant::now();
    plugin.api.becomes("ok").await?;
    ensure!(over.elapsed() < Duration::from_secs(12), "noticed after {:?}", over.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_caller_who_leaves_and_data_that_is_damaged_say_nothing_of_the_key() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    fixture.proxy.set_latency(Duration::from_millis(400));
    for _ in 0..5 {
        let hurried = plugin.api.within(Duration::from_millis(100));
        ensure!(hurried.encrypt(b"seed").await.is_err(), "answered before KMS did");
        let api = plugin.api.clone();
        let leaves = tokio::spawn(async move { api.encrypt(b"seed").await });
        sleep(Duration::from_millis(50)).await;
        leaves.abort();
    }
    fixture.proxy.set_latency(Duration::ZERO);
    for number in 0..5 {
        let damaged = format!("1not a ciphertext {number}");
        refused(plugin.api.decrypt(damaged.as_bytes(), &key).await, Code::InvalidArgument, &[])?;
    }
    ensure!(plugin.api.status().await?.healthz == "ok");
    ensure!(plugin.healthz(200).await? == "OK");
    Ok(())
}

#[tokio::test]
async fn a_kms_that_gives_back_another_plaintext_is_found_out() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--probe-interval=1s"]).await?;
    let wrong = json!({"KeyId": key, "Plaintext": base64(b"another"), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"});
    fixture.proxy.fault(Rule::new(Fault::Body(wrong.to_string())).operation("Decrypt"));
    plugin.api.becomes("another plaintext").await?;
    Ok(())
}

#[tokio::test]
async fn status_answers_before_kms_has_and_always_with_the_key_id() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    fixture.fault(Fault::Hang);
    let started = Instant::now();
    let plugin = fixture.start(fixture.program(&[&key])).await?;
    let status = plugin.api.status().await?;
    ensure!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    ensure!(status.key_id == key && status.healthz.starts_with("starting"), "{status:?}");
    ensure!(plugin.get("/healthz").await?.0 == 500 && plugin.get("/livez").await?.0 == 200);
    plugin.api.becomes("in time").await?;
    fixture.proxy.clear_faults();
    plugin.api.becomes("ok").await?;
    Ok(())
}

#[tokio::test]
async fn status_fails_as_a_call_only_where_that_was_asked_for() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--fail-status-on=key-disabled", "--probe-interval=1s"]).await?;
    fixture.fault(Fault::Status(500));
    plugin.api.becomes("cannot be reached").await?;
    fixture.proxy.clear_faults();
    plugin.api.becomes("ok").await?;
    fixture.kms("DisableKey", json!({"KeyId": key})).await?;
    eventually(Duration::from_secs(10), async || {
        refused(plugin.api.status().await, Code::FailedPrecondition, &["DisabledException"])
    })
    .await?;
    fixture.kms("EnableKey", json!({"KeyId": key})).await?;
    plugin.api.becomes("ok").await?;
    Ok(())
}

#[tokio::test]
async fn status_and_encrypt_go_through_a_storm_of_decrypts_that_hang() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    fixture.proxy.fault(Rule::new(Fault::Hang).operation("Decrypt"));
    let mut storm = JoinSet::new();
    for number in 0..500_u32 {
        let api = plugin.api.clone();
        let ciphertext = [b"1", &number.to_be_bytes()[..]].concat();
        storm.spawn(async move { api.decrypt(&ciphertext, "key").await });
    }
    eventually(Duration::from_secs(5), async || {
        let hanging = fixture.proxy.count("Decrypt");
        ensure!(hanging >= 100, "only {hanging} Decrypts hang");
        Ok(())
    })
    .await?;
    let mut times = Vec::new();
    let ask_until = Instant::now() + Duration::from_millis(1_500);
    while Instant::now() < ask_until {
        let asked = Instant::now();
        let status = plugin.api.status().await?;
        times.push(asked.elapsed());
        ensure!(status.key_id == key);
        let asked = Instant::now();
        plugin.api.encrypt(b"seed").await?;
        ensure!(asked.elapsed() < Duration::from_secs(2), "Encrypt took {:?}", asked.elapsed());
    }
    times.sort();
    // It takes well under a millisecond; here a debug build shares two cores with other tests.
    ensure!(times[times.len() / 2] < Duration::from_millis(50), "Status takes {times:?}");
    for answer in storm.join_all().await {
        let code = answer.map(drop).map_or_else(|status| status.code(), |()| Code::Ok);
        // On a busy machine the client's own clock may win.
        ensure!([Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled].contains(&code), "{code:?}");
    }
    Ok(())
}
