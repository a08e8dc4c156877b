//! One plugin, asked over one of its two APIs. What an API server takes and what not is
//! k8s.io/apiserver, `pkg/storage/value/encrypt/envelope/kmsv2/envelope.go` and
//! `pkg/server/options/encryptionconfig/config.go`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tonic::transport::Channel;
use tonic::{Response, Status};

use super::advice::{Call, failed, unwell};
use crate::doctor::Finding;
use crate::doctor::config::Stanza;
use crate::proto::{v1beta1, v2};

const LONGEST_KEY_ID: usize = 1024;
const LONGEST_CIPHERTEXT: usize = 1024;
const LARGEST_ANNOTATIONS: usize = 32 * 1024;
/// A v1 value has the length of its wrapped DEK in two bytes.
const LONGEST_V1: usize = 0xffff;
const V1: &str = "v1beta1";

/// A DEK has as many.
const PLAINTEXT: usize = 32;

/// What was found, and the key id that the plugin encrypts with.
pub(super) async fn ask_v2(stanza: &Stanza, channel: Channel) -> (Vec<Finding>, Option<String>) {
    let mut findings = Vec::new();
    let mut client = v2::key_management_service_client::KeyManagementServiceClient::new(channel);
    let (status, took) = match timed(stanza, client.status(v2::StatusRequest {})).await {
        Ok(answer) => answer,
        Err(status) => return (vec![failed(stanza, Call::Status, &status)], None),
    };
    findings.extend(judge_status(stanza, &status, took));

    let plaintext = random();
    let request = v2::EncryptRequest { plaintext: plaintext.clone(), uid: uid() };
    let encrypted = match timed(stanza, client.encrypt(request)).await {
        Ok((encrypted, took)) => {
            findings.extend(judge_encrypt(stanza, &status.key_id, &encrypted, took));
            encrypted
        }
        Err(status) => {
            findings.push(failed(stanza, Call::Encrypt, &status));
            return (findings, None);
        }
    };
    let key_id = Some(encrypted.key_id.clone());
    let request = v2::DecryptRequest {
        ciphertext: encrypted.ciphertext,
        uid: uid(),
        key_id: encrypted.key_id,
        annotations: encrypted.annotations,
    };
    findings.push(match timed(stanza, client.decrypt(request)).await {
        Ok((decrypted, took)) => judge_decrypt(stanza, &plaintext, &decrypted.plaintext, took),
        Err(status) => failed(stanza, Call::Decrypt, &status),
    });
    (findings, key_id)
}

/// What was found.
pub(super) async fn ask_v1(stanza: &Stanza, channel: Channel) -> Vec<Finding> {
    let mut client = v1beta1::key_management_service_client::KeyManagementServiceClient::new(channel);
    let name = &stanza.name;
    let mut findings = Vec::new();
    match timed(stanza, client.version(v1beta1::VersionRequest { version: V1.to_owned() })).await {
        Ok((answer, _)) if answer.version == V1 => {
            let (runtime, version) = (&answer.runtime_name, &answer.runtime_version);
            findings.push(Finding::ok(format!("`{name}`: {runtime} {version} speaks KMS {V1}")));
        }
        Ok((answer, _)) => {
            let what = format!("`{name}`: the plugin speaks KMS `{}`, and an API server only {V1}", answer.version);
            findings.push(Finding::fail(what, "bring the plugin up to date"));
        }
        Err(status) => return vec![failed(stanza, Call::Version, &status)],
    }

    let plaintext = random();
    let request = v1beta1::EncryptRequest { version: V1.to_owned(), plain: plaintext.clone() };
    let cipher = match timed(stanza, client.encrypt(request)).await {
        Ok((encrypted, took)) => {
            findings.push(judge_length(stanza, encrypted.cipher.len(), LONGEST_V1, took));
            encrypted.cipher
        }
        Err(status) => {
            findings.push(failed(stanza, Call::Encrypt, &status));
            return findings;
        }
    };
    let request = v1beta1::DecryptRequest { version: V1.to_owned(), cipher };
    findings.push(match timed(stanza, client.decrypt(request)).await {
        Ok((decrypted, took)) => judge_decrypt(stanza, &plaintext, &decrypted.plain, took),
        Err(status) => failed(stanza, Call::Decrypt, &status),
    });
    findings
}

fn judge_status(stanza: &Stanza, status: &v2::StatusResponse, took: Duration) -> Vec<Finding> {
    let name = &stanza.name;
    let mut findings = Vec::new();
    if !matches!(status.version.as_str(), "v2" | "v2beta1") {
        let what = format!(
            "`{name}`: the version in Status is `{}`, and an API server only takes v2 and v2beta1",
            status.version
        );
        findings.push(Finding::fail(what, "bring the plugin up to date"));
    }
    if status.healthz != "ok" {
        let what = format!("`{name}`: the plugin says that it is not well: {}", status.healthz);
        findings.push(Finding::fail(what, unwell(stanza, &status.healthz)));
    }
    if !(1..=LONGEST_KEY_ID).contains(&status.key_id.len()) {
        let length = status.key_id.len();
        let what =
            format!("`{name}`: the key_id in Status has {length} bytes, and an API server takes 1 to {LONGEST_KEY_ID}");
        findings.push(Finding::fail(what, "bring the plugin up to date, or give it a shorter --key"));
    }
    if findings.is_empty() {
        let (version, key_id) = (&status.version, &status.key_id);
        let told = format!("`{name}`: Status is ok after {took:.1?}, version {version}, key_id `{key_id}`");
        findings.push(in_time(stanza, Call::Status, told, took));
    }
    findings
}

fn judge_encrypt(stanza: &Stanza, key_id: &str, encrypted: &v2::EncryptResponse, took: Duration) -> Vec<Finding> {
    let name = &stanza.name;
    let mut findings = vec![judge_length(stanza, encrypted.ciphertext.len(), LONGEST_CIPHERTEXT, took)];
    if encrypted.key_id != key_id {
        let what = format!(
            "`{name}`: Encrypt answers with the key_id `{}` and Status with `{key_id}`: an API server throws such an answer away",
            encrypted.key_id
        );
        let fix = "wait for a rotation under way and look again; else see that one plugin alone listens there";
        findings.push(Finding::fail(what, fix));
    }
    findings.extend(judge_annotations(&encrypted.annotations).map(|what| {
        Finding::fail(
            format!("`{name}`: Encrypt answers with {what}: an API server refuses it"),
            "bring the plugin up to date",
        )
    }));
    findings
}

fn judge_length(stanza: &Stanza, length: usize, longest: usize, took: Duration) -> Finding {
    let name = &stanza.name;
    if (1..=longest).contains(&length) {
        let told = format!("`{name}`: Encrypt took {took:.1?} and gave {length} bytes");
        return in_time(stanza, Call::Encrypt, told, took);
    }
    let what = format!("`{name}`: Encrypt gave {length} bytes, and an API server takes 1 to {longest}");
    Finding::fail(what, "bring the plugin up to date")
}

fn judge_annotations(annotations: &HashMap<String, Vec<u8>>) -> Option<String> {
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > LARGEST_ANNOTATIONS {
        return Some(format!("annotations of {size} bytes, of which {LARGEST_ANNOTATIONS} are allowed"));
    }
    let bad = annotations.keys().filter(|key| !is_domain_name(key)).min()?;
    Some(format!("the annotation `{bad}`, whose name is no domain name"))
}

/// `IsFullyQualifiedDomainName` of k8s.io/apimachinery, `pkg/util/validation/validation.go`.
fn is_domain_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
        bytes.len() <= 63
            && alphanumeric(*first)
            && alphanumeric(*last)
            && bytes.iter().all(|byte| alphanumeric(*byte) || *byte == b'-')
    };
    name.len() <= 253 && name.contains('.') && name.split('.').all(label)
}

fn judge_decrypt(stanza: &Stanza, plaintext: &[u8], decrypted: &[u8], took: Duration) -> Finding {
    let name = &stanza.name;
    if plaintext == decrypted {
        let told = format!("`{name}`: Decrypt took {took:.1?} and gave what had been encrypted");
        return in_time(stanza, Call::Decrypt, told, took);
    }
    let what = format!("`{name}`: Decrypt gave other bytes than had been encrypted");
    Finding::fail(what, "do not write with this plugin: nothing could be read again")
}

/// What went well, unless it took so long that it will not always.
fn in_time(stanza: &Stanza, call: Call, told: String, took: Duration) -> Finding {
    if took <= stanza.timeout / 2 {
        return Finding::ok(told);
    }
    let timeout = stanza.timeout;
    Finding::warn(
        format!("{told}: {call} needs more than half of the timeout of {timeout:?}"),
        "raise `timeout`, or see why the plugin is slow: its way to KMS, --region",
    )
}

/// The answer and how long it took. That none came in time is told as a server would.
async fn timed<T>(
    stanza: &Stanza,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<(T, Duration), Status> {
    let started = Instant::now();
    match tokio::time::timeout(stanza.timeout, call).await {
        Ok(answer) => answer.map(|answer| (answer.into_inner(), started.elapsed())),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {:?}", stanza.timeout))),
    }
}

/// Nobody's secret: it is thrown away.
fn random() -> Vec<u8> {
    let mut bytes = vec![0; PLAINTEXT];
    fastrand::fill(&mut bytes);
    bytes
}

fn uid() -> String {
    format!("coffer-kms-doctor-{:016x}", fastrand::u64(..))
}
