//! The Kubernetes API is away: what is mounted goes on, and what does not need it starts.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tonic::Code;

use crate::fixture::{Driver, Fixture, SEEDED, refused};

/// A way to the API server that can be shut.
struct Gate {
    kubeconfig: PathBuf,
    open: watch::Sender<bool>,
}

impl Gate {
    async fn new(fixture: &Fixture, open: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = listener.local_addr()?;
        let text = std::fs::read_to_string(fixture.cluster().kubeconfig())?;
        let mut config: Value = serde_json::from_str(&text)?;
        let cluster = &mut config["clusters"][0]["cluster"];
        let server = cluster["server"].as_str().and_then(|url| url.strip_prefix("https://"));
        let server: SocketAddr = server.context("no server")?.parse()?;
        cluster["server"] = json!(format!("https://{own}"));
        cluster["tls-server-name"] = json!("localhost");
        let kubeconfig = fixture.kubelet.folder().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string())?;
        let (sender, opened) = watch::channel(open);
        let listener = Arc::new(listener);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut opened = opened.clone();
                tokio::spawn(async move {
                    if !*opened.borrow() {
                        return;
                    }
                    let Ok(mut upstream) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut upstream) => {}
                        _ = opened.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Ok(Self { kubeconfig, open: sender })
    }

    fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

async fn with_gate(open: bool, flags: &[&str]) -> Result<(Fixture, Gate, Driver)> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    for name in ["app", "unread"] {
        let objects = "- {objectName: /prod/level, objectType: ssmparameter, objectAlias: level}";
        cluster.class(name, json!({"objects": objects})).await?;
    }
    let gate = Gate::new(&fixture, open).await?;
    let kubeconfig = format!("--kubeconfig={}", gate.kubeconfig.display());
    let program = fixture.program_without_cluster(flags).arg(kubeconfig);
    let driver = fixture.start_as(program).await?;
    Ok((fixture, gate, driver))
}

#[tokio::test]
async fn mounted_volumes_go_on_and_new_ones_that_need_it_wait() -> Result<()> {
    let (fixture, gate, driver) = with_gate(true, &["--refresh=1s", "--mount-timeout=5s"]).await?;
    let classy = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    let classy = fixture.cluster().pod_of(classy, "api").await?;
    let annotated = fixture.pod_without_role("api")?.attribute("spec", SEEDED);
    fixture.kubelet.publish(&classy).await?;
    fixture.kubelet.publish(&annotated).await?;
    gate.set_open(false);
    // Past what is remembered of the API, which is a minute and some.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        for volume in [&classy, &annotated] {
            fixture.kubelet.publish(volume).await?;
        }
    }
    fixture.ensure_holds(&classy, &[("level", "info")])?;
    fixture.ensure_seeded(&annotated)?;
    // Rotation needs AWS alone.
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    fixture.becomes(&annotated, "password", "two").await?;
    // So does a pod that says its role itself.
    let own = fixture.pod("own", SEEDED)?;
    fixture.kubelet.publish(&own).await?;
    fixture.becomes(&own, "app/level", "info").await?;
    // And one of a class that was read before; one of a class that was not waits, and starts by itself.
    let known = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    fixture.kubelet.publish(&known).await?;
    fixture.ensure_holds(&known, &[("level", "info")])?;
    let waiting = fixture.pod_without_role("api")?.attribute("secretProviderClass", "unread");
    let codes = [Code::Unavailable, Code::DeadlineExceeded];
    refused(fixture.kubelet.publish(&waiting).await, &codes, &["Kubernetes"])?;
    fixture.ensure_nothing(&waiting)?;
    gate.set_open(true);
    fixture.published(&waiting).await?;
    fixture.ensure_holds(&waiting, &[("level", "info")])?;
    // Also one that goes while the API is away goes wholly.
    gate.set_open(false);
    for volume in [&classy, &annotated, &own, &known, &waiting] {
        fixture.kubelet.unpublish(volume).await?;
        fixture.kubelet.ensure_gone(volume)?;
    }
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_driver_that_starts_before_the_api_serves_what_needs_none_and_the_rest_once_it_is_there() -> Result<()> {
    let (fixture, gate, driver) = with_gate(false, &["--mount-timeout=3s"]).await?;
    fixture.kubelet.register().await?;
    let own = fixture.seeded_pod()?;
    fixture.kubelet.publish(&own).await?;
    fixture.ensure_seeded(&own)?;
    let classy = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    refused(fixture.kubelet.publish(&classy).await, &[Code::Unavailable, Code::DeadlineExceeded], &["Kubernetes"])?;
    gate.set_open(true);
    fixture.published(&classy).await?;
    fixture.ensure_holds(&classy, &[("level", "info")])?;
    driver.ensure_serves().await
}
