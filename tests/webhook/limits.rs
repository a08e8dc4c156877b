//! Clients that are slow, many or too big, and one that is none of these and is not to notice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::eventually;
use bed::webhook::admission_review;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::fixture::{SOON, Webhook, annotated};

/// What the server gives a client until its first answer, and a body.
const PATIENCE: Duration = Duration::from_secs(10);
/// Far more than an answer takes, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_hold_no_place_and_hold_up_nobody() -> Result<()> {
    let webhook = Webhook::start().await?;
    let regular = webhook.client().await?;
    regular.review(&annotated()).await?;
    // More than there are places: of those who say nothing, who stop after the handshake, within a head, and within
    // a body.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(webhook.address).await?);
    }
    let mut stuck = Vec::new();
    for number in 0..60 {
        let mut stream = webhook.certificate.connect(webhook.address, ["http/1.1", "h2"][number % 2]).await?;
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"POST /mutate HTTP/1.1\r\nHost: w").await?,
            _ => stream.write_all(b"POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Length: 5000\r\n\r\n{\"kind\"").await?,
        }
        stream.flush().await?;
        stuck.push(stream);
    }
    let end = Instant::now() + PATIENCE + Duration::from_secs(8);
    while Instant::now() < end {
        let asked = Instant::now();
        let answer = regular.review(&annotated()).await.context("the connection that was there first")?;
        ensure!(answer.patch()?.is_some() && asked.elapsed() < AT_ONCE, "{:?} for an answer", asked.elapsed());
        let asked = Instant::now();
        let new = webhook.client().await.context("a new connection")?;
        ensure!(new.review(&annotated()).await?.patch()?.is_some());
        ensure!(asked.elapsed() < AT_ONCE, "{:?} for a new client", asked.elapsed());
        sleep(Duration::from_millis(200)).await;
    }
    // All of them are gone, whether cut for others or when their time was up.
    for stream in &mut silent {
        ended(stream).await?;
    }
    for stream in &mut stuck {
        ended(stream).await?;
    }
    eventually(SOON, async || {
        let open = webhook.metric("coffer_webhook_connections").await?;
        ensure!(open <= 5.0, "{open} are connected");
        Ok(())
    })
    .await?;
    ensure!(webhook.metric("coffer_webhook_connections_cut_total{result=\"crowded\"}").await? >= 40.0);
    Ok(())
}

/// The other end has closed it, whatever it said before.
async fn ended(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<()> {
    let mut bytes = Vec::new();
    // A reset is as good as an end.
    let _ = timeout(AT_ONCE, stream.read_to_end(&mut bytes)).await.context("it is still open")?;
    Ok(())
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() -> Result<()> {
    let webhook = Webhook::start().await?;
    let mut stream = webhook.certificate.connect(webhook.address, "http/1.1").await?;
    stream.write_all(b"POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Length: 50\r\n\r\n{").await?;
    stream.flush().await?;
    let mut answer = vec![0; 1000];
    let length = timeout(PATIENCE + AT_ONCE, stream.read(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("did not come within 10s"), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_big_is_told_so_and_takes_no_memory() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    client.review(&annotated()).await?;
    let before = webhook.process.proc().memory()?;
    for _ in 0..3 {
        let huge = admission_review(&annotated()).to_string().replace("info", &"x".repeat(12 << 20));
        let answer = client.post(huge.clone()).await?;
        ensure!(answer.status == 413 && answer.text().contains("may have 8388608 bytes"), "{answer:?}");
        let answer = webhook.certificate.post_http1(webhook.address, huge).await?;
        ensure!(answer.status == 413, "{answer:?}");
    }
    let after = webhook.process.proc().memory()?;
    let grown = after.anonymous_kib.saturating_sub(before.anonymous_kib);
    ensure!(grown < 8 * 1024, "{grown} KiB more: {before:?}, {after:?}");
    // Just what may be, and by one connection, so that all is given back.
    for _ in 0..6 {
        let big = admission_review(&annotated()).to_string().replace("info", &"x".repeat((8 << 20) - 10_000));
        let answer = client.post(big).await?;
        ensure!(answer.status == 200 && answer.patch()?.is_some(), "{}", answer.status);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_big_bodies_at_once_take_bounded_memory() -> Result<()> {
    let webhook = Webhook::start().await?;
    let mut clients = Vec::new();
    for _ in 0..24 {
        let client = webhook.client().await?;
        // The most values that a pod may have, and a lot of text.
        let mut pod = annotated();
        pod["spec"]["numbers"] = vec![0; 45_000].into();
        pod["spec"]["text"] = "x".repeat(4 << 20).into();
        let body = admission_review(&pod).to_string();
        clients.push(tokio::spawn(async move { client.post(body).await.map(|answer| answer.status) }));
    }
    let mut most = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        most = most.max(webhook.process.proc().memory()?.anonymous_kib);
        sleep(Duration::from_millis(20)).await;
    }
    for client in clients {
        let status = client.await??;
        ensure!([200, 408].contains(&status), "HTTP {status}");
    }
    ensure!(most < 160 * 1024, "{most} KiB");
    Ok(())
}

#[tokio::test]
async fn one_without_tls_is_sent_away() -> Result<()> {
    let webhook = Webhook::start().await?;
    let mut stream = TcpStream::connect(webhook.address).await?;
    stream.write_all(b"POST /mutate HTTP/1.1\r\nHost: w\r\n\r\n").await?;
    ended(&mut stream).await?;
    ensure!(webhook.metric("coffer_webhook_handshakes_failed_total").await? == 1.0);
    Ok(())
}
