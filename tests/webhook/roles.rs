//! Roles of service accounts: known, and not to be known in time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::own_address;
use bed::webhook::{ReviewClient, admission_review};
use hyper::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::fixture::{Webhook, annotated, patched, pod};

const ROLE: &str = "arn:aws:iam::123456789012:role/app";

/// A role that a pod's own container would have to have in its environment.
async fn role(client: &ReviewClient) -> Result<(Option<String>, Vec<String>)> {
    let pod = annotated();
    let answer = client.review(&pod).await?;
    let response = answer.response()?;
    ensure!(response["allowed"] == true, "{response}");
    let changed = patched(&pod, &answer)?;
    let ours = changed["spec"]["initContainers"][0]["env"].as_array().cloned().unwrap_or_default();
    let role = ours.iter().find(|variable| variable["name"] == "AWS_ROLE_ARN");
    let role = role.and_then(|variable| variable["value"].as_str()).map(str::to_owned);
    let warnings = response["warnings"].as_array().into_iter().flatten();
    Ok((role, warnings.filter_map(Value::as_str).map(str::to_owned).collect()))
}

fn kubeconfig(webhook_folder: &tempfile::TempDir, server: &str) -> Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "user", "user": {"token": "x"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    });
    let path = webhook_folder.path().join("kubeconfig");
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

#[tokio::test]
async fn an_api_server_that_is_away_or_hangs_holds_up_no_admission() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // One that takes connections and never says anything.
    let listener = TcpListener::bind((own_address(), 6443)).await?;
    let hangs = format!("http://{}", listener.local_addr()?);
    let away = format!("http://{}:6443", own_address());
    for (server, wanted, reason) in
        [(hangs, "the Kubernetes API is slow", "slow"), (away, "the Kubernetes API does not answer", "outage")]
    {
        let config = kubeconfig(&folder, &server)?;
        let webhook =
            Webhook::with(&["--native-sidecars=always", &format!("--kubeconfig={}", config.display())]).await?;
        let client = webhook.client().await?;
        for _ in 0..2 {
            // What the API server gives it by our manifests.
            let (role, warnings) = timeout(Duration::from_secs(5), role(&client)).await.context("too slow")??;
            ensure!(role.is_none() && warnings.iter().any(|warning| warning.contains(wanted)), "{warnings:?}");
        }
        // Where that was asked for, the pod waits for its role.
        let body = admission_review(&annotated()).to_string();
        let answer = client.request(Method::POST, "/mutate/required?timeout=5s", body).await?;
        let response = answer.response()?;
        ensure!(response["allowed"] == false && response["patch"].is_null(), "{response}");
        ensure!(
            response["status"]["code"] == 503 && response["status"]["reason"] == "ServiceUnavailable",
            "{response}"
        );
        let text = format!("the role of the service account app is not known now: {wanted}; try again");
        ensure!(response["status"]["message"] == text.as_str(), "{response}");
        ensure!(webhook.admissions("unavailable").await? == 1.0);
        ensure!(webhook.metric("coffer_webhook_roles_unknown_total", &[("reason", reason)]).await? == 3.0);
        // What is wrong with it is told at once, and what needs no role goes on.
        let wrong = admission_review(&pod(&[("inject", "true"), ("modus", "init")])).to_string();
        let response = client.request(Method::POST, "/mutate/required", wrong).await?.response()?;
        ensure!(response["status"]["code"] == 422, "{response}");
        let own = pod(&[("inject", "true"), ("file.a", "secretsmanager:a"), ("role-arn", ROLE)]);
        let answer = client.request(Method::POST, "/mutate/required", admission_review(&own).to_string()).await?;
        ensure!(answer.patch()?.is_some(), "{}", answer.text());
        let log = webhook.process.stderr();
        let told = log.lines().filter(|line| line.contains("roles of service accounts are not known")).count();
        ensure!(told == 1, "told {told} times: {log}");
    }
    Ok(())
}

#[tokio::test]
async fn who_does_not_wait_long_is_answered_sooner() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let listener = TcpListener::bind((own_address(), 6443)).await?;
    let config = kubeconfig(&folder, &format!("http://{}", listener.local_addr()?))?;
    let webhook = Webhook::with(&["--native-sidecars=always", &format!("--kubeconfig={}", config.display())]).await?;
    let client = webhook.client().await?;
    let body = admission_review(&annotated()).to_string();
    let mut took = Vec::new();
    for path in ["/mutate?timeout=1s", "/mutate?timeout=10s"] {
        let asked = Instant::now();
        let answer = client.request(Method::POST, path, body.clone()).await?;
        ensure!(answer.patch()?.is_some(), "{}", answer.text());
        took.push(asked.elapsed());
    }
    // Half a second, and two, and as much of a busy machine's own in either.
    ensure!(took[0] + Duration::from_millis(500) < took[1], "{took:?}");
    Ok(())
}

#[tokio::test]
async fn what_the_cluster_can_is_known_before_it_is_ready() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let away = kubeconfig(&folder, &format!("http://{}:6443", own_address()))?;
    let config = format!("--kubeconfig={}", away.display());
    let webhook = Webhook::unready(&[&config])?;
    for _ in 0..2 {
        let why = webhook.readiness(503).await?;
        ensure!(why.contains("whether it has native sidecars"), "{why}");
        // It has asked once more by then.
        sleep(Duration::from_secs(3)).await;
    }
    Ok(())
}
