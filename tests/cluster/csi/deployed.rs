//! The driver as `deploy/csi` has it: a privileged pod on each node, with the rights that are written
//! there and no others, under a kubelet that knows nothing of tests.

use anyhow::{Context, Result, ensure};
use bed::{ControlPlaneOptions, cluster::Image, eventually};
use serde_json::json;

use super::{Ground, MANIFESTS};
use crate::fixture::SOON;

/// The namespace and the name in the manifest.
const SYSTEM: &str = "kube-system";
const NAME: &str = "coffer-csi";

/// Starts the DaemonSet and waits until it serves.
async fn deploy(ground: &Ground) -> Result<()> {
    ground.node.import_shipped(Image::shipped("coffer-injector")?).await?;
    ground.plane.kubectl(["apply", "--filename", &format!("{MANIFESTS}/driver.yaml")]).await?;
    let url = ground.plane.api().url();
    let (host, port) = url.trim_start_matches("https://").split_once(':').context("no port")?;
    // Only what is not elsewhere as it is here: the API server and AWS listen on loopback, and there is no
    // instance metadata. And the driver is to look for changes often.
    let patch = json!({"spec": {"template": {"spec": {
        "hostNetwork": true,
        "containers": [{
            "name": NAME,
            "args": ["csi", "--refresh=1s", format!("--listen={}:9466", ground.node.address())],
            "env": [
                {"name": "KUBERNETES_SERVICE_HOST", "value": host},
                {"name": "KUBERNETES_SERVICE_PORT", "value": port},
                {"name": "AWS_ENDPOINT_URL", "value": ground.proxy.url()},
                {"name": "AWS_EC2_METADATA_DISABLED", "value": "true"},
            ],
        }],
    }}}});
    let daemon_set = format!("daemonset/{NAME}");
    ground.plane.kubectl(["patch", "--namespace", SYSTEM, &daemon_set, "--patch", &patch.to_string()]).await?;
    rolled_out(ground).await
}

async fn rolled_out(ground: &Ground) -> Result<()> {
    let path = format!("/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/{NAME}");
    let serves = eventually(SOON * 2, async || {
        let set = ground.plane.api().get(&path).await?;
        let status = &set["status"];
        ensure!(status["observedGeneration"] == set["metadata"]["generation"], "not seen yet");
        ensure!(status["updatedNumberScheduled"] == 1 && status["numberReady"] == 1, "{status}");
        Ok(())
    });
    if let Err(error) = serves.await {
        let to = ["logs", "--namespace", SYSTEM, "--selector", "app.kubernetes.io/name=coffer-csi", "--prefix"];
        let said = ground.plane.kubectl(to).await.unwrap_or_else(|error| format!("{error:#}"));
        let pods = ground.plane.kubectl(["describe", "pods", "--namespace", SYSTEM]).await.unwrap_or_default();
        return Err(error.context(format!("the driver said:\n{said}\n{pods}")));
    }
    Ok(())
}

#[tokio::test]
async fn the_manifests_run_the_driver_with_the_rights_that_it_needs() -> Result<()> {
    let ground = Ground::with(ControlPlaneOptions::default().controllers().scheduler()).await?;
    deploy(&ground).await?;
    let shop = ground.shop(json!({})).await?;
    let group = format!("/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{}", shop.namespace);
    let api = ground.plane.api();
    let class = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": {"name": "app"},
        "spec": {"provider": "aws", "parameters": {"objects": "- {objectName: prod/db, objectType: secretsmanager}"}},
    });
    api.create(&format!("{group}/secretproviderclasses"), &class).await?;
    let map = json!({
        "metadata": {"name": "files"},
        "data": {"spec.yaml": "- {name: level, from: 'parameterstore:/prod/level'}"},
    });
    api.create(&format!("/api/v1/namespaces/{}/configmaps", shop.namespace), &map).await?;

    // The three forms: service account and node, ConfigMap, class and its status are read and written.
    let inline = "[{name: password, from: 'secretsmanager:prod/db', select: password}]";
    let inline = shop.create_inline(inline).await?;
    let by_map = shop.create(&shop.pod(&json!({"configMap": "files"}))).await?;
    let by_class = shop.create(&shop.pod(&json!({"secretProviderClass": "app"}))).await?;
    for (pod, file, expected) in [(&inline, "password", "one"), (&by_map, "level", "info")] {
        pod.runs().await?;
        ensure!(pod.read(file).await? == expected);
    }
    by_class.runs().await?;
    ensure!(by_class.read("prod_db").await?.contains("one"));
    let status = format!("{group}/secretproviderclasspodstatuses/{}-{}-app", by_class.name, shop.namespace);
    eventually(SOON, async || api.get(&status).await).await?;

    // A new version of the driver: the pods keep their files meanwhile, and then see the next rotation.
    let generation = inline.generation()?;
    ground.plane.kubectl(["rollout", "restart", "--namespace", SYSTEM, &format!("daemonset/{NAME}")]).await?;
    rolled_out(&ground).await?;
    ensure!(inline.generation()? == generation, "a new driver alone changed the files");
    ground.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    inline.becomes("password", "two").await?;

    // Events on pods.
    ground.aws.delete_secret("prod/db").await?;
    inline.is_warned(&["prod/db", "stay"]).await?;
    ensure!(inline.read("password").await? == "two");
    for pod in [inline, by_map, by_class] {
        pod.delete().await?;
        pod.leaves_nothing().await?;
    }
    let logs = ["logs", "--namespace", SYSTEM, "--selector", "app.kubernetes.io/name=coffer-csi", "--tail=-1"];
    let said = ground.plane.kubectl(logs).await?;
    // So the API server says it where a right is missing.
    for bad in ["is forbidden", "panicked"] {
        ensure!(!said.contains(bad), "{said}");
    }
    Ok(())
}
