//! Bad days of KMS under load: no wrong answer, what is known is still read, the rest is told apart, and it
//! ends with the first probe that KMS answers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::{Case, Fault, eventually, side_by_side};
use coffer_kms::proto::v2::EncryptResponse;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};
use tonic::{Code, Status};

use crate::fixture::{Api, Fixture, PATIENCE, SOON, is_own, refused};

/// How long the load goes on.
const STORM: Duration = Duration::from_millis(1500);

/// Few at once: where the machine is the bottleneck, a deadline says nothing about the plugin.
static STORMS: Semaphore = Semaphore::const_new(5);

/// A fault, and what the API server has to be told.
struct Expected {
    fault: Fault,
    code: Code,
    /// The class, the AWS code and the fix.
    words: &'static [&'static str],
}

fn error(status: u16, code: &str) -> Fault {
    Fault::Error { status, code: code.to_owned(), message: "No.".to_owned() }
}

fn matrix() -> Vec<Expected> {
    let case = |fault, code, words| Expected { fault, code, words };
    vec![
        case(Fault::Throttle, Code::ResourceExhausted, &["KMS throttles", "ThrottlingException"]),
        case(error(400, "LimitExceededException"), Code::ResourceExhausted, &["throttles", "LimitExceededException"]),
        case(Fault::Status(500), Code::Unavailable, &["cannot be reached", "KMSInternalException"]),
        case(Fault::Status(502), Code::Unavailable, &["cannot be reached", "HTTP502"]),
        case(Fault::Status(503), Code::Unavailable, &["cannot be reached", "ServiceUnavailableException"]),
        case(
            error(500, "KeyUnavailableException"),
            Code::Unavailable,
            &["cannot be reached", "KeyUnavailableException"],
        ),
        case(error(500, "DependencyTimeoutException"), Code::Unavailable, &["DependencyTimeoutException"]),
        case(Fault::Hang, Code::DeadlineExceeded, &["KMS", "answer"]),
        case(Fault::Cut, Code::Unavailable, &["cannot be reached", "ConnectionFailed"]),
        case(Fault::CutMidBody, Code::Unavailable, &["cannot be reached"]),
        case(Fault::Garbage, Code::Unavailable, &["UnreadableAnswer"]),
        case(Fault::Body("{}".to_owned()), Code::Unavailable, &["UnreadableAnswer"]),
        case(error(400, "DisabledException"), Code::FailedPrecondition, &["DisabledException", "enable it"]),
        case(
            error(400, "KMSInvalidStateException"),
            Code::FailedPrecondition,
            &["KMSInvalidStateException", "deletion"],
        ),
        case(error(400, "NotFoundException"), Code::FailedPrecondition, &["NotFoundException"]),
        case(Fault::AccessDenied, Code::PermissionDenied, &["refuses", "AccessDeniedException", "allow it in IAM"]),
        case(Fault::ExpiredToken, Code::Unauthenticated, &["credentials", "ExpiredTokenException"]),
        case(error(400, "UnrecognizedClientException"), Code::Unauthenticated, &["UnrecognizedClientException"]),
    ]
}

/// Plaintexts with what they were encrypted to.
async fn encrypted(api: &Api, name: &str, count: usize) -> Result<Vec<(Vec<u8>, EncryptResponse)>> {
    let mut pairs = Vec::new();
    for number in 0..count {
        let plaintext = format!("{name} {number}, which nobody else is to see").into_bytes();
        let answer = api.encrypt(&plaintext).await?;
        pairs.push((plaintext, answer));
    }
    Ok(pairs)
}

async fn read(api: &Api, (plaintext, answer): &(Vec<u8>, EncryptResponse)) -> Result<()> {
    let read = api.decrypt(&answer.ciphertext, &answer.key_id).await?;
    ensure!(read == *plaintext, "a wrong plaintext");
    Ok(())
}

async fn survive(Expected { fault, code, words }: Expected) -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--probe-interval=1s", "--log-level=debug"]).await?;
    let api = &plugin.api;
    let known = encrypted(api, "known", 4).await?;
    for pair in &known {
        read(api, pair).await?;
    }
    let unknown = encrypted(api, "unknown", 8).await?;

    let turn = STORMS.acquire().await?;
    fixture.fault(fault);
    let mut load = JoinSet::new();
    let end = Instant::now() + STORM;
    for worker in 0..4_usize {
        let (api, known) = (api.clone(), known.clone());
        load.spawn(async move {
            let mut count = 0_usize;
            while Instant::now() < end || count < 5 {
                read(&api, &known[(worker + count) % known.len()]).await.context("a cached read")?;
                count += 1;
                sleep(Duration::from_millis(2)).await;
            }
            anyhow::Ok(())
        });
    }
    for pair in unknown.clone() {
        let api = api.clone();
        load.spawn(async move {
            while Instant::now() < end {
                let asked = Instant::now();
                let answer = api.decrypt(&pair.1.ciphertext, &pair.1.key_id).await;
                // 50 ms are left for the way back, which the load here may eat up.
                if !(code == Code::DeadlineExceeded && answer.as_ref().is_err_and(|status| !is_own(status))) {
                    refused(answer, code, words).context("Decrypt")?;
                }
                ensure!(asked.elapsed() < PATIENCE + STORM / 10, "told after {:?}", asked.elapsed());
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        });
    }
    for _ in 0..4 {
        let api = api.clone();
        load.spawn(async move {
            while Instant::now() < end {
                let asked = Instant::now();
                let answer = api.encrypt(b"new").await;
                if !(code == Code::DeadlineExceeded && answer.as_ref().is_err_and(|status| !is_own(status))) {
                    refused(answer, code, words).context("Encrypt")?;
                }
                ensure!(asked.elapsed() < PATIENCE + STORM / 10, "told after {:?}", asked.elapsed());
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        });
    }
    while let Some(ended) = load.join_next().await {
        ended??;
    }
    drop(turn);

    let status = api.becomes(words[words.len().min(2) - 1]).await?;
    ensure!(status.key_id == key && status.version == "v2beta1", "{status:?}");
    let told = plugin.healthz(500).await?;
    ensure!(told.contains("key 1 of --key") && !told.contains(fixture.aws.account()), "{told}");
    let (live, body) = plugin.get("/livez").await?;
    ensure!(live == 200 && body == "OK", "{live}: {body}");
    let (ready, body) = plugin.get("/readyz").await?;
    ensure!(ready == 200, "what KMS does is no reason to send the API server elsewhere: {ready}: {body}");
    for pair in &known {
        read(api, pair).await.context("a cached read")?;
    }

    let over = Instant::now();
    fixture.proxy.clear_faults();
    api.becomes("ok").await?;
    // A probe each second while it fails, of which one may hang for its three.
    ensure!(over.elapsed() < Duration::from_secs(7), "noticed after {:?}", over.elapsed());
    ensure!(plugin.healthz(200).await? == "OK");
    for pair in known.iter().chain(&unknown) {
        read(api, pair).await?;
    }
    let said = plugin.stop().await?;
    ensure!(!said.contains("nobody else is to see"), "a plaintext in the log: {said}");
    Ok(())
}

async fn survive_all(cases: impl Iterator<Item = Expected>) -> Result<()> {
    side_by_side(cases.map(|case| -> Case { (format!("{:?}", case.fault), Box::pin(survive(case))) }).collect()).await
}

// In parts, so that the load of one does not starve the others.
#[tokio::test]
async fn no_fault_of_kms_brings_a_wrong_answer_or_an_end_1() -> Result<()> {
    survive_all(matrix().into_iter().step_by(3)).await
}

#[tokio::test]
async fn no_fault_of_kms_brings_a_wrong_answer_or_an_end_2() -> Result<()> {
    survive_all(matrix().into_iter().skip(1).step_by(3)).await
}

#[tokio::test]
async fn no_fault_of_kms_brings_a_wrong_answer_or_an_end_3() -> Result<()> {
    survive_all(matrix().into_iter().skip(2).step_by(3)).await
}

#[tokio::test]
async fn a_reason_arrives_before_each_callers_own_deadline() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    fixture.fault(Fault::Hang);
    for patience in [300, 1_000, 3_000].map(Duration::from_millis) {
        let api = plugin.api.within(patience);
        // The plugin leaves 50 ms for the way back, which a busy machine may eat up now and then.
        eventually(SOON, async || {
            let (encrypted, decrypted) =
                tokio::join!(api.encrypt(b"seed"), api.decrypt(&answer.ciphertext, &answer.key_id));
            for refusal in [encrypted.map(drop), decrypted.map(drop)] {
                refused(refusal, Code::DeadlineExceeded, &["KMS"]).with_context(|| format!("{patience:?}"))?;
            }
            Ok(())
        })
        .await?;
    }
    plugin.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_short_fault_is_made_good_within_the_call() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--decrypt-cache-ttl=0"]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    for fault in [Fault::Throttle, Fault::Status(500), Fault::Cut, Fault::CutMidBody, Fault::Hang] {
        for operation in ["Encrypt", "Decrypt"] {
            let rule = bed::Rule::new(fault.clone()).operation(operation).times(bed::Times::First(1));
            fixture.proxy.fault(rule);
        }
        plugin.api.encrypt(b"seed").await.with_context(|| format!("{fault:?}"))?;
        let read = plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await;
        ensure!(read.with_context(|| format!("{fault:?}"))? == b"seed");
    }
    ensure!(plugin.api.status().await?.healthz == "ok");
    Ok(())
}

#[tokio::test]
async fn a_slow_kms_is_waited_for() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--decrypt-cache-ttl=0", "--probe-interval=1h"]).await?;
    fixture.fault(Fault::Slow(Duration::from_secs(2)));
    let answer = plugin.api.encrypt(b"seed").await?;
    ensure!(plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"seed");
    ensure!(plugin.api.status().await?.healthz == "ok");
    Ok(())
}

#[tokio::test]
async fn an_outage_is_bridged_for_max_stale_and_no_longer() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin =
        fixture.serve(&key, &["--decrypt-cache-ttl=1s", "--decrypt-cache-max-stale=5s", "--probe-interval=1s"]).await?;
    let pairs = encrypted(&plugin.api, "seed", 2).await?;
    let learned = Instant::now();
    for pair in &pairs {
        read(&plugin.api, pair).await?;
    }
    fixture.fault(Fault::Status(500));
    sleep(Duration::from_millis(1_200)).await;
    // One is asked for all the time, the other only now and then.
    while learned.elapsed() < Duration::from_secs(5) {
        read(&plugin.api, &pairs[0]).await.with_context(|| format!("after {:?}", learned.elapsed()))?;
        sleep(Duration::from_millis(50)).await;
    }
    read(&plugin.api, &pairs[1]).await?;
    let stale = plugin.metric("coffer_kms_decrypt_sources_total", &[("source", "stale")]).await?;
    ensure!(stale > 10.0, "{stale} values were served past their time");
    sleep(Duration::from_millis(1_500)).await;
    for pair in &pairs {
        refused(plugin.api.decrypt(&pair.1.ciphertext, &pair.1.key_id).await, Code::Unavailable, &["reached"])?;
    }
    fixture.proxy.clear_faults();
    for pair in &pairs {
        read(&plugin.api, pair).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_disabled_key_is_read_for_the_ttl_and_no_longer() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--decrypt-cache-ttl=2s", "--decrypt-cache-max-stale=1h"]).await?;
    let pair = encrypted(&plugin.api, "seed", 1).await?.remove(0);
    read(&plugin.api, &pair).await?;
    fixture.kms("DisableKey", json!({"KeyId": key})).await?;
    read(&plugin.api, &pair).await?;
    sleep(Duration::from_secs(2)).await;
    let again = async || plugin.api.decrypt(&pair.1.ciphertext, &pair.1.key_id).await;
    refused(again().await, Code::FailedPrecondition, &["DisabledException", "enable it"])?;
    // What KMS refused once is not served when it falls silent afterwards.
    fixture.fault(Fault::Status(500));
    refused(again().await, Code::Unavailable, &[])?;
    fixture.proxy.clear_faults();
    fixture.kms("EnableKey", json!({"KeyId": key})).await?;
    read(&plugin.api, &pair).await
}

#[tokio::test]
async fn a_storm_into_a_kms_that_hangs_leaves_nothing_behind() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    // More at once than there are places, so that some are turned away for want of one.
    fixture.fault(Fault::Hang);
    let mut storm = JoinSet::new();
    for number in 0..400_u32 {
        let api = plugin.api.clone();
        let ciphertext = [b"1", &number.to_be_bytes()[..]].concat();
        storm.spawn(async move { api.decrypt(&ciphertext, "key").await });
    }
    let refusals: Vec<Status> = storm.join_all().await.into_iter().filter_map(Result::err).collect();
    ensure!(refusals.len() == 400);
    // On a busy machine the client's own clock may win.
    let codes = [Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled];
    ensure!(refusals.iter().all(|one| codes.contains(&one.code())), "{refusals:?}");
    fixture.proxy.clear_faults();
    // The calls that hang end with their callers' time.
    eventually(SOON, async || Ok(plugin.api.encrypt(b"seed").await?)).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    ensure!(plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"seed");
    Ok(())
}
