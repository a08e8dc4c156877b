//! From start to end: one instance on a socket, a crash that leaves no trace, an end that loses no answer.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bed::{Fault, Process, Program, Rule, Signal, eventually, free_port, unique_name};
use rustix::process::{getegid, geteuid};
use tonic::Code;

use crate::fixture::{Api, Fixture, SOON, refused};

/// Waits for an end with that code, and gives the last of what it wrote.
async fn ends_with(process: &Process, code: i32) -> Result<String> {
    let status = process.wait(SOON).await?;
    let said = process.stderr();
    ensure!(status.code() == Some(code), "{status}, not {code}\n{said}");
    Ok(said)
}

/// The same, but with health on another port.
fn second(fixture: &Fixture, key: &str) -> Result<Program> {
    let listen = fixture.socket(0);
    let program = fixture.coffer_kms().args(["--key", key]).arg(format!("--health-port=127.0.0.1:{}", free_port()?));
    Ok(program.arg("--listen").arg(listen))
}

#[tokio::test]
async fn a_second_instance_refuses_and_the_first_does_not_notice() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let inode = fs::metadata(fixture.socket(0))?.ino();
    for _ in 0..3 {
        let other = second(&fixture, &key)?.start()?;
        let said = ends_with(&other, 1).await?;
        let path = fixture.socket(0).display().to_string();
        ensure!(said.contains("another instance serves at") && said.contains(&path), "{said}");
        ensure!(other.stdout().is_empty());
    }
    ensure!(fs::metadata(fixture.socket(0))?.ino() == inode);
    ensure!(plugin.api.encrypt(b"seed").await?.key_id == key);
    // A new connection gets there too.
    ensure!(fixture.api(0).await?.status().await?.healthz == "ok");
    Ok(())
}

#[tokio::test]
async fn of_many_that_start_at_once_one_serves() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let all = (0..5).map(|_| second(&fixture, &key)?.start()).collect::<Result<Vec<_>>>()?;
    eventually(SOON, async || {
        let running = all.iter().map(Process::status).collect::<Result<Vec<_>>>()?;
        let ended: Vec<_> = running.into_iter().flatten().collect();
        ensure!(ended.len() == 4, "{} have ended", ended.len());
        ensure!(ended.iter().all(|status| status.code() == Some(1)), "{ended:?}");
        Ok(())
    })
    .await?;
    fixture.api(0).await?.becomes("ok").await?;
    Ok(())
}

#[tokio::test]
async fn after_a_kill_the_next_start_serves_within_a_second() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    let mut slowest = Duration::ZERO;
    let mut last = plugin;
    for _ in 0..3 {
        last.process.kill()?;
        last.process.wait(SOON).await?;
        ensure!(fixture.socket(0).exists(), "a kill leaves the socket");
        let started = Instant::now();
        last = fixture.start(fixture.program(&[&key])).await?;
        slowest = slowest.max(started.elapsed());
        ensure!(last.api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"seed");
    }
    // A tenth of it on a machine of its own.
    ensure!(slowest < Duration::from_secs(1), "{slowest:?}");
    Ok(())
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_taken_over_and_anything_else_is_left_alone() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let path = fixture.socket(0);
    drop(UnixListener::bind(&path)?);
    ensure!(fs::metadata(&path)?.file_type().is_socket());
    let plugin = fixture.serve(&key, &[]).await?;
    plugin.stop().await?;
    ensure!(!path.exists(), "the socket is left");

    fs::write(&path, "precious")?;
    let said = ends_with(&fixture.program(&[&key]).start()?, 1).await?;
    ensure!(said.contains(&path.display().to_string()) && said.contains("not a socket"), "{said}");
    ensure!(fs::read_to_string(&path)? == "precious");
    fs::remove_file(&path)?;

    fs::create_dir(&path)?;
    let said = ends_with(&fixture.program(&[&key]).start()?, 1).await?;
    ensure!(said.contains("not a socket"), "{said}");
    fs::remove_dir(&path)?;

    let target = path.with_extension("target");
    fs::write(&target, "precious")?;
    std::os::unix::fs::symlink(&target, &path)?;
    let said = ends_with(&fixture.program(&[&key]).start()?, 1).await?;
    ensure!(said.contains(&path.display().to_string()), "{said}");
    ensure!(fs::read_to_string(&target)? == "precious");
    Ok(())
}

#[tokio::test]
async fn sigterm_answers_what_was_asked_and_removes_the_socket() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    fixture.proxy.set_latency(Duration::from_secs(1));
    let asked = fixture.proxy.calls().len();
    let (encrypting, decrypting) = (plugin.api.clone(), plugin.api.clone());
    let (ciphertext, key_id) = (answer.ciphertext, answer.key_id);
    let encrypting = tokio::spawn(async move { encrypting.encrypt(b"late").await });
    let decrypting = tokio::spawn(async move { decrypting.decrypt(&ciphertext, &key_id).await });
    eventually(SOON, async || {
        ensure!(fixture.proxy.calls().len() >= asked + 2);
        Ok(())
    })
    .await?;
    let told = Instant::now();
    plugin.process.signal(Signal::TERM)?;
    eventually(Duration::from_millis(700), async || {
        ensure!(!fixture.socket(0).exists(), "the socket is still there");
        Ok(())
    })
    .await?;
    ensure!(encrypting.await?.is_ok(), "the Encrypt under way was not answered");
    ensure!(decrypting.await?? == b"seed");
    let said = ends_with(&plugin.process, 0).await?;
    ensure!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
    ensure!(said.contains("requests under way are answered first") && !said.contains("panicked"), "{said}");
    Ok(())
}

#[tokio::test]
async fn sigterm_while_kms_hangs_ends_within_the_grace() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &["--shutdown-grace=1s"]).await?;
    fixture.fault(Fault::Hang);
    let api = plugin.api.within(Duration::from_secs(20));
    let hanging = tokio::spawn(async move { api.encrypt(b"seed").await });
    eventually(SOON, async || {
        ensure!(fixture.proxy.count("Encrypt") >= 2);
        Ok(())
    })
    .await?;
    let told = Instant::now();
    plugin.process.signal(Signal::TERM)?;
    ends_with(&plugin.process, 0).await?;
    ensure!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    ensure!(hanging.await?.is_err());
    ensure!(!fixture.socket(0).exists());
    Ok(())
}

#[tokio::test]
async fn sigterm_before_anything_works_ends_as_well() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    fixture.fault(Fault::Hang);
    let process = fixture.program(&[&key]).start()?;
    process.wait_for_stderr("starts", SOON).await?;
    let told = Instant::now();
    ensure!(process.stop().await?.success());
    ensure!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_successor_may_start_while_the_old_one_drains() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let slow = |call: &bed::Call| call.request["Plaintext"] == crate::fixture::base64(b"slow");
    fixture.proxy.fault(Rule::new(Fault::Slow(Duration::from_secs(1))).when(slow));
    let old = plugin.api.clone();
    let draining = tokio::spawn(async move { old.encrypt(b"slow").await });
    eventually(SOON, async || {
        ensure!(fixture.proxy.calls().iter().any(slow));
        Ok(())
    })
    .await?;
    plugin.process.signal(Signal::TERM)?;
    eventually(SOON, async || {
        ensure!(!fixture.socket(0).exists());
        Ok(())
    })
    .await?;
    let successor = second(&fixture, &key)?.start()?;
    eventually(SOON, async || Ok(fixture.api(0).await?.encrypt(b"seed").await?)).await?;
    ensure!(draining.await?.is_ok());
    ends_with(&plugin.process, 0).await?;
    ensure!(fixture.socket(0).exists(), "the old one took the new one's socket away");
    ensure!(fixture.api(0).await?.status().await?.key_id == key);
    ensure!(successor.status()?.is_none());
    Ok(())
}

#[tokio::test]
async fn the_socket_is_for_its_owner_unless_told_otherwise() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let mode = || anyhow::Ok(fs::metadata(fixture.socket(0))?.permissions().mode() & 0o7777);
    let plugin = fixture.serve(&key, &[]).await?;
    ensure!(mode()? == 0o600, "{:o}", mode()?);
    plugin.stop().await?;
    let (user, group) = (geteuid().as_raw().to_string(), getegid().as_raw().to_string());
    let plugin = fixture
        .serve(&key, &["--socket-mode=0660", &format!("--socket-owner={user}"), &format!("--socket-group={group}")])
        .await?;
    ensure!(mode()? == 0o660, "{:o}", mode()?);
    plugin.stop().await?;
    // Nobody else's user is let in, and nobody is us.
    let process = fixture.program(&[&key]).args(["--allow-uid", "65534"]).start()?;
    process.wait_for_stderr("starts", SOON).await?;
    let refusal = eventually(SOON, async || {
        let Err(error) = fixture.api(0).await?.status().await else { return Ok(None) };
        Ok(Some(error))
    });
    ensure!(refusal.await?.is_some(), "a user who is not listed was let in");
    process
        .wait_for_stderr("65534", SOON)
        .await
        .or_else(|_| process.stderr().contains("not").then_some(()).context("no word of it"))?;
    Ok(())
}

#[tokio::test]
async fn an_abstract_socket_serves_too() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    for form in ["@", "unix:///@"] {
        let address = format!("{form}{}", unique_name("coffer-kms"));
        let process = fixture.program(&[]).args(["--key", &key, "--listen", &address]).start()?;
        let api = eventually(SOON, async || Ok(Api::connect(&address.parse()?).await?)).await?;
        api.becomes("ok").await?;
        let answer = api.encrypt(b"seed").await?;
        ensure!(api.decrypt(&answer.ciphertext, &answer.key_id).await? == b"seed");
        let other = fixture.coffer_kms().args(["--key", &key, "--listen", &address, "--health-port=127.0.0.1:0"]);
        let said = ends_with(&other.start()?, 1).await?;
        ensure!(said.contains("another process has the name"), "{said}");
        ensure!(process.stop().await?.success());
    }
    Ok(())
}

#[tokio::test]
async fn a_taken_health_port_is_told_and_leaves_no_socket() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let plugin = fixture.serve(&key, &[]).await?;
    let (_, text) = plugin.get("/livez").await?;
    ensure!(text == "OK");
    let other = fixture.socket(1);
    let process = fixture.program(&[]).args(["--key", &key, "--listen"]).arg(&other).start()?;
    let said = ends_with(&process, 1).await?;
    ensure!(said.contains("cannot serve health on") && said.contains("--health-port"), "{said}");
    ensure!(!other.exists());
    Ok(())
}

#[tokio::test]
async fn a_mistake_that_kms_knows_of_is_told_at_once() -> Result<()> {
    let fixture = Fixture::new().await?;
    let account = fixture.aws.account();
    let key = format!("arn:aws:kms:eu-west-1:{account}:key/00000000-0000-0000-0000-000000000000");
    let plugin = fixture.start(fixture.program(&[&key])).await?;
    let status = plugin.api.becomes("NotFoundException").await?;
    ensure!(status.key_id == key);
    refused(plugin.api.encrypt(b"seed").await, Code::FailedPrecondition, &["NotFoundException"])?;
    Ok(())
}
