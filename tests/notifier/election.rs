//! Two notifiers, of which one leads.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::{Signal, eventually};

use crate::fixture::{AT_ONCE, Bed, Gate, SOON, TAKEN_OVER};

#[tokio::test]
async fn when_the_leader_is_killed_the_other_takes_over_and_nothing_is_lost() -> Result<()> {
    let bed = Bed::new().await?;
    let node = bed.node().await?;
    let gate = Gate::to(&bed.plane.api().url()).await?;
    let first = bed.notifier_by("first", &gate.url())?;
    first.leads().await?;
    let second = bed.notifier("second")?;
    second.readiness(200).await?;
    ensure!(bed.holder().await?.starts_with("first_"), "{}", bed.holder().await?);
    bed.send("prod/a", "v1").await?;
    node.hears("prod/a", "v1", AT_ONCE).await?;

    // The leader reads a message that it cannot pass on, and dies with it.
    gate.close();
    bed.send("prod/a", "v2").await?;
    eventually(AT_ONCE, async || {
        let read = first.metric("coffer_push_events_total", &[("result", "change")]).await?;
        ensure!(read == 2.0, "{read} messages were read");
        Ok(())
    })
    .await
    .with_context(|| first.process.stderr())?;
    first.process.kill()?;
    // And what comes while nobody leads.
    bed.send("prod/b", "v1").await?;
    second.leads().await?;
    ensure!(bed.holder().await?.starts_with("second_"), "{}", bed.holder().await?);
    node.hears("prod/b", "v1", SOON).await?;
    node.hears("prod/a", "v2", TAKEN_OVER).await?;
    bed.is_drained().await?;
    ensure!(node.heard().len() == 3, "{:?}", node.heard());
    Ok(())
}

#[tokio::test]
async fn a_leader_that_ends_hands_over_at_once() -> Result<()> {
    let bed = Bed::new().await?;
    let node = bed.node().await?;
    let first = bed.notifier("first")?;
    first.leads().await?;
    let second = bed.notifier("second")?;
    second.readiness(200).await?;
    first.process.signal(Signal::TERM)?;
    let status = first.process.wait(Duration::from_secs(5)).await?;
    ensure!(status.success(), "{status}: {}", first.process.stderr());
    // It looks each two seconds; without the word of the first it would be fifteen.
    eventually(AT_ONCE, async || {
        ensure!(bed.holder().await?.starts_with("second_"), "{}", bed.holder().await?);
        Ok(())
    })
    .await?;
    bed.send("prod/a", "v1").await?;
    node.hears("prod/a", "v1", SOON).await?;

    // The one that stands by ends as well.
    let third = bed.notifier("third")?;
    third.readiness(200).await?;
    ensure!(third.metric("coffer_notifier_leader", &[]).await? == 0.0);
    let (_, metrics) = third.get("/metrics").await?;
    ensure!(!metrics.contains("coffer_push_up"), "{metrics}");
    third.process.signal(Signal::TERM)?;
    let status = third.process.wait(Duration::from_secs(5)).await?;
    ensure!(status.success(), "{status}: {}", third.process.stderr());
    ensure!(bed.holder().await?.starts_with("second_"), "{}", bed.holder().await?);
    Ok(())
}

#[tokio::test]
async fn there_is_never_more_than_one_leader() -> Result<()> {
    let bed = Bed::new().await?;
    let gate = Gate::to(&bed.plane.api().url()).await?;
    let first = bed.notifier_by("first", &gate.url())?;
    first.leads().await?;
    let second = bed.notifier("second")?;
    second.readiness(200).await?;
    gate.close();
    eventually(TAKEN_OVER, async || {
        let [first, second] =
            [first.metric("coffer_notifier_leader", &[]).await?, second.metric("coffer_notifier_leader", &[]).await?];
        // Asked one after the other, the first first: had it stopped in between, it would be right too.
        if first == 1.0 && second == 1.0 {
            return Ok(Err("two lead"));
        }
        ensure!(second == 1.0, "the second does not lead yet");
        Ok(Ok(()))
    })
    .await?
    .map_err(anyhow::Error::msg)?;
    let why = first.readiness(503).await?;
    ensure!(why.contains("Lease") && why.contains("does not answer"), "{why}");
    // The first is back, and stands by.
    gate.open();
    first.readiness(200).await?;
    ensure!(first.metric("coffer_notifier_leader", &[]).await? == 0.0);
    ensure!(bed.holder().await?.starts_with("second_"), "{}", bed.holder().await?);
    Ok(())
}
