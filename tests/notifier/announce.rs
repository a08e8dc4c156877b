//! From the queue to the nodes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::aws::ParameterType;
use serde_json::Value;

use crate::fixture::{AT_ONCE, Bed, SOON};

#[tokio::test]
async fn every_node_hears_of_a_change_at_once() -> Result<()> {
    let bed = Bed::new().await?;
    // One follows before there is anything, and one will come later.
    let first = bed.node().await?;
    let notifier = bed.notifier("a")?;
    notifier.leads().await?;
    notifier.readiness(200).await?;
    // As the whole suite: deploy/seccomp has what it needs.
    ensure!(notifier.process.proc().status_field("Seccomp")? == "2");
    bed.tell("prod/db", "v2").await?;
    let took = first.hears("prod/db", "v2", SOON).await?;
    ensure!(took < AT_ONCE, "took {took:?}");
    bed.is_drained().await?;
    let second = bed.node().await?;
    second.hears("prod/db", "v2", AT_ONCE).await?;

    // LocalStack's Parameter Store puts the event on the bus by itself.
    bed.aws.put_parameter("/prod/level", ParameterType::SecureString, "s3cr3t").await?;
    for node in [&first, &second] {
        node.hears("/prod/level", "", AT_ONCE).await?;
        ensure!(node.heard().len() == 2, "{:?}", node.heard());
    }

    let object = bed.object().await?;
    let text = object["data"]["changes"].as_str().unwrap_or_default();
    let changes: Vec<Value> = serde_json::from_str(text)?;
    ensure!(changes.len() == 2 && !object.to_string().contains("s3cr3t"), "{object:#}");
    let [secret, parameter] = &changes[..] else { anyhow::bail!("{changes:?}") };
    ensure!(secret["kind"] == "secret" && secret["name"] == "prod/db" && secret["version"] == "v2", "{secret:#}");
    ensure!(secret["label"] == "AWSCURRENT" && secret["arn"] == bed.arn("prod/db").as_str(), "{secret:#}");
    ensure!(parameter["kind"] == "parameter" && parameter["region"] == bed::aws::REGION, "{parameter:#}");
    ensure!(object["data"]["seq"].as_str() == Some(&*parameter["seq"].to_string()), "{object:#}");

    for (name, expected) in [
        ("coffer_notifier_changes_total", 2.0),
        ("coffer_notifier_writes_total", 2.0),
        ("coffer_notifier_failures_total", 0.0),
        ("coffer_push_up", 1.0),
        ("coffer_push_events_total", 2.0),
    ] {
        let found = notifier.metric(name, &[]).await?;
        ensure!(found == expected, "{name} is {found}");
    }
    let (status, text) = notifier.get("/livez").await?;
    ensure!(status == 200, "{status} {text}");
    Ok(())
}

#[tokio::test]
async fn a_burst_is_a_few_writes() -> Result<()> {
    const SECRETS: usize = 60;
    let bed = Bed::new().await?;
    let node = bed.node().await?;
    // All of it waits in the queue.
    for number in 0..SECRETS {
        bed.send(&format!("prod/{number}"), "v2").await?;
    }
    let started = Instant::now();
    let notifier = bed.notifier("a")?;
    for number in 0..SECRETS {
        node.hears(&format!("prod/{number}"), "v2", SOON).await?;
    }
    bed.is_drained().await?;
    let writes = notifier.metric("coffer_notifier_writes_total", &[]).await?;
    ensure!(writes <= 5.0, "{writes} writes in {:?}", started.elapsed());
    ensure!(node.heard().len() == SECRETS, "{:?}", node.heard());
    Ok(())
}

#[tokio::test]
async fn what_others_made_of_the_object_is_borne() -> Result<()> {
    let bed = Bed::new().await?;
    let node = bed.node().await?;
    let notifier = bed.notifier("a")?;
    notifier.leads().await?;
    bed.send("prod/a", "v1").await?;
    node.hears("prod/a", "v1", AT_ONCE).await?;

    // Somebody labels it, and puts a key of their own there.
    let path = bed.path("configmaps/coffer-rotations");
    let mut object = bed.object().await?;
    object["metadata"]["labels"]["team"] = "platform".into();
    object["data"]["note"] = "ours".into();
    bed.plane.api().replace(&path, &object).await?;
    bed.send("prod/a", "v2").await?;
    node.hears("prod/a", "v2", AT_ONCE).await?;
    let object = bed.object().await?;
    ensure!(object["metadata"]["labels"]["team"] == "platform" && object["data"]["note"] == "ours", "{object:#}");

    // Somebody spoils it.
    let mut object = bed.object().await?;
    object["data"]["changes"] = "s3cr3t [".into();
    bed.plane.api().replace(&path, &object).await?;
    bed.send("prod/a", "v3").await?;
    node.hears("prod/a", "v3", AT_ONCE).await?;
    ensure!(!notifier.process.stderr().contains("s3cr3t"), "{}", notifier.process.stderr());

    // Somebody takes it away, where the notifier may make it anew.
    bed.may_make_objects().await?;
    bed.plane.api().delete(&path).await?;
    bed.send("prod/a", "v4").await?;
    node.hears("prod/a", "v4", AT_ONCE).await?;
    let versions: Vec<String> = node.heard().into_iter().map(|(_, version)| version).collect();
    ensure!(versions == ["v1", "v2", "v3", "v4"], "{versions:?}");
    ensure!(notifier.metric("coffer_notifier_failures_total", &[]).await? == 0.0, "{}", notifier.process.stderr());
    Ok(())
}

#[tokio::test]
async fn what_is_no_event_tells_the_nodes_nothing() -> Result<()> {
    let bed = Bed::new().await?;
    let notifier = bed.notifier("a")?;
    notifier.leads().await?;
    bed.aws.send_message(&bed.queue, "s3cr3t").await?;
    bed.is_drained().await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let object = bed.object().await?;
    ensure!(object["data"].is_null(), "the object was written for nothing: {object:#}");
    ensure!(!notifier.process.stderr().contains("s3cr3t"), "the log repeats a message");
    Ok(())
}
