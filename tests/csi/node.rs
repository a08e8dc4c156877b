//! Who the driver says it is: to the kubelet, to a probe, to Prometheus.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bed::{Fault, Program, Rule, eventually};
use coffer_injector::proto::{
    csi::{
        GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeGetCapabilitiesRequest, ProbeRequest,
        node_service_capability::{self, rpc},
    },
    registration::{InfoRequest, RegistrationStatus},
};

use crate::fixture::{DRIVER, Fixture, SOON};

#[tokio::test]
async fn it_says_who_it_is_and_what_it_can() -> Result<()> {
    let fixture = Fixture::new().await?;
    let driver = fixture.start(&[]).await?;
    let mut identity = fixture.kubelet.identity().await?;
    let info = identity.get_plugin_info(GetPluginInfoRequest {}).await?.into_inner();
    ensure!(info.name == DRIVER && info.vendor_version == env!("CARGO_PKG_VERSION"), "{}", info.name);
    identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await?;
    let ready = identity.probe(ProbeRequest {}).await?.into_inner().ready;
    ensure!(ready != Some(false));
    let mut node = fixture.kubelet.node().await?;
    let capabilities = node.node_get_capabilities(NodeGetCapabilitiesRequest {}).await?.into_inner().capabilities;
    let kinds: Vec<_> = capabilities
        .into_iter()
        .filter_map(|capability| capability.r#type)
        .map(|node_service_capability::Type::Rpc(rpc)| rpc.r#type())
        .collect();
    ensure!(kinds == [rpc::Type::VolumeMountGroup]);
    driver.stop().await?;
    Ok(())
}

#[tokio::test]
async fn the_kubelet_registers_it() -> Result<()> {
    let fixture = Fixture::new().await?;
    let driver = fixture.start(&[]).await?;
    for _ in 0..3 {
        // As often as the kubelet starts.
        let (info, node) = fixture.kubelet.register().await?;
        ensure!((&*info.r#type, &*info.name) == ("CSIPlugin", DRIVER), "{} {}", info.r#type, info.name);
        ensure!(info.endpoint == fixture.kubelet.socket().display().to_string(), "{}", info.endpoint);
        ensure!(info.supported_versions == ["1.0.0"], "{:?}", info.supported_versions);
        ensure!(node.node_id == "node-a" && node.max_volumes_per_node >= 0, "{}", node.node_id);
    }
    driver.stop().await?;
    ensure!(!fixture.kubelet.registration_socket().exists(), "the kubelet would register one that is gone");
    ensure!(!fixture.kubelet.socket().exists());
    Ok(())
}

/// The kubelet takes a plugin as gone when its registration socket goes, and looks at a new one anew.
#[tokio::test]
async fn after_a_crash_it_registers_again() -> Result<()> {
    let fixture = Fixture::new().await?;
    let driver = fixture.start(&[]).await?;
    fixture.kubelet.register().await?;
    let before = fs::metadata(fixture.kubelet.registration_socket())?.ino();
    driver.crash().await?;
    let _driver = fixture.start(&[]).await?;
    eventually(SOON, async || {
        let after = fs::metadata(fixture.kubelet.registration_socket())?.ino();
        ensure!(after != before, "the file of the dead one is used again: the kubelet would not see it");
        Ok(())
    })
    .await?;
    fixture.kubelet.register().await?;
    Ok(())
}

#[tokio::test]
async fn a_registration_that_fails_is_tried_again_with_the_kubelets_reason_in_the_log() -> Result<()> {
    let fixture = Fixture::new().await?;
    let driver = fixture.start(&[]).await?;
    let mut registration = fixture.kubelet.registration().await?;
    registration.get_info(InfoRequest {}).await?;
    let inode = fs::metadata(fixture.kubelet.registration_socket())?.ino();
    let status = RegistrationStatus { plugin_registered: false, error: "no such node, says the test".to_owned() };
    registration.notify_registration_status(status).await?;
    driver.process.wait_for_stderr("no such node, says the test", SOON).await?;
    // The kubelet tries again only with a socket that is new, or with a driver that is.
    eventually(SOON, async || {
        if driver.process.status()?.is_some() {
            return Ok(());
        }
        let now = fs::metadata(fixture.kubelet.registration_socket()).map(|metadata| metadata.ino());
        ensure!(now.is_ok_and(|now| now != inode), "neither a new socket nor an end");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_registration_there_is_no_such_socket() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let _driver = fixture.start(&["--no-registration"]).await?;
    ensure!(!fixture.kubelet.registration_socket().exists());
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)
}

#[tokio::test]
async fn under_another_name_it_takes_the_other_drivers_place() -> Result<()> {
    const OTHER: &str = "secrets-store.csi.k8s.io";
    for flags in [["--driver-name", OTHER, "--node-id=b"], ["--drivername", OTHER, "--nodeid=b"]] {
        let fixture = Fixture::called(OTHER).await?;
        let program = Program::new("coffer-injector")
            .under(fixture.kubelet.enter())
            .arg("csi")
            .args(flags)
            .arg(format!("--kubelet-dir={}", fixture.kubelet.folder().display()))
            .args(["--listen=127.0.0.1:0"])
            .env("AWS_REGION", bed::aws::REGION);
        let _driver = fixture.start_as(program).await?;
        let (info, node) = fixture.kubelet.register().await?;
        ensure!(info.name == OTHER && node.node_id == "b");
    }
    Ok(())
}

#[tokio::test]
async fn its_sockets_are_for_root_alone() -> Result<()> {
    let fixture = Fixture::new().await?;
    let _driver = fixture.start(&[]).await?;
    for socket in [fixture.kubelet.socket(), fixture.kubelet.registration_socket()] {
        let metadata = fs::metadata(&socket)?;
        ensure!(metadata.permissions().mode() & 0o077 == 0, "{}: {:o}", socket.display(), metadata.mode());
        ensure!(metadata.uid() == 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_second_driver_on_a_live_socket_gives_up() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let driver = fixture.start(&[]).await?;
    let second = fixture.program(&[]).arg("--no-registration").start()?;
    let status = second.wait(SOON).await?;
    ensure!(status.code() == Some(1), "{status}\n{}", second.stderr());
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn health_is_the_processes_not_awss() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--mount-timeout=2s"]).await?;
    let (status, body) = driver.get("/readyz").await?;
    ensure!(status == 503 && body.contains("registered"), "{status} {body}");
    fixture.kubelet.register().await?;
    fixture.proxy.fault(Rule::new(Fault::Hang));
    ensure!(fixture.kubelet.publish(&fixture.seeded_pod()?).await.is_err());
    for path in ["/livez", "/readyz"] {
        let (status, body) = driver.get(path).await?;
        ensure!(status == 200, "{path}: {status} {body}");
    }
    let (status, _) = driver.get("/nothing").await?;
    ensure!(status == 404);
    Ok(())
}

#[tokio::test]
async fn metrics_tell_of_publishes_and_volumes() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    ensure!(fixture.kubelet.publish(&fixture.pod("a", "[{name: a, from: 'secretsmanager:absent'}]")?).await.is_err());
    let (status, text) = driver.get("/metrics").await?;
    ensure!(status == 200);
    ensure!(text.ends_with("# EOF\n"), "not OpenMetrics:\n{text}");
    ensure!(driver.metric("coffer_csi_volumes", &[]).await? == 1.0, "{text}");
    ensure!(driver.metric("coffer_csi_publishes_total", &[("result", "new")]).await? == 1.0, "{text}");
    ensure!(driver.metric("coffer_csi_publishes_total", &[]).await? == 2.0, "{text}");
    Ok(())
}

#[tokio::test]
async fn metrics_may_bear_the_secrets_store_drivers_names() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--metric-names=secrets-store"]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    ensure!(fixture.kubelet.publish(&fixture.pod("a", "[{name: a, from: 'secretsmanager:absent'}]")?).await.is_err());
    fixture.kubelet.unpublish(&volume).await?;
    ensure!(driver.metric("node_publish_total", &[("provider", "aws")]).await? >= 1.0);
    ensure!(driver.metric("node_publish_error_total", &[("provider", "aws")]).await? >= 1.0);
    ensure!(driver.metric("node_unpublish_total", &[]).await? >= 1.0);
    Ok(())
}

#[tokio::test]
async fn it_ends_in_good_order_and_leaves_the_volumes() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--refresh=1s"]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    let started = tokio::time::Instant::now();
    driver.stop().await?;
    ensure!(started.elapsed() < Duration::from_secs(3));
    fixture.ensure_seeded(&volume)
}

#[tokio::test]
async fn it_ends_within_its_grace_while_a_publish_hangs() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--mount-timeout=100s"]).await?;
    fixture.proxy.fault(Rule::new(Fault::Hang));
    let volume = fixture.seeded_pod()?;
    let stop = async {
        fixture.asked("AssumeRoleWithWebIdentity", 1).await?;
        driver.stop().await
    };
    let (published, stopped) = tokio::join!(fixture.kubelet.publish(&volume), stop);
    stopped?;
    ensure!(published.is_err());
    fixture.ensure_nothing(&volume)
}

#[tokio::test]
async fn what_it_is_told_wrongly_it_says_at_once() -> Result<()> {
    let fixture = Fixture::new().await?;
    for (flags, words) in [
        (&["--refresh=soon"][..], &["refresh"][..]),
        (&["--driver-name=No_Name!"], &["driver-name"]),
        (&["--driver-name="], &["driver-name"]),
        (&["--endpoint=tcp://127.0.0.1:1"], &["endpoint"]),
        (&["--metric-names=theirs"], &["metric-names", "secrets-store"]),
        (&["--mount-timeout=0s"], &["mount-timeout"]),
        (&["--max-volume-size=0"], &["max-volume-size"]),
        (&["--nonsense"], &["nonsense"]),
        (&["--kubeconfig=/nowhere/config"], &["/nowhere/config"]),
        (&["--pod-identity-endpoint=nowhere"], &["pod-identity-endpoint"]),
    ] {
        let process = fixture.program(flags).start()?;
        let status = process.wait(SOON).await.with_context(|| format!("{flags:?}"))?;
        let said = process.stderr();
        ensure!(status.code() == Some(2), "{flags:?}: {status}\n{said}");
        for word in words {
            ensure!(said.contains(word), "{flags:?}: no {word:?} in\n{said}");
        }
    }
    let nameless = Program::new("coffer-injector").args(["csi", "--kubelet-dir=/tmp"]).start()?;
    ensure!(nameless.wait(SOON).await?.code() == Some(2));
    ensure!(nameless.stderr().contains("--node-id"), "{}", nameless.stderr());
    Ok(())
}
