//! Objects read by name.

use std::time::Duration;

use anyhow::{Result, ensure};
use coffer_injector::kubernetes::{Kubernetes, KubernetesError};
use serde_json::json;

use crate::fixture::Namespace;

const STORE: &str = "secrets-store.csi.x-k8s.io/v1/secretproviderclasses";

#[tokio::test]
async fn a_hundred_pods_at_once_are_one_request() -> Result<()> {
    let test = Namespace::new().await?;
    test.create("configmaps", &json!({"metadata": {"name": "app"}, "data": {"spec.yaml": "files: []"}})).await?;
    let askers: Vec<_> = (0..100)
        .map(|_| {
            let (kubernetes, namespace) = (test.kubernetes.clone(), test.name.clone());
            tokio::spawn(async move { kubernetes.config_map(&namespace, "app").await })
        })
        .collect();
    for asker in askers {
        ensure!(asker.await??["spec.yaml"] == "files: []");
    }
    test.kubernetes.config_map(&test.name, "app").await?;
    ensure!(test.traffic.count("GET", "/configmaps/app") == 1);
    ensure!(test.traffic.count("GET", "") == 1, "something else was asked for, too");
    Ok(())
}

#[tokio::test]
async fn the_role_is_the_service_accounts_annotation() -> Result<()> {
    let test = Namespace::new().await?;
    let annotations = json!({"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/app"});
    test.create("serviceaccounts", &json!({"metadata": {"name": "with", "annotations": annotations}})).await?;
    test.create("serviceaccounts", &json!({"metadata": {"name": "without"}})).await?;
    let role = test.kubernetes.role_of(&test.name, "with").await?;
    ensure!(role.as_deref() == Some("arn:aws:iam::123456789012:role/app"));
    ensure!(test.kubernetes.role_of(&test.name, "without").await?.is_none());

    // Whoever adds what was missing does not wait for a minute.
    let mut account = test.get("serviceaccounts", "without").await?;
    account["metadata"]["annotations"] = annotations;
    test.replace("serviceaccounts", "without", &account).await?;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    ensure!(test.kubernetes.role_of(&test.name, "without").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn the_region_is_the_nodes_label_and_is_asked_for_once() -> Result<()> {
    let test = Namespace::new().await?;
    let node = format!("node-{}", test.name);
    let labels = json!({"topology.kubernetes.io/region": "eu-west-1"});
    test.plane.api().create("/api/v1/nodes", &json!({"metadata": {"name": node, "labels": labels}})).await?;
    for _ in 0..3 {
        ensure!(test.kubernetes.region_of_node(&node).await?.as_deref() == Some("eu-west-1"));
    }
    ensure!(test.traffic.count("GET", "/nodes/") == 1);
    Ok(())
}

#[tokio::test]
async fn a_class_is_read_whole() -> Result<()> {
    let test = Namespace::new().await?;
    test.create(
        STORE,
        &json!({
            "apiVersion": "secrets-store.csi.x-k8s.io/v1",
            "kind": "SecretProviderClass",
            "metadata": {"name": "app"},
            "spec": {
                "provider": "aws",
                "parameters": {"objects": "- objectName: db\n  objectType: secretsmanager\n"},
                "secretObjects": [{
                    "secretName": "db", "type": "Opaque", "data": [{"objectName": "db", "key": "password"}],
                }],
            },
        }),
    )
    .await?;
    let class = test.kubernetes.class(&test.name, "app").await?;
    ensure!(class.provider == "aws" && class.parameters["objects"].starts_with("- objectName: db"), "{class:?}");
    ensure!(class.secret_objects[0].data[0].key == "password", "{class:?}");
    Ok(())
}

#[tokio::test]
async fn while_the_api_is_away_what_was_read_is_given() -> Result<()> {
    let test = Namespace::new().await?;
    let map = |text: &str| json!({"metadata": {"name": "app"}, "data": {"a": text}});
    test.create("configmaps", &map("1")).await?;
    test.kubernetes.config_map(&test.name, "app").await?;
    test.traffic.cut(true);
    ensure!(test.kubernetes.config_map(&test.name, "app").await?["a"] == "1");
    let error = test.kubernetes.config_map(&test.name, "other").await.unwrap_err();
    ensure!(matches!(error, KubernetesError::Unavailable { .. }), "{error}");
    let text = format!(
        "the Kubernetes API does not answer (to get ConfigMap {}/other): the line is cut; it is tried again",
        test.name
    );
    ensure!(error.to_string() == text, "{error}");
    test.traffic.cut(false);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let error = test.kubernetes.config_map(&test.name, "other").await.unwrap_err();
    ensure!(
        error.to_string() == format!("ConfigMap {}/other does not exist: create it, or correct the name", test.name)
    );
    Ok(())
}

#[tokio::test]
async fn who_may_not_is_told_the_rule_that_is_missing() -> Result<()> {
    let test = Namespace::new().await?;
    let nobody = test.account("nobody", &json!([])).await?;
    let namespace = &test.name;
    let denied = [
        (
            nobody.config_map(namespace, "app").await.unwrap_err(),
            format!(
                "Coffer may not get ConfigMap {namespace}/app: add to its ClusterRole or Role the rule \
                 {{apiGroups: [\"\"], resources: [configmaps], verbs: [get]}}"
            ),
        ),
        (
            nobody.region_of_node("node").await.unwrap_err(),
            "Coffer may not get Node node: add to its ClusterRole the rule \
             {apiGroups: [\"\"], resources: [nodes], verbs: [get]}"
                .to_owned(),
        ),
        (
            nobody.class(namespace, "app").await.unwrap_err(),
            format!(
                "Coffer may not get SecretProviderClass {namespace}/app: add to its ClusterRole or Role the rule \
                 {{apiGroups: [\"secrets-store.csi.x-k8s.io\"], resources: [secretproviderclasses], verbs: [get]}}"
            ),
        ),
    ];
    for (error, text) in denied {
        ensure!(error.to_string() == text, "{error}");
    }
    let error = test.kubernetes.config_map(namespace, "../../../../nodes/x").await.unwrap_err();
    ensure!(matches!(error, KubernetesError::BadName { .. }) && test.traffic.count("GET", "") == 0, "{error}");
    Ok(())
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_named() -> Result<()> {
    let error = Kubernetes::connect(Some("/nowhere/kubeconfig".as_ref())).await.err().map(|error| error.to_string());
    let text = error.unwrap_or_default();
    ensure!(text.starts_with("the kubeconfig `/nowhere/kubeconfig` cannot be used: "), "{text}");
    ensure!(text.contains("No such file"), "{text}");
    Ok(())
}
