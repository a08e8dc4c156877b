//! The probe that restarts an application after a rotation, and the address that is for the kubelet.

use std::time::Duration;

use anyhow::{Result, ensure};
use bed::{eventually, free_port, http_get};

use crate::fixture::{Fixture, SOON, Sidecar};

const DB: &str = "{name: db, from: 'secretsmanager:prod/db'}";

/// A pod whose probes are served on an address of their own.
struct Pod {
    fixture: Fixture,
    probes: String,
}

impl Pod {
    async fn new() -> Result<Self> {
        let fixture = Fixture::new().await?;
        fixture.aws.create_secret("prod/db", "one").await?;
        fixture.aws.create_secret("prod/other", "one").await?;
        Ok(Self { fixture, probes: format!("127.0.0.1:{}", free_port()?) })
    }

    fn write(&self, volumes: &str) -> Result<()> {
        self.fixture.write_config(&format!("refresh: 1s\nprobes: {}\nvolumes:\n{volumes}", self.probes))
    }

    async fn probe(&self, path: &str) -> Result<(u16, String)> {
        http_get(&format!("http://{}{path}", self.probes)).await
    }

    async fn rotate(&self, value: &str) -> Result<()> {
        self.fixture.aws.put_secret_value("prod/db", value).await?;
        self.fixture.holds("db", value).await
    }
}

async fn is_healthy(sidecar: &Sidecar, query: &str) -> Result<()> {
    let (status, body) = sidecar.get(&format!("/rotationz?{query}")).await?;
    ensure!((status, body.as_str()) == (200, "nothing has changed\n"), "{query}: {status}: {body}");
    Ok(())
}

#[tokio::test]
async fn each_consumer_is_unhealthy_once_for_a_rotation() -> Result<()> {
    let pod = Pod::new().await?;
    pod.write(&pod.fixture.volume_text("volume", [DB]))?;
    let sidecar = pod.fixture.ready().await?;
    let volume = pod.fixture.volume();
    // The first set is nobody's rotation, and no more is a look that finds nothing new.
    is_healthy(&sidecar, "for=app").await?;
    is_healthy(&sidecar, &format!("for=worker&volume={}", volume.display())).await?;
    pod.fixture.proxy.clear_log();
    pod.fixture.asked("DescribeSecret", 2).await?;
    is_healthy(&sidecar, "for=app").await?;

    pod.rotate("two").await?;
    let changed = format!("{}: changed; a restart reads the new set\n", volume.display());
    ensure!(sidecar.get("/rotationz?for=app").await? == (503, changed.clone()));
    is_healthy(&sidecar, "for=app").await?;
    // Both addresses are one probe, and each consumer has an answer of its own.
    let (status, body) = pod.probe("/rotationz?for=app").await?;
    ensure!(status == 200, "{body}");
    ensure!(pod.probe("/rotationz?for=worker").await? == (503, changed));
    is_healthy(&sidecar, "for=worker").await?;
    is_healthy(&sidecar, "for=newcomer").await?;

    // Two restarts keep apart, and the second is not forgotten.
    pod.rotate("three").await?;
    is_healthy(&sidecar, "for=app").await?;
    ensure!(sidecar.get("/rotationz?for=newcomer").await?.0 == 503);

    // A restart over the same set is no rotation.
    sidecar.process.stop().await?;
    let sidecar = pod.fixture.ready().await?;
    is_healthy(&sidecar, "for=app").await?;
    pod.fixture.proxy.clear_log();
    pod.fixture.asked("DescribeSecret", 2).await?;
    is_healthy(&sidecar, "for=app").await
}

#[tokio::test]
async fn volumes_that_come_and_go_with_the_config_are_known() -> Result<()> {
    let pod = Pod::new().await?;
    let first = pod.fixture.volume_text("volume", [DB]);
    pod.write(&first)?;
    let sidecar = pod.fixture.ready().await?;
    let other = pod.fixture.path("other");
    let query = format!("for=app&volume={}", other.display());
    let (status, body) = sidecar.get(&format!("/rotationz?{query}")).await?;
    ensure!(status == 400 && body.contains("there is no volume"), "{status}: {body}");

    pod.write(&format!(
        "{first}{}",
        pod.fixture.volume_text("other", ["{name: o, from: 'secretsmanager:prod/other'}"])
    ))?;
    eventually(SOON, async || is_healthy(&sidecar, &query).await).await?;
    eventually(SOON, async || {
        ensure!(other.join("o").exists(), "not yet");
        Ok(())
    })
    .await?;
    is_healthy(&sidecar, &query).await?;
    pod.fixture.aws.put_secret_value("prod/other", "two").await?;
    eventually(SOON, async || {
        let (status, body) = sidecar.get(&format!("/rotationz?{query}")).await?;
        ensure!(status == 503 && body.starts_with(&format!("{}: changed", other.display())), "{status}: {body}");
        Ok(())
    })
    .await?;
    is_healthy(&sidecar, &query).await?;

    pod.write(&first)?;
    eventually(SOON, async || {
        let (status, body) = sidecar.get(&format!("/rotationz?{query}")).await?;
        ensure!(status == 400, "{status}: {body}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_address_for_probes_tells_no_name() -> Result<()> {
    let pod = Pod::new().await?;
    pod.write(&pod.fixture.volume_text("volume", ["{name: db, from: 'secretsmanager:prod/not-there-yet'}"]))?;
    let sidecar = pod.fixture.start()?;
    // Before there is a set, readiness says no and not why; the address of this host says why.
    eventually(SOON, async || {
        let (status, body) = sidecar.get("/readyz").await?;
        ensure!(status == 503 && body.contains("not-there-yet"), "{status}: {body}");
        Ok(())
    })
    .await?;
    ensure!(pod.probe("/readyz").await? == (503, "not ready\n".to_owned()));
    ensure!(pod.probe("/healthz").await? == (200, "ok\n".to_owned()));
    for path in ["/metrics", "/status", "/", "/rotationz/x"] {
        let (status, body) = pod.probe(path).await?;
        ensure!(status == 404 && body.is_empty(), "{path}: {status}: {body}");
    }
    let (status, body) = pod.probe("/rotationz").await?;
    ensure!(status == 400 && body.contains("/rotationz?for=NAME"), "{status}: {body}");

    pod.fixture.aws.create_secret("prod/not-there-yet", "here").await?;
    sidecar.ready().await?;
    ensure!(pod.probe("/readyz").await? == (200, "ready\n".to_owned()));
    Ok(())
}

#[tokio::test]
async fn an_address_for_probes_that_is_taken_ends_the_start_with_the_fix() -> Result<()> {
    let pod = Pod::new().await?;
    let taken = std::net::TcpListener::bind(&pod.probes)?;
    pod.write(&pod.fixture.volume_text("volume", [DB]))?;
    let process = pod.fixture.start()?.process;
    crate::fixture::ends_with(&process, 1).await?;
    let told = process.stderr();
    ensure!(told.contains(&format!("cannot serve on {}", pod.probes)) && told.contains("`probes:`"), "{told}");
    drop(taken);
    // The kubelet asks every second at most: a pod that is gone answers nothing.
    tokio::time::sleep(Duration::from_millis(10)).await;
    ensure!(pod.probe("/healthz").await.is_err());
    Ok(())
}
