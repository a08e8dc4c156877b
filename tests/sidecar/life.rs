//! The life of the process: it ends when asked, at once, wherever it is.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bed::{Fault, Process, Rule, Service, Signal, eventually};
use rustix::process::{Pid, kill_process};

use crate::{
    faults::{SECRET, pair},
    fixture::{Fixture, SOON, ends_with, skip},
};

/// What a pod's end may wait for it.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Sends a signal and waits for the end, with a watch.
async fn ends_at_once(process: &Process, signal: impl FnOnce() -> Result<()>, code: i32) -> Result<()> {
    let asked = Instant::now();
    signal()?;
    let status = loop {
        if let Some(status) = process.status()? {
            break status;
        }
        if asked.elapsed() > SOON {
            bail!("still runs after {SOON:?}\n{}", process.stderr());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let took = asked.elapsed();
    ensure!(status.code() == Some(code), "ended with {status} ({:?})\n{}", status.signal(), process.stderr());
    ensure!(took < AT_ONCE, "ended after {took:?}");
    Ok(())
}

async fn ends_on(process: &Process, signal: Signal, code: i32) -> Result<()> {
    ends_at_once(process, || process.signal(signal), code).await
}

/// The generations in the volume, the one in place among them.
fn generations(fixture: &Fixture) -> Result<usize> {
    let names = fs::read_dir(fixture.volume())?.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| name.to_string_lossy().starts_with("..2")).count())
}

#[tokio::test]
async fn sigterm_ends_it_while_it_has_nothing_to_do() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let fixture = pair("1h").await?;
        let sidecar = fixture.ready().await?;
        ends_on(&sidecar.process, signal, 0).await?;
        ensure!(fixture.read("db")? == "old" && fixture.read("level")? == "old", "the files are gone");
    }
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_it_while_aws_hangs_at_the_start() -> Result<()> {
    for (what, rule) in [
        ("AssumeRoleWithWebIdentity", Rule::new(Fault::Hang).service(Service::Sts)),
        ("GetSecretValue", Rule::new(Fault::Hang).operation("GetSecretValue")),
    ] {
        let fixture = pair("1h").await?;
        fixture.proxy.fault(rule);
        let sidecar = fixture.start()?;
        fixture.asked(what, 1).await?;
        ends_on(&sidecar.process, Signal::TERM, 0).await?;
        ensure!(fixture.volume_is_empty()?, "{:?}", fixture.tree()?);
    }
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_it_while_it_waits_for_the_next_try_of_the_start() -> Result<()> {
    let fixture = pair("1h").await?;
    fixture.proxy.fault(Rule::new(Fault::AccessDenied));
    let sidecar = fixture.start()?;
    sidecar.process.wait_for_stderr("trying again", SOON).await?;
    ends_on(&sidecar.process, Signal::TERM, 0).await?;
    ensure!(fixture.volume_is_empty()?);
    Ok(())
}

/// An init container that was stopped has not done its work, and must not look as if it had.
#[tokio::test]
async fn once_that_is_ended_before_it_published_has_failed() -> Result<()> {
    let fixture = pair("1h").await?;
    fixture.proxy.fault(Rule::new(Fault::Hang).operation("GetParameters"));
    let process = fixture.run().arg("--once").start()?;
    fixture.asked("GetParameters", 1).await?;
    ends_on(&process, Signal::TERM, 1).await?;
    ensure!(fixture.volume_is_empty()?);
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_it_during_a_refresh_that_hangs() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    fixture.proxy.fault(Rule::new(Fault::Hang));
    fixture.proxy.clear_log();
    fixture.asked("GetParameters", 1).await?;
    ends_on(&sidecar.process, Signal::TERM, 0).await?;
    ensure!(fixture.read("db")? == "old" && fixture.read("level")? == "old");
    ensure!(generations(&fixture)? == 1);
    Ok(())
}

#[tokio::test]
async fn the_end_takes_replaced_generations_with_it() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    for round in 0..3 {
        let value = format!("new {round}");
        fixture.aws.put_secret_value("prod/db", &value).await?;
        fixture.holds("db", &value).await?;
    }
    // The set before is kept for two seconds after the swap, so it is there now.
    ensure!(generations(&fixture)? > 1, "nothing to take along, so this proves nothing");
    ends_on(&sidecar.process, Signal::TERM, 0).await?;
    ensure!(generations(&fixture)? == 1, "{:?}", fixture.tree()?);
    ensure!(fixture.read("db")? == "new 2");
    Ok(())
}

#[tokio::test]
async fn replaced_generations_go_after_two_seconds() -> Result<()> {
    let fixture = pair("1s").await?;
    let _sidecar = fixture.ready().await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    fixture.holds("db", "new").await?;
    eventually(SOON, async || {
        let left = generations(&fixture)?;
        ensure!(left == 1, "{left} generations");
        Ok(())
    })
    .await
}

/// The kernel drops signals to PID 1 that it does not listen for.
#[tokio::test]
async fn sigterm_ends_it_as_pid_1() -> Result<()> {
    let fixture = pair("1s").await?;
    let mut namespace = vec!["unshare", "--pid", "--fork", "--kill-child"];
    if !rustix::process::geteuid().is_root() {
        namespace.extend(["--user", "--map-root-user"]);
    }
    let probe = std::process::Command::new(namespace[0]).args(&namespace[1..]).arg("true").output();
    if !probe.as_ref().is_ok_and(|probe| probe.status.success()) {
        return skip(&format!("a PID namespace, by `{}`: {probe:?}", namespace.join(" ")));
    }
    for hangs in [false, true] {
        let sidecar = fixture.start_as(fixture.run().under(&namespace))?;
        sidecar.ready().await?;
        if hangs {
            fixture.proxy.fault(Rule::new(Fault::Hang));
            fixture.proxy.clear_log();
            eventually(SOON, async || {
                ensure!(!fixture.proxy.calls().is_empty(), "nothing was asked");
                Ok(())
            })
            .await?;
        }
        // The process itself is `unshare`; its child is PID 1 of the new namespace.
        let started = sidecar.process.proc().descendants();
        let [child] = &started[..] else { bail!("not one child: {started:?}") };
        let numbers = child.status("NSpid")?;
        ensure!(numbers.ends_with("\t1"), "not PID 1: {numbers}");
        let child = Pid::from_raw(child.pid().try_into()?).context("a child without a number")?;
        ends_at_once(&sidecar.process, || Ok(kill_process(child, Signal::TERM)?), 0).await?;
        fixture.proxy.clear_faults();
    }
    Ok(())
}

#[tokio::test]
async fn a_second_process_on_the_same_volume_is_refused_and_disturbs_nothing() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    let before = fixture.tree()?;
    for second in [fixture.run(), fixture.run().arg("--once")] {
        let second = second.start()?;
        ends_with(&second, 1).await?;
        let said = second.stderr();
        let expected = format!("error: another coffer process serves {}; stop it", fixture.volume().display());
        ensure!(said.contains(&expected), "{said}");
    }
    ensure!(fixture.tree()? == before);
    fixture.aws.put_secret_value("prod/db", "new").await?;
    fixture.holds("db", "new").await?;
    sidecar.becomes(SECRET, "fresh").await?;
    // And when the first is gone, the second may.
    ensure!(sidecar.process.stop().await?.success());
    fixture.once().await?;
    Ok(())
}
