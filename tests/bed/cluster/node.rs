//! A node: a real kubelet on a real containerd, which run pods.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::containerd::{self, Containerd};
use super::kubectl::Kubectl;
use super::kubelet::{self, Kubelet};
use super::room::Room;
use super::{Api, ControlPlane, Image, Shipped};
use crate::csi::{Mount, mounts};
use crate::{Proc, Program, eventually, own_address};

/// A start takes ten seconds.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Longest wait for a pod to begin or to be gone.
const POD_WITHIN: Duration = Duration::from_secs(90);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    name: String,
    labels: BTreeMap<String, String>,
    sync_frequency: Duration,
}

/// A running node, at which pods run as on any.
///
/// It runs on this machine, and in a mount namespace and a cgroup of its own, so that all of it ends
/// when it is dropped, or with the test process, however that ends: kubelet, containers, mounts and
/// files. Two do not disturb each other.
///
/// - Each pod has a network with a line to this machine only; the API server and the test bed's other
///   servers listen on loopback, and so a pod that needs one of them is told a [`Forward`](super::Forward) to it, or
///   takes `hostNetwork`. `kubernetes.default.svc` leads nowhere, nor does any other Service; but the API server calls
///   a webhook's Service at the addresses of its pods.
/// - There is one image, [`Node::SHELL`], and those that a test [imports](Self::import_image).
/// - The kubelet's folder is in the node's namespace: a test reads there through [`Self::inside`], and
///   starts what is to mount there by [`Self::program`].
#[derive(Debug)]
pub struct Node {
    // The room goes first, with all that runs in it.
    room: Room,
    kubelet: Kubelet,
    containerd: Containerd,
    name: String,
    address: Ipv4Addr,
    api: Api,
    kubectl: Kubectl,
}

/// An event that tells of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `Normal` or `Warning`.
    pub kind: String,
    /// In one word, such as `FailedMount`.
    pub reason: String,
    /// In a sentence.
    pub message: String,
    /// How often it came.
    pub count: u64,
}

impl NodeOptions {
    /// The node's name, by default `node-1`.
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// A label of the node, such as its `topology.kubernetes.io/region`.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// How often the kubelet looks at each pod anew, and so at the least asks a CSI driver to publish
    /// again: up to half as much longer each time, and by default a minute.
    pub fn sync_frequency(mut self, pause: Duration) -> Self {
        self.sync_frequency = pause;
        self
    }
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { name: "node-1".to_owned(), labels: BTreeMap::new(), sync_frequency: Duration::from_secs(60) }
    }
}

impl Node {
    /// An image with a shell and what else busybox has.
    pub const SHELL: &str = containerd::SHELL;

    /// Starts one and waits until it is ready.
    ///
    /// The control plane wants its controllers: without, no pod has a service account.
    pub async fn start(plane: &ControlPlane, options: NodeOptions) -> Result<Self> {
        let NodeOptions { name, labels, sync_frequency } = options;
        let room = Room::make().await?;
        let containerd = Containerd::start(&room).await?;
        let address = own_address();
        let (program, endpoint) = (&plane.program, containerd.endpoint());
        let kubelet = Kubelet::plan(program, &room, &plane.credentials, &name, address, &endpoint, sync_frequency)?;
        let (api, kubectl) = (plane.api.clone(), plane.kubectl.clone());
        let mut node = Self { room, kubelet, containerd, name, address, api, kubectl };
        let object = json!({
            "metadata": {"name": node.name, "labels": labels},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        });
        node.api.create("/api/v1/nodes", &object).await?;
        let Self { room, kubelet, containerd, .. } = &mut node;
        let (started, imported) =
            tokio::join!(kubelet.start(room), containerd.import_shell(room.programs(), containerd::SHELL));
        started?;
        imported?;
        node.ready().await?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, one of loopback: nobody else listens there. A pod with `hostNetwork` has it too.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where its configuration and its logs are: gone with it.
    pub fn folder(&self) -> &Path {
        self.room.folder()
    }

    /// The kubelet's folder, `/var/lib/kubelet`, as the node's own processes see it: for others there is
    /// nothing, or somebody else's.
    pub fn kubelet_dir(&self) -> PathBuf {
        kubelet::FOLDER.into()
    }

    /// What the kubelet keeps of a pod, by its UID, as the node's own processes see it.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.kubelet_dir().join("pods").join(uid)
    }

    /// Where the kubelet finds static pods, `/etc/kubernetes/manifests` on a node of kubeadm's.
    pub fn static_pods(&self) -> PathBuf {
        kubelet::static_pods(&self.room)
    }

    /// Has the kubelet know a seccomp profile: as `profiles/NAME` in a pod's `localhostProfile`.
    pub fn add_seccomp_profile(&self, name: &str, profile: &str) -> Result<()> {
        let folder = self.inside(&self.kubelet_dir().join("seccomp/profiles"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), profile).with_context(|| format!("cannot write {name}"))
    }

    /// What the runtime was told of a container by the kubelet, as the specification of the Open Container Initiative has
    /// it.
    pub fn container_spec(&self, id: &str) -> Result<Value> {
        let id = id.trim_start_matches("containerd://");
        let path = containerd::bundle(self.room.folder(), id).join("config.json");
        let text = fs::read(self.inside(&path)).with_context(|| format!("container {id} has no bundle"))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// How a path that the node's own processes see is reached from here, through all that is mounted.
    pub fn inside(&self, path: &Path) -> PathBuf {
        self.room.inside(path)
    }

    /// The workspace's program of that name, as a process of the node: it sees what the kubelet sees,
    /// and what it mounts in the kubelet's folder, the kubelet's pods see. It ends with the node.
    pub fn program(&self, name: &str) -> Program {
        Program::new(name).under(self.room.enter())
    }

    /// Kills the kubelet and starts it again.
    pub async fn restart_kubelet(&mut self) -> Result<()> {
        self.stop_kubelet()?;
        self.start_kubelet().await
    }

    /// Kills the kubelet; its pods go on.
    pub fn stop_kubelet(&mut self) -> Result<()> {
        self.kubelet.kill()
    }

    /// Starts the kubelet that was stopped, and waits until it is well.
    pub async fn start_kubelet(&mut self) -> Result<()> {
        self.kubelet.start(&self.room).await
    }

    /// Imports an image, for pods to name; they must not insist on pulling it.
    pub async fn import_image(&self, image: Image) -> Result<()> {
        self.containerd.import(image).await
    }

    /// Imports the image with a shell under another name too, such as `busybox:1.36`.
    pub async fn import_shell_as(&self, name: &str) -> Result<()> {
        self.containerd.import_shell(self.room.programs(), name).await
    }

    /// Imports an image that is shipped, from the archive that its builder made.
    pub async fn import_shipped(&self, image: Shipped) -> Result<()> {
        self.containerd.import_archive(image.name(), image.archive()).await
    }

    /// What is mounted under the kubelet's folder for a pod, by its UID.
    pub fn mounts_of(&self, uid: &str) -> Result<Vec<Mount>> {
        let folder = self.pod_dir(uid);
        let mounts = mounts(&self.room.mountinfo()?)?.into_iter();
        Ok(mounts.filter(|mount| mount.point.starts_with(&folder)).collect())
    }

    /// The processes of the node: its own, and its pods'.
    pub fn processes(&self) -> Result<Vec<Proc>> {
        Ok(self.room.processes()?.into_iter().map(Proc::new).collect())
    }

    /// Runs a command in a container of a pod, through the API server and the kubelet: what it prints.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub async fn exec(&self, namespace: &str, pod: &str, container: &str, argv: &[&str]) -> Result<String> {
        let to = ["exec", "--namespace", namespace, pod, "--container", container, "--"];
        self.kubectl.run(to.iter().chain(argv)).await
    }

    /// What a container of a pod has printed.
    pub async fn logs(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        self.kubectl.run(["logs", "--namespace", namespace, pod, "--container", container]).await
    }

    /// Waits until a pod is in that phase, such as `Running`: the pod.
    ///
    /// # Errors
    /// When it does not come: with the pod's state and its events.
    pub async fn wait_for_pod(&self, namespace: &str, pod: &str, phase: &str) -> Result<Value> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let came = eventually(POD_WITHIN, async || {
            let object = self.api.get(&path).await?;
            ensure!(object["status"]["phase"] == phase, "{pod} is not {phase}: {}", object["status"]);
            Ok(object)
        });
        match came.await {
            Ok(object) => Ok(object),
            Err(error) => Err(error.context(self.said_of(namespace, pod).await)),
        }
    }

    /// Waits until there is no such pod.
    pub async fn wait_for_no_pod(&self, namespace: &str, pod: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let gone = eventually(POD_WITHIN, async || match self.api.get(&path).await {
            Ok(object) => Err(anyhow!("{pod} is still there: {}", object["status"])),
            Err(error) => {
                let refusal = error.downcast_ref::<super::Refusal>();
                if refusal.is_some_and(|refusal| refusal.status == 404) { Ok(()) } else { Err(error) }
            }
        });
        match gone.await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.said_of(namespace, pod).await)),
        }
    }

    /// The events that tell of a pod, oldest first.
    pub async fn events_of(&self, namespace: &str, pod: &str) -> Result<Vec<Event>> {
        let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name%3D{pod}");
        let list = self.api.get(&path).await?;
        let mut found: Vec<_> = list["items"].as_array().into_iter().flatten().collect();
        found.sort_by_key(|event| event["metadata"]["creationTimestamp"].as_str());
        Ok(found.into_iter().map(Event::read).collect())
    }

    async fn ready(&self) -> Result<()> {
        let path = format!("/api/v1/nodes/{}", self.name);
        let ready = eventually(READY_WITHIN, async || {
            let node = self.api.get(&path).await?;
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            let condition = conditions.into_iter().find(|condition| condition["type"] == "Ready");
            ensure!(condition.is_some_and(|condition| condition["status"] == "True"), "not ready: {condition:?}");
            Ok(())
        });
        ready.await.with_context(|| self.kubelet.last_words())?;
        // A controller would do so that does not run here: it would have opinions on nodes.
        self.api.patch(&path, &json!({"spec": {"taints": null}})).await?;
        Ok(())
    }

    /// What is known of a pod that does not do as it should.
    async fn said_of(&self, namespace: &str, pod: &str) -> String {
        let events = match self.events_of(namespace, pod).await {
            Ok(events) => events.iter().map(|event| format!("{event}\n")).collect(),
            Err(error) => format!("(its events cannot be read: {error:#})\n"),
        };
        format!("the events of {pod}:\n{events}{}", self.kubelet.last_words())
    }
}

impl Event {
    fn read(event: &Value) -> Self {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let count = event["count"].as_u64().unwrap_or(1);
        Self { kind: text("type"), reason: text("reason"), message: text("message"), count }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}): {}", self.kind, self.reason, self.count, self.message)
    }
}
