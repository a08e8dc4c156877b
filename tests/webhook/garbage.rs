//! Thousands of reviews with something wrong in them, over one connection.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use bed::webhook::{ReviewClient, admission_review};
use fastrand::Rng;
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::fixture::{Webhook, annotated, patched, pod};

const ROUNDS: usize = 4000;
/// As many at a time as an API server might have.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_review_is_too_odd_to_be_answered() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    let seed = fastrand::u64(..);
    let (answered, patches) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let askers = (0..AT_ONCE).map(async |number| {
        let mut rng = Rng::with_seed(seed.wrapping_add(number as u64));
        for _ in 0..ROUNDS / AT_ONCE {
            let body = odd(&mut rng);
            let patched = ask(&client, &body).await;
            let patched = patched.with_context(|| format!("seed {seed}: {}", String::from_utf8_lossy(&body)))?;
            answered.fetch_add(1, Ordering::Relaxed);
            patches.fetch_add(usize::from(patched), Ordering::Relaxed);
        }
        anyhow::Ok(())
    });
    try_join_all(askers).await.with_context(|| webhook.process.stderr())?;

    let mut sum = 0.0;
    for result in ["injected", "complete", "untouched", "misdirected", "denied", "invalid"] {
        let count = webhook.admissions(result).await?;
        ensure!(count > 0.0 || result == "complete", "none is {result} (seed {seed})");
        sum += count;
    }
    let (answered, patches) = (answered.into_inner(), patches.into_inner());
    ensure!(patches > ROUNDS / 100, "only {patches} of them are patched: that tests little");
    // Each patched one was sent once more.
    ensure!(sum == (answered + patches) as f64, "{sum} are counted of {answered} and {patches}");
    ensure!(client.review(&annotated()).await?.patch()?.is_some(), "the next good one is not answered");
    Ok(())
}

/// Whether it is patched; an error if the answer is none that the API server would take.
async fn ask(client: &ReviewClient, body: &[u8]) -> Result<bool> {
    let answer = client.post(body.to_vec()).await?;
    if answer.status != 200 {
        ensure!(answer.status == 400, "HTTP {}", answer.status);
        let text = answer.text();
        ensure!(text.ends_with('\n') && text.lines().count() == 1 && text.len() > 10, "no sentence: {text}");
        return Ok(false);
    }
    let response = answer.response()?;
    let Ok(asked) = serde_json::from_slice::<Value>(body) else {
        let message = response["status"]["message"].as_str().unwrap_or_default();
        ensure!(message.starts_with("the pod cannot be read: "), "what is no JSON is answered by a review: {response}");
        return Ok(false);
    };
    ensure!(response["uid"] == asked["request"]["uid"], "another uid: {response}");
    for warning in response["warnings"].as_array().into_iter().flatten() {
        let text = warning.as_str().context("no text")?;
        ensure!(text.starts_with("coffer: ") && !text.contains(char::is_control), "{text}");
    }
    if response["allowed"] != true {
        let message = response["status"]["message"].as_str().unwrap_or_default();
        ensure!(message.len() > 10 && response["patch"].is_null(), "no reason: {response}");
        return Ok(false);
    }
    if response["patch"].is_null() {
        return Ok(false);
    }
    let pod = patched(&asked["request"]["object"], &answer)?;
    let again = client.review(&pod).await?;
    ensure!(again.response()?["allowed"] == true && again.patch()?.is_none(), "not the same again: {}", again.text());
    Ok(true)
}

/// A review with something wrong in it, or not.
fn odd(rng: &mut Rng) -> Vec<u8> {
    let mut review = admission_review(&any_pod(rng));
    for _ in 0..rng.usize(..4) {
        let depth = rng.usize(1..8);
        let odd = value(rng);
        change(rng, &mut review, depth, odd);
    }
    let mut body = review.to_string().into_bytes();
    if rng.u8(..) < 64 {
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..body.len());
            match rng.u8(..4) {
                0 => body[at] = rng.u8(..),
                1 => body.truncate(at.max(1)),
                2 => body.insert(at, *rng.choice(b"{}[]\",:\\0e\x00\xff").unwrap_or(&b'"')),
                _ => drop(body.remove(at)),
            }
            if body.len() < 2 {
                break;
            }
        }
    }
    body
}

fn any_pod(rng: &mut Rng) -> Value {
    const ANNOTATIONS: [(&str, &[&str]); 17] = [
        (
            "files",
            &["- {name: a, from: 'secretsmanager:a'}", "files: [{name: a, from: 'parameterstore:/a'}]", "[", "- a"],
        ),
        ("config", &["app", "app/key.yaml", "App", "a/b/c"]),
        ("mode", &["sidecar", "init", "exec", "Exec", ""]),
        ("containers", &["app", "app,app", "other", ","]),
        ("path", &["/secrets", "/", "/a/../b", "relative", "/run/secrets/coffer/"]),
        ("role-arn", &["arn:aws:iam::123456789012:role/app", "app"]),
        ("region", &["eu-west-1", "EU"]),
        ("isolate-identity", &["true", "false", "yes"]),
        ("on-change", &["{signal: HUP}", "{http: {url: 'http://127.0.0.1:1/x'}}", "restart", "x", "["]),
        ("refresh", &["60s", "1", "never"]),
        ("resources", &["{requests: {cpu: 5m}}", "{limits: {memory: 1}}", "{requests: {gpu: 1}}", "x"]),
        ("image", &["registry.example/other:2", ""]),
        ("position", &["first", "last", "after:x", "middle"]),
        ("size-limit", &["4Mi", "0", "1e99", "-1"]),
        ("listen", &["127.0.0.1:9000", "0.0.0.0:1"]),
        ("metrics", &["9467", "[::]:9000", "true"]),
        ("file.b", &["secretsmanager:b#x", "b", "secretsmanager:b#", "parameterstore:/b?version=x"]),
    ];
    let mut pod = match rng.u8(..4) {
        0 => pod(&[("inject", "true")]),
        1 => pod(&[]),
        _ => annotated(),
    };
    for _ in 0..rng.usize(..3) {
        let (name, values) = ANNOTATIONS[rng.usize(..ANNOTATIONS.len())];
        pod["metadata"]["annotations"][format!("coffer.dev/{name}")] = json!(values[rng.usize(..values.len())]);
    }
    let more = match rng.u8(..8) {
        0 => json!({"initContainers": [{"name": "istio-proxy", "image": "x", "restartPolicy": "Always"}]}),
        1 => json!({"securityContext": {"fsGroup": 5, "runAsUser": 7}}),
        2 => json!({"shareProcessNamespace": true}),
        3 => json!({"restartPolicy": "Never", "hostNetwork": true}),
        4 => {
            json!({"volumes": [{"name": "aws-iam-token", "projected": {}}, {"name": "d", "persistentVolumeClaim": {}}]})
        }
        5 => json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
        _ => json!({}),
    };
    for (name, value) in more.as_object().into_iter().flatten() {
        pod["spec"][name] = value.clone();
    }
    pod
}

/// Puts something odd in at that depth.
fn change(rng: &mut Rng, at: &mut Value, depth: usize, odd: Value) {
    match at {
        Value::Object(map) if !map.is_empty() && depth > 0 => {
            let names: Vec<String> = map.keys().cloned().collect();
            // The review's own frame is mostly left, or all would end there.
            let inner = ["request", "object", "spec", "metadata", "annotations", "containers"];
            let mut name = names[rng.usize(..names.len())].clone();
            if let Some(way) = names.iter().find(|name| inner.contains(&name.as_str()))
                && rng.u8(..) < 200
            {
                name.clone_from(way);
            }
            match rng.u8(..) {
                0..4 => drop(map.shift_remove(&name)),
                4..8 => drop(map.insert(text(rng), odd)),
                _ => change(rng, &mut map[&name], depth - 1, odd),
            }
        }
        Value::Array(list) if !list.is_empty() && depth > 0 => {
            let at = rng.usize(..list.len());
            match rng.u8(..8) {
                0 => list.push(odd),
                1 => list.push(list[at].clone()),
                _ => change(rng, &mut list[at], depth - 1, odd),
            }
        }
        leaf => *leaf = odd,
    }
}

fn value(rng: &mut Rng) -> Value {
    match rng.u8(..8) {
        0 => Value::Null,
        1 => json!(rng.i64(..)),
        2 => json!(rng.bool()),
        3 => json!({text(rng): text(rng)}),
        4 => json!([text(rng), {"name": text(rng)}]),
        5 => json!([]),
        6 => json!({}),
        _ => json!(text(rng)),
    }
}

fn text(rng: &mut Rng) -> String {
    const TEXTS: [&str; 14] = [
        "",
        "app",
        "coffer",
        "coffer-secrets",
        "coffer.dev/",
        "coffer.dev/inject",
        "coffer.dev/status",
        "true",
        "/",
        "a\nb",
        "{",
        "- x: [",
        "\u{0}\u{7f}\u{feff}",
        "ä€😀",
    ];
    match rng.u8(..4) {
        0 => (0..rng.usize(..40)).map(|_| rng.char(..)).collect(),
        1 => "x".repeat(rng.usize(..5000)),
        _ => TEXTS[rng.usize(..TEXTS.len())].to_owned(),
    }
}
