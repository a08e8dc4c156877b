//! Secrets on their way into etcd and back, by both protocols.

use anyhow::{Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions};

use crate::fixture::{
    Kms, PLAINTEXT, Plugin,
    Resource::{ConfigMap, Secret},
    Version, encryption, ensure_encrypted, files_with_plaintext,
};

const NAMES: [&str; 3] = ["a", "b", "c"];

#[tokio::test]
async fn v2_encrypts_what_etcd_holds_and_reads_it_after_a_restart_of_everything() -> Result<()> {
    round_trip(Version::V2, ControlPlaneOptions::default()).await
}

#[tokio::test]
async fn v1_encrypts_what_etcd_holds_and_reads_it_after_a_restart_of_everything() -> Result<()> {
    round_trip(Version::V1, ControlPlaneOptions::default().feature_gate("KMSv1=true")).await
}

#[tokio::test]
async fn a_local_kek_spares_v1_most_calls_to_kms_and_the_compatible_format_is_read_beside_it() -> Result<()> {
    const OBJECTS: usize = 20;
    let kms = Kms::new().await?;
    let key = kms.key("kms").await?;
    let local = async || Plugin::start(kms.coffer_kms().arg("--write-format=local-kek"), &[&key]).await;
    let compatible = async || Plugin::start(kms.coffer_kms(), &[&key]).await;
    let config = encryption([
        (Secret, vec![Version::V2.provider("aws-v2", &key.socket)]),
        (ConfigMap, vec![Version::V1.provider("aws-v1", &key.socket)]),
    ]);
    let options = ControlPlaneOptions::default().feature_gate("KMSv1=true").encryption(config);

    let plugin = compatible().await?;
    let mut plane = ControlPlane::start(options).await?;
    let mut names = vec!["compatible".to_owned()];
    Secret.create(&plane, "compatible").await?;
    ConfigMap.create(&plane, "compatible").await?;
    plugin.stop().await?;

    let plugin = local().await?;
    plane.restart_api_server().await?;
    kms.proxy.clear_log();
    for number in 0..OBJECTS {
        let name = format!("local-{number}");
        Secret.create(&plane, &name).await?;
        ConfigMap.create(&plane, &name).await?;
        names.push(name);
    }
    ensure_few(&kms)?;
    plugin.stop().await?;

    // Whichever format is written, both are read.
    for write_locally in [false, true] {
        let plugin = if write_locally { local().await? } else { compatible().await? };
        kms.proxy.clear_log();
        plane.restart_api_server().await?;
        for name in &names {
            Secret.read(&plane, name).await?;
            ConfigMap.read(&plane, name).await?;
        }
        ensure_few(&kms)?;
        plugin.stop().await?;
    }
    plane.stop().await
}

/// A good deal less than one call for each object: probes are among them.
fn ensure_few(kms: &Kms) -> Result<()> {
    let calls: Vec<_> = kms.proxy.calls().into_iter().map(|call| call.operation).collect();
    ensure!(calls.len() <= 10, "{} calls to KMS: {calls:?}", calls.len());
    Ok(())
}

async fn round_trip(version: Version, options: ControlPlaneOptions) -> Result<()> {
    let kms = Kms::new().await?;
    let key = kms.key("kms").await?;
    let program = || kms.coffer_kms().arg("--encryption-context=cluster=test,purpose=etcd");
    let plugin = Plugin::start(program(), &[&key]).await?;
    let config = encryption([(Secret, vec![version.provider("aws", &key.socket)])]);
    let mut plane = ControlPlane::start(options.encryption(config)).await?;

    let mut before = Vec::new();
    for name in NAMES {
        Secret.create(&plane, name).await?;
        let stored = Secret.stored(&plane, name).await?;
        ensure_encrypted(&stored, &version.prefix("aws"))?;
        before.push(stored);
    }
    let calls = kms.proxy.calls_to("Encrypt");
    ensure!(!calls.is_empty(), "KMS was not asked to encrypt");
    for call in calls {
        ensure!(call.request["EncryptionContext"]["cluster"] == "test", "{call:?}");
    }

    plugin.stop().await?;
    ensure!(!key.socket.exists(), "the plugin left its socket behind");
    let plugin = Plugin::start(program(), &[&key]).await?;
    kms.proxy.clear_log();
    plane.restart_api_server().await?;
    for (name, before) in NAMES.iter().zip(before) {
        Secret.read(&plane, name).await?;
        ensure!(Secret.stored(&plane, name).await? == before, "{name} was rewritten");
    }
    ensure!(kms.proxy.count("Decrypt") > 0, "the secrets were read without KMS");
    let found = files_with_plaintext(&plane)?;
    ensure!(found.is_empty(), "the plaintext is in {found}");
    let said = plugin.process.stdout() + &plugin.process.stderr();
    ensure!(!said.contains(PLAINTEXT), "the plugin tells the plaintext: {said}");
    plane.stop().await?;
    plugin.stop().await
}
