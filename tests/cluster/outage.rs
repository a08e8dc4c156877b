//! Bad days, of KMS and of the plugin: the API server serves on, says why it is not well, and recovers
//! by itself.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions, Fault, Rule, Service, eventually};

use crate::fixture::{
    Kms,
    Resource::{ConfigMap, Secret},
    SOON, Version, encryption,
};

const HEALTH: &str = "healthz/kms-providers";

/// Secrets written, at the least, while the plugin comes and goes.
const WRITES_MIN: u32 = 20;

#[tokio::test]
async fn while_kms_is_down_the_api_server_serves_on_and_says_why_it_is_not_well() -> Result<()> {
    let kms = Kms::new().await?;
    let key = kms.key("kms").await?;
    let plugin = kms.serve(&[&key]).await?;
    let config = encryption([(Secret, vec![Version::V2.provider("aws", &key.socket)])]);
    let plane = ControlPlane::start(ControlPlaneOptions::default().encryption(config)).await?;
    Secret.create(&plane, "known").await?;
    ensure!(plane.health(HEALTH).await? == (200, "ok".to_owned()));

    // Without a good moment between: to the next reason it takes seconds, from well to unwell longer.
    let faults = [
        (Fault::Throttle, "ThrottlingException"),
        (Fault::Status(500), "KMSInternalException"),
        (Fault::Hang, "in time"),
    ];
    for (number, (fault, reason)) in faults.into_iter().enumerate() {
        kms.proxy.clear_faults();
        kms.proxy.fault(Rule::new(fault).service(Service::Kms));
        told(&plane, reason).await?;
        Secret.read(&plane, "known").await?;
        // And it writes with the seed that it has.
        let name = format!("written-{number}");
        Secret.create(&plane, &name).await?;
        Secret.read(&plane, &name).await?;
    }
    kms.disable(&key).await?;
    kms.proxy.clear_faults();
    told(&plane, "DisabledException").await?;
    Secret.read(&plane, "known").await?;

    kms.enable(&key).await?;
    let well = eventually(SOON, async || {
        let (status, text) = plane.health(HEALTH).await?;
        ensure!(status == 200, "{text}");
        Ok(())
    });
    well.await?;
    Secret.create(&plane, "afterwards").await?;
    plane.stop().await?;
    plugin.stop().await
}

#[tokio::test]
async fn after_a_crash_the_plugin_is_found_again_on_its_socket() -> Result<()> {
    let kms = Kms::new().await?;
    let key = kms.key("kms").await?;
    let plugin = kms.serve(&[&key]).await?;
    let config = encryption([
        (Secret, vec![Version::V2.provider("aws-v2", &key.socket)]),
        (ConfigMap, vec![Version::V1.provider("aws-v1", &key.socket)]),
    ]);
    let options = ControlPlaneOptions::default().feature_gate("KMSv1=true").encryption(config);
    let mut plane = ControlPlane::start(options).await?;
    ConfigMap.create(&plane, "before").await?;

    // By v2 nothing stops for a moment.
    let done = AtomicBool::new(false);
    let load = async {
        let mut count = 0;
        while !done.load(Ordering::Relaxed) || count < WRITES_MIN {
            let name = format!("load-{count}");
            Secret.create(&plane, &name).await?;
            Secret.read(&plane, &name).await?;
            count += 1;
        }
        anyhow::Ok(count)
    };
    let crash = async {
        plugin.process.kill()?;
        plugin.process.wait(SOON).await?;
        ensure!(key.socket.exists(), "a crash leaves the socket behind");
        ConfigMap.read(&plane, "before").await?;
        let plugin = kms.serve(&[&key]).await;
        // By v1 each write needs the plugin: it works again without a restart of the API server.
        let written = eventually(SOON, async || ConfigMap.create(&plane, "after").await).await;
        done.store(true, Ordering::Relaxed);
        written?;
        plugin
    };
    let (count, plugin) = tokio::join!(load, crash);
    let (count, plugin) = (count?, plugin?);
    plane.restart_api_server().await?;
    ConfigMap.read(&plane, "before").await?;
    ConfigMap.read(&plane, "after").await?;
    for number in 0..count {
        Secret.read(&plane, &format!("load-{number}")).await?;
    }
    plane.stop().await?;
    plugin.stop().await
}

/// Waits until the health check of the API server tells that reason.
async fn told(plane: &ControlPlane, reason: &str) -> Result<()> {
    let told = eventually(SOON, async || {
        let (status, text) = plane.health(HEALTH).await?;
        ensure!(status == 500 && text.contains(reason), "not {reason:?}: {status} {text}");
        Ok(())
    });
    told.await
}
