//! containerd, the runtime under a node.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::task::spawn_blocking;

use super::component::Component;
use super::forward::GATEWAY;
use super::image::Image;
use super::room::Room;
use crate::eventually;

/// A start takes half a second.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The image that is always there: a static busybox under each of its names.
pub(super) const SHELL: &str = "coffer.test/shell:1";

/// A running containerd.
#[derive(Debug)]
pub(super) struct Containerd {
    component: Component,
    socket: PathBuf,
    ctr: PathBuf,
    folder: PathBuf,
}

impl Containerd {
    /// Starts one and waits until it can be asked.
    pub(super) async fn start(room: &Room) -> Result<Self> {
        let folder = room.folder();
        let config = folder.join("containerd.toml");
        fs::write(&config, containerd_config(room))?;
        let networks = folder.join("cni");
        fs::create_dir(&networks)?;
        fs::write(networks.join("node.conflist"), network_config(folder)?)?;
        let component = Component::plan_foreign(room, &room.programs().join("containerd"), "containerd")
            .programs(room.programs())
            .args(["--config".as_ref(), config.as_os_str()])
            .start()?;
        let (socket, ctr) = (socket(folder), room.programs().join("ctr"));
        let mut this = Self { component, socket, ctr, folder: folder.to_owned() };
        this.ready().await?;
        Ok(this)
    }

    /// Where it is asked, as the kubelet has it.
    pub(super) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Imports the image that is always there, under its name or another.
    pub(super) async fn import_shell(&self, programs: &Path, name: &str) -> Result<()> {
        let busybox = programs.join("busybox");
        let listed = Command::new(&busybox).arg("--list").output().await.context("cannot run busybox")?;
        // Whoever runs it without a command, as each pod's own pause container, waits.
        let mut image = Image::new(name).program("bin/busybox", &busybox)?.command(["sleep", "2147483647"]);
        for name in String::from_utf8(listed.stdout)?.lines().filter(|name| *name != "busybox") {
            image = image.link(&format!("bin/{name}"), "busybox");
        }
        self.import(image).await
    }

    /// Imports an image, in place of one of that name.
    pub(super) async fn import(&self, image: Image) -> Result<()> {
        let path = tempfile::Builder::new().suffix(".tar").tempfile_in(&self.folder)?.into_temp_path();
        let file = File::create(&path)?;
        let image = spawn_blocking(move || image.write(file).map(|()| image)).await??;
        self.import_archive(image.name(), &path).await
    }

    /// Imports what is in an archive, in place of what has its name.
    pub(super) async fn import_archive(&self, name: &str, path: &Path) -> Result<()> {
        let output = Command::new(&self.ctr)
            .args(["--address".as_ref(), self.socket.as_os_str()])
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(path)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run ctr")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot import {name}: {}", said.trim());
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        let Self { component, socket, .. } = self;
        let ready = eventually(READY_WITHIN, async || {
            if let Some(ended) = component.ended()? {
                return Ok(Err(ended));
            }
            UnixStream::connect(&*socket).await.context("containerd does not listen")?;
            Ok(Ok(()))
        });
        match ready.await {
            Ok(ready) => ready,
            Err(error) => Err(error.context(component.last_words())),
        }
    }
}

/// Where it keeps what runc is given for a container.
pub(super) fn bundle(folder: &Path, id: &str) -> PathBuf {
    folder.join("containerd/state/io.containerd.runtime.v2.task/k8s.io").join(id)
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("containerd.sock")
}

fn containerd_config(room: &Room) -> String {
    let (folder, programs) = (room.folder().display(), room.programs().display());
    // Of the plugins those that need what is not there, and would only say so.
    format!(
        r#"
version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
disabled_plugins = [
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SHELL}"
# To be killed later than others takes a capability that root need not have.
restrict_oom_score_adj = true
# Its profile would go into the kernel, for the whole machine.
disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{programs}"
conf_dir = "{folder}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{programs}/runc"
SystemdCgroup = false
"#,
        socket = socket(room.folder()).display(),
    )
}

/// A pod with a network of its own has a line to this machine, and no further: it is gone with the pod,
/// however that ends, and needs nothing that would be the machine's.
fn network_config(folder: &Path) -> Result<String> {
    let [a, b, c] = free_addresses()?;
    let config = json!({
        "cniVersion": "0.4.0",
        "name": "node",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "dataDir": folder.join("addresses"),
                // One network and one gateway for all nodes, so that what pods are told before they are there holds on each;
                // and of its addresses some that no other node has.
                "ranges": [[{
                    "subnet": "198.18.0.0/15",
                    "gateway": GATEWAY,
                    "rangeStart": Ipv4Addr::new(a, b, c, 1),
                    "rangeEnd": Ipv4Addr::new(a, b, c, 254),
                }]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    Ok(config.to_string())
}

/// The first three bytes of addresses that no route of this machine leads to, of those set aside for tests (RFC 2544).
fn free_addresses() -> Result<[u8; 3]> {
    let routes = fs::read_to_string("/proc/net/route")?;
    // The address as the kernel has it in memory, so that its first byte comes last.
    let taken: Vec<[u8; 4]> = routes
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter_map(|destination| u32::from_str_radix(destination, 16).ok())
        .map(u32::to_ne_bytes)
        .collect();
    let used = |network: &[u8; 3]| taken.iter().any(|destination| destination[..3] == *network);
    let free = |network: &[u8; 3]| !used(network) && GATEWAY.octets()[..3] != *network;
    let random = || [198, fastrand::u8(18..20), fastrand::u8(..)];
    std::iter::repeat_with(random).take(1000).find(free).context("no network of 198.18.0.0/15 is free")
}
