//! The kubelet of a node.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::component::Component;
use super::credentials::Credentials;
use super::room::Room;
use crate::{eventually, http_get};

/// Where it listens, at the address of its node: for the API server, and for who asks how it is.
const PORT: u16 = 10250;
const HEALTH_PORT: u16 = 10248;

/// Where it is on every node, and so in manifests: in the node's room only.
pub(super) const FOLDER: &str = "/var/lib/kubelet";

/// A start takes a few seconds.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Where it finds the pods that no API server has told it of.
pub(super) fn static_pods(room: &Room) -> PathBuf {
    room.folder().join("static-pods")
}

/// How a node's kubelet is started, again and again.
#[derive(Debug)]
pub(super) struct Kubelet {
    program: PathBuf,
    flags: Vec<String>,
    address: Ipv4Addr,
    /// None while it is stopped.
    running: Option<Component>,
}

impl Kubelet {
    /// The kubelet of the node of that name, which is not started yet.
    pub(super) fn plan(
        program: &Path,
        room: &Room,
        credentials: &Credentials,
        node: &str,
        address: Ipv4Addr,
        endpoint: &str,
        sync_frequency: Duration,
    ) -> Result<Self> {
        let folder = room.folder();
        let config = folder.join("kubelet.json");
        let kubeconfig = folder.join("kubelet.kubeconfig");
        let resolver = folder.join("resolv.conf");
        fs::write(&resolver, "")?;
        let static_pods = static_pods(room);
        fs::create_dir(&static_pods)?;
        fs::write(&kubeconfig, credentials.kubeconfig_of_node(node)?)?;
        let text = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "port": PORT,
            "healthzBindAddress": address,
            "healthzPort": HEALTH_PORT,
            // Whom the API server's authority vouches for may do all: that is the API server.
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": false},
                "x509": {"clientCAFile": credentials.ca_file()},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": endpoint,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", room.name()),
            "failCgroupV1": false,
            "failSwapOn": false,
            "syncFrequency": format!("{}ms", sync_frequency.as_millis()),
            "resolvConf": resolver,
            "staticPodPath": static_pods,
            "volumePluginDir": folder.join("volume-plugins"),
            // The machine's rules are not the node's to change.
            "makeIPTablesUtilChains": false,
            // However full the machine is: nothing is evicted, no image goes.
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        });
        fs::write(&config, text.to_string())?;
        let flags = vec![
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--root-dir={FOLDER}"),
            format!("--cert-dir={}", folder.join("kubelet-certificates").display()),
            format!("--hostname-override={node}"),
            // The node's address is what its object says, and may then be one of loopback.
            "--cloud-provider=external".to_owned(),
        ];
        Ok(Self { program: program.to_owned(), flags, address, running: None })
    }

    /// Starts it and waits until it is well.
    pub(super) async fn start(&mut self, room: &Room) -> Result<()> {
        let plan = Component::plan_on_node(room, &self.program, "kubelet").programs(room.programs());
        let kubelet = self.running.insert(plan.args(&self.flags).start()?);
        let url = format!("http://{}:{HEALTH_PORT}/healthz", self.address);
        let ready = eventually(READY_WITHIN, async || {
            if let Some(ended) = kubelet.ended()? {
                return Ok(Err(ended));
            }
            let (status, text) = http_get(&url).await?;
            ensure!(status == 200, "{url} answers {status}: {text}");
            Ok(Ok(()))
        });
        match ready.await {
            Ok(ready) => ready,
            Err(error) => Err(error.context(kubelet.last_words())),
        }
    }

    /// Ends it as a crash would: its pods go on.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut kubelet = self.running.take().context("the kubelet does not run")?;
        kubelet.kill()
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        self.running.as_ref().map(Component::last_words).unwrap_or_default()
    }
}
