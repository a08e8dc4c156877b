//! The webhook's certificates, as a real API server takes them: it calls two replicas by what `caBundle` says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bed::{ControlPlane, unique_id};
use coffer_injector::webhook::certificates::{Certificates, Files, Own};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::fixture::{Line, Namespace, SOON};

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const LEASES: &str = "coordination.k8s.io/v1/leases";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// What a replica runs with: the role of `deploy/webhook/webhook.yaml`, and no more.
async fn rules(plane: &ControlPlane) -> Result<Value> {
    static RULES: OnceCell<Value> = OnceCell::const_new();
    let read = async || {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/webhook/webhook.yaml");
        let read = plane.kubectl(["create", "--dry-run=client", "--output=json", "--filename", file]).await?;
        let objects = serde_json::Deserializer::from_str(&read).into_iter().collect::<Result<Vec<Value>, _>>()?;
        let role = objects.iter().find(|object| object["kind"] == "Role").context("it has no Role")?;
        anyhow::Ok(role["rules"].clone())
    };
    RULES.get_or_try_init(read).await.cloned()
}

/// A namespace with the empty Secret and the Lease of the manifest, and a configuration of its own.
struct Bed {
    test: Namespace,
    configuration: String,
}

/// A replica: a process of its own, as far as a runtime is one.
struct Replica {
    runtime: Option<Runtime>,
    certificates: Certificates,
    /// Where it serves.
    url: String,
    /// How often it was called.
    calls: Arc<AtomicUsize>,
    end: watch::Sender<bool>,
}

impl Bed {
    async fn new() -> Result<Self> {
        let test = Namespace::new().await?;
        test.create("secrets", &json!({"metadata": {"name": "coffer-injector-tls"}})).await?;
        test.create(LEASES, &json!({"metadata": {"name": "coffer-injector"}})).await?;
        let configuration = format!("coffer-injector-{}", unique_id());
        Ok(Self { test, configuration })
    }

    fn own(&self, name: &str, [leaf, authority, overlap]: [u64; 3]) -> Own {
        let own = Own {
            namespace: self.test.name.clone(),
            secret: "coffer-injector-tls".to_owned(),
            lease: "coffer-injector".to_owned(),
            service: "coffer-injector".to_owned(),
            names: vec!["127.0.0.1".to_owned()],
            configuration: self.configuration.clone(),
            identity: name.to_owned(),
            leaf: Duration::from_secs(leaf),
            authority: Duration::from_secs(authority),
            overlap: Duration::from_secs(overlap),
        };
        assert_eq!(own.check(), Ok(()));
        own
    }

    /// A client that may do these things, and to the configuration what the documentation says.
    async fn client(&self, name: &str, rules: &Value) -> Result<Client> {
        let account = self.test.account(name, rules).await?;
        let role = format!("{}-{name}", self.test.name);
        let rule = json!({
            "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
            "resourceNames": [self.configuration], "verbs": ["get", "list", "watch", "patch"],
        });
        let api = self.test.plane.api();
        let object = json!({"metadata": {"name": role}, "rules": [rule]});
        api.create(&format!("{RBAC}/clusterroles"), &object).await?;
        let binding = json!({
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.test.name}],
        });
        api.create(&format!("{RBAC}/clusterrolebindings"), &binding).await?;
        Ok(account.client())
    }

    async fn replica(&self, name: &str, lives: [u64; 3]) -> Result<Replica> {
        let rules = rules(self.test.plane).await?;
        Replica::start(self.own(name, lives), self.client(name, &rules).await?).await
    }

    /// Applies the configuration: for each replica a webhook of ours; one that is called by our Service and for
    /// nothing that there is; and another's.
    async fn apply(&self, replicas: &[&Replica]) -> Result<()> {
        let webhook = |name: &str, client: Value, resource: &str| {
            json!({
                "name": name, "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "failurePolicy": "Fail", "timeoutSeconds": 10,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.test.name}},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource],
                }],
            })
        };
        let service = |name: &str| json!({"service": {"namespace": self.test.name, "name": name, "path": "/mutate"}});
        let mut webhooks = vec![
            webhook("other.example.com", service("other"), "endpoints"),
            webhook("service.coffer.dev", service("coffer-injector"), "endpoints"),
        ];
        for (index, replica) in replicas.iter().enumerate() {
            let name = format!("replica-{index}.coffer.dev");
            webhooks.push(webhook(&name, json!({"url": replica.url}), "configmaps"));
        }
        let object = json!({"metadata": {"name": self.configuration}, "webhooks": webhooks});
        self.test.plane.api().create(CONFIGURATIONS, &object).await?;
        Ok(())
    }

    async fn webhooks(&self) -> Result<Value> {
        let path = format!("{CONFIGURATIONS}/{}", self.configuration);
        Ok(self.test.plane.api().get(&path).await?["webhooks"].clone())
    }

    /// Changes the configuration as `change` says.
    async fn edit(&self, change: impl Fn(&mut Value)) -> Result<()> {
        let path = format!("{CONFIGURATIONS}/{}", self.configuration);
        for _ in 0..20 {
            let mut object = self.test.plane.api().get(&path).await?;
            change(&mut object["webhooks"]);
            if self.test.plane.api().replace(&path, &object).await.is_ok() {
                return Ok(());
            }
        }
        bail!("the configuration changes all the time");
    }

    /// Changes the Secret's data as `change` says.
    async fn edit_secret(&self, change: impl Fn(&mut Value)) -> Result<()> {
        for _ in 0..20 {
            let mut secret = self.test.get("secrets", "coffer-injector-tls").await?;
            change(&mut secret["data"]);
            if self.test.replace("secrets", "coffer-injector-tls", &secret).await.is_ok() {
                return Ok(());
            }
        }
        bail!("the Secret changes all the time");
    }

    /// One admission, which calls every replica of the configuration.
    async fn admit(&self) -> Result<()> {
        let map = json!({"metadata": {"generateName": "call-"}});
        self.test.create("configmaps?dryRun=All", &map).await.map(drop)
    }

    /// What the Secret holds under a key.
    async fn held(&self, key: &str) -> Result<String> {
        let secret = self.test.get("secrets", "coffer-injector-tls").await?;
        let text = secret["data"][key].as_str().unwrap_or_default();
        Ok(String::from_utf8(STANDARD.decode(text)?)?)
    }

    async fn holder(&self) -> Result<String> {
        let lease = self.test.get("coordination.k8s.io/v1/leases", "coffer-injector").await?;
        Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    }
}

impl Replica {
    async fn start(own: Own, client: Client) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("https://{}/mutate", listener.local_addr()?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (end, mut ended) = watch::channel(false);
        let shutdown = async move {
            let _ = ended.wait_for(|ended| *ended).await;
        };
        let entered = runtime.enter();
        let certificates = own.start(client, shutdown)?;
        drop(entered);
        let calls = Arc::new(AtomicUsize::new(0));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Current(certificates.current.clone())));
        runtime.spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&calls)));
        Ok(Self { runtime: Some(runtime), certificates, url, calls, end })
    }

    async fn is_ready(&self) -> Result<()> {
        let mut ready = self.certificates.ready.clone();
        let found = timeout(SOON, ready.wait_for(Result::is_ok)).await.map(drop);
        found.with_context(|| format!("never ready: {:?}", *self.certificates.ready.borrow()))
    }

    /// Waits until it says this of why it is not ready.
    async fn says(&self, words: &[&str]) -> Result<()> {
        says(&self.certificates, words).await
    }

    /// Waits until it says this of what keeps it from renewing; nothing, when nothing does.
    async fn renews(&self, words: &str) -> Result<()> {
        let mut renewal = self.certificates.renewal.clone();
        let is_so = |renewal: &std::result::Result<(), String>| match renewal {
            Ok(()) => words.is_empty(),
            Err(why) => !words.is_empty() && why.contains(words),
        };
        let found = timeout(SOON, renewal.wait_for(is_so)).await.map(drop);
        found.with_context(|| format!("never so: {words:?}; {:?}", *self.certificates.renewal.borrow()))
    }

    /// Ends without giving anything back.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn says(certificates: &Certificates, words: &[&str]) -> Result<()> {
    let mut ready = certificates.ready.clone();
    let says = |ready: &Result<(), String>| {
        ready.as_ref().err().is_some_and(|text| words.iter().all(|words| text.contains(words)))
    };
    let found = timeout(SOON, ready.wait_for(says)).await.map(drop);
    found.with_context(|| format!("never says {words:?} but {:?}", *certificates.ready.borrow()))
}

#[derive(Debug)]
struct Current(watch::Receiver<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.borrow().clone()
    }
}

/// Allows everything, each time over a new connection.
async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, calls: Arc<AtomicUsize>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, calls) = (acceptor.clone(), Arc::clone(&calls));
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let allow = service_fn(|request: Request<Incoming>| {
                let calls = Arc::clone(&calls);
                async move {
                    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
                    calls.fetch_add(1, Ordering::SeqCst);
                    let answer = json!({
                        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                        "response": {"uid": review["request"]["uid"], "allowed": true},
                    });
                    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
                    response.headers_mut().insert("content-type", "application/json".parse()?);
                    anyhow::Ok(response)
                }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.keep_alive(false).serve_connection(TokioIo::new(stream), allow).await?;
            anyhow::Ok(())
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_calls_without_a_failure_through_every_renewal() -> Result<()> {
    let bed = Bed::new().await?;
    let lives = [24, 60, 6];
    let (first, second) = (bed.replica("a", lives).await?, bed.replica("b", lives).await?);
    bed.apply(&[&first, &second]).await?;
    first.is_ready().await?;
    second.is_ready().await?;

    let start = Instant::now();
    let (mut leaves, mut bundles, mut admissions) = (BTreeSet::new(), BTreeSet::new(), 0);
    let (mut handed_over, mut emptied, mut third) = (false, false, None);
    while start.elapsed() < Duration::from_secs(150) {
        bed.admit().await.with_context(|| format!("after {:?}, {admissions} admissions", start.elapsed()))?;
        admissions += 1;
        leaves.insert(bed.held("tls.crt").await?);
        bundles.insert(bed.held("ca.crt").await?);
        // The leader gives its lease back, as at SIGTERM, and serves on.
        if !handed_over && start.elapsed() > Duration::from_secs(45) {
            let leader = if bed.holder().await?.starts_with("a_") { &first } else { &second };
            leader.end.send_replace(true);
            handed_over = true;
        }
        if third.is_none() && start.elapsed() > Duration::from_secs(75) {
            third = Some(bed.replica("c", lives).await?);
        }
        if !emptied && start.elapsed() > Duration::from_secs(105) {
            bed.edit_secret(|data| *data = Value::Null).await?;
            emptied = true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    ensure!(third.is_some_and(|third| third.certificates.current.borrow().is_some()));
    // Two or more rotations of three states each, and what came after the Secret was emptied.
    ensure!(bundles.len() >= 7 && leaves.len() >= 7, "{} bundles, {} leaves", bundles.len(), leaves.len());
    let calls = [&first, &second].map(|replica| replica.calls.load(Ordering::SeqCst));
    ensure!(calls == [admissions, admissions], "{calls:?} calls of {admissions}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_is_put_right_and_what_is_theirs_is_left() -> Result<()> {
    let bed = Bed::new().await?;
    let replica = bed.replica("a", [600, 6000, 2]).await?;
    replica.says(&["does not exist: apply deploy/webhook/webhook.yaml", &bed.configuration]).await?;
    bed.apply(&[&replica]).await?;
    replica.is_ready().await?;
    bed.admit().await?;
    let before = bed.webhooks().await?;
    ensure!(before[0]["clientConfig"]["caBundle"].is_null(), "{before}");
    ensure!(before[1]["clientConfig"]["caBundle"] == before[2]["clientConfig"]["caBundle"], "{before}");

    // The bundles of ours are wiped, another webhook stands first, and the other one has a bundle of its own.
    let foreign = STANDARD.encode(rcgen::generate_simple_self_signed(["x".to_owned()])?.cert.pem());
    bed.edit(|webhooks| {
        let list = webhooks.as_array_mut().unwrap();
        list[0]["clientConfig"]["caBundle"] = json!(foreign);
        list[1]["clientConfig"]["caBundle"] = json!(foreign);
        list[2]["clientConfig"]["caBundle"] = Value::Null;
        let mut another = list[0].clone();
        another["name"] = json!("another.example.com");
        another["clientConfig"]["caBundle"] = Value::Null;
        list.insert(0, another);
    })
    .await?;
    let right = async {
        loop {
            let now = bed.webhooks().await?;
            let of = |index: usize| now[index]["clientConfig"]["caBundle"].clone();
            let ours = &before[1]["clientConfig"]["caBundle"];
            if of(2) == *ours && of(3) == *ours {
                ensure!(of(0).is_null() && of(1) == json!(foreign), "{now}");
                ensure!(now.as_array().is_some_and(|webhooks| webhooks.len() == 4), "{now}");
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, right).await.context("never put right")??;
    replica.is_ready().await?;

    // Garbage, and another's keys: what works goes on, until what is new is known.
    let garbage: fn(&mut Value) = |data| data["ca.crt"] = json!(STANDARD.encode("garbage"));
    let other = Bed::new().await?;
    let others = other.replica("x", [600, 6000, 2]).await?;
    let made = async {
        while other.held("tls.key").await?.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(other.test.get("secrets", "coffer-injector-tls").await?["data"].clone())
    };
    let theirs = timeout(SOON, made).await.context("the other never made any")??;
    drop(others);
    for change in [&garbage as &dyn Fn(&mut Value), &|data| *data = theirs.clone()] {
        let before = bed.held("tls.crt").await?;
        bed.edit_secret(change).await?;
        let start = Instant::now();
        loop {
            bed.admit().await.with_context(|| format!("after {:?}", start.elapsed()))?;
            let (now, bundle) = (bed.held("tls.crt").await?, bed.held("ca.crt").await?);
            if !now.is_empty() && now != before && bundle.matches("BEGIN").count() == 1 {
                break;
            }
            ensure!(start.elapsed() < SOON, "never made anew: {:?}", *replica.certificates.ready.borrow());
            sleep(Duration::from_millis(50)).await;
        }
        replica.is_ready().await?;
    }
    ensure!(bed.webhooks().await?[0]["clientConfig"]["caBundle"].is_null());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_followed_by_another() -> Result<()> {
    let bed = Bed::new().await?;
    let lives = [90, 900, 2];
    let (mut first, mut second) = (bed.replica("a", lives).await?, bed.replica("b", lives).await?);
    // Both begin at the same moment; one CA comes of it.
    bed.apply(&[&first, &second]).await?;
    first.is_ready().await?;
    second.is_ready().await?;
    bed.admit().await?;
    ensure!(bed.held("ca.crt").await?.matches("BEGIN").count() == 1);
    let (killed, left) =
        if bed.holder().await?.starts_with("a_") { (&mut first, &second) } else { (&mut second, &first) };
    killed.kill();
    bed.edit(|webhooks| {
        // Nobody calls the one that is gone.
        let gone = json!(killed.url);
        webhooks.as_array_mut().unwrap().retain(|webhook| webhook["clientConfig"]["url"] != gone);
    })
    .await?;
    let before = bed.held("tls.crt").await?;
    bed.edit_secret(|data| *data = Value::Null).await?;
    let start = Instant::now();
    loop {
        bed.admit().await?;
        let now = bed.held("tls.crt").await?;
        if !now.is_empty() && now != before {
            break;
        }
        ensure!(start.elapsed() < SOON * 2, "never taken over: {:?}", *left.certificates.ready.borrow());
        sleep(Duration::from_millis(100)).await;
    }
    left.is_ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named() -> Result<()> {
    let bed = Bed::new().await?;
    let lives = [600, 6000, 2];
    let none = bed.test.account("none", &json!([])).await?;
    let replica = Replica::start(bed.own("none", lives), none.client()).await?;
    let rule = |group: &str, resource: &str, verb: &str| {
        format!("{{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{verb}]}}")
    };
    let registration = "admissionregistration.k8s.io";
    replica
        .says(&[
            &rule("", "secrets", "list"),
            &rule(registration, "mutatingwebhookconfigurations", "list"),
            &rule("coordination.k8s.io", "leases", "get"),
        ])
        .await?;
    drop(replica);

    let mut some = rules(bed.test.plane).await?;
    some[0]["verbs"] = json!(["get", "list", "watch"]);
    let replica = Replica::start(bed.own("some", lives), bed.client("some", &some).await?).await?;
    replica.says(&["there is no certificate in Secret", &rule("", "secrets", "update")]).await?;
    replica.end.send_replace(true);

    // The Lease is not there, and may not be made.
    bed.test.delete(LEASES, "coffer-injector").await?;
    let replica = bed.replica("unled", lives).await?;
    replica.says(&["there is no certificate in Secret", &rule("coordination.k8s.io", "leases", "create")]).await?;
    drop(replica);
    bed.test.create(LEASES, &json!({"metadata": {"name": "coffer-injector"}})).await?;

    // The Secret is not there, and may not be made.
    bed.test.delete("secrets", "coffer-injector-tls").await?;
    let replica = bed.replica("all", lives).await?;
    replica.says(&["coffer-injector-tls does not exist: apply the empty one", &rule("", "secrets", "create")]).await?;
    bed.test.create("secrets", &json!({"metadata": {"name": "coffer-injector-tls"}})).await?;
    bed.apply(&[&replica]).await?;
    replica.is_ready().await?;
    replica.renews("").await?;
    // Gone again, what is shown is good for long yet; and that it cannot be renewed is known.
    bed.test.delete("secrets", "coffer-injector-tls").await?;
    replica.renews("coffer-injector-tls does not exist").await?;
    ensure!(replica.certificates.ready.borrow().is_ok());
    bed.test.create("secrets", &json!({"metadata": {"name": "coffer-injector-tls"}})).await?;
    replica.renews("").await?;
    // With a Service of another name nothing is ours.
    bed.edit(|webhooks| {
        webhooks.as_array_mut().unwrap().truncate(2);
        webhooks[1]["clientConfig"]["service"]["name"] = json!("elsewhere");
    })
    .await?;
    replica.says(&["none of the webhooks", "service.coffer.dev at Service", "/elsewhere", "`--service`"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_changes_nothing() -> Result<()> {
    let bed = Bed::new().await?;
    let line = Line::start(bed.test.plane).await?;
    let kubernetes = coffer_injector::kubernetes::Kubernetes::connect(Some(line.kubeconfig())).await?;
    let client = kubernetes.context("not connected")?.client();
    line.cut(true);
    let replica = Replica::start(bed.own("a", [600, 6000, 2]), client).await?;
    replica.says(&["there is no certificate yet", "the Kubernetes API does not answer"]).await?;
    line.cut(false);
    bed.apply(&[&replica]).await?;
    replica.is_ready().await?;
    bed.admit().await?;
    line.cut(true);
    bed.edit_secret(|data| *data = Value::Null).await?;
    sleep(Duration::from_secs(3)).await;
    ensure!(replica.certificates.ready.borrow().is_ok());
    replica.renews("the Kubernetes API does not answer").await?;
    bed.admit().await?;
    line.cut(false);
    let start = Instant::now();
    while bed.held("tls.crt").await?.is_empty() {
        bed.admit().await?;
        ensure!(start.elapsed() < SOON * 2, "never made anew");
        sleep(Duration::from_millis(100)).await;
    }
    replica.renews("").await?;
    bed.admit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_shown_as_they_change_and_judged_by_the_bundle() -> Result<()> {
    let bed = Bed::new().await?;
    let folder = TempDir::new()?;
    let at = |name: &str| folder.path().join(name);
    let files =
        Files { certificate: at("tls.crt"), key: at("tls.key"), configuration: Some(bed.configuration.clone()) };
    let certificates = files.start(Some(bed.test.kubernetes.client()))?;
    says(&certificates, &["tls.crt cannot be read"]).await?;
    let make = || rcgen::generate_simple_self_signed([format!("coffer-injector.{}.svc", bed.test.name)]);
    let put = |made: &rcgen::CertifiedKey<rcgen::KeyPair>, key: &rcgen::KeyPair| -> Result<()> {
        std::fs::write(at("tls.crt"), made.cert.pem())?;
        Ok(std::fs::write(at("tls.key"), key.serialize_pem())?)
    };
    let (one, two) = (make()?, make()?);
    put(&one, &one.signing_key)?;
    says(&certificates, &["does not exist: apply deploy/webhook"]).await?;
    bed.apply(&[]).await?;
    says(&certificates, &["webhook service.coffer.dev: its `caBundle` is empty", "cert-manager.io/inject-ca-from"])
        .await?;
    let bundle = |pem: String| {
        move |webhooks: &mut Value| webhooks[1]["clientConfig"]["caBundle"] = json!(STANDARD.encode(&pem))
    };
    bed.edit(bundle(one.cert.pem())).await?;
    let mut ready = certificates.ready.clone();
    timeout(SOON, ready.wait_for(Result::is_ok)).await??;
    let shown = || certificates.current.borrow().as_ref().map(|key| key.cert[0].to_vec());
    ensure!(shown() == Some(one.cert.der().to_vec()));

    // A key that is another's: the last good pair stays.
    put(&two, &one.signing_key)?;
    sleep(Duration::from_secs(1)).await;
    ensure!(shown() == Some(one.cert.der().to_vec()) && certificates.ready.borrow().is_ok());
    put(&two, &two.signing_key)?;
    says(&certificates, &["a CA of that name is trusted there, but it is not the one that signed it"]).await?;
    ensure!(shown() == Some(two.cert.der().to_vec()));
    bed.edit(bundle(two.cert.pem())).await?;
    let mut ready = certificates.ready.clone();
    timeout(SOON, ready.wait_for(Result::is_ok)).await??;
    Ok(())
}
