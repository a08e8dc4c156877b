//! The examples of the guide, as they stand there.

use std::fs;

use anyhow::{Context, Result, ensure};
use bed::{Node, eventually};
use serde_json::{Value, json};

use super::{Ground, MANIFESTS};
use crate::fixture::SOON;

/// In the examples: an account, and an image with a shell.
const ACCOUNT: &str = "123456789012";
const SHELL: &str = "busybox:1.36";

impl Ground {
    /// Applies an example, in this account and with the image that is at hand.
    async fn example(&self, name: &str) -> Result<()> {
        let text = fs::read_to_string(format!("{MANIFESTS}/examples/{name}"))?;
        ensure!(text.contains(ACCOUNT) && text.contains("image: "), "{name} is not as it was");
        let text = text.replace(ACCOUNT, self.aws.account()).replace(SHELL, Node::SHELL);
        let file = self.plane.folder().join(name);
        fs::write(&file, text)?;
        self.plane.kubectl(["apply", "--filename", &file.to_string_lossy()]).await.map(drop)
    }
}

#[tokio::test]
async fn the_guides_examples_run_and_read_their_files() -> Result<()> {
    let ground = Ground::shared().await?;
    ground.aws.create_secret("prod/payments", r#"{"api_key": "k-1"}"#).await?;
    // Each is whole by itself: the first of them makes the namespace.
    let names =
        ["isolate-identity.yaml", "job.yaml", "exec.yaml", "restricted.yaml", "config-map.yaml", "deployment.yaml"];
    for name in names {
        ground.example(name).await.with_context(|| name.to_owned())?;
    }

    for api in ground.pods_of("shop", "app=api", 2).await? {
        api.runs().await?;
        let all = "cd /run/secrets/coffer; cat db-password log-level; ls";
        let found = ground.node.exec("shop", &api.name, "api", &["sh", "-c", all]).await?;
        ensure!(found == "oneinfodb-password\ndb.json\nlog-level\n", "{}: {found}", api.name);
        api.own_token("api")?;
    }

    let report = ground.pod_of("shop", "job-name=report").await?;
    report.becomes("Succeeded").await?;
    ensure!(ground.node.logs("shop", &report.name, "report").await? == "done\n");
    eventually(SOON, async || {
        let job = ground.plane.api().get("/apis/batch/v1/namespaces/shop/jobs/report").await?;
        ensure!(job["status"]["succeeded"] == 1, "{}", job["status"]);
        Ok(())
    })
    .await?;

    let legacy = ground.pod_of("shop", "app=legacy").await?;
    let spec = legacy.runs().await?["spec"].clone();
    ensure!(!spec.to_string().contains("\"one\""), "a value stands in the pod: {spec}");
    eventually(SOON, async || {
        let printed = ground.node.logs("shop", &legacy.name, "app").await?;
        ensure!(printed.contains("3 characters"), "{printed}");
        Ok(())
    })
    .await?;
    legacy.own_token("legacy")?;

    let restricted = ground.pod("vault", "restricted").await?;
    restricted.runs().await?;
    ensure!(restricted.shell("cat /run/secrets/app/log-level").await? == "info");

    let payments = ground.pod("shop", "payments").await?;
    payments.runs().await?;
    ensure!(payments.read("api-key").await? == "k-1");
    ensure!(ground.node.logs("shop", "payments", "app").await? == "0\n");
    payments.own_token("payments")?;

    let worker = ground.pod_of("shop", "app=worker").await?;
    worker.runs().await?;
    let read = ["cat", "/run/secrets/coffer/app.conf"];
    let found = ground.node.exec("shop", &worker.name, "worker", &read).await?;
    ensure!(found == "dsn = postgres://app:one@db/app\n" || found == "dsn = postgres://app:one@db/app", "{found}");
    Ok(())
}

#[tokio::test]
async fn in_the_nodes_network_its_pods_are_let_in_by_the_namespace_that_comes_along() -> Result<()> {
    let ground = Ground::shared().await?;
    let folder = format!("{MANIFESTS}/host-network");
    let text = ground.plane.kubectl(["kustomize", "--load-restrictor", "LoadRestrictionsNone", &folder]).await?;
    let file = ground.plane.folder().join("host-network.yaml");
    fs::write(&file, text)?;
    let file = file.to_string_lossy();
    let taken = ["apply", "--dry-run=server", "--output=json", "--filename", &*file];
    let list: Value = serde_json::from_str(&ground.plane.kubectl(taken).await?)?;
    let object = |kind: &str| {
        let mut objects = list["items"].as_array().into_iter().flatten();
        objects.find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"))
    };
    let labels = &object("Namespace")?["metadata"]["labels"];
    let own = labels["pod-security.kubernetes.io/enforce"].as_str().context("no standard")?;
    let mut pod = object("Deployment")?["spec"]["template"].clone();
    ensure!(pod["spec"]["hostNetwork"] == true, "{pod}");
    pod["metadata"]["name"] = "webhook".into();
    // That one is of another namespace.
    for account in ["serviceAccount", "serviceAccountName"] {
        pod["spec"][account] = "api".into();
    }
    for (standard, taken) in [("restricted", false), ("baseline", false), (own, true)] {
        let namespace = ground.namespace(json!({"pod-security.kubernetes.io/enforce": standard})).await?;
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        let made = ground.plane.api().create(&path, &pod).await;
        ensure!(made.is_ok() == taken, "{standard}: {made:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_and_its_key_for_envoy_come_together_and_change_together() -> Result<()> {
    let ground = Ground::shared().await?;
    let namespace = ground.required().await?;
    let pair = || -> Result<(String, String)> {
        let made = rcgen::generate_simple_self_signed(vec!["shop.test".to_owned()])?;
        Ok((made.cert.pem(), made.signing_key.serialize_pem()))
    };
    let (certificate, key) = pair()?;
    ground.aws.create_secret("prod/tls", &format!("{certificate}{key}")).await?;
    let annotations = json!({
        "coffer.dev/inject": "true",
        "coffer.dev/region": bed::aws::REGION,
        "coffer.dev/refresh": "1s",
        // As in the example.
        "coffer.dev/files": "- {from: \"secretsmanager:prod/tls\", format: pem}",
    });
    let example = fs::read_to_string(format!("{MANIFESTS}/examples/envoy-sds.yaml"))?;
    ensure!(example.contains(annotations["coffer.dev/files"].as_str().context("no text")?), "the example has another");
    let edge = ground.create(&namespace, &super::pod(&annotations)).await?;
    edge.runs().await?;
    ensure!(edge.read("tls.crt").await?.trim() == certificate.trim());
    ensure!(edge.read("tls.key").await?.trim() == key.trim());
    let set = "readlink /run/secrets/coffer/..data";
    let before = edge.shell(set).await?;
    let (certificate, key) = pair()?;
    ground.aws.put_secret_value("prod/tls", &format!("{certificate}{key}")).await?;
    eventually(SOON, async || {
        ensure!(edge.shell(set).await? != before, "the set is still the old one");
        Ok(())
    })
    .await?;
    // What Envoy watches is the move to `..data`, and behind it both are new.
    ensure!(edge.read("tls.crt").await?.trim() == certificate.trim());
    ensure!(edge.read("tls.key").await?.trim() == key.trim());
    Ok(())
}
