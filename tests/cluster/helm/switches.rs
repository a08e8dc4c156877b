//! Each part of the chart on and off, and what a newcomer gets wrong. There is no node: what an API server takes and
//! refuses is what is looked at.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions, cluster::Api, eventually};
use serde_json::{Value, json};

use super::objects::{Objects, objects};
use super::{CHART, RELEASE, SYSTEM, apply, nothing, uninstall};
use crate::fixture::SOON;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

const QUEUE: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/coffer-push";
const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555";

/// The objects that tell which parts are there.
const PARTS: [&str; 6] = [
    "deployments.apps coffer-system/coffer-injector",
    "daemonsets.apps coffer-system/coffer-csi",
    "daemonsets.apps coffer-system/coffer-csi-takeover",
    "daemonsets.apps coffer-system/coffer-provider",
    "deployments.apps coffer-system/coffer-notifier",
    "configmaps coffer-system/coffer-kms",
];

/// Values with this part on and every other one off.
fn only(part: &str, values: Value) -> Value {
    let mut all = nothing();
    all[part] = values;
    all[part]["enabled"] = json!(true);
    all
}

/// The names of what is there now and was not before.
async fn added(api: &Api, before: &Objects) -> Result<BTreeSet<String>> {
    let now = objects(api).await?;
    Ok(now.into_keys().filter(|name| !before.contains_key(name)).collect())
}

/// Has the API server know kinds of other projects, with any content.
async fn know(api: &Api, group: &str, version: &str, kinds: &[(&str, &str)]) -> Result<()> {
    for (kind, plural) in kinds {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{
                    "name": version,
                    "served": true,
                    "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        });
        api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await?;
        let served = format!("/apis/{group}/{version}/{plural}");
        eventually(SOON, async || api.get(&served).await).await?;
    }
    Ok(())
}

/// Checks the release's objects once more, as strictly as the API server does: with no field that it does not know.
async fn strictly(plane: &ControlPlane) -> Result<()> {
    let manifest = plane.helm(["get", "manifest", RELEASE, "--namespace", SYSTEM]).await?;
    if manifest.trim().is_empty() {
        return Ok(());
    }
    let file = plane.folder().join("manifest.yaml");
    std::fs::write(&file, manifest)?;
    let file = file.to_string_lossy();
    // Not `apply`, which would look for annotations of its own.
    plane.kubectl(["replace", "--dry-run=server", "--validate=strict", "--filename", &file]).await.map(drop)
}

/// Checks that the pods of a Deployment pass the restricted Pod Security Standard.
async fn restricted(api: &Api, name: &str) -> Result<()> {
    let namespace = format!("/api/v1/namespaces/{SYSTEM}");
    let enforced = |level: Value| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let deployment = api.get(&format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/{name}")).await?;
    let mut pod = deployment["spec"]["template"].clone();
    pod["metadata"]["name"] = json!(name);
    api.patch(&namespace, &enforced(json!("restricted"))).await?;
    let made = api.create(&format!("{namespace}/pods?dryRun=All"), &pod).await;
    api.patch(&namespace, &enforced(Value::Null)).await?;
    made.map(drop)
}

#[tokio::test]
async fn each_part_is_there_when_it_is_on_and_leaves_nothing_when_it_is_off() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let api = plane.api();
    know(api, "monitoring.coreos.com", "v1", &[("PodMonitor", "podmonitors"), ("PrometheusRule", "prometheusrules")])
        .await?;
    know(api, "cert-manager.io", "v1", &[("Issuer", "issuers"), ("Certificate", "certificates")]).await?;
    for namespace in [SYSTEM, "shop"] {
        api.create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await?;
    }
    let before = objects(api).await?;
    let [injector, csi, takeover, provider, notifier, kms] = PARTS;
    let cases: [(&str, Value, &[&str]); 12] = [
        ("nothing", nothing(), &[]),
        ("the default", json!({}), &[injector, csi]),
        ("webhook", only("webhook", json!({})), &[injector]),
        ("cert-manager", only("webhook", json!({"certManager": {"enabled": true}})), &[injector]),
        ("csi", only("csi", json!({})), &[csi]),
        ("takeover", only("takeover", json!({})), &[takeover]),
        ("provider", only("provider", json!({})), &[provider]),
        ("notifier", only("notifier", json!({"queue": QUEUE})), &[notifier]),
        ("kms", only("kms", json!({"key": KEY})), &[kms]),
        ("policies", json!({"networkPolicy": {"enabled": true}}), &[injector, csi]),
        ("monitoring", monitoring(true), &[injector, csi]),
        ("elaborate", elaborate(), &[injector, csi, takeover, notifier, kms]),
    ];
    for (name, values, parts) in cases {
        let case = async {
            apply(&plane, "install", &values, &[]).await?;
            let made = added(api, &before).await?;
            let found: Vec<_> = PARTS.into_iter().filter(|part| made.contains(*part)).collect();
            ensure!(found == parts, "the parts are {found:?}");
            for (kind, switched) in [
                ("networkpolicies.networking.k8s.io ", ["policies", "elaborate"].contains(&name)),
                ("podmonitors.monitoring.coreos.com ", ["monitoring", "elaborate"].contains(&name)),
                ("prometheusrules.monitoring.coreos.com ", ["monitoring", "elaborate"].contains(&name)),
                ("configmaps coffer-system/coffer-csi-dashboard", ["monitoring", "elaborate"].contains(&name)),
                ("certificates.cert-manager.io ", name == "cert-manager"),
                ("resourcequotas ", name == "elaborate"),
            ] {
                let count = made.iter().filter(|object| object.starts_with(kind)).count();
                ensure!((count > 0) == switched, "{count} {kind} among {made:?}");
            }
            strictly(&plane).await?;
            for (part, deployment) in [(injector, "coffer-injector"), (notifier, "coffer-notifier")] {
                // In the nodes' network it cannot be.
                if parts.contains(&part) && name != "elaborate" {
                    restricted(api, deployment).await?;
                }
            }
            uninstall(&plane).await?;
            let left = added(api, &before).await?;
            ensure!(left.is_empty(), "it leaves {left:?}");
            Ok(())
        };
        case.await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn monitoring(on: bool) -> Value {
    let on = json!({"enabled": on});
    json!({"monitoring": {"podMonitors": on, "rules": on, "dashboards": on}})
}

/// Values that are not the default wherever they can be something else.
fn elaborate() -> Value {
    let placed = |mut more: Value| {
        more["enabled"] = json!(true);
        more["resources"] = json!({"requests": {"cpu": "1m"}, "limits": {"memory": "64Mi"}});
        more["podAnnotations"] = json!({"example.com/team": "a"});
        more["podLabels"] = json!({"team": "a"});
        more["extraEnv"] = json!([{"name": "AWS_USE_FIPS_ENDPOINT", "value": "true"}]);
        more
    };
    let mut all = monitoring(true);
    let more = json!({
        "image": {"registry": "registry.example.com/mirror", "tag": "0.1.0-a", "pullPolicy": "Always", "pullSecrets": ["a"]},
        "images": {"coffer": {"repository": "c", "digest": format!("sha256:{}", "0".repeat(64))}},
        "log": {"level": "debug", "format": "json"},
        "commonLabels": {"team": "a"},
        "rbac": {"createLeases": true},
        "resourceQuota": {"enabled": true, "pods": 10},
        "webhook": placed(json!({
            "optIn": true, "hostNetwork": {"enabled": true}, "replicas": 3, "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}], "priorityClassName": "", "nativeSidecars": "always",
            "injected": {"runAsUser": "none", "pullPolicy": "Always", "env": {"A": "b"}},
            "serviceAccount": {"annotations": {"example.com/a": "b"}},
        })),
        "csi": placed(json!({
            "refresh": "5m", "maxUnavailable": 1, "syncSecrets": {"enabled": true, "namespaces": ["shop"]},
        })),
        "takeover": placed(json!({"nodeSelector": {"coffer.dev/takeover": "yes"}})),
        "notifier": placed(json!({"queue": QUEUE, "region": "eu-west-1", "replicas": 1})),
        "kms": placed(json!({"key": KEY, "encryptionContext": {"cluster": "prod"}})),
        "networkPolicy": {
            "enabled": true, "webhook": {"from": ["10.0.0.0/8"]},
            "metrics": {"namespaceSelector": {"matchLabels": {"a": "b"}}},
            "apiServer": {"cidrs": ["172.20.0.1/32"]}, "aws": {"cidrs": ["10.1.0.0/16"]},
        },
    });
    all.as_object_mut().into_iter().for_each(|all| all.extend(more.as_object().cloned().unwrap_or_default()));
    all["monitoring"]["emfNamespace"] = json!("Coffer");
    all
}

#[tokio::test]
async fn a_release_takes_over_what_kubectl_has_applied_and_leaves_the_classes() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let api = plane.api();
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}})).await?;
    let before = objects(api).await?;
    for manifest in ["webhook/webhook.yaml", "csi/crds", "csi/csidriver.yaml", "csi/driver.yaml"] {
        plane.kubectl(["apply", "--filename", &format!("{DEPLOY}/{manifest}")]).await?;
    }
    // What the webhook would have put there.
    let secret = format!("/api/v1/namespaces/{SYSTEM}/secrets/coffer-injector-tls");
    api.patch(&secret, &json!({"data": {"tls.key": "aGVsbG8="}})).await?;
    let configuration = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/coffer-injector";
    let mut webhooks = api.get(configuration).await?["webhooks"].clone();
    for webhook in webhooks.as_array_mut().into_iter().flatten() {
        webhook["clientConfig"]["caBundle"] = json!("aGVsbG8=");
    }
    api.patch(configuration, &json!({"webhooks": webhooks})).await?;
    let driver = "/apis/apps/v1/namespaces/kube-system/daemonsets/coffer-csi";
    let uid = api.get(driver).await?["metadata"]["uid"].clone();

    // Each part in the namespace in which it is, as the chart's guide has it.
    let over = ["--take-ownership", "--server-side=false"];
    let half = |off: &str, tag: &str| json!({off: {"enabled": false}, "image": {"tag": tag}});
    apply(&plane, "install", &half("csi", "0.1.1"), &over).await?;
    let file = plane.folder().join("csi.json");
    std::fs::write(&file, half("webhook", "0.1.1").to_string())?;
    let second = ["install", "coffer-csi", CHART, "--namespace", "kube-system", "--values", &file.to_string_lossy()];
    plane.helm(second.iter().chain(&over)).await?;
    ensure!(api.get(&secret).await?["data"]["tls.key"] == "aGVsbG8=", "the certificate is gone");
    for webhook in api.get(configuration).await?["webhooks"].as_array().context("no webhooks")? {
        ensure!(webhook["clientConfig"]["caBundle"] == "aGVsbG8=", "the authority is gone: {webhook}");
    }
    let now = api.get(driver).await?;
    ensure!(now["metadata"]["uid"] == uid, "the driver was made anew");
    ensure!(now["spec"]["template"]["spec"]["containers"][0]["image"] == "coffer-injector:0.1.1", "{now}");

    // From then on it is a release as any other: what was `kubectl apply`'s is changed by an upgrade that says nothing of it.
    let mut changed = half("csi", "0.1.2");
    changed["webhook"]["timeoutSeconds"] = json!(7);
    apply(&plane, "upgrade", &changed, &[]).await?;
    let webhooks = api.get(configuration).await?["webhooks"].clone();
    for webhook in webhooks.as_array().context("no webhooks")? {
        ensure!(webhook["timeoutSeconds"] == 7, "not upgraded: {webhook}");
        ensure!(webhook["clientConfig"]["caBundle"] == "aGVsbG8=", "the authority is gone: {webhook}");
    }
    ensure!(api.get(&secret).await?["data"]["tls.key"] == "aGVsbG8=", "the certificate is gone");
    std::fs::write(&file, half("webhook", "0.1.2").to_string())?;
    let second = ["upgrade", "coffer-csi", CHART, "--namespace", "kube-system", "--values", &file.to_string_lossy()];
    plane.helm(second).await?;
    let now = api.get(driver).await?;
    ensure!(now["spec"]["template"]["spec"]["containers"][0]["image"] == "coffer-injector:0.1.2", "{now}");

    // A part is in a cluster once.
    let third = ["install", "another", CHART, "--namespace", "shop"];
    let said = format!("{:#}", plane.helm(third).await.err().context("a second release of the same was taken")?);
    ensure!(said.contains("coffer-csi") && said.contains("exists and cannot be imported"), "{said}");

    uninstall(&plane).await?;
    plane.helm(["uninstall", "coffer-csi", "--namespace", "kube-system", "--wait"]).await?;
    let definitions = ["secretproviderclasses", "secretproviderclasspodstatuses"]
        .map(|name| format!("customresourcedefinitions.apiextensions.k8s.io /{name}.secrets-store.csi.x-k8s.io"));
    // The API server makes the first for the definitions' group, and `kubectl apply` has made the namespace.
    // Beside them is a role of the manifest that the chart has with `syncSecrets` only.
    let others = [
        "apiservices.apiregistration.k8s.io /v1.secrets-store.csi.x-k8s.io",
        "namespaces /coffer-system",
        "clusterroles.rbac.authorization.k8s.io /coffer-csi-sync-secrets",
    ];
    let kept: BTreeSet<_> = others.map(str::to_owned).into_iter().chain(definitions).collect();
    let left = added(api, &before).await?;
    ensure!(left == kept, "it leaves {left:?}");

    // Those of the chart outlive it too, with the classes, and do not stand in its way when it comes again.
    let class = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": {"name": "app"},
        "spec": {"provider": "aws", "parameters": {"objects": ""}},
    });
    let classes = "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/shop/secretproviderclasses";
    api.create(classes, &class).await?;
    apply(&plane, "install", &json!({"crds": {"install": true}}), &over).await?;
    uninstall(&plane).await?;
    api.get(&format!("{classes}/app")).await?;
    apply(&plane, "install", &json!({"crds": {"install": true}}), &[]).await?;
    uninstall(&plane).await?;
    let left = added(api, &before).await?;
    ensure!(kept.is_subset(&left), "what is left is {left:?}");
    Ok(())
}

#[tokio::test]
async fn definitions_stay_without_the_labels_of_the_release_too() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let api = plane.api();
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": SYSTEM}})).await?;
    let mut values = nothing();
    values["crds"] = json!({"install": true});
    values["releaseLabels"] = json!(false);
    apply(&plane, "install", &values, &[]).await?;
    uninstall(&plane).await?;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    api.get(&format!("{definitions}/secretproviderclasses.secrets-store.csi.x-k8s.io")).await.map(drop)
}

#[tokio::test]
async fn a_certificate_of_cert_managers_is_left_as_the_guide_says() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let api = plane.api();
    know(api, "cert-manager.io", "v1", &[("Issuer", "issuers"), ("Certificate", "certificates")]).await?;
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": SYSTEM}})).await?;
    let own = only("webhook", json!({}));
    let managed = only("webhook", json!({"certManager": {"enabled": true}}));
    let secrets = format!("/api/v1/namespaces/{SYSTEM}/secrets");
    let secret = format!("{secrets}/coffer-injector-tls");
    // There is no cert-manager here: its Secret is made as it makes it.
    let theirs = json!({
        "metadata": {
            "name": "coffer-injector-tls",
            "labels": {"controller.cert-manager.io/fao": "true"},
            "annotations": {"cert-manager.io/certificate-name": "coffer-injector"},
        },
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": "aGVsbG8=", "tls.key": "aGVsbG8=", "ca.crt": "aGVsbG8="},
    });
    let refused = async |command: &str| {
        let said = format!("{:#}", apply(&plane, command, &own, &[]).await.err().context("their Secret was taken")?);
        ensure!(said.contains("coffer-injector-tls") && said.contains("invalid ownership metadata"), "{said}");
        anyhow::Ok(())
    };

    // To it: the empty Secret goes with the release's own certificates.
    apply(&plane, "install", &own, &[]).await?;
    apply(&plane, "upgrade", &managed, &[]).await?;
    ensure!(api.get(&secret).await.is_err(), "the release still has a Secret");
    api.create(&secrets, &theirs).await?;
    // An upgrade that changes nothing leaves theirs.
    apply(&plane, "upgrade", &managed, &[]).await?;
    ensure!(api.get(&secret).await?["data"]["tls.key"] == "aGVsbG8=", "their key is gone");

    // Back: Certificate and Secret first.
    refused("upgrade").await?;
    let gone = ["delete", "--namespace", SYSTEM, "certificate/coffer-injector", "secret/coffer-injector-tls"];
    plane.kubectl(gone).await?;
    apply(&plane, "upgrade", &own, &[]).await?;
    ensure!(api.get(&secret).await?["data"].is_null(), "not the release's own");

    // And what an uninstall leaves there, a new release meets.
    apply(&plane, "upgrade", &managed, &[]).await?;
    api.create(&secrets, &theirs).await?;
    uninstall(&plane).await?;
    refused("install").await?;
    api.delete(&secret).await?;
    apply(&plane, "install", &own, &[]).await?;
    uninstall(&plane).await.map(drop)
}

#[tokio::test]
async fn a_mistake_in_the_values_is_named_and_changes_nothing() -> Result<()> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let before = objects(plane.api()).await?;
    let cases: [(Value, &[&str]); 7] = [
        (json!({"webhok": {"enabled": false}}), &["webhok"]),
        (json!({"webhook": {"replica": 3}}), &["webhook", "replica"]),
        (json!({"csi": {"resources": {"requests": {}}, "tolerance": []}}), &["csi", "tolerance"]),
        (json!({"webhook": {"replicas": "two"}}), &["webhook", "replicas", "integer"]),
        (json!({"image": {"tag": "latest"}}), &["image.tag", "latest", "version"]),
        (json!({"notifier": {"enabled": true}}), &["notifier.queue", "QueueUrl"]),
        (json!({"kms": {"enabled": true}}), &["kms.key", "ARN"]),
    ];
    for (values, words) in cases {
        let flags = ["--create-namespace"];
        let refused = apply(&plane, "install", &values, &flags).await;
        let said = format!("{:#}", refused.err().with_context(|| format!("{values} was taken"))?);
        ensure!(words.iter().all(|word| said.contains(word)), "{values}: {said}");
    }
    // Where the kinds of the Prometheus Operator are missing, it is them that the message names.
    for (switch, kind) in [("podMonitors", "PodMonitor"), ("rules", "PrometheusRule")] {
        let refused =
            apply(&plane, "install", &json!({"monitoring": {switch: {"enabled": true}}}), &["--create-namespace"])
                .await;
        let said = format!("{:#}", refused.err().with_context(|| format!("{switch} was taken"))?);
        ensure!(said.contains(kind) && said.contains("CRDs"), "{switch}: {said}");
    }
    let releases = plane.helm(["list", "--all-namespaces", "--output=json"]).await?;
    ensure!(releases.trim() == "[]", "{RELEASE} is there: {releases}");
    let mut left = added(plane.api(), &before).await?;
    // `--create-namespace` comes before all else.
    left.remove(&format!("namespaces /{SYSTEM}"));
    ensure!(left.is_empty(), "it leaves {left:?}");
    Ok(())
}
