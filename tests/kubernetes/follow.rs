//! One object, followed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions};
use coffer_injector::kubernetes::{Kubernetes, KubernetesError, follow};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::json;
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};

use crate::fixture::{Line, Namespace, SOON, kubeconfig};

type Followed = Receiver<Option<Arc<ConfigMap>>>;

/// Waits until the object's key `a` is as given, or the object gone.
async fn becomes(followed: &mut Followed, value: Option<&str>) -> Result<()> {
    let is_so = |object: &Option<Arc<ConfigMap>>| {
        let found = object.as_deref().and_then(|object| object.data.as_ref()?.get("a").map(String::as_str));
        found == value && object.is_some() == value.is_some()
    };
    timeout(SOON, followed.wait_for(is_so)).await.with_context(|| format!("never {value:?}"))??;
    Ok(())
}

#[tokio::test]
async fn an_object_is_followed_from_before_it_is_until_it_is_no_more() -> Result<()> {
    let test = Namespace::new().await?;
    let map = |name: &str, text: &str| json!({"metadata": {"name": name}, "data": {"a": text}});
    let mut followed = follow(Api::<ConfigMap>::namespaced(test.kubernetes.client(), &test.name), "rotations");
    timeout(SOON, followed.changed()).await??;
    ensure!(followed.borrow_and_update().is_none(), "the first answer is that there is none");

    test.create("configmaps", &map("other", "x")).await?;
    test.create("configmaps", &map("rotations", "1")).await?;
    becomes(&mut followed, Some("1")).await?;
    test.replace("configmaps", "rotations", &map("rotations", "2")).await?;
    becomes(&mut followed, Some("2")).await?;
    test.delete("configmaps", "rotations").await?;
    becomes(&mut followed, None).await?;
    test.create("configmaps", &map("rotations", "3")).await?;
    becomes(&mut followed, Some("3")).await?;
    // One list and one watch did it.
    ensure!(test.traffic.count("GET", "/configmaps") == 2);
    Ok(())
}

#[tokio::test]
async fn an_outage_changes_nothing_and_what_came_in_it_is_seen_after() -> Result<()> {
    let test = Namespace::new().await?;
    let map = |text: &str| json!({"metadata": {"name": "rotations"}, "data": {"a": text}});
    test.create("configmaps", &map("1")).await?;
    let line = Line::start(test.plane).await?;
    let kubernetes = Kubernetes::connect(Some(line.kubeconfig())).await?.context("not connected")?;
    let mut followed = follow(Api::namespaced(kubernetes.client(), &test.name), "rotations");
    becomes(&mut followed, Some("1")).await?;
    followed.borrow_and_update();
    line.cut(true);
    test.replace("configmaps", "rotations", &map("2")).await?;
    sleep(Duration::from_secs(1)).await;
    ensure!(!followed.has_changed()?, "the outage itself is no change");
    ensure!(followed.borrow().is_some());
    line.cut(false);
    becomes(&mut followed, Some("2")).await
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_named() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let kubernetes = Kubernetes::connect(Some(&kubeconfig(&plane))).await?.context("not connected")?;
    let error = kubernetes.class("default", "app").await.unwrap_err();
    ensure!(matches!(error, KubernetesError::NoSuchKind { .. }), "{error}");
    let text = "the API server does not know secretproviderclasses.secrets-store.csi.x-k8s.io (SecretProviderClass \
                default/app): install its CustomResourceDefinition (deploy/csi/crds)";
    ensure!(error.to_string() == text, "{error}");
    Ok(())
}

#[tokio::test]
async fn the_right_to_one_name_is_enough() -> Result<()> {
    let test = Namespace::new().await?;
    test.create("configmaps", &json!({"metadata": {"name": "rotations"}, "data": {"a": "1"}})).await?;
    let rules = json!([{
        "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["rotations"], "verbs": ["list", "watch"],
    }]);
    let reader = test.account("reader", &rules).await?;
    let mut followed = follow(Api::namespaced(reader.client(), &test.name), "rotations");
    becomes(&mut followed, Some("1")).await
}
