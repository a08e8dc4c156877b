//! A release through its life: installed, upgraded, rolled back, removed and installed again, while pods have their
//! secrets from it.

use anyhow::{Context, Result, ensure};
use bed::{ControlPlaneOptions, NodeOptions, aws, cluster::Image, eventually};
use serde_json::{Value, json};

use super::objects::{Objects, objects};
use super::{RELEASE, SYSTEM, WAIT, apply, becomes, mounting, no_refusals, reach, uninstall};
use crate::fixture::SOON;
use crate::webhook::{Ground, Pod, SYNC, asks_for_password, pod};

/// The version that comes next, from a registry: the same programs under other names.
const REGISTRY: &str = "registry.example.com/mirror";
const NEXT: &str = "0.1.1";

/// What is elsewhere here than on AWS.
fn values(ground: &Ground) -> Value {
    let reach = reach(ground);
    json!({
        "aws": {"region": aws::REGION},
        "webhook": {"injected": {"env": reach.aws}, "extraEnv": reach.api},
        "csi": {"refresh": "1s", "extraEnv": reach.both()},
    })
}

/// The webhook's certificate, and whom the API server believes.
async fn certificates(ground: &Ground) -> Result<Value> {
    let api = ground.plane.api();
    let secret = api.get(&format!("/api/v1/namespaces/{SYSTEM}/secrets/coffer-injector-tls")).await?;
    let configuration = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/coffer-injector";
    let configuration = api.get(configuration).await?;
    let webhooks = configuration["webhooks"].as_array().context("no webhooks")?;
    let known: Vec<_> = webhooks.iter().map(|webhook| &webhook["clientConfig"]["caBundle"]).collect();
    ensure!(secret["data"]["tls.key"].is_string() && known.len() == 2 && known.iter().all(|known| known.is_string()));
    Ok(json!([secret["data"], known]))
}

/// The images of the parts that run, by their tag.
async fn tags(ground: &Ground) -> Result<Vec<String>> {
    let pods = ground.plane.api().get(&format!("/api/v1/namespaces/{SYSTEM}/pods")).await?;
    let pods = pods["items"].as_array().into_iter().flatten();
    // Those that are going are the old ones.
    let staying = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let images = staying.filter_map(|pod| pod["spec"]["containers"][0]["image"].as_str());
    Ok(images.map(|image| image.rsplit(':').next().unwrap_or_default().to_owned()).collect())
}

async fn all_have_tag(ground: &Ground, tag: &str) -> Result<()> {
    let tags = tags(ground).await?;
    ensure!(tags == [tag; 3], "the pods have {tags:?}, not {tag}");
    Ok(())
}

/// The set that a pod has, by the name of its folder.
async fn set(pod: &Pod<'_>) -> Result<String> {
    pod.shell("readlink /run/secrets/coffer/..data").await
}

/// What is there and was not before, but for the namespace of the pods.
async fn added(ground: &Ground, before: &Objects, but: &str) -> Result<Vec<String>> {
    let now = objects(ground.plane.api()).await?;
    Ok(now.into_keys().filter(|name| !before.contains_key(name) && !name.contains(&format!(" {but}/"))).collect())
}

/// Waits until nothing of the release is there: no object, no name on an object of others, no process.
async fn nothing_is_left(ground: &Ground, before: &Objects, pods: &str) -> Result<()> {
    eventually(SOON, async || {
        let left = added(ground, before, pods).await?;
        ensure!(left.is_empty(), "the release leaves {left:?}");
        for (name, object) in objects(ground.plane.api()).await? {
            let Some(was) = before.get(&name) else { continue };
            for part in ["labels", "annotations", "finalizers", "ownerReferences"] {
                let (was, is) = (was["metadata"][part].to_string(), object["metadata"][part].to_string());
                ensure!(was == is || !is.contains("coffer"), "the {part} of {name} are now {is}");
            }
        }
        let node = format!("/apis/storage.k8s.io/v1/csinodes/{}", ground.node.name());
        let drivers = ground.plane.api().get(&node).await?["spec"]["drivers"].clone();
        ensure!(drivers.as_array().is_none_or(Vec::is_empty), "the kubelet still knows {drivers}");
        for process in ground.node.processes()? {
            let line = process.cmdline().unwrap_or_default().join(" ");
            ensure!(!line.starts_with("/coffer-injector"), "still runs: {line}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_release_is_upgraded_rolled_back_removed_and_installed_anew_under_pods_with_secrets() -> Result<()> {
    let plane = ControlPlaneOptions::default().controllers().scheduler();
    let ground = Ground::on(plane, NodeOptions::default().sync_frequency(SYNC)).await?;
    for program in ["coffer", "coffer-injector"] {
        ground.node.import_shipped(Image::shipped_as(program, &format!("{REGISTRY}/{program}:{NEXT}"))?).await?;
    }
    let (api, helm) = (ground.plane.api(), &ground.plane);
    let (required, optional) = (ground.required().await?, ground.namespace(json!({})).await?);
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": SYSTEM}})).await?;
    eventually(SOON, async || {
        api.get(&format!("/api/v1/namespaces/{SYSTEM}/configmaps/kube-root-ca.crt")).await?;
        api.get(&format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts/default")).await
    })
    .await?;
    let before = objects(api).await?;

    // `--wait` ends when all is ready, and then it serves.
    let mut values = values(&ground);
    let said = apply(helm, "install", &values, &WAIT).await;
    let said = match said {
        Ok(said) => said,
        Err(error) => return Err(error.context(ground.said().await)),
    };
    ensure!(said.contains("rollout status deployment/coffer-injector"), "{said}");
    all_have_tag(&ground, "0.1.0").await?;
    let spec = "[{name: password, from: 'secretsmanager:prod/db', select: password}]";
    let injected = ground.create(&required, &pod(&asks_for_password())).await?;
    let mounted = ground.create(&required, &mounting("csi.coffer.dev", &json!({"spec": spec}))).await?;
    for pod in [&injected, &mounted] {
        pod.runs().await?;
        ensure!(pod.read("password").await? == "one");
    }
    let (identity, sets) = (certificates(&ground).await?, [set(&injected).await?, set(&mounted).await?]);
    let undisturbed = async || {
        ensure!(certificates(&ground).await? == identity, "the certificates are others");
        ensure!([set(&injected).await?, set(&mounted).await?] == sets, "the files are others");
        anyhow::Ok(())
    };

    // Another version, and other settings of it, while pods are made.
    values["image"] = json!({"registry": REGISTRY, "tag": NEXT});
    values["webhook"]["timeoutSeconds"] = json!(7);
    values["csi"]["podAnnotations"] = json!({"example.com/changed": "yes"});
    let upgraded = apply(helm, "upgrade", &values, &WAIT);
    let (_, made) = ground.while_pods_are_made(&[&required, &optional], upgraded).await?;
    made.all_injected(20)?;
    all_have_tag(&ground, NEXT).await?;
    undisturbed().await?;
    let configuration = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/coffer-injector";
    let configuration = api.get(configuration).await?;
    ensure!(configuration["webhooks"][1]["timeoutSeconds"] == 7, "{configuration}");
    // What is made now gets the next version's sidecar.
    let newer = ground.create(&required, &pod(&asks_for_password())).await?;
    let sidecar = newer.runs().await?["spec"]["initContainers"][0]["image"].clone();
    ensure!(sidecar == format!("{REGISTRY}/coffer:{NEXT}"), "{sidecar}");

    // Back again, in the same way.
    let back = ["rollback", RELEASE, "1", "--namespace", SYSTEM, WAIT[0], WAIT[1]];
    let ((), made) =
        ground.while_pods_are_made(&[&required, &optional], async { helm.helm(back).await.map(drop) }).await?;
    made.all_injected(20)?;
    all_have_tag(&ground, "0.1.0").await?;
    undisturbed().await?;
    ground.aws.put_secret_value("prod/db", r#"{"username": "app", "password": "two", "host": "db"}"#).await?;
    for pod in [&injected, &mounted] {
        becomes(pod, "two").await?;
    }

    // Gone: nobody keeps a pod from being made, and those that run keep what they have.
    let (_, made) = ground.while_pods_are_made(&[&required, &optional], uninstall(helm)).await?;
    ensure!(made.refused.is_empty(), "pods were refused: {:?}", made.refused);
    nothing_is_left(&ground, &before, &required).await?;
    let bare = ground.create(&required, &pod(&asks_for_password())).await?;
    ensure!(bare.object().await?["spec"]["initContainers"].is_null(), "who has changed it?");
    for pod in [&injected, &mounted] {
        ensure!(pod.read("password").await? == "two");
    }

    // Anew, as Helm 3 does it: the pods have not noticed, and their next change comes.
    let as_helm_3 = ["--server-side=false", WAIT[0], WAIT[1]];
    values["image"] = json!({});
    apply(helm, "install", &values, &as_helm_3).await?;
    let identity = certificates(&ground).await?;
    values["webhook"]["timeoutSeconds"] = json!(6);
    apply(helm, "upgrade", &values, &as_helm_3).await?;
    ensure!(certificates(&ground).await? == identity, "the certificates are others");
    ground.aws.put_secret_value("prod/db", r#"{"username": "app", "password": "three", "host": "db"}"#).await?;
    for pod in [&injected, &mounted] {
        becomes(pod, "three").await?;
    }
    // The driver that came later lets the volume of the first go.
    for pod in [&injected, &mounted, &newer, &bare] {
        api.delete(&format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name)).await?;
    }
    for pod in [&injected, &mounted, &newer, &bare] {
        ground.node.wait_for_no_pod(&pod.namespace, &pod.name).await?;
    }
    ensure!(ground.node.mounts_of(&mounted.uid)?.is_empty(), "still mounted");
    no_refusals(&ground).await
}
