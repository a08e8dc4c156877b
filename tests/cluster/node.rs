//! A node by itself, with no driver: what the tests of the drivers build on.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bed::{
    ControlPlane, ControlPlaneOptions, Node, NodeOptions, Proc, Program,
    cluster::{Forward, Image},
    eventually,
};
use serde_json::{Value, json};

use crate::fixture::SOON;

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

fn with_controllers() -> ControlPlaneOptions {
    ControlPlaneOptions::default().controllers()
}

/// A pod of one container that runs a line of shell.
fn pod(name: &str, node: &Node, script: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node.name(),
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": Node::SHELL, "command": ["sh", "-c", script]}],
        },
    })
}

#[tokio::test]
async fn pods_run_are_looked_into_and_outlive_the_kubelet() -> Result<()> {
    let plane = ControlPlane::start(with_controllers()).await?;
    let mut node =
        Node::start(&plane, NodeOptions::default().label("topology.kubernetes.io/region", "eu-west-1")).await?;
    let pods = "/api/v1/namespaces/default/pods";

    plane.api().create(pods, &pod("once", &node, "echo hello; ip address show eth0")).await?;
    plane.api().create(pods, &pod("stays", &node, "echo yes >/tmp/started; exec sleep 1000")).await?;
    node.wait_for_pod("default", "once", "Succeeded").await?;
    let printed = node.logs("default", "once", "main").await?;
    ensure!(printed.starts_with("hello\n") && printed.contains("inet 198."), "{printed}");

    let running = node.wait_for_pod("default", "stays", "Running").await?;
    ensure!(node.exec("default", "stays", "main", &["cat", "/tmp/started"]).await? == "yes\n");
    let failed = node.exec("default", "stays", "main", &["cat", "/none"]).await.unwrap_err();
    ensure!(format!("{failed:#}").contains("/none"), "{failed:#}");
    // What listens on loopback, such as the kubelet here, a pod reaches by a forward and not by itself.
    let health = SocketAddr::from((node.address(), 10248));
    let forward = Forward::to(&format!("http://{health}/"))?;
    let get = async |to: SocketAddr| {
        let script = format!("printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {} {}", to.ip(), to.port());
        node.exec("default", "stays", "main", &["sh", "-c", &script]).await
    };
    let answer = get(forward.address()).await?;
    ensure!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("ok"), "{answer}");
    ensure!(get(health).await.is_err(), "a pod reaches loopback");
    let events = node.events_of("default", "stays").await?;
    ensure!(events.iter().any(|event| event.reason == "Started"), "{events:?}");

    // The token that a workload identity begins with.
    let token = node.exec("default", "stays", "main", &["cat", TOKEN]).await?;
    let claims = token.split('.').nth(1).context("not a token")?;
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims)?)?;
    ensure!(claims["sub"] == "system:serviceaccount:default:default" && claims["iss"] == plane.issuer(), "{claims}");
    ensure!(plane.jwks().await?["keys"][0]["kty"].is_string());
    let uid = running["metadata"]["uid"].as_str().context("no UID")?;
    let mounts = node.mounts_of(uid)?;
    ensure!(mounts.len() == 1 && mounts[0].kind == "tmpfs", "{mounts:?}");
    ensure!(fs::read_to_string(node.inside(&mounts[0].point).join("token"))? == token);

    node.restart_kubelet().await?;
    // It learns of its pods a moment after it is well.
    let again = eventually(SOON, async || node.exec("default", "stays", "main", &["cat", "/tmp/started"]).await);
    ensure!(again.await? == "yes\n");
    let again = node.wait_for_pod("default", "stays", "Running").await?;
    ensure!(again["status"]["containerStatuses"][0]["restartCount"] == 0, "{}", again["status"]);

    plane.api().delete(&format!("{pods}/stays")).await?;
    node.wait_for_no_pod("default", "stays").await?;
    // The kubelet looks for what is left every two seconds.
    let gone = eventually(SOON, async || {
        ensure!(!node.inside(&node.pod_dir(uid)).exists(), "its folder is still there");
        ensure!(node.mounts_of(uid)?.is_empty(), "something is still mounted there");
        Ok(())
    });
    gone.await
}

#[tokio::test]
async fn a_deployment_and_a_restricted_pod_come_up_by_themselves() -> Result<()> {
    let plane = ControlPlane::start(with_controllers().scheduler()).await?;
    let node = Node::start(&plane, NodeOptions::default()).await?;
    let enforced = json!({"metadata": {
        "name": "strict",
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    plane.api().create("/api/v1/namespaces", &enforced).await?;
    let account = eventually(SOON, async || plane.api().get("/api/v1/namespaces/strict/serviceaccounts/default").await);
    account.await?;

    // A program of this machine with its libraries, and no shell beside it.
    let id = Path::new("/usr/bin/id");
    let image = Image::new("coffer.test/id:1").program("/id", id)?.libraries_of(id)?.command(["/id"]);
    node.import_image(image).await?;
    let mut strict = json!({
        "metadata": {"name": "strict"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "coffer.test/id:1"}],
        },
    });
    let refused = plane.api().create("/api/v1/namespaces/strict/pods", &strict).await.unwrap_err();
    ensure!(format!("{refused:#}").contains("violates PodSecurity"), "{refused:#}");
    strict["spec"]["securityContext"] = json!({
        "runAsNonRoot": true,
        "runAsUser": 1234,
        "fsGroup": 5678,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    strict["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    plane.api().create("/api/v1/namespaces/strict/pods", &strict).await?;

    let deployment = json!({
        "metadata": {"name": "app"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "app"}},
            "template": {
                "metadata": {"labels": {"app": "app"}},
                "spec": {"containers": [{"name": "main", "image": Node::SHELL, "command": ["sleep", "1000"]}]},
            },
        },
    });
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    plane.api().create(deployments, &deployment).await?;
    let available = eventually(SOON, async || {
        let deployment = plane.api().get(&format!("{deployments}/app")).await?;
        ensure!(deployment["status"]["availableReplicas"] == 2, "{}", deployment["status"]);
        Ok(())
    });
    available.await?;

    node.wait_for_pod("strict", "strict", "Succeeded").await?;
    let printed = node.logs("strict", "strict", "main").await?;
    ensure!(printed.contains("uid=1234") && printed.contains("5678"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_of_a_node() -> Result<()> {
    let plane = ControlPlane::start(with_controllers()).await?;
    let [one, two] = ["one", "two"].map(|name| Node::start(&plane, NodeOptions::default().name(name)));
    let (one, two) = tokio::try_join!(one, two)?;
    for node in [&one, &two] {
        plane.api().create("/api/v1/namespaces/default/pods", &pod(node.name(), node, "sleep 1000")).await?;
    }
    let (first, second) =
        (one.wait_for_pod("default", "one", "Running"), two.wait_for_pod("default", "two", "Running"));
    tokio::try_join!(first, second)?;
    let trace = Trace::of(&one)?;
    ensure!(trace.processes.len() > 4, "{trace:?}");
    drop(one);
    trace.ensure_gone()?;
    ensure!(two.exec("default", "two", "main", &["echo", "here"]).await? == "here\n");

    // And the same by a test process that is killed.
    let this = std::env::current_exe()?;
    let args = ["--ignored", "--exact", "node::a_node_that_is_left", "--nocapture"];
    let test = Program::new(&this.to_string_lossy()).args(args).start()?;
    let marked = eventually(SOON * 3, async || {
        let text = test.stdout();
        let (_, rest) = text.split_once("<<").with_context(|| format!("{text}{}", test.stderr()))?;
        Ok(rest.split_once(">>").context("cut short")?.0.to_owned())
    });
    let trace: Trace = serde_json::from_str(&marked.await?)?;
    ensure!(trace.folder.is_dir() && trace.processes.len() > 4, "{trace:?}");
    test.kill()?;
    eventually(SOON, async || trace.ensure_gone()).await
}

#[tokio::test]
#[ignore = "started, and killed, by another test"]
async fn a_node_that_is_left() -> Result<()> {
    let plane = ControlPlane::start(with_controllers()).await?;
    let node = Node::start(&plane, NodeOptions::default()).await?;
    plane.api().create("/api/v1/namespaces/default/pods", &pod("left", &node, "sleep 1000")).await?;
    node.wait_for_pod("default", "left", "Running").await?;
    writeln!(std::io::stdout(), "<<{}>>", serde_json::to_string(&Trace::of(&node)?)?)?;
    tokio::time::sleep(Duration::from_secs(600)).await;
    Ok(())
}

/// What must be gone with a node.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Trace {
    folder: PathBuf,
    /// By number, with the command line.
    processes: Vec<(u32, Vec<String>)>,
}

impl Trace {
    fn of(node: &Node) -> Result<Self> {
        let folder = node.folder().to_owned();
        let processes = node.processes()?;
        let processes = processes.iter().map(|process| Ok((process.pid(), process.cmdline()?)));
        Ok(Self { folder, processes: processes.collect::<Result<_>>()? })
    }

    fn ensure_gone(&self) -> Result<()> {
        let folder = self.folder.display();
        ensure!(!self.folder.exists(), "{folder} is still there");
        ensure!(!fs::read_to_string("/proc/mounts")?.contains(&*folder.to_string()), "something is mounted there");
        for (pid, line) in &self.processes {
            ensure!(Proc::new(*pid).cmdline().ok().as_ref() != Some(line), "{pid} still runs: {line:?}");
        }
        let name = self.folder.file_name().context("no name")?;
        for hierarchy in fs::read_dir("/sys/fs/cgroup")? {
            let group = hierarchy?.path().join(name);
            ensure!(!group.exists(), "{} is still there", group.display());
        }
        Ok(())
    }
}
