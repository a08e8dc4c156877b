//! When the API server or the queue is away.

use std::time::Duration;

use anyhow::{Result, ensure};
use bed::{Fault, Rule};

use crate::fixture::{AT_ONCE, Bed, Gate, SOON, TAKEN_OVER};

#[tokio::test]
async fn a_message_comes_after_the_api_server_is_back() -> Result<()> {
    let bed = Bed::new().await?;
    let node = bed.node().await?;
    let gate = Gate::to(&bed.plane.api().url()).await?;
    let notifier = bed.notifier_by("a", &gate.url())?;
    notifier.leads().await?;

    // For a moment: the leader stays in office and tries again.
    gate.close();
    bed.send("prod/a", "v1").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(node.heard().is_empty(), "{:?}", node.heard());
    gate.open();
    node.hears("prod/a", "v1", AT_ONCE).await?;
    bed.is_drained().await?;
    ensure!(notifier.metric("coffer_notifier_failures_total", &[]).await? > 0.0);
    ensure!(notifier.metric("coffer_notifier_leader", &[]).await? == 1.0, "{}", notifier.process.stderr());

    // For longer than it may stay in office.
    gate.close();
    bed.send("prod/a", "v2").await?;
    notifier.readiness(503).await?;
    ensure!(notifier.get("/livez").await?.0 == 200);
    gate.open();
    notifier.readiness(200).await?;
    node.hears("prod/a", "v2", TAKEN_OVER).await?;
    bed.is_drained().await
}

#[tokio::test]
async fn a_queue_that_cannot_be_read_is_told_and_the_lease_kept() -> Result<()> {
    let bed = Bed::new().await?;
    let denied = bed.proxy.fault(Rule::new(Fault::AccessDenied).operation("ReceiveMessage"));
    let notifier = bed.notifier("a")?;
    notifier.leads().await?;
    notifier.process.wait_for_stderr("allow sqs:ReceiveMessage on arn:aws:sqs:eu-west-1:", SOON).await?;
    ensure!(notifier.metric("coffer_push_up", &[]).await? == 0.0);
    notifier.readiness(200).await?;
    bed.proxy.clear_fault(denied);
    let node = bed.node().await?;
    bed.send("prod/a", "v1").await?;
    node.hears("prod/a", "v1", SOON).await?;
    Ok(())
}
