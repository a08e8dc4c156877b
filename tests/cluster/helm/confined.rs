//! Every program in its pod at its work: under the seccomp profile that is shipped for it, with the rights that the chart
//! gives it, and out of the images that are shipped.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bed::{ControlPlaneOptions, NodeOptions, Service, aws, cluster::Image, eventually, free_port, unique_name};
use coffer_injector::proto::provider::{MountRequest, csi_driver_provider_client::CsiDriverProviderClient};
use serde_json::{Value, json};

use super::{SYSTEM, WAIT, apply, becomes, mounting, no_refusals, reach, variables};
use crate::fixture::{Resource, SOON, Version, encryption, ensure_encrypted};
use crate::webhook::{Ground, SYNC, asks_for_password, pod};

const PROFILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/seccomp");

/// Where the KMS plugin and the provider listen, as the node's own processes see it.
const KMS_SOCKET: &str = "/run/kmsplugin/socket.sock";
const PROVIDER_SOCKET: &str = "/run/secrets-store-csi-providers/aws.sock";

/// What is shipped for whom.
const SIDECAR: &str = "coffer.json";
const INJECTOR: &str = "coffer-injector.json";
const KMS: &str = "coffer-kms.json";

const OBJECTS: &str = "- {objectName: prod/db, objectType: secretsmanager}";

/// A container that runs.
struct Container {
    pod: String,
    name: String,
    id: String,
}

/// Those of a namespace, sidecars too.
async fn containers(ground: &Ground, namespace: &str) -> Result<Vec<Container>> {
    let pods = ground.plane.api().get(&format!("/api/v1/namespaces/{namespace}/pods")).await?;
    let mut found = Vec::new();
    for pod in pods["items"].as_array().context("no list")? {
        for kind in ["initContainerStatuses", "containerStatuses"] {
            for status in pod["status"][kind].as_array().into_iter().flatten() {
                if status["state"]["running"].is_null() {
                    continue;
                }
                let text = |field: &Value| field.as_str().map(str::to_owned).context("no name, or no id");
                let (pod, name) = (text(&pod["metadata"]["name"])?, text(&status["name"])?);
                found.push(Container { pod, name, id: text(&status["containerID"])? });
            }
        }
    }
    Ok(found)
}

impl Container {
    /// Checks that it is under a profile: the runtime was given that one, and the kernel filters its calls.
    fn is_under(&self, ground: &Ground, profile: &str) -> Result<()> {
        let told = ground.node.container_spec(&self.id)?["linux"]["seccomp"].clone();
        let shipped: Value = serde_json::from_str(&fs::read_to_string(Path::new(PROFILES).join(profile))?)?;
        ensure!(essence(&told) == essence(&shipped), "{} of {} is told {told}", self.name, self.pod);
        let id = self.id.trim_start_matches("containerd://");
        let mut seen = 0;
        for process in ground.node.processes()? {
            // Of a process that has ended meanwhile there is none.
            let group = fs::read_to_string(format!("/proc/{}/cgroup", process.pid())).unwrap_or_default();
            if !group.contains(id) {
                continue;
            }
            for (name, expected) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
                let found = process.status(name)?;
                ensure!(found == expected, "{name} of {} in {} is {found}", self.name, self.pod);
            }
            seen += 1;
        }
        ensure!(seen > 0, "{} of {} has no process", self.name, self.pod);
        Ok(())
    }
}

/// What of a profile the kernel gets, without what is for readers or says nothing.
fn essence(profile: &Value) -> Value {
    let groups = profile["syscalls"].as_array().into_iter().flatten();
    let groups: Vec<_> = groups
        .map(|group| json!([group["names"], group["action"], group["errnoRet"], group["args"][0]["value"]]))
        .collect();
    json!([profile["defaultAction"], profile["defaultErrnoRet"], profile["architectures"], groups])
}

/// Values with all that runs beside the Secrets Store CSI driver, each under its profile.
async fn values(ground: &Ground, queue: &str, key: &str, health: u16) -> Result<Value> {
    let reach = reach(ground);
    let profile = |name: &str| json!({"type": "Localhost", "localhostProfile": format!("profiles/{name}")});
    let own = |url: &str| variables(ground.aws.environment(url).map(|(name, value)| (name.to_owned(), value)));
    let from_pods = reach.aws["AWS_ENDPOINT_URL"].as_str().context("no endpoint")?;
    let by_notifier = [reach.api.as_slice(), &own(from_pods)].concat();
    Ok(json!({
        "crds": {"install": true},
        "webhook": {
            "injected": {"env": reach.aws, "seccompProfile": format!("profiles/{SIDECAR}")},
            "extraEnv": reach.api,
            "seccompProfile": profile(INJECTOR),
        },
        // It looks for changes by itself long after this test.
        "csi": {"refresh": "1h", "extraEnv": reach.both()},
        "provider": {"enabled": true, "extraEnv": reach.both(), "seccompProfile": profile(INJECTOR)},
        "notifier": {
            "enabled": true,
            "queue": queue,
            "extraEnv": by_notifier,
            "seccompProfile": profile(INJECTOR),
        },
        "kms": {
            "enabled": true,
            "key": key,
            "encryptionContext": {"cluster": "prod"},
            "healthPort": health,
            "extraEnv": own(&ground.proxy.url()),
            "seccompProfile": profile(KMS),
        },
    }))
}

/// Tells the queue that a secret has another value.
async fn tell(ground: &Ground, queue: &str, secret: &str) -> Result<()> {
    let event = json!({
        "version": "0", "id": unique_name("event"), "detail-type": "Secret Label Updated",
        "source": "aws.secretsmanager", "account": ground.aws.account(), "time": "2026-02-06T16:43:48Z",
        "region": aws::REGION, "resources": [], "detail": {"name": secret, "labelUpdated": "AWSCURRENT"},
    });
    ground.aws.send_message(queue, &event.to_string()).await
}

/// Asks the provider for a volume as the Secrets Store CSI driver does: its files.
async fn mount(ground: &Ground, namespace: &str, uid: &str) -> Result<BTreeMap<String, String>> {
    let request = json!({"spec": {"audiences": ["sts.amazonaws.com"]}});
    let token = format!("/api/v1/namespaces/{namespace}/serviceaccounts/api/token");
    let token = ground.plane.api().create(&token, &request).await?["status"].clone();
    let token = json!({"token": token["token"], "expirationTimestamp": token["expirationTimestamp"]});
    let attributes = json!({
        "objects": OBJECTS,
        "csi.storage.k8s.io/pod.name": "app",
        "csi.storage.k8s.io/pod.namespace": namespace,
        "csi.storage.k8s.io/pod.uid": uid,
        "csi.storage.k8s.io/serviceAccount.name": "api",
        "csi.storage.k8s.io/serviceAccount.tokens": json!({"sts.amazonaws.com": token}).to_string(),
    });
    let request = MountRequest {
        attributes: attributes.to_string(),
        secrets: "{}".to_owned(),
        target_path: format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/secrets/mount"),
        permission: "420".to_owned(),
        current_object_version: Vec::new(),
    };
    let socket = ground.node.inside(Path::new(PROVIDER_SOCKET)).display().to_string();
    let channel = coffer_unix_grpc::connect(&socket.parse()?, SOON).await?;
    let answer = CsiDriverProviderClient::new(channel).mount(request).await?.into_inner();
    let files = answer.files.into_iter().map(|file| Ok((file.path, String::from_utf8(file.contents)?)));
    files.collect()
}

/// Brings the two files of the KMS plugin to where the notes of the chart say, and waits until the API server has taken
/// the encryption config over: that config.
async fn bring_kms(ground: &Ground) -> Result<String> {
    let map = format!("/api/v1/namespaces/{SYSTEM}/configmaps/coffer-kms");
    let map = ground.plane.api().get(&map).await?;
    let file = |name: &str| map["data"][name].as_str().with_context(|| format!("no {name}"));
    fs::write(ground.node.static_pods().join("coffer-kms.yaml"), file("coffer-kms.yaml")?)?;
    let name = format!("coffer-kms-{}", ground.node.name());
    let ready = eventually(SOON, async || {
        let pod = ground.plane.api().get(&format!("/api/v1/namespaces/kube-system/pods/{name}")).await?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["ready"] == true, "{}", pod["status"]);
        Ok(())
    });
    if let Err(error) = ready.await {
        let said = ground.plane.kubectl(["logs", "--namespace", "kube-system", &name]).await;
        return Err(error.context(said.unwrap_or_else(|error| format!("{error:#}"))));
    }
    // The API server is no process of the node: it sees the socket by another path.
    let config = file("encryption.yaml")?;
    let written = format!("unix:///var{KMS_SOCKET}");
    ensure!(config.contains(&written), "{config}");
    let seen = ground.node.inside(Path::new(KMS_SOCKET));
    let config = config.replace(&written, &format!("unix://{}", seen.display()));
    ground.plane.set_encryption_text(&config).await?;
    Ok(config)
}

#[tokio::test]
async fn every_program_does_its_work_under_its_profile_and_with_its_rights() -> Result<()> {
    let plane = ControlPlaneOptions::default().controllers().scheduler();
    let plane = plane.encryption(encryption([(Resource::Secret, Vec::new())])).automatic_reload();
    let node = NodeOptions::default().sync_frequency(SYNC).label("topology.kubernetes.io/region", aws::REGION);
    let ground = Ground::on(plane, node).await?;
    ground.node.import_shipped(Image::shipped("coffer-kms")?).await?;
    for profile in [SIDECAR, INJECTOR, KMS] {
        let text = fs::read_to_string(Path::new(PROFILES).join(profile)).with_context(|| profile.to_owned())?;
        ground.node.add_seccomp_profile(profile, &text)?;
    }
    let key = ground.aws.call(Service::Kms, "CreateKey", json!({})).await?;
    let key = key["KeyMetadata"]["Arn"].as_str().context("no ARN")?;
    let queue = ground.aws.create_queue(&unique_name("push")).await?;
    let mut values = values(&ground, &queue, key, free_port()?).await?;
    let flags = ["--create-namespace", WAIT[0], WAIT[1]];
    if let Err(error) = apply(&ground.plane, "install", &values, &flags).await {
        return Err(error.context(ground.said().await));
    }

    let (api, shop) = (ground.plane.api(), ground.required().await?);
    let class = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": {"name": "app"},
        "spec": {"provider": "aws", "parameters": {"objects": OBJECTS}},
    });
    let classes = format!("/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{shop}");
    api.create(&format!("{classes}/secretproviderclasses"), &class).await?;
    let map = json!({
        "metadata": {"name": "files"},
        "data": {"spec.yaml": "- {name: level, from: 'parameterstore:/prod/app/log-level'}"},
    });
    api.create(&format!("/api/v1/namespaces/{shop}/configmaps"), &map).await?;

    let inline = "[{name: password, from: 'secretsmanager:prod/db', select: password}]";
    let by_driver = |attributes: Value| mounting("csi.coffer.dev", &attributes);
    let injected = ground.create(&shop, &pod(&asks_for_password())).await?;
    let mounted = ground.create(&shop, &by_driver(json!({"spec": inline}))).await?;
    let by_map = ground.create(&shop, &by_driver(json!({"configMap": "files"}))).await?;
    let by_class = ground.create(&shop, &by_driver(json!({"secretProviderClass": "app"}))).await?;
    for (pod, file, expected) in
        [(&injected, "password", "one"), (&mounted, "password", "one"), (&by_map, "level", "info")]
    {
        pod.runs().await?;
        ensure!(pod.read(file).await? == expected);
    }
    by_class.runs().await?;
    ensure!(by_class.read("prod_db").await?.contains("one"));
    let status = format!("{classes}/secretproviderclasspodstatuses/{}-{shop}-app", by_class.name);
    eventually(SOON, async || api.get(&status).await).await?;
    let files = mount(&ground, &shop, &by_class.uid).await?;
    ensure!(files["prod_db"].contains("one"), "{:?}", files.keys());

    // The notifier tells the driver, which by itself would not look.
    ground.aws.put_secret_value("prod/db", r#"{"username": "app", "password": "two", "host": "db"}"#).await?;
    tell(&ground, &queue, "prod/db").await?;
    for pod in [&injected, &mounted] {
        becomes(pod, "two").await?;
    }

    // What Kubernetes keeps itself: the plugin that the kubelet runs by itself serves the API server.
    let config = bring_kms(&ground).await?;
    Resource::Secret.create(&ground.plane, "kept").await?;
    ensure_encrypted(&Resource::Secret.stored(&ground.plane, "kept").await?, &Version::V2.prefix("kms-1"))?;
    // With a config of other bytes the API server begins anew, and has to ask for what it had opened.
    ground.plane.set_encryption_text(&format!("# Again.\n{config}")).await?;
    Resource::Secret.read(&ground.plane, "kept").await?;

    let mut confined = BTreeMap::new();
    for namespace in [SYSTEM, &shop, "kube-system"] {
        for container in containers(&ground, namespace).await? {
            let profile = match &*container.name {
                "coffer-injector" | "coffer-provider" | "coffer-notifier" => INJECTOR,
                "coffer-kms" => KMS,
                "coffer" => SIDECAR,
                // A privileged one, and the applications.
                _ => continue,
            };
            container.is_under(&ground, profile)?;
            *confined.entry(container.name).or_insert(0) += 1;
        }
    }
    let all =
        [("coffer", 1), ("coffer-injector", 2), ("coffer-kms", 1), ("coffer-notifier", 2), ("coffer-provider", 1)];
    ensure!(confined.iter().map(|(name, &count)| (&**name, count)).eq(all), "{confined:?}");
    no_refusals(&ground).await?;

    // In the place of the Secrets Store CSI driver, and so without the provider for it.
    values["provider"] = json!({"enabled": false});
    values["takeover"] = json!({"enabled": true, "extraEnv": reach(&ground).both()});
    apply(&ground.plane, "upgrade", &values, &WAIT).await?;
    let taken = mounting("secrets-store.csi.k8s.io", &json!({"secretProviderClass": "app"}));
    let taken = ground.create(&shop, &taken).await?;
    taken.runs().await?;
    ensure!(taken.read("prod_db").await?.contains("two"));
    no_refusals(&ground).await
}
