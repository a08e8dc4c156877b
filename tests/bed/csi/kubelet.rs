//! The kubelet's folders, and what it asks of a driver.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use coffer_injector::proto::{
    csi::{
        NodeGetInfoRequest, NodeGetInfoResponse, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
        identity_client::IdentityClient, node_client::NodeClient,
    },
    registration::{InfoRequest, PluginInfo, RegistrationStatus, registration_client::RegistrationClient},
};
use serde_json::json;
use tempfile::TempDir;
use tonic::{Request, Status, transport::Channel};

use super::{Mount, MountNamespace, PodVolume};
use crate::SetReader;

/// How long the kubelet waits for a driver's answer (`csiTimeout`).
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a driver's socket may take to accept.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(10);

/// The kubelet's end of one driver. Its folder is the same inside the driver's mount namespace and
/// outside, but what is mounted below it is only inside.
#[derive(Debug)]
pub struct Kubelet {
    driver: String,
    namespace: MountNamespace,
    folder: TempDir,
    patience: Duration,
}

impl Kubelet {
    /// One that knows of a driver by its name.
    pub fn new(driver: &str) -> Result<Self> {
        // Short, for the path of a socket has 107 bytes at most.
        let folder = tempfile::Builder::new().prefix("k-").tempdir_in("/tmp")?;
        for name in ["plugins", "plugins_registry", "pods"] {
            fs::DirBuilder::new().mode(0o750).create(folder.path().join(name))?;
        }
        Ok(Self { driver: driver.to_owned(), namespace: MountNamespace::new()?, folder, patience: PATIENCE })
    }

    /// The value for `--kubelet-dir`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the driver has to be started: for [`Program::under`](crate::Program::under).
    pub fn enter(&self) -> [OsString; 4] {
        self.namespace.enter()
    }

    /// The driver's mount namespace.
    pub fn namespace(&self) -> &MountNamespace {
        &self.namespace
    }

    /// Waits only so long for an answer to a publish or unpublish.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The driver's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("plugins").join(&self.driver).join("csi.sock")
    }

    /// The driver's socket for registration.
    pub fn registration_socket(&self) -> PathBuf {
        self.folder.path().join("plugins_registry").join(format!("{}-reg.sock", self.driver))
    }

    /// The folder of one of a pod's volumes, of which the kubelet makes all but the last.
    pub fn target(&self, volume: &PodVolume) -> PathBuf {
        let pod = self.folder.path().join("pods").join(volume.uid());
        pod.join("volumes/kubernetes.io~csi").join(volume.name()).join("mount")
    }

    /// The same, as it is found from outside the mount namespace.
    pub fn volume(&self, volume: &PodVolume) -> PathBuf {
        self.namespace.outside(&self.target(volume))
    }

    /// Reads sets of a volume's files.
    pub fn reader(&self, volume: &PodVolume) -> SetReader {
        SetReader::new(self.volume(volume))
    }

    /// A file of a volume as text.
    pub fn read(&self, volume: &PodVolume, file: &str) -> Result<String> {
        let path = self.volume(volume).join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// The generation that a volume's `..data` points to.
    pub fn generation(&self, volume: &PodVolume) -> Result<OsString> {
        let link = self.volume(volume).join("..data");
        Ok(fs::read_link(&link).with_context(|| format!("there is no {}", link.display()))?.into())
    }

    /// What is mounted at a volume's folder, the uppermost last.
    pub fn mounts(&self, volume: &PodVolume) -> Result<Vec<Mount>> {
        let target = self.target(volume);
        Ok(self.namespace.mounts()?.into_iter().filter(|mount| mount.point == target).collect())
    }

    /// Everything that is mounted for pods.
    pub fn all_mounts(&self) -> Result<Vec<Mount>> {
        let pods = self.folder.path().join("pods");
        Ok(self.namespace.mounts()?.into_iter().filter(|mount| mount.point.starts_with(&pods)).collect())
    }

    /// Does what the kubelet does before it asks the driver: the folder above a volume's, with a note
    /// in it.
    pub fn prepare(&self, volume: &PodVolume) -> Result<PathBuf> {
        let target = self.target(volume);
        let above = target.parent().context("a target has a folder above")?;
        fs::DirBuilder::new().mode(0o750).recursive(true).create(above)?;
        let note = json!({"driverName": self.driver, "volumeHandle": volume.id(), "volumeLifecycleMode": "Ephemeral"});
        fs::write(above.join("vol_data.json"), note.to_string())?;
        Ok(target)
    }

    /// Has a volume published, or published again, as the kubelet has it at each sync of a pod.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn publish(&self, volume: &PodVolume) -> Result<(), Status> {
        let target = self.prepare(volume).map_err(|error| Status::internal(format!("the test itself: {error:#}")))?;
        self.publish_request(volume.publish_request(&target)).await
    }

    /// Sends any request to publish.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn publish_request(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.node().await?.node_publish_volume(self.timed(request)).await.map(drop)
    }

    /// Has a volume taken away; the folder above it stays.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn unpublish(&self, volume: &PodVolume) -> Result<(), Status> {
        self.unpublish_request(volume.unpublish_request(&self.target(volume))).await
    }

    /// Sends any request to unpublish.
    ///
    /// # Errors
    /// What the driver answers.
    pub async fn unpublish_request(&self, request: NodeUnpublishVolumeRequest) -> Result<(), Status> {
        self.node().await?.node_unpublish_volume(self.timed(request)).await.map(drop)
    }

    /// Checks that nothing is left of a volume.
    pub fn ensure_gone(&self, volume: &PodVolume) -> Result<()> {
        let mounts = self.mounts(volume)?;
        ensure!(mounts.is_empty(), "still mounted: {mounts:?}");
        for path in [self.volume(volume), self.target(volume)] {
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => anyhow::bail!("{} is still there: {found:?}", path.display()),
            }
        }
        Ok(())
    }

    /// Registers the driver as the kubelet's plugin watcher does: asks who it is, then what node this is
    /// at the socket that it names, and tells it the outcome.
    pub async fn register(&self) -> Result<(PluginInfo, NodeGetInfoResponse)> {
        let mut registration = self.registration().await?;
        let info = registration.get_info(InfoRequest {}).await?.into_inner();
        let mut node = NodeClient::new(connect(Path::new(&info.endpoint)).await?);
        let node = node.node_get_info(NodeGetInfoRequest {}).await?.into_inner();
        let status = RegistrationStatus { plugin_registered: true, error: String::new() };
        registration.notify_registration_status(status).await?;
        Ok((info, node))
    }

    /// A client of the registration socket.
    pub async fn registration(&self) -> Result<RegistrationClient<Channel>> {
        Ok(RegistrationClient::new(connect(&self.registration_socket()).await?))
    }

    /// A client of the driver's Identity service.
    pub async fn identity(&self) -> Result<IdentityClient<Channel>> {
        Ok(IdentityClient::new(connect(&self.socket()).await?))
    }

    /// A client of the driver's Node service. Each has a connection of its own, as the kubelet's have.
    ///
    /// # Errors
    /// `Unavailable` if nobody accepts, as the kubelet's own client answers.
    pub async fn node(&self) -> Result<NodeClient<Channel>, Status> {
        let channel = connect(&self.socket()).await.map_err(|error| Status::unavailable(format!("{error:#}")))?;
        Ok(NodeClient::new(channel))
    }

    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.patience);
        request
    }
}

async fn connect(socket: &Path) -> Result<Channel> {
    let address = socket.display().to_string().parse()?;
    Ok(coffer_unix_grpc::connect(&address, ACCEPTED_WITHIN).await?)
}
