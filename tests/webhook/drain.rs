//! The end of a replica, under requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bed::Signal;
use bed::webhook::{ReviewClient, admission_review};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::fixture::{Webhook, annotated};

const DELAY: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_lost_while_it_ends() -> Result<()> {
    let webhook = Arc::new(Webhook::with(&["--shutdown-delay=3s"]).await?);
    let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let askers: Vec<_> = (0..4)
        .map(|number| {
            let (webhook, stop, answered) = (Arc::clone(&webhook), Arc::clone(&stop), Arc::clone(&answered));
            // Half keep their connection, half make one each time.
            tokio::spawn(async move { ask(&webhook, number % 2 == 0, &stop, &answered).await })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    webhook.process.signal(Signal::TERM)?;
    let asked = Instant::now();
    let before = answered.load(Ordering::Relaxed);
    let why = webhook.readiness(503).await?;
    ensure!(why.contains("the end was called"), "{why}");
    ensure!(webhook.get("/livez").await?.0 == 200);
    // All but the last moment of the delay: by then every client has been told.
    sleep((DELAY - Duration::from_millis(300)).saturating_sub(asked.elapsed())).await;
    stop.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.await?.with_context(|| webhook.process.stderr())?;
    }
    let during = answered.load(Ordering::Relaxed) - before;
    ensure!(during > 40, "only {during} were answered during the delay");
    let status = webhook.process.wait(Duration::from_secs(8)).await?;
    ensure!(status.success(), "{status}: {}", webhook.process.stderr());
    ensure!(asked.elapsed() >= DELAY, "it ended after {:?}", asked.elapsed());
    Ok(())
}

async fn ask(webhook: &Webhook, keep: bool, stop: &AtomicBool, answered: &AtomicUsize) -> Result<()> {
    let kept: ReviewClient = webhook.client().await?;
    while !stop.load(Ordering::Relaxed) {
        let client = if keep { kept.clone() } else { webhook.client().await? };
        ensure!(client.review(&annotated()).await?.patch()?.is_some());
        answered.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_under_way_is_answered_and_what_never_ends_is_cut() -> Result<()> {
    let webhook = Webhook::with(&["--shutdown-delay=0s"]).await?;
    let body = admission_review(&annotated()).to_string();
    let head = format!("POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut under_way = webhook.certificate.connect(webhook.address, "http/1.1").await?;
    let mut endless = webhook.certificate.connect(webhook.address, "http/1.1").await?;
    let idle = webhook.client().await?;
    for stream in [&mut under_way, &mut endless] {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body.as_bytes()[..10]).await?;
        stream.flush().await?;
    }
    // Read by the server before it is told to end.
    sleep(Duration::from_millis(300)).await;
    webhook.process.signal(Signal::TERM)?;
    let asked = Instant::now();
    while !idle.is_closed() {
        ensure!(asked.elapsed() < Duration::from_secs(4), "an idle client is not told to go");
        sleep(Duration::from_millis(10)).await;
    }
    if TcpStream::connect(webhook.address).await.is_ok() {
        bail!("new clients are still accepted");
    }
    under_way.write_all(&body.as_bytes()[10..]).await?;
    under_way.flush().await?;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(4), under_way.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("JSONPatch"), "{answer}");
    let status = webhook.process.wait(Duration::from_secs(8)).await?;
    ensure!(status.success() && asked.elapsed() >= Duration::from_secs(4), "{status} after {:?}", asked.elapsed());
    ensure!(webhook.process.stderr().contains("connections are cut"), "{}", webhook.process.stderr());
    Ok(())
}

/// The API server speaks HTTP/1.1 to webhooks, keeps its connections, and does not send again what it has sent on one that
/// is closed under it.
#[tokio::test]
async fn a_client_of_http_1_is_told_with_its_last_answer_that_the_connection_ends() -> Result<()> {
    let webhook = Webhook::with(&["--shutdown-delay=3s"]).await?;
    let body = admission_review(&annotated()).to_string();
    let request = format!("POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = webhook.certificate.connect(webhook.address, "http/1.1").await?;
    stream.write_all(request.as_bytes()).await?;
    let mut first = vec![0; 64 * 1024];
    let read = timeout(Duration::from_secs(4), stream.read(&mut first)).await??;
    let first = String::from_utf8_lossy(&first[..read]).to_lowercase();
    ensure!(first.starts_with("http/1.1 200 ok") && !first.contains("connection: close"), "{first}");

    webhook.process.signal(Signal::TERM)?;
    let asked = Instant::now();
    webhook.readiness(503).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut last = Vec::new();
    timeout(DELAY, stream.read_to_end(&mut last)).await.context("the connection is kept")??;
    let last = String::from_utf8_lossy(&last).to_lowercase();
    // What was left of the first answer may stand before it.
    ensure!(last.contains("http/1.1 200 ok") && last.contains("connection: close"), "{last}");
    ensure!(asked.elapsed() < DELAY, "it was closed with the end only");
    Ok(())
}
