//! A real API server asks the webhook.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::{ControlPlane, ControlPlaneOptions, eventually, unique_name};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::fixture::{SOON, Webhook, pod};

const RESULTS: [&str; 7] = ["injected", "complete", "untouched", "misdirected", "denied", "unavailable", "invalid"];
const ROLE: &str = "arn:aws:iam::123456789012:role/app";

/// A namespace whose pods are reviewed by a webhook of its own.
struct Shop {
    plane: &'static ControlPlane,
    namespace: String,
    webhook: Webhook,
}

impl Shop {
    async fn open(args: &[&str]) -> Result<Self> {
        let plane = plane().await?;
        let namespace = namespace_with(plane, "app").await?;
        let kubeconfig = format!("--kubeconfig={}", plane.kubeconfig().display());
        let webhook = Webhook::with(&[&[kubeconfig.as_str()], args].concat()).await?;
        let shop = Self { plane, namespace, webhook };
        shop.register(&shop.webhook.certificate.ca_bundle()).await?;
        shop.is_known().await?;
        Ok(shop)
    }

    /// As deploy/ has it, but for the address, and for this namespace only. The second asks about the same pods.
    async fn register(&self, ca_bundle: &str) -> Result<()> {
        let of = |name: &str, path: &str| {
            json!({
                "name": name,
                "clientConfig": {
                    "url": format!("https://{}{path}", self.webhook.address),
                    "caBundle": ca_bundle,
                },
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"],
                    "scope": "Namespaced"}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
                "matchConditions": [{"name": "annotated", "expression":
                    "has(object.metadata.annotations) && object.metadata.annotations.exists(name, name.startsWith('coffer.dev/'))"}],
                "reinvocationPolicy": "IfNeeded",
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "timeoutSeconds": 5,
                "admissionReviewVersions": ["v1"],
            })
        };
        let configuration = json!({
            "metadata": {"name": self.namespace},
            "webhooks": [of("inject.coffer.dev", "/mutate"), of("required.coffer.dev", "/mutate/required")],
        });
        let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
        self.plane.api().create(path, &configuration).await?;
        Ok(())
    }

    /// The API server takes a moment to know it.
    async fn is_known(&self) -> Result<()> {
        let known = eventually(SOON, async || {
            let pod = self.create(&pod(&[("inject", "true"), ("file.a", "secretsmanager:a")]), "?dryRun=All").await?;
            ensure!(is_ours(&pod), "the pod is not changed: {pod}");
            Ok(())
        });
        known.await.with_context(|| self.webhook.process.stderr())
    }

    async fn create(&self, pod: &Value, query: &str) -> Result<Value> {
        let mut pod = pod.clone();
        pod["metadata"]["namespace"] = json!(self.namespace);
        self.plane.api().create(&format!("/api/v1/namespaces/{}/pods{query}", self.namespace), &pod).await
    }

    async fn reviews(&self) -> Result<f64> {
        let mut sum = 0.0;
        for result in RESULTS {
            sum += self.webhook.admissions(result).await?;
        }
        Ok(sum)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_changed_that_ask_for_it_and_others_are_never_sent() -> Result<()> {
    let shop = Shop::open(&[]).await?;
    let before = shop.reviews().await?;
    let mut plain = pod(&[]);
    for _ in 0..5 {
        let made = shop.create(&plain, "").await?;
        ensure!(!is_ours(&made), "{made}");
        plain["metadata"]["annotations"]["example.com/coffer.dev"] = json!("x");
    }
    plain["metadata"].as_object_mut().context("metadata")?.remove("annotations");
    shop.create(&plain, "").await?;
    ensure!(shop.reviews().await? == before, "pods without an annotation of ours were sent");

    let made = shop.create(&pod(&[("inject", "true"), ("file.db", "secretsmanager:db")]), "").await?;
    let inits = made["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
    ensure!(is_ours(&made) && inits.len() == 1 && inits[0]["restartPolicy"] == "Always", "{made}");
    let name = made["metadata"]["name"].as_str().unwrap_or_default();
    ensure!(name.starts_with("app-7d4b9-"), "{name}");
    // The second webhook of the configuration saw it as well, and had nothing to do.
    ensure!(shop.webhook.admissions("complete").await? >= 1.0);
    ensure!(shop.webhook.admissions("misdirected").await? + shop.webhook.admissions("invalid").await? == 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_certificate_is_known_before_it_is_ready() -> Result<()> {
    let plane = plane().await?;
    let namespace = namespace_with(plane, "app").await?;
    let kubeconfig = format!("--kubeconfig={}", plane.kubeconfig().display());
    let webhook = Webhook::with_its_own(&namespace, &[&kubeconfig, "--shutdown-delay=0s"])?;
    let why = webhook.readiness(503).await?;
    ensure!(!why.trim().is_empty());
    let shop = Shop { plane, namespace, webhook };
    shop.register("").await?;
    shop.webhook.readiness(200).await?;
    shop.is_known().await?;
    let ends = shop.webhook.metric("coffer_webhook_certificate_expiry_timestamp_seconds", &[]).await?;
    ensure!(ends > 1.7e9, "it ends at {ends}");
    ensure!(shop.webhook.metric("coffer_webhook_certificate_ready", &[]).await? == 1.0);
    ensure!(shop.webhook.metric("coffer_webhook_certificate_renewal_ok", &[]).await? == 1.0);
    let status = shop.webhook.process.stop().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_reaches_the_user_whole() -> Result<()> {
    let shop = Shop::open(&[]).await?;
    let mut wrong = pod(&[("inject", "true"), ("modus", "init"), ("containers", "ap"), ("file.db", "secretsmanager:")]);
    wrong["metadata"] =
        json!({"name": "app", "namespace": shop.namespace, "annotations": wrong["metadata"]["annotations"]});
    let file = shop.webhook.certificate.folder().join("pod.json");
    std::fs::write(&file, wrong.to_string())?;
    let Err(error) = shop.plane.kubectl(["create", "-f", &file.display().to_string()]).await else {
        anyhow::bail!("it is admitted")
    };
    let text = format!("{error:#}");
    let wanted =
        ["admission webhook \"inject.coffer.dev\" denied the request", "coffer.dev/modus: ", "coffer.dev/file.db: "];
    for wanted in wanted {
        ensure!(text.contains(wanted), "no {wanted} in {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_is_the_one_that_the_service_account_names() -> Result<()> {
    let shop = Shop::open(&[]).await?;
    let path = format!("/api/v1/namespaces/{}/serviceaccounts", shop.namespace);
    let account = json!({"metadata": {"name": "reader", "annotations": {"eks.amazonaws.com/role-arn": ROLE}}});
    shop.plane.api().create(&path, &account).await?;
    let mut with_role = pod(&[("inject", "true"), ("file.db", "secretsmanager:db")]);
    with_role["spec"]["serviceAccountName"] = json!("reader");
    let made = shop.create(&with_role, "").await?;
    ensure!(made["spec"]["initContainers"][0].to_string().contains(ROLE), "{made}");
    ensure!(!made["spec"]["containers"].to_string().contains(ROLE), "{made}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_read_it_the_role_is_left_out_with_a_warning() -> Result<()> {
    let plane = plane().await?;
    let namespace = namespace_with(plane, "webhook").await?;
    let token = plane.kubectl(["create", "token", "webhook", "-n", &namespace]).await?.trim().to_owned();
    let folder = tempfile::tempdir()?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": plane.api().url(),
            "certificate-authority": plane.folder().join("ca.crt"),
        }}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    });
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, config.to_string())?;
    let webhook = Webhook::with(&[&format!("--kubeconfig={}", path.display())]).await?;
    let client = webhook.client().await?;
    let answer = client.review(&pod(&[("inject", "true"), ("file.db", "secretsmanager:db")])).await?;
    let response = answer.response()?;
    let warnings = response["warnings"].to_string();
    ensure!(response["allowed"] == true && answer.patch()?.is_some(), "{response}");
    ensure!(
        warnings.contains("coffer: the role of service account app is not known: the webhook may not read it"),
        "{warnings}"
    );
    let log = webhook.process.stderr();
    ensure!(log.contains("resources: [serviceaccounts], verbs: [get]"), "the log does not tell the fix: {log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_go_on_being_created_while_the_api_server_starts_again() -> Result<()> {
    // One of its own: it is restarted.
    let mut plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    let kubeconfig = format!("--kubeconfig={}", plane.kubeconfig().display());
    let webhook = Webhook::with(&[&kubeconfig]).await?;
    let client = webhook.client().await?;
    let asks = pod(&[("inject", "true"), ("file.db", "secretsmanager:db")]);
    ensure!(client.review(&asks).await?.patch()?.is_some());
    plane.restart_api_server().await?;
    // What the API server itself gives it is five seconds.
    let answer = timeout(Duration::from_secs(5), client.review(&asks)).await.context("it takes too long")??;
    ensure!(answer.patch()?.is_some(), "{}", answer.text());
    webhook.readiness(200).await?;
    plane.stop().await
}

/// Whether the webhook has changed it.
fn is_ours(pod: &Value) -> bool {
    pod["metadata"]["annotations"]["coffer.dev/status"].as_str().is_some_and(|status| status.starts_with("injected by"))
}

/// A new namespace with a service account of that name.
async fn namespace_with(plane: &ControlPlane, account: &str) -> Result<String> {
    let namespace = unique_name("webhook");
    plane.api().create("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await?;
    let account = json!({"metadata": {"name": account}});
    plane.api().create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account).await?;
    Ok(namespace)
}

/// One for all tests, each in its own namespace: it ends with the process.
async fn plane() -> Result<&'static ControlPlane> {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    PLANE.get_or_try_init(|| ControlPlane::start(ControlPlaneOptions::default())).await
}
