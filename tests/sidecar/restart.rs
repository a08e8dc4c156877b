//! A sidecar that comes back over what it left.

use anyhow::{Result, ensure};
use bed::{Fault, FileWatch, Rule, Signal, Times};

use crate::{
    faults::{PARAMETER, SECRET, pair},
    fixture::{SOON, ends_with, last_line},
};

#[tokio::test]
async fn with_aws_down_a_restart_takes_over_the_files_as_they_are_and_says_so() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    let published_at = sidecar.status().await?["published_at"].clone();
    sidecar.process.kill()?;
    sidecar.process.wait(SOON).await?;
    let before = (fixture.reader().read(&["db", "level"])?, fixture.tree()?);
    let mut watch = FileWatch::new(&fixture.volume())?;

    fixture.proxy.fault(Rule::new(Fault::Status(503)));
    let sidecar = fixture.start()?;
    // Ready at once: nothing needs AWS.
    sidecar.ready().await?;
    for reference in [SECRET, PARAMETER] {
        let stale = sidecar.becomes(reference, "stale").await?;
        ensure!(stale["version"].is_string() && stale["last_success"].is_null(), "{stale:#}");
    }
    bed::eventually(SOON, async || {
        let stale = sidecar.reference(SECRET).await?;
        ensure!(stale["why"].as_str().is_some_and(|why| why.contains("ServiceUnavailable")), "{stale:#}");
        Ok(())
    })
    .await?;
    let status = sidecar.status().await?;
    ensure!(status["published"] == true && status["published_at"] == published_at, "restamped: {status:#}");
    ensure!((fixture.reader().read(&["db", "level"])?, fixture.tree()?) == before, "the files changed");
    ensure!(watch.events()?.is_empty());

    // Going on from there, with news.
    fixture.aws.put_secret_value("prod/db", "new").await?;
    fixture.proxy.clear_faults();
    fixture.holds("db", "new").await?;
    sidecar.becomes(SECRET, "fresh").await?;
    sidecar.becomes(PARAMETER, "fresh").await?;
    Ok(())
}

#[tokio::test]
async fn with_aws_up_a_restart_touches_no_file() -> Result<()> {
    let fixture = pair("1s").await?;
    let mut sidecar = fixture.ready().await?;
    for signal in [Signal::KILL, Signal::TERM] {
        sidecar.process.signal(signal)?;
        sidecar.process.wait(SOON).await?;
        let before = (fixture.reader().read(&["db", "level"])?, fixture.tree()?);
        let mut watch = FileWatch::new(&fixture.volume())?;
        sidecar = fixture.ready().await?;
        sidecar.becomes(SECRET, "fresh").await?;
        sidecar.becomes(PARAMETER, "fresh").await?;
        sidecar.looks_again().await?;
        let status = sidecar.status().await?;
        ensure!(status["publishes"] == 0, "{status:#}");
        let events = watch.events()?;
        ensure!(events.is_empty(), "a restart alone wakes applications: {events:?}");
        ensure!((fixture.reader().read(&["db", "level"])?, fixture.tree()?) == before);
        ensure!(!sidecar.process.stdout().contains(r#""event":"publish""#), "{}", sidecar.process.stdout());
    }
    Ok(())
}

#[tokio::test]
async fn what_changed_while_it_was_away_is_published_at_the_start() -> Result<()> {
    let fixture = pair("1h").await?;
    let sidecar = fixture.ready().await?;
    sidecar.process.kill()?;
    sidecar.process.wait(SOON).await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    let _again = fixture.ready().await?;
    fixture.holds("db", "new").await?;
    ensure!(fixture.read("level")? == "old");
    Ok(())
}

#[tokio::test]
async fn once_over_an_old_set_fails_when_it_cannot_fetch_and_leaves_the_set() -> Result<()> {
    let fixture = pair("1h").await?;
    fixture.once().await?;
    let before = fixture.tree()?;
    for fault in [Fault::Status(503), Fault::AccessDenied] {
        let mut watch = FileWatch::new(&fixture.volume())?;
        fixture.proxy.fault(Rule::new(fault));
        let process = fixture.run().args(["--once", "--startup-timeout=4s"]).start()?;
        ends_with(&process, 1).await?;
        let said = process.stderr();
        ensure!(last_line(&said).starts_with("error: ") && last_line(&said).contains(SECRET), "{said}");
        ensure!(fixture.tree()? == before && watch.events()?.is_empty());
        fixture.proxy.clear_faults();
    }
    // One that comes back is enough, and nothing is written for it.
    fixture.proxy.fault(Rule::new(Fault::Status(503)).times(Times::First(3)));
    let mut watch = FileWatch::new(&fixture.volume())?;
    fixture.once().await?;
    ensure!(fixture.tree()? == before && watch.events()?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_changed_config_makes_a_new_set_of_the_new_files_only() -> Result<()> {
    let fixture = pair("1h").await?;
    fixture.once().await?;
    fixture.config(
        "1h",
        [format!("{{name: renamed, from: '{SECRET}'}}"), format!("{{name: sub/level, from: '{PARAMETER}'}}")],
    )?;
    fixture.once().await?;
    ensure!(fixture.read("renamed")? == "old" && fixture.read("sub/level")? == "old");
    ensure!(!fixture.volume().join("db").exists() && !fixture.volume().join("level").exists());

    // With AWS down a config that asks for more than there is cannot be ready.
    fixture.config(
        "1h",
        [format!("{{name: renamed, from: '{SECRET}'}}"), "{name: more, from: 'secretsmanager:prod/more'}".to_owned()],
    )?;
    fixture.proxy.fault(Rule::new(Fault::Status(503)));
    let process = fixture.run().arg("--startup-timeout=4s").start()?;
    ends_with(&process, 1).await?;
    ensure!(fixture.read("renamed")? == "old" && fixture.read("sub/level")? == "old", "the last good set is gone");
    Ok(())
}
