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
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_hold_no_place_and_hold_up_nobody() -> Result<()> {
    let webhook = Webhook::start().await?;
    let regular = webhook.client().await?;
    regular.review(&annotated()).await?;
    // More than there are places: of those who say nothing, who stop after the handshake, within a head, and within
    // a body.
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(webhook.address).await?);
    }
    let mut stuck = Vec::new();
    for number in 0..60 {
        let mut stream = webhook.certificate.connect(webhook.address).await?;
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
        let open = webhook.metric("coffer_webhook_connections", &[]).await?;
        ensure!(open <= 5.0, "{open} are connected");
        Ok(())
    })
    .await?;
    ensure!(webhook.metric("coffer_webhook_connections_cut_total", &[("result", "crowded")]).await? >= 40.0);
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
    let mut stream = webhook.certificate.connect(webhook.address).await?;
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
        let answer = client.post(huge).await?;
        ensure!(answer.status == 413 && answer.text().contains("may have 4194304 bytes"), "{answer:?}");
    }
    let after = webhook.process.proc().memory()?;
    let grown = after.anonymous_kib.saturating_sub(before.anonymous_kib);
    ensure!(grown < 4 * 1024, "{grown} KiB more: {before:?}, {after:?}");
    // Just what may be, and by one connection, so that all is given back.
    for _ in 0..6 {
        let big = admission_review(&annotated()).to_string().replace("info", &"x".repeat((4 << 20) - 10_000));
        let answer = client.post(big).await?;
        ensure!(answer.status == 200 && answer.patch()?.is_some(), "{}", answer.status);
    }
    Ok(())
}

#[tokio::test]
async fn a_body_of_no_known_length_is_not_read() -> Result<()> {
    let webhook = Webhook::start().await?;
    for rest in ["Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "\r\n"] {
        let mut stream = webhook.certificate.connect(webhook.address).await?;
        stream.write_all(format!("POST /mutate HTTP/1.1\r\nHost: w\r\n{rest}").as_bytes()).await?;
        let mut answer = vec![0; 1000];
        let length = timeout(SOON, stream.read(&mut answer)).await??;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        ensure!(answer.starts_with("HTTP/1.1 411 ") && answer.contains("has no Content-Length"), "{answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_bodies_that_do_not_come_hold_up_big_ones_only_and_not_for_long() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    let big = admission_review(&annotated()).to_string().replace("info", &"x".repeat((4 << 20) - 10_000));
    client.review(&annotated()).await?;
    let alone = Instant::now();
    client.post(big.clone()).await?;
    let alone = alone.elapsed();
    let mut stalled = Vec::new();
    for _ in 0..6 {
        let mut stream = webhook.certificate.connect(webhook.address).await?;
        let head = format!("POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\n\r\n", 4 << 20);
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&vec![b' '; 100_000]).await?;
        stream.flush().await?;
        stalled.push(stream);
    }
    let (asked, mut small) = (Instant::now(), Duration::ZERO);
    let refused = client.post(big.clone()).await?;
    ensure!(refused.status == 503 && refused.text().contains("large AdmissionReviews is taken"), "{refused:?}");
    while asked.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        ensure!(client.review(&annotated()).await?.patch()?.is_some());
        small = small.max(asked.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
    ensure!(small < Duration::from_secs(1), "{small:?} for a small one");
    // Those who waited for their turn are refused as well by now.
    let asked = Instant::now();
    let answer = client.post(big).await?;
    ensure!(answer.status == 200 && answer.patch()?.is_some(), "{answer:?}");
    ensure!(asked.elapsed() < alone + Duration::from_secs(3), "{:?}, and alone {alone:?}", asked.elapsed());
    for stream in &mut stalled {
        ended(stream).await?;
    }
    Ok(())
}

/// What deploy/webhook gives the process.
const MEMORY_LIMIT_KIB: u64 = 128 * 1024;
/// What of the program's own file is in memory at a time, of the one that is shipped.
const PROGRAM_KIB: u64 = 12 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_that_clients_may_send_at_once_fits_in_the_memory_limit() -> Result<()> {
    let webhook = Webhook::start().await?;
    let mut held = Vec::new();
    // Every place is taken, most of them by bodies that are all but whole.
    for _ in 0..500 {
        let mut stream = webhook.certificate.connect(webhook.address).await?;
        let length = 64 << 10;
        let head = format!("POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&vec![b' '; length - 1]).await?;
        stream.flush().await?;
        held.push(stream);
    }
    let mut clients = Vec::new();
    for _ in 0..12 {
        let client = webhook.client().await?;
        // The most values that a pod may have, and a lot of text.
        let mut pod = annotated();
        pod["spec"]["numbers"] = vec![0; 45_000].into();
        pod["spec"]["text"] = "x".repeat(3 << 20).into();
        let body = admission_review(&pod).to_string();
        clients.push(tokio::spawn(async move { client.post(body).await.map(|answer| answer.status) }));
    }
    let mut most = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        most = most.max(webhook.process.proc().memory()?.anonymous_kib);
        sleep(Duration::from_millis(20)).await;
    }
    let mut statuses = Vec::new();
    for client in clients {
        // One whose connection was cut for another's is as good as refused.
        statuses.push(client.await?.unwrap_or(0));
    }
    ensure!(statuses.iter().all(|status| [0, 200, 408, 503].contains(status)), "{statuses:?}");
    ensure!(statuses.contains(&200), "{statuses:?}");
    ensure!(most + PROGRAM_KIB < MEMORY_LIMIT_KIB, "{most} KiB, and the program's own");
    Ok(())
}

/// As long as the API server's client may keep a connection that nobody uses; some part of it.
#[tokio::test]
async fn a_kept_connection_can_be_used_again_after_a_while() -> Result<()> {
    let webhook = Webhook::start().await?;
    let client = webhook.client().await?;
    client.review(&annotated()).await?;
    let handshakes = client.connections();
    // Longer than one may take that has asked for nothing yet.
    sleep(PATIENCE + Duration::from_secs(2)).await;
    ensure!(client.connections() == handshakes, "it was closed");
    ensure!(client.review(&annotated()).await?.patch()?.is_some());
    ensure!(client.connections() == 1 && webhook.metric("coffer_webhook_connections", &[]).await? == 1.0);
    Ok(())
}

#[tokio::test]
async fn one_without_tls_is_sent_away() -> Result<()> {
    let webhook = Webhook::start().await?;
    let mut stream = TcpStream::connect(webhook.address).await?;
    stream.write_all(b"POST /mutate HTTP/1.1\r\nHost: w\r\n\r\n").await?;
    ended(&mut stream).await?;
    ensure!(webhook.metric("coffer_webhook_handshakes_failed_total", &[]).await? == 1.0);
    Ok(())
}
