//! What an application's own variables hold goes nowhere.

use anyhow::{Result, ensure};
use bed::webhook::admission_review;
use serde_json::json;

use crate::fixture::{Webhook, annotated, pod};

/// A value that someone has put into a pod's variables, where it does not belong.
const CANARY: &str = "correct-horse-battery-staple";

#[tokio::test]
async fn a_value_in_a_pod_stays_there() -> Result<()> {
    let webhook = Webhook::with(&["--log-level=trace"]).await?;
    let client = webhook.client().await?;
    let exec = pod(&[("inject", "true"), ("mode", "exec")]);
    let denied = pod(&[("inject", "true"), ("mode", "nonsense"), ("containers", "nobody")]);
    for (mut pod, patched) in [(annotated(), true), (exec, true), (denied, false)] {
        let container = &mut pod["spec"]["containers"][0];
        container["env"] = json!([{"name": "PASSWORD", "value": CANARY}]);
        container["args"] = json!(["--password", CANARY]);
        pod["metadata"]["annotations"]["example.com/password"] = json!(CANARY);
        let answer = client.review(&pod).await?;
        let patch = answer.patch()?;
        ensure!(patch.is_some() == patched, "{}", answer.text());
        let texts = [patch.unwrap_or_default().to_string(), answer.text()];
        ensure!(texts.iter().all(|text| !text.contains(CANARY)), "{texts:?}");
        // In places where it cannot be read, too.
        for broken in [
            admission_review(&pod).to_string().replace("\"kind\"", "kind"),
            admission_review(&pod).to_string().replace("\"uid\":\"", &format!("\"uid\":[\"{CANARY}\"],\"x\":\"")),
            admission_review(&json!({"metadata": {"annotations": {"a": [CANARY]}}})).to_string(),
            admission_review(&json!(CANARY)).to_string(),
        ] {
            let answer = client.post(broken).await?;
            ensure!(!answer.text().contains(CANARY), "{}", answer.text());
        }
    }
    let (_, metrics) = webhook.get("/metrics").await?;
    let log = webhook.process.stderr();
    ensure!(log.contains("denied"), "the log tells nothing: {log}");
    for text in [log, webhook.process.stdout(), metrics] {
        ensure!(!text.contains(CANARY), "{text}");
    }
    Ok(())
}
