//! `/metrics`: the names and labels that dashboards of the AWS Encryption Provider know, with right counts.

use anyhow::{Result, ensure};
use bed::Fault;
use serde_json::json;

use crate::fixture::{Fixture, Plugin};

/// How often, by the other plugin's counter, and by its histogram.
async fn counted(plugin: &Plugin, key: &str, status: &str, operation: &str, version: &str) -> Result<f64> {
    let labels = [
        format!("key_arn=\"{key}\""),
        format!("status=\"{status}\""),
        format!("operation=\"{operation}\""),
        format!("version=\"{version}\""),
    ];
    let labels = labels.each_ref().map(String::as_str);
    let count = plugin.metric("aws_encryption_provider_kms_operations_total", &labels).await?;
    let observed = plugin.metric("aws_encryption_provider_kms_operation_latency_ms_count", &labels).await?;
    ensure!((count - observed).abs() < 0.1, "{count} counted, {observed} observed: {labels:?}");
    Ok(count)
}

#[tokio::test]
async fn the_other_plugins_metrics_count_what_they_always_counted() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let api = &plugin.api;
    let mut ciphertexts = Vec::new();
    for _ in 0..3 {
        ciphertexts.push(api.encrypt(b"seed").await?.ciphertext);
        api.decrypt_v1(&api.encrypt_v1(b"dek").await?).await?;
    }
    api.decrypt(&ciphertexts[0], &key).await?;
    // Refused here, and so no operation of KMS.
    for _ in 0..4 {
        ensure!(api.encrypt(b"").await.is_err() && api.decrypt(b"", &key).await.is_err());
    }
    let damaged = [&ciphertexts[1][..40], b"damage", &ciphertexts[1][46..]].concat();
    for _ in 0..2 {
        ensure!(api.decrypt(&damaged, &key).await.is_err());
    }
    fixture.fault(Fault::Throttle);
    ensure!(api.encrypt_v1(b"dek").await.is_err());
    fixture.proxy.clear_faults();
    fixture.kms("DisableKey", json!({"KeyId": key})).await?;
    ensure!(api.encrypt(b"seed").await.is_err());
    ensure!(api.decrypt(&ciphertexts[2], &key).await.is_err());

    for (status, operation, version, expected) in [
        ("success", "encrypt", "v2", 3.0),
        ("success", "decrypt", "v2", 1.0),
        ("success", "encrypt", "v1", 3.0),
        ("success", "decrypt", "v1", 3.0),
        ("failure-corruption", "decrypt", "v2", 2.0),
        ("failure-corruption", "decrypt", "v1", 0.0),
        ("failure-throttle", "encrypt", "v1", 1.0),
        ("failure-throttle", "encrypt", "v2", 0.0),
        ("failure", "encrypt", "v2", 1.0),
        ("failure", "decrypt", "v2", 1.0),
    ] {
        let found = counted(&plugin, &key, status, operation, version).await?;
        // Probes count as v1, as there; how many there are is a matter of time.
        let fits = if version == "v1" { found >= expected } else { (found - expected).abs() < 0.1 };
        ensure!(fits, "{status} {operation} {version}: {found}, not {expected}");
    }
    // Ours tell the class.
    for (result, expected) in
        [("ok", 10.0), ("bad_request", 8.0), ("bad_ciphertext", 2.0), ("throttled", 1.0), ("key_unusable", 2.0)]
    {
        let found = plugin.metric("coffer_kms_requests_total", &[&format!("result=\"{result}\"")]).await?;
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
