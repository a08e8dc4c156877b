//! From one KMS key to another, by the book: the new provider second, then first, then everything is
//! rewritten, then the old key goes.

use std::fs;

use anyhow::{Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions};

use crate::fixture::{Kms, Resource::Secret, Version, encryption, ensure_encrypted};

const NAMES: [&str; 3] = ["a", "b", "c"];

#[tokio::test]
async fn a_new_key_takes_over_and_the_old_one_can_be_disabled() -> Result<()> {
    let kms = Kms::new().await?;
    let (old_key, new_key) = (kms.key("old").await?, kms.key("new").await?);
    let plugin = kms.serve(&[&old_key, &new_key]).await?;
    let old = Version::V2.provider("aws-2025", &old_key.socket);
    let new = Version::V2.provider("aws-2026", &new_key.socket);
    let (old_prefix, new_prefix) = (Version::V2.prefix("aws-2025"), Version::V2.prefix("aws-2026"));

    let config = encryption([(Secret, vec![old.clone()])]);
    let options = ControlPlaneOptions::default().encryption(config).automatic_reload();
    let mut plane = ControlPlane::start(options).await?;
    for name in NAMES {
        Secret.create(&plane, name).await?;
    }

    // First every API server learns to read what the new key has encrypted…
    plane.set_encryption(&encryption([(Secret, vec![old.clone(), new.clone()])])).await?;
    Secret.create(&plane, "between").await?;
    ensure_encrypted(&Secret.stored(&plane, "between").await?, &old_prefix)?;

    // …then each writes with it…
    plane.set_encryption(&encryption([(Secret, vec![new.clone(), old])])).await?;
    Secret.create(&plane, "after").await?;
    ensure_encrypted(&Secret.stored(&plane, "after").await?, &new_prefix)?;
    ensure_encrypted(&Secret.stored(&plane, "a").await?, &old_prefix)?;

    // …then everything is written anew…
    let all = plane.folder().join("secrets.json");
    fs::write(&all, plane.kubectl(["get", "secrets", "--all-namespaces", "--output=json"]).await?)?;
    plane.kubectl(["replace".to_owned(), format!("--filename={}", all.display())]).await?;
    let stored = plane.etcd().under("/registry/secrets/").await?;
    ensure!(stored.len() >= NAMES.len() + 2, "{stored:?}");
    for stored in stored.values() {
        ensure_encrypted(stored, &new_prefix)?;
    }

    // …and the old key is needed by nobody any more.
    plane.set_encryption(&encryption([(Secret, vec![new])])).await?;
    kms.disable(&old_key).await?;
    plugin.stop().await?;
    let plugin = kms.serve(&[&new_key]).await?;
    plane.restart_api_server().await?;
    for name in NAMES.iter().chain(&["between", "after"]) {
        Secret.read(&plane, name).await?;
    }
    plane.stop().await?;
    plugin.stop().await
}
