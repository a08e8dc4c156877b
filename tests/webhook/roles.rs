//! Roles of service accounts: known, and not to be known in time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::own_address;
use bed::webhook::ReviewClient;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::fixture::{Webhook, annotated, patched};

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
    for (server, wanted) in [(hangs, "the Kubernetes API is slow"), (away, "the Kubernetes API does not answer")] {
        let config = kubeconfig(&folder, &server)?;
        let webhook =
            Webhook::with(&["--native-sidecars=always", &format!("--kubeconfig={}", config.display())]).await?;
        let client = webhook.client().await?;
        for _ in 0..2 {
            let asked = Instant::now();
            let (role, warnings) = role(&client).await?;
            ensure!(asked.elapsed() < Duration::from_millis(2900), "{wanted}: {:?}", asked.elapsed());
            ensure!(role.is_none() && warnings.iter().any(|warning| warning.contains(wanted)), "{warnings:?}");
        }
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
    let body = bed::webhook::admission_review(&annotated()).to_string();
    let asked = Instant::now();
    let answer = client.request(hyper::Method::POST, "/mutate?timeout=1s", body).await?;
    ensure!(answer.patch()?.is_some() && asked.elapsed() < Duration::from_millis(950), "{:?}", asked.elapsed());
    Ok(())
}

#[tokio::test]
async fn what_the_cluster_can_is_known_before_it_is_ready() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let away = kubeconfig(&folder, &format!("http://{}:6443", own_address()))?;
    let config = format!("--kubeconfig={}", away.display());
    let Err(error) = Webhook::within(&[&config], Duration::from_secs(4)).await else {
        anyhow::bail!("it is ready, and cannot know")
    };
    ensure!(format!("{error:#}").contains("whether it has native sidecars"), "{error:#}");
    Ok(())
}
