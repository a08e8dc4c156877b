//! `/metrics`: the names and labels that dashboards of the AWS Encryption Provider know, with right counts.

use anyhow::{Result, ensure};
use bed::Fault;
use serde_json::json;

use crate::fixture::{Fixture, Plugin};

/// How often, by the other plugin's counter, and by its histogram.
async fn counted(plugin: &Plugin, key: &str, status: &str, operation: &str, version: &str) -> Result<f64> {
    let labels = [("key_arn", key), ("status", status), ("operation", operation), ("version", version)];
    let count = plugin.metric("aws_encryption_provider_kms_operations_total", &labels).await?;
    let observed = plugin.metric("aws_encryption_provider_kms_operation_latency_ms_count", &labels).await?;
    ensure!((count - observed).abs() < 0.1, "{count} counted, {observed} observed: {labels:?}");
    Ok(count)
}

/// Requests by one version of the API, while probes count as the other's, as `--health-kms-version` says.
async fn counts(version: &str, other: &str) -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--health-kms-version", other]).await?;
    let api = &plugin.api;
    let encrypt = async |plaintext: &[u8]| match version {
        "v1" => api.encrypt_v1(plaintext).await,
        _ => api.encrypt(plaintext).await.map(|answer| answer.ciphertext),
    };
    let decrypt = async |ciphertext: &[u8]| match version {
        "v1" => api.decrypt_v1(ciphertext).await,
        _ => api.decrypt(ciphertext, &key).await,
    };
    let mut ciphertexts = Vec::new();
    for _ in 0..3 {
        ciphertexts.push(encrypt(b"seed").await?);
    }
    for _ in 0..2 {
        decrypt(&ciphertexts[0]).await?;
    }
    // Refused here, and so no operation of KMS.
    for _ in 0..4 {
        ensure!(encrypt(b"").await.is_err() && decrypt(b"").await.is_err());
    }
    let damaged = [&ciphertexts[1][..40], b"damage", &ciphertexts[1][46..]].concat();
    for _ in 0..2 {
        ensure!(decrypt(&damaged).await.is_err());
    }
    fixture.fault(Fault::Throttle);
    ensure!(encrypt(b"seed").await.is_err());
    fixture.proxy.clear_faults();
    fixture.kms("DisableKey", json!({"KeyId": key})).await?;
    ensure!(encrypt(b"seed").await.is_err());
    ensure!(decrypt(&ciphertexts[2]).await.is_err());

    for (status, operation, expected) in [
        ("success", "encrypt", 3.0),
        ("success", "decrypt", 2.0),
        ("failure-corruption", "encrypt", 0.0),
        ("failure-corruption", "decrypt", 2.0),
        ("failure-throttle", "encrypt", 1.0),
        ("failure-throttle", "decrypt", 0.0),
        ("failure", "encrypt", 1.0),
        ("failure", "decrypt", 1.0),
    ] {
        let found = counted(&plugin, &key, status, operation, version).await?;
        ensure!((found - expected).abs() < 0.1, "{status} {operation} {version}: {found}, not {expected}");
    }
    for operation in ["encrypt", "decrypt"] {
        ensure!(counted(&plugin, &key, "success", operation, other).await? >= 1.0, "no probe in {operation}");
    }
    // Ours tell the class, and requests only.
    for (result, expected) in
        [("ok", 5.0), ("bad_request", 8.0), ("bad_ciphertext", 2.0), ("throttled", 1.0), ("key_unusable", 2.0)]
    {
        let found = plugin.metric("coffer_kms_requests_total", &[("result", result)]).await?;
        ensure!((found - expected).abs() < 0.1, "{result}: {found}, not {expected}");
    }
    // Two milliseconds to sixteen seconds, each twice the one before.
    let (_, text) = plugin.get("/metrics").await?;
    for bound in ["2.0", "4.0", "1024.0", "16384.0", "+Inf"] {
        let bucket = format!("le=\"{bound}\"");
        let found = text.lines().any(|line| line.contains("operation_latency_ms_bucket") && line.contains(&bucket));
        ensure!(found, "no {bucket} in {text}");
    }
    ensure!(text.contains("# TYPE aws_encryption_provider_kms_operations counter"), "{text}");
    Ok(())
}

#[tokio::test]
async fn the_other_plugins_metrics_count_what_they_always_counted_of_v1() -> Result<()> {
    counts("v1", "v2").await
}

#[tokio::test]
async fn the_other_plugins_metrics_count_what_they_always_counted_of_v2() -> Result<()> {
    counts("v2", "v1").await
}

#[tokio::test]
async fn keys_are_counted_apart() -> Result<()> {
    let fixture = Fixture::new().await?;
    let keys = [fixture.key().await?, fixture.key().await?];
    let plugin = fixture.start(fixture.program(&[&keys[0], &keys[1]])).await?;
    let second = fixture.api(1).await?;
    second.becomes("ok").await?;
    for _ in 0..3 {
        second.encrypt(b"seed").await?;
    }
    ensure!(counted(&plugin, &keys[0], "success", "encrypt", "v2").await? == 0.0);
    ensure!(counted(&plugin, &keys[1], "success", "encrypt", "v2").await? == 3.0);
    Ok(())
}
