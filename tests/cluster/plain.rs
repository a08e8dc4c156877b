//! The control plane by itself, with no plugin: what the other tests build on.

use anyhow::Result;
use bed::{ControlPlane, ControlPlaneOptions};
use serde_json::json;

#[tokio::test]
async fn without_a_plugin_a_secret_is_in_etcd_as_it_is() -> Result<()> {
    let mut plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let secret = json!({"metadata": {"name": "db"}, "stringData": {"password": "correct horse"}});
    plane.api().create("/api/v1/namespaces/default/secrets", &secret).await?;
    let stored = plane.etcd().get("/registry/secrets/default/db").await?;
    assert!(stored.contains("correct horse"), "{stored:?}");
    plane.restart_api_server().await?;
    assert_eq!(
        plane.kubectl(["get", "secret", "db", "-o", "jsonpath={.data.password}"]).await?,
        "Y29ycmVjdCBob3JzZQ=="
    );
    assert_eq!(plane.etcd().get("/registry/secrets/default/db").await?, stored);
    plane.stop().await
}
