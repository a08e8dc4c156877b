//! A plaintext goes to the API server and to KMS, and nowhere else; who asked for what is told.

use anyhow::{Context, Result, ensure};
use bed::Fault;
use serde_json::{Value, json};
use tonic::Code;

use crate::fixture::{Fixture, base64};

const CANARY: &[u8] = b"canary-4f1d9a7c3e";

/// The forms in which bytes turn up in logs.
fn forms(bytes: &[u8]) -> Vec<String> {
    let debug = format!("{bytes:?}");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Without the last characters of base64, which depend on what follows.
    let encoded = base64(bytes);
    let text = String::from_utf8_lossy(bytes).into_owned();
    vec![text, encoded[..encoded.len() - 4].to_owned(), hex, debug.trim_matches(['[', ']']).to_owned()]
}

#[tokio::test]
async fn a_plaintext_is_in_no_log_metric_or_error() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    for format in ["aep", "local-kek"] {
        let flags = [&format!("--write-format={format}"), "--log-level=trace", "--decrypt-cache-ttl=0"];
        let plugin = fixture.serve(&key, &flags).await?;
        let answer = plugin.api.encrypt(CANARY).await?;
        let (ciphertext, key_id) = (answer.ciphertext, answer.key_id);
        ensure!(plugin.api.decrypt(&ciphertext, &key_id).await? == CANARY);
        let v1 = plugin.api.encrypt_v1(CANARY).await?;
        ensure!(plugin.api.decrypt_v1(&v1).await? == CANARY);
        let mut told = String::new();
        // Errors on all the ways, and some who quote what they were asked.
        let quoting = format!("cannot read {}", base64(CANARY));
        for fault in [
            Fault::AccessDenied,
            Fault::Throttle,
            Fault::Cut,
            Fault::CutMidBody,
            Fault::Garbage,
            Fault::Error { status: 400, code: "InvalidCiphertextException".to_owned(), message: "No.".to_owned() },
            Fault::Body(json!({"Plaintext": 7, "KeyId": quoting}).to_string()),
        ] {
            fixture.fault(fault);
            let answers = [
                plugin.api.encrypt(CANARY).await.map(drop),
                plugin.api.encrypt_v1(CANARY).await.map(drop),
                plugin.api.decrypt(&ciphertext, &key_id).await.map(drop),
                plugin.api.decrypt_v1(&v1).await.map(drop),
            ];
            told.extend(answers.into_iter().filter_map(|answer| answer.err()).map(|status| format!("{status:?}")));
            fixture.proxy.clear_faults();
        }
        for bytes in [vec![], [CANARY, &[7; 5000]].concat()] {
            let refusal = plugin.api.encrypt(&bytes).await.err().context("encrypted")?;
            told.push_str(&format!("{refusal:?}"));
        }
        // A plaintext where a ciphertext should be.
        for answer in [plugin.api.decrypt(CANARY, &key_id).await, plugin.api.decrypt_v1(CANARY).await] {
            told.push_str(&format!("{:?}", answer.err().context("decrypted")?));
        }
        told.push_str(&plugin.api.status().await?.healthz);
        for path in ["/healthz", "/livez", "/readyz", "/metrics"] {
            told.push_str(&plugin.get(path).await?.1);
        }
        ensure!(!plugin.process.proc().cmdline()?.concat().contains("canary"));
        told.push_str(&plugin.stop().await?);
        told.push_str(&plugin.process.stdout());
        for form in forms(CANARY) {
            let at = told.find(&form);
            ensure!(at.is_none(), "{format}: {form:?} in …{}", &told[at.unwrap_or(0).saturating_sub(200)..][..400]);
        }
    }
    Ok(())
}

/// The log's lines about calls to KMS.
fn audit(said: &str) -> Vec<Value> {
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"].as_str().is_some_and(|message| message.starts_with("kms call"))).collect()
}

#[tokio::test]
async fn each_call_is_told_with_who_asked_and_what_kms_calls_it() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--probe-interval=1h"]).await?;
    fixture.proxy.clear_log();
    let answer = plugin.api.encrypt_as(b"seed", "uid-of-the-encrypt").await?;
    plugin.api.decrypt_as(&answer.ciphertext, &key, "uid-of-the-decrypt").await?;
    // From memory, and so not told.
    plugin.api.decrypt_as(&answer.ciphertext, &key, "uid-of-the-cached").await?;
    plugin.api.decrypt_v1(&plugin.api.encrypt_v1(b"dek").await?).await?;
    let ids: Vec<_> = fixture.proxy.calls().into_iter().map(|call| call.request_id).collect();
    fixture.kms("DisableKey", json!({"KeyId": key})).await?;
    let refusal = plugin.api.encrypt_as(b"seed", "uid\nof{\"a\":1}the-refused").await.err().context("encrypted")?;
    ensure!(refusal.code() == Code::FailedPrecondition);
    let failed = fixture.proxy.calls_to("Encrypt").pop().and_then(|call| call.request_id).context("no request id")?;
    ensure!(refusal.message().contains(&failed), "{refusal:?} is {failed}");
    // And what asks to be a megabyte of a log.
    let _ = plugin.api.encrypt_as(b"seed", &"u".repeat(1 << 20)).await;

    let said = plugin.stop().await?;
    let lines = audit(&said);
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line["purpose"] != "probe")
        .map(|line| [&line["action"], &line["purpose"], &line["uid"]].map(|field| field.as_str().unwrap_or_default()))
        .collect();
    ensure!(
        told[..5]
            == [
                ["kms:Encrypt", "v2", "uid-of-the-encrypt"],
                ["kms:Decrypt", "v2", "uid-of-the-decrypt"],
                ["kms:Encrypt", "v1", ""],
                ["kms:Decrypt", "v1", ""],
                ["kms:Encrypt", "v2", "uidof{\"a\":1}the-refused"],
            ],
        "{told:?}"
    );
    ensure!(told[5][2].len() <= 64, "{told:?}");
    let requests: Vec<_> = lines.iter().filter(|line| line["purpose"] != "probe").collect();
    for (line, id) in requests.iter().zip(&ids) {
        ensure!(line["aws_request_id"].as_str() == id.as_deref() && id.is_some(), "{line} is not {id:?}");
        ensure!(line["key"] == *key && line["key_arn"] == *key && line["region"] == "eu-west-1", "{line}");
        ensure!(line["level"] == "INFO" && line["milliseconds"].is_u64() && line["timestamp"].is_string(), "{line}");
    }
    ensure!(requests[4]["level"] == "WARN" && requests[4]["class"] == "key_unusable", "{}", requests[4]);
    ensure!(requests[4]["error"].as_str().is_some_and(|error| error.contains(&failed)), "{}", requests[4]);
    Ok(())
}
