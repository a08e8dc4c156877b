//! The services that the kubelet calls: CSI's Identity and Node.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_runtime::VERSION;
use tonic::{Request, Response, Status};

use super::volumes::Published;
use super::{Asked, Driver};
use crate::deadline::time_limit;
use crate::form::{Ask, pod_of};
use crate::plan::Passed;
use crate::proto::csi::identity_server::Identity;
use crate::proto::csi::node_server::Node;
use crate::proto::csi::node_service_capability::rpc::Type as Capability;
use crate::proto::csi::node_service_capability::{Rpc, Type};
use crate::proto::csi::volume_capability::AccessType;
use crate::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, ProbeRequest, ProbeResponse, VolumeCapability,
};
use crate::refusal::Refusal;

/// The driver, as the kubelet talks to it.
#[derive(Clone)]
pub(super) struct Services(pub(super) Arc<Driver>);

#[tonic::async_trait]
impl Identity for Services {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        let name = self.0.name().to_owned();
        Ok(Response::new(GetPluginInfoResponse { name, vendor_version: VERSION.to_owned() }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse {}))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

#[tonic::async_trait]
impl Node for Services {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let started = Instant::now();
        let limit = time_limit(request.metadata());
        let result = self.publish(request.into_inner(), limit).await;
        self.0.metrics().published(result.as_ref(), started.elapsed());
        match result {
            Ok(_) => Ok(Response::new(NodePublishVolumeResponse {})),
            Err(refusal) => {
                tracing::warn!(code = ?refusal.code, "not mounted: {}", refusal.text);
                Err(refusal.into())
            }
        }
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let result = self.unpublish(&request).await;
        self.0.metrics().unpublished(result.as_ref().err());
        match result {
            Ok(()) => Ok(Response::new(NodeUnpublishVolumeResponse {})),
            Err(refusal) => {
                tracing::error!(code = ?refusal.code, "not unmounted: {}", refusal.text);
                Err(refusal.into())
            }
        }
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        // With it the kubelet tells the pod's fsGroup, and leaves the files' owners to us: also those of
        // files that come later.
        let rpc = Rpc { r#type: Capability::VolumeMountGroup.into() };
        let capabilities = vec![NodeServiceCapability { r#type: Some(Type::Rpc(rpc)) }];
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        let node_id = self.0.node().to_owned();
        Ok(Response::new(NodeGetInfoResponse { node_id, max_volumes_per_node: 0 }))
    }
}

impl Services {
    async fn publish(&self, request: NodePublishVolumeRequest, limit: Option<Duration>) -> Result<Published, Refusal> {
        let target = volume_path(&request.volume_id, &request.target_path)?;
        if request.volume_capability.is_none() {
            return Err(Refusal::invalid("the request says not how the volume is used (`volume_capability`)"));
        }
        let pod = pod_of(&request.volume_context)?;
        let asked = mount_group(request.volume_capability.as_ref()).and_then(|group| {
            let Ask { form, .. } = Ask::read(&request.volume_context)?;
            Ok(Asked { form, group })
        });
        let passed = Passed { secrets: &request.secrets, context: &request.volume_context, first: true };
        self.0.publish(&target, pod, asked, passed, limit).await
    }

    async fn unpublish(&self, request: &NodeUnpublishVolumeRequest) -> Result<(), Refusal> {
        let target = volume_path(&request.volume_id, &request.target_path)?;
        self.0.unpublish(&target).await
    }
}

/// What every call for a volume has to name: the volume, and where it is.
fn volume_path(volume: &str, target: &str) -> Result<PathBuf, Refusal> {
    if volume.is_empty() {
        return Err(Refusal::invalid("the request names no volume (`volume_id`)"));
    }
    if target.is_empty() {
        return Err(Refusal::invalid("the request names no path (`target_path`)"));
    }
    let path = Path::new(target);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) || path.file_name().is_none() {
        let shown = target.escape_debug();
        return Err(Refusal::invalid(format!(
            "`target_path` is `{shown}`, and has to be an absolute path without `..`"
        )));
    }
    Ok(path.components().collect())
}

/// The group that the kubelet wants files to belong to: the pod's fsGroup.
fn mount_group(capability: Option<&VolumeCapability>) -> Result<Option<u32>, Refusal> {
    let Some(capability) = capability else {
        return Err(Refusal::invalid("the request says not how the volume is used (`volume_capability`)"));
    };
    match &capability.access_type {
        Some(AccessType::Mount(mount)) if mount.volume_mount_group.is_empty() => Ok(None),
        Some(AccessType::Mount(mount)) => {
            // The highest value means "unchanged" to chown(2).
            let group = mount.volume_mount_group.parse().ok().filter(|group| *group != u32::MAX);
            let why = || Refusal::invalid(format!("`{}` is no id of a group", mount.volume_mount_group.escape_debug()));
            group.map(Some).ok_or_else(why)
        }
        Some(AccessType::Block(_)) => Err(Refusal::invalid("a volume of files cannot be used as a block device")),
        None => Err(Refusal::invalid("the request says not how the volume is used (`access_type`)")),
    }
}

#[cfg(test)]
mod tests {

    use tonic::Code;

    use super::*;
    use crate::proto::csi::volume_capability::{BlockVolume, MountVolume};

    #[test]
    fn a_path_is_absolute_and_plain() {
        assert_eq!(volume_path("v", "/pods/a/mount/").unwrap(), Path::new("/pods/a/mount"));
        for bad in ["", "pods/a", "/", "/pods/../etc", "/.."] {
            assert_eq!(volume_path("v", bad).unwrap_err().code, Code::InvalidArgument, "{bad}");
        }
        assert_eq!(volume_path("", "/a").unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn a_group_is_a_number() {
        let of = |access_type| mount_group(Some(&VolumeCapability { access_type, access_mode: None }));
        let mount = |group: &str| {
            Some(AccessType::Mount(MountVolume { volume_mount_group: group.to_owned(), ..MountVolume::default() }))
        };
        assert_eq!(of(mount("")), Ok(None));
        assert_eq!(of(mount("2000")), Ok(Some(2000)));
        for bad in [mount("app"), mount("-1"), mount("4294967295"), Some(AccessType::Block(BlockVolume {})), None] {
            assert!(of(bad).is_err());
        }
        assert!(mount_group(None).is_err());
    }
}
