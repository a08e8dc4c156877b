//! The end of a replica, under requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bed::Signal;
use bed::webhook::{NotConnected, ReviewClient, admission_review};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::fixture::{SOON, Webhook, annotated};

const DELAY: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_lost_while_it_ends() -> Result<()> {
    let webhook = Arc::new(Webhook::with(&["--shutdown-delay=3s"]).await?);
    let answered = Arc::<AtomicUsize>::default();
    let mut idle = Vec::new();
    for _ in 0..4 {
        let client = webhook.client().await?;
        ensure!(client.review(&annotated()).await?.patch()?.is_some());
        idle.push(client);
    }
    let askers: Vec<_> = (0..8)
        .map(|number| {
            let (webhook, answered) = (Arc::clone(&webhook), Arc::clone(&answered));
            // Most keep their connection, some make one each time.
            tokio::spawn(async move { ask(&webhook, number % 4 != 0, &answered).await })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    webhook.process.signal(Signal::TERM)?;
    let asked = Instant::now();
    let before = answered.load(Ordering::Relaxed);
    let why = webhook.readiness(503).await?;
    ensure!(why.contains("the end was called"), "{why}");
    ensure!(webhook.get("/livez").await?.0 == 200);
    ensure!(idle.iter().all(|client| client.connections() == 1), "who asks for nothing is not disturbed yet");
    // They ask to the very end, until there is nobody to connect to.
    for asker in askers {
        asker.await?.with_context(|| webhook.process.stderr())?;
    }
    ensure!(asked.elapsed() >= DELAY, "nobody was there any more after {:?}", asked.elapsed());
    let during = answered.load(Ordering::Relaxed) - before;
    ensure!(during > 40, "only {during} were answered during the delay");
    let status = webhook.process.wait(SOON).await?;
    ensure!(status.success(), "{status}: {}", webhook.process.stderr());
    ensure!(!webhook.process.stderr().contains("connections are cut"), "{}", webhook.process.stderr());
    // Who kept a connection and asked for nothing finds it closed, and has sent nothing on it.
    for client in idle {
        ensure!(client.connections() == 0);
        let Err(error) = client.review(&annotated()).await else { bail!("who answers?") };
        ensure!(error.is::<NotConnected>(), "{error:#}");
    }
    Ok(())
}

/// Asks again and again, until nobody can be connected to. What was sent is to be answered.
async fn ask(webhook: &Webhook, keep: bool, answered: &AtomicUsize) -> Result<()> {
    let client: ReviewClient = webhook.client().await?;
    loop {
        if !keep {
            client.forget_connections();
        }
        match client.review(&annotated()).await {
            Ok(answer) => ensure!(answer.patch()?.is_some(), "{}", answer.text()),
            Err(error) if error.is::<NotConnected>() => return Ok(()),
            Err(error) => return Err(error),
        }
        answered.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(fastrand::u64(0..30))).await;
    }
}

/// To a client one is connected that the kernel has accepted, whether or not the server has by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_comes_at_the_very_end_is_answered() -> Result<()> {
    let webhook = Webhook::with(&["--shutdown-delay=0s"]).await?;
    let client = webhook.client().await?;
    ensure!(client.review(&annotated()).await?.patch()?.is_some());
    let mut come = Vec::new();
    for _ in 0..20 {
        come.push(webhook.certificate.connect(webhook.address).await?);
    }
    webhook.process.signal(Signal::TERM)?;
    while client.connections() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let body = admission_review(&annotated()).to_string();
    let request = format!("POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for mut stream in come {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        timeout(SOON, stream.read_to_end(&mut answer)).await??;
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        ensure!(answer.starts_with("http/1.1 200 ok") && answer.contains("connection: close"), "{answer}");
    }
    let status = webhook.process.wait(SOON).await?;
    ensure!(status.success(), "{status}: {}", webhook.process.stderr());
    Ok(())
}

#[tokio::test]
async fn what_is_under_way_is_answered_and_what_never_ends_is_cut() -> Result<()> {
    let webhook = Webhook::with(&["--shutdown-delay=0s"]).await?;
    let body = admission_review(&annotated()).to_string();
    let head = format!("POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut under_way = webhook.certificate.connect(webhook.address).await?;
    let mut endless = webhook.certificate.connect(webhook.address).await?;
    let idle = webhook.client().await?;
    ensure!(idle.review(&annotated()).await?.patch()?.is_some());
    for stream in [&mut under_way, &mut endless] {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body.as_bytes()[..10]).await?;
        stream.flush().await?;
    }
    // Read by the server before it is told to end.
    sleep(Duration::from_millis(300)).await;
    webhook.process.signal(Signal::TERM)?;
    let asked = Instant::now();
    while idle.connections() > 0 {
        let log = webhook.process.stderr();
        ensure!(!log.contains("connections are cut"), "an idle client is not told to go before the others: {log}");
        sleep(Duration::from_millis(10)).await;
    }
    if TcpStream::connect(webhook.address).await.is_ok() {
        bail!("new clients are still accepted");
    }
    under_way.write_all(&body.as_bytes()[10..]).await?;
    under_way.flush().await?;
    let mut answer = Vec::new();
    timeout(SOON, under_way.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("JSONPatch"), "{answer}");
    let status = webhook.process.wait(SOON).await?;
    ensure!(status.success() && asked.elapsed() >= Duration::from_secs(4), "{status} after {:?}", asked.elapsed());
    ensure!(webhook.process.stderr().contains("connections are cut"), "{}", webhook.process.stderr());
    Ok(())
}

/// The API server keeps its connections, and does not send again what it has sent on one that is closed under it.
#[tokio::test]
async fn a_client_is_told_with_its_last_answer_that_the_connection_ends() -> Result<()> {
    let webhook = Webhook::with(&["--shutdown-delay=3s"]).await?;
    let body = admission_review(&annotated()).to_string();
    let request = format!("POST /mutate HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = webhook.certificate.connect(webhook.address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut first = vec![0; 64 * 1024];
    let read = timeout(SOON, stream.read(&mut first)).await??;
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
