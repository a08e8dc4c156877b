//! What the notifier and the nodes are allowed, and what a pod of the manifest is.

use std::process::ExitStatus;

use anyhow::{Context, Result, ensure};
use bed::Program;
use serde_json::{Value, json};

use crate::fixture::{AT_ONCE, Bed, SOON};

#[tokio::test]
async fn the_manifest_allows_what_is_needed_and_its_pods_are_restricted() -> Result<()> {
    let bed = Bed::new().await?;
    let notifier = bed.notifier("a")?;
    notifier.leads().await?;
    // Object and lease are there, empty; they are filled, and then replaced.
    let node = bed.node().await?;
    for version in ["v1", "v2"] {
        bed.send("prod/a", version).await?;
        node.hears("prod/a", version, AT_ONCE).await?;
    }
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    ensure!(!notifier.process.stderr().contains("WARN"), "{}", notifier.process.stderr());
    notifier.process.stop().await?;
    ensure!(bed.holder().await?.is_empty(), "{}", bed.holder().await?);

    let account = format!("--as=system:serviceaccount:{}:coffer-notifier", bed.namespace);
    for what in [
        ["get", "secrets"],
        ["list", "configmaps"],
        ["delete", "configmaps/coffer-rotations"],
        ["get", "configmaps/other"],
        ["update", "leases/other"],
        ["create", "configmaps"],
        ["create", "leases"],
    ] {
        let args = ["auth", "can-i", what[0], what[1], "-n", &bed.namespace, &account];
        let answer = bed.plane.kubectl(args).await;
        ensure!(answer.is_err(), "the notifier may {what:?}");
    }

    // The namespace enforces the restricted standard.
    let path = format!("/apis/apps/v1/namespaces/{}/deployments/coffer-notifier", bed.namespace);
    let deployment = bed.plane.api().get(&path).await?;
    let mut pod = deployment["spec"]["template"].clone();
    pod["metadata"]["name"] = "coffer-notifier-0".into();
    bed.plane.api().create(&bed.path("pods"), &pod).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_needs_to_list_and_watch_the_one_object() -> Result<()> {
    let bed = Bed::new().await?;
    let create = async |collection: &str, object: &Value| {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{collection}", bed.namespace);
        bed.plane.api().create(&path, object).await
    };
    bed.plane.api().create(&bed.path("serviceaccounts"), &json!({"metadata": {"name": "driver"}})).await?;
    let rule = json!({
        "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["coffer-rotations"], "verbs": ["list", "watch"],
    });
    create("roles", &json!({"metadata": {"name": "driver"}, "rules": [rule]})).await?;
    let binding = json!({
        "metadata": {"name": "driver"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "driver"},
        "subjects": [{"kind": "ServiceAccount", "name": "driver", "namespace": bed.namespace}],
    });
    create("rolebindings", &binding).await?;
    let token = bed.plane.kubectl(["create", "token", "driver", "-n", &bed.namespace]).await?;
    let kubeconfig = bed.kubeconfig("driver", &bed.plane.api().url(), token.trim())?;
    let node = bed.node_as(&kubeconfig).await?;
    let notifier = bed.notifier("a")?;
    notifier.leads().await?;
    bed.send("prod/a", "v1").await?;
    node.hears("prod/a", "v1", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn what_cannot_work_is_said_at_the_start() -> Result<()> {
    let run = async |args: &[&str]| -> Result<(ExitStatus, String)> {
        let process = Program::new("coffer-injector").arg("notifier").args(args).start()?;
        Ok((process.wait(SOON).await?, process.stderr()))
    };
    let url = "https://sqs.eu-west-1.amazonaws.com/123456789012/coffer-push";
    for (args, words) in [
        (&["--queue", "coffer-push"][..], "`coffer-push` is no queue's URL; write the queue's URL"),
        (&["--queue", url, "--role-arn", "reader"], "write it as `arn:aws:iam::123456789012:role/NAME`"),
        (&["--queue", url], "--namespace"),
        (&["--queue", url, "--namespace=n", "--identity=i", "--listen=127.0.0.1:0"], "or with `--kubeconfig FILE`"),
        (
            &["--queue", url, "--namespace=n", "--identity=i", "--listen=127.0.0.1:0", "--kubeconfig=/none"],
            "the kubeconfig `/none` cannot be used",
        ),
    ] {
        let (status, text) = run(args).await.with_context(|| format!("{args:?}"))?;
        ensure!(status.code() == Some(2) && text.contains(words), "{args:?}: {status}: {text}");
    }
    Ok(())
}
