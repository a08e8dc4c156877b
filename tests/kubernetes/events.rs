//! Events on pods.

use anyhow::{Context, Result, ensure};
use bed::eventually;
use coffer_injector::kubernetes::Events;
use serde_json::{Value, json};

use crate::fixture::{Namespace, SOON, managers};

/// The events of the namespace, once there are so many.
async fn events(test: &Namespace, count: usize) -> Result<Vec<Value>> {
    let there = eventually(SOON, async || {
        let mut events = test.get("events", "").await?["items"].as_array().context("no items")?.clone();
        events.sort_by_key(|event| event["metadata"]["name"].to_string());
        ensure!(events.len() >= count, "{events:?}");
        Ok(events)
    });
    there.await
}

#[tokio::test]
async fn an_event_says_on_the_pod_who_says_what() -> Result<()> {
    let test = Namespace::new().await?;
    let pod = test.pod("app", &json!([])).await?;
    let told = Events::start(&test.kubernetes, "csi.coffer.dev", "node-1");
    told.warn(&pod, "FailedRefresh", &format!("why {}", "ä".repeat(2000)));
    told.note(&pod, "Rotated", "db.json");
    let events = events(&test, 2).await?;
    let warning = &events[0];
    ensure!(warning["type"] == "Warning" && warning["reason"] == "FailedRefresh", "{warning}");
    ensure!(warning["source"] == json!({"component": "csi.coffer.dev", "host": "node-1"}), "{warning}");
    ensure!(warning["involvedObject"]["uid"] == pod.uid && warning["involvedObject"]["name"] == "app", "{warning}");
    ensure!(warning["message"].as_str().is_some_and(|message| message.len() == 1024), "{warning}");
    ensure!(events[1]["type"] == "Normal" && events[1]["message"] == "db.json", "{:?}", events[1]);
    ensure!(managers(warning) == ["coffer-injector"], "{warning}");
    let shown = test.plane.kubectl(["describe", "pod", "app", "--namespace", &test.name]).await?;
    ensure!(shown.contains("FailedRefresh") && shown.contains("csi.coffer.dev"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn the_same_is_not_told_again_nor_more_than_one_a_minute() -> Result<()> {
    let test = Namespace::new().await?;
    let (one, other) = (test.pod("one", &json!([])).await?, test.pod("other", &json!([])).await?);
    let told = Events::start(&test.kubernetes, "csi.coffer.dev", "node-1");
    for number in 0..1000 {
        told.warn(&one, "FailedRefresh", "the same");
        told.warn(&one, "FailedRefresh", &format!("another {number}"));
    }
    told.warn(&other, "FailedRefresh", "the same");
    let events = events(&test, 2).await?;
    let pods: Vec<_> = events.iter().filter_map(|event| event["involvedObject"]["name"].as_str()).collect();
    ensure!(events.len() == 2 && pods.contains(&"one") && pods.contains(&"other"), "{pods:?}");
    ensure!(test.traffic.writes() == 2);
    Ok(())
}

#[tokio::test]
async fn who_may_not_tell_goes_on() -> Result<()> {
    let test = Namespace::new().await?;
    let pod = test.pod("app", &json!([])).await?;
    let nobody = test.account("nobody", &json!([])).await?;
    Events::start(&nobody, "csi.coffer.dev", "node-1").warn(&pod, "FailedRefresh", "why");
    let rules = json!([{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]);
    let teller = test.account("teller", &rules).await?;
    Events::start(&teller, "csi.coffer.dev", "node-1").warn(&pod, "FailedRefresh", "why");
    ensure!(events(&test, 1).await?.len() == 1);
    Ok(())
}
