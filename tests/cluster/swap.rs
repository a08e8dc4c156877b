//! In the place of the AWS Encryption Provider, and back, under an API server that runs on.
//!
//! `AEP_BINARY` names a real one (`go build ./cmd/server` of its sources); else a stand-in takes its part.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions, Program, aws_encryption_provider, eventually};

use crate::fixture::{
    Kms, Plugin,
    Resource::{ConfigMap, Secret},
    SOON, Version, encryption, ensure_encrypted,
};

/// When each provider's Status was heard last, in seconds since 1970.
const HEARD: &str = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds";

#[tokio::test]
async fn a_running_api_server_notices_no_swap_of_the_plugins() -> Result<()> {
    let kms = Kms::new().await?;
    let key = kms.key("kms").await?;
    let binary = aws_encryption_provider().await?;
    let theirs = async || Plugin::start(kms.at_aws(Program::new(&binary.to_string_lossy())), &[&key]).await;
    let config = encryption([
        (Secret, vec![Version::V2.provider("aws-v2", &key.socket)]),
        (ConfigMap, vec![Version::V1.provider("aws-v1", &key.socket)]),
    ]);

    let plugin = theirs().await?;
    let options = ControlPlaneOptions::default().feature_gate("KMSv1=true").encryption(config);
    let mut plane = ControlPlane::start(options).await?;
    let mut written = Written::default();
    written.add(&plane, "theirs").await?;

    // A crash, not an end in good order: its socket stays.
    plugin.process.kill()?;
    plugin.process.wait(SOON).await?;
    let plugin = kms.serve(&[&key]).await?;
    heard_and_ready(&plane).await?;
    written.add(&plane, "ours").await?;
    written.check(&plane).await?;
    plane.restart_api_server().await?;
    written.check(&plane).await?;
    written.add(&plane, "ours-after-a-restart").await?;

    plugin.stop().await?;
    let _plugin = theirs().await?;
    heard_and_ready(&plane).await?;
    written.add(&plane, "theirs-again").await?;
    written.check(&plane).await?;
    plane.restart_api_server().await?;
    written.check(&plane).await?;
    plane.stop().await
}

/// What was written so far, and at which revisions of etcd.
#[derive(Default)]
struct Written(Vec<(&'static str, u64, u64)>);

impl Written {
    async fn add(&mut self, plane: &ControlPlane, name: &'static str) -> Result<()> {
        Secret.create(plane, name).await?;
        ConfigMap.create(plane, name).await?;
        let (secret, config_map) = (Secret.stored(plane, name).await?, ConfigMap.stored(plane, name).await?);
        ensure_encrypted(&secret, &Version::V2.prefix("aws-v2"))?;
        ensure_encrypted(&config_map, &Version::V1.prefix("aws-v1"))?;
        self.0.push((name, secret.revision, config_map.revision));
        Ok(())
    }

    /// Everything can be read, is as it was written, and would not be encrypted anew by a write that
    /// changes nothing: to the API server the key is the same.
    async fn check(&self, plane: &ControlPlane) -> Result<()> {
        for (name, secret, config_map) in &self.0 {
            Secret.rewrite(plane, name).await?;
            ConfigMap.rewrite(plane, name).await?;
            ensure!(Secret.stored(plane, name).await?.revision == *secret, "secret {name} was written again");
            ensure!(
                ConfigMap.stored(plane, name).await?.revision == *config_map,
                "config map {name} was written again"
            );
        }
        Ok(())
    }
}

/// Waits until the API server has asked the new plugin how it is, and finds it ready all the while.
async fn heard_and_ready(plane: &ControlPlane) -> Result<()> {
    let swapped = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let mut unready = None;
    let heard = eventually(SOON, async || {
        let (status, text) = plane.health("readyz?verbose").await?;
        if status != 200 {
            unready.get_or_insert(text);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let last = plane.metrics().await?.values(HEARD, &[])?.into_iter().fold(0.0, f64::max);
        ensure!(last > swapped, "it has not asked since");
        Ok(())
    });
    heard.await?;
    ensure!(unready.is_none(), "{}", unready.unwrap_or_default());
    Ok(())
}
