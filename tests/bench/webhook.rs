//! Prints the webhook's figures: latency, memory and CPU under a steady load of reviews. Run it through
//! `tests/webhook-figures`, in release.
//!
//! The server has one core, and this client another, where there is one. Requests are sent when they are due, whether
//! or not those before are answered, so that a pause of the server is seen in all that fall into it. They go over a pool
//! of connections as the API server keeps one, and some over a new one, as from another API server or after an end; and
//! the Kubernetes API is there, which tells of each service account after two milliseconds. Beside it, in the same run, a
//! server of the same parts that only allows: what is left is what TLS, HTTP and this machine take.

#![allow(clippy::print_stdout, reason = "printing figures is what this program is for")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bed::webhook::{ReviewClient, ServingCertificate, admission_review};
use bed::{Process, Program, eventually, own_address};
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const RATE: u32 = 200;
const SECONDS: u64 = 30;
const WARM_UP: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(20);
const SERVERS_CORE: &str = "0";
/// Every so many reviews one comes over a new connection: four handshakes a second.
const NEW_CONNECTION: usize = 50;
/// Service accounts that pods have in turn. What is known of one is asked for anew after two seconds.
const ACCOUNTS: usize = 200;
const ACCOUNT: &str = "the-service-account";
/// How long the Kubernetes API takes to tell of one.
const LOOKUP: Duration = Duration::from_millis(2);

/// What is aimed at: by the webhook, and not by the server beside it.
const AIM_P99: Duration = Duration::from_millis(10);
const AIM_MIB: f64 = 20.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [what, address, certificate, key] = &args[..]
        && what == "allow"
    {
        return allow(address.parse()?, Path::new(certificate), Path::new(key)).await;
    }
    let seconds = args.first().map_or(Ok(SECONDS), |text| text.parse()).context("takes a number of seconds")?;
    leave_the_servers_core();
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    let kubernetes = TcpListener::bind((own_address(), 0)).await?;
    std::fs::write(&kubeconfig, kubeconfig_for(kubernetes.local_addr()?).to_string())?;
    let lookups = Arc::<AtomicUsize>::default();
    tokio::spawn(serve_accounts(kubernetes, Arc::clone(&lookups)));
    let pods = pods();
    let sizes: Vec<String> = pods.iter().map(|pod| format!("{:.1}", pod.len() as f64 / 1024.0)).collect();
    println!(
        "{RATE} reviews a second for {seconds} s, of {} KiB in turn, of {ACCOUNTS} service accounts, which the API tells \
         after {LOOKUP:?}; one of {NEW_CONNECTION} over a new connection; the server has one core\n",
        sizes.join(", ")
    );
    measure("webhook", "coffer-injector", &pods, seconds, true, |address, certificate| {
        vec![
            "webhook".to_owned(),
            "--image=registry.example/coffer:1".to_owned(),
            "--webhook-configuration=".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--bind={address}"),
            format!("--listen={}:9466", address.ip()),
            format!("--tls-cert-file={}", certificate.certificate().display()),
            format!("--tls-key-file={}", certificate.key().display()),
        ]
    })
    .await?;
    println!("  service accounts read    {}\n", lookups.load(Ordering::Relaxed));
    measure("a server that only allows", "webhook-figures", &pods, seconds, false, |address, certificate| {
        let path = |path: std::path::PathBuf| path.display().to_string();
        vec!["allow".to_owned(), address.to_string(), path(certificate.certificate()), path(certificate.key())]
    })
    .await
}

/// Runs a server under the load and prints what that comes to.
async fn measure(
    name: &str,
    program: &str,
    pods: &[String],
    seconds: u64,
    aims: bool,
    args: impl Fn(SocketAddr, &ServingCertificate) -> Vec<String>,
) -> Result<()> {
    let address = SocketAddr::from((own_address(), 9443));
    let certificate = ServingCertificate::new(address)?;
    let program = Program::new(program).under(["taskset", "-c", SERVERS_CORE]).args(args(address, &certificate));
    let bytes = std::fs::metadata(program.path()?)?.len();
    let server = program.start()?;
    let client = eventually(SOON, async || certificate.client(address).await).await;
    let client = client.with_context(|| server.stderr())?;
    let newcomer = certificate.client(address).await?;
    let clients = [client, newcomer];

    load(&clients, pods, WARM_UP).await?;
    let idle = server.proc().memory()?;
    let (ticks, started) = (server.proc().cpu_ticks()?, Instant::now());
    let Load { mut times, latest } = load(&clients, pods, Duration::from_secs(seconds)).await?;
    let cpu = (server.proc().cpu_ticks()? - ticks) as f64 / started.elapsed().as_secs_f64();
    let after = server.proc().memory()?;
    times.sort();
    let at = |percent: f64| times[((times.len() - 1) as f64 * percent / 100.0).round() as usize].as_secs_f64() * 1e3;
    println!("{name} ({:.1} MB)", bytes as f64 / 1e6);
    let aim = |text: String| if aims { format!("  (aim: under {text})") } else { String::new() };
    let aim_p99 = aim(format!("{:.0} ms for p99", AIM_P99.as_secs_f64() * 1e3));
    println!("  p50, p99, max            {:.2} ms, {:.2} ms, {:.2} ms{aim_p99}", at(50.0), at(99.0), at(100.0));
    println!("  of reviews               {}, sent {:.1} ms late at most", times.len(), latest.as_secs_f64() * 1e3);
    println!("  CPU                      {cpu:.1} % of a core");
    println!("  resident before          {}", resident(idle));
    let aim_mib = aim(format!("{AIM_MIB:.0} MiB"));
    println!("  resident after           {}, {} at most{aim_mib}", resident(after), peak(&server)?);

    let started = Instant::now();
    let all = (0..RATE as usize).map(|number| review(&clients[0], of_account(&pods[number % pods.len()], number)));
    try_join_all(all).await?;
    let kept = clients[0].connections();
    println!(
        "  {RATE} at once             {:.0} ms for all, over {kept} connections",
        started.elapsed().as_secs_f64() * 1e3
    );
    server.kill()
}

struct Load {
    times: Vec<Duration>,
    /// How late a request was sent at most: above some milliseconds it is the client that is too slow.
    latest: Duration,
}

async fn load([client, newcomer]: &[ReviewClient; 2], pods: &[String], time: Duration) -> Result<Load> {
    let period = Duration::from_secs(1) / RATE;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = Vec::new();
    let mut latest = Duration::ZERO;
    for number in 0..time.as_millis() as usize * RATE as usize / 1000 {
        let due = ticks.tick().await;
        latest = latest.max(due.elapsed());
        let new = number % NEW_CONNECTION == 0;
        let client = if new { newcomer.clone() } else { client.clone() };
        if new {
            client.forget_connections();
        }
        let pod = of_account(&pods[number % pods.len()], number);
        under_way.push(tokio::spawn(async move { review(&client, pod).await }));
    }
    let times = try_join_all(under_way).await?.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(Load { times, latest })
}

async fn review(client: &ReviewClient, pod: String) -> Result<Duration> {
    let started = Instant::now();
    let answer = client.post(pod).await?;
    let took = started.elapsed();
    ensure!(answer.status == 200 && answer.response()?["allowed"] == true, "{answer:?}");
    Ok(took)
}

/// The same review, of a pod of another service account.
fn of_account(pod: &str, number: usize) -> String {
    pod.replace(ACCOUNT, &format!("shop-{}", number % ACCOUNTS))
}

/// Reviews of pods as they are: a small one, a usual one with a mesh, a big one, one that is wrapped.
fn pods() -> Vec<String> {
    let container = |name: &str, variables: usize| {
        let env: Vec<Value> = (0..variables)
            .map(|number| json!({"name": format!("SETTING_{number}"), "value": "a value of a common length, 40 bytes"}))
            .collect();
        json!({
            "name": name,
            "image": format!("registry.example/shop/{name}:1.2.3"),
            "command": [format!("/{name}")],
            "env": env,
            "ports": [{"containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "volumeMounts": [{"name": "kube-api-access-x2x4z", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        })
    };
    let pod = |annotations: Value, containers: Vec<Value>, init: Value| {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "generateName": "shop-6d5f7c9b4-",
                "namespace": "shop",
                "labels": {"app": "shop", "pod-template-hash": "6d5f7c9b4"},
                "annotations": annotations,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-6d5f7c9b4",
                    "uid": "0f1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": {
                "serviceAccountName": ACCOUNT,
                "containers": containers,
                "initContainers": init,
                "volumes": [{"name": "kube-api-access-x2x4z", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}],
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
            },
        });
        admission_review(&pod).to_string()
    };
    let files = "- {name: db.json, from: 'secretsmanager:prod/db'}\n\
                 - {name: db-password, from: 'secretsmanager:prod/db', select: password}\n\
                 - {name: log-level, from: 'parameterstore:/prod/shop/log-level'}\n\
                 - {name: tls.pem, from: 'secretsmanager:prod/tls'}\n";
    let mesh = json!([{"name": "istio-proxy", "image": "registry.example/istio:1.30", "restartPolicy": "Always"}]);
    vec![
        pod(
            json!({"coffer.dev/inject": "true", "coffer.dev/file.db": "secretsmanager:prod/db#password"}),
            vec![container("app", 3)],
            json!([]),
        ),
        pod(
            json!({"coffer.dev/inject": "true", "coffer.dev/files": files, "coffer.dev/isolate-identity": "true",
                "coffer.dev/role-arn": "arn:aws:iam::123456789012:role/shop"}),
            vec![container("app", 15), container("metrics", 5)],
            mesh,
        ),
        pod(
            json!({"coffer.dev/inject": "true", "coffer.dev/files": files, "coffer.dev/mode": "init"}),
            (0..6).map(|number| container(&format!("app-{number}"), 60)).collect(),
            json!([]),
        ),
        pod(json!({"coffer.dev/inject": "true", "coffer.dev/mode": "exec"}), vec![container("app", 10)], json!([])),
    ]
}

/// Allows everything, over the same TLS and HTTP.
async fn allow(address: SocketAddr, certificate: &Path, key: &Path) -> Result<()> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(allowed)).await?;
            anyhow::Ok(())
        });
    }
}

async fn allowed(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // Read to its end, and not looked into.
    let _ = request.into_body().collect().await;
    const ALLOWED: &str =
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"allowed":true}}"#;
    Ok(Response::new(Full::from(ALLOWED)))
}

fn kubeconfig_for(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "figures", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "webhook", "user": {"token": "x"}}],
        "contexts": [{"name": "figures", "context": {"cluster": "figures", "user": "webhook"}}],
        "current-context": "figures",
    })
}

/// As much of the Kubernetes API as is asked: its version, and service accounts that have a role.
async fn serve_accounts(listener: TcpListener, lookups: Arc<AtomicUsize>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let lookups = Arc::clone(&lookups);
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let lookups = Arc::clone(&lookups);
                async move { Ok::<_, Infallible>(account(request.uri().path(), &lookups).await) }
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await
        });
    }
}

async fn account(path: &str, lookups: &AtomicUsize) -> Response<Full<Bytes>> {
    let object = if path == "/version" {
        json!({
            "major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        })
    } else {
        lookups.fetch_add(1, Ordering::Relaxed);
        sleep(LOOKUP).await;
        let name = path.rsplit('/').next().unwrap_or_default();
        let annotations = json!({"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/shop"});
        let metadata = json!({"name": name, "namespace": "shop", "annotations": annotations});
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
    };
    let mut response = Response::new(Full::from(object.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn leave_the_servers_core() {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        let mut others = CpuSet::new();
        (1..CpuSet::MAX_CPU.min(64)).for_each(|core| others.set(core));
        // Where it may not, the figures are worse and no less true.
        let _ = sched_setaffinity(None, &others);
    }
}

fn resident(memory: bed::Memory) -> String {
    let mib = |kib: u64| kib as f64 / 1024.0;
    format!("{:.1} MiB, of it {:.1} MiB anonymous", mib(memory.rss_kib), mib(memory.anonymous_kib))
}

/// The most that was ever resident.
fn peak(server: &Process) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    let kib: u64 = peak.context("no VmHWM")?;
    Ok(format!("{:.1} MiB", kib as f64 / 1024.0))
}
