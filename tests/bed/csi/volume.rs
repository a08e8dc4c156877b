//! A pod's inline volume, as the kubelet asks a driver for it
//! (k8s.io/kubernetes, `pkg/volume/csi/csi_mounter.go`).

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use coffer_injector::proto::csi::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
    volume_capability::{AccessMode, AccessType, MountVolume},
};
use serde_json::{Map, Value, json};

use crate::{unique_id, unique_name, web_identity_token};

/// The audience of a token for STS.
pub const STS_AUDIENCE: &str = "sts.amazonaws.com";

/// The audience of a token for the agent of EKS Pod Identity.
pub const POD_IDENTITY_AUDIENCE: &str = "pods.eks.amazonaws.com";

/// The key under which the kubelet sends tokens.
pub const TOKENS_KEY: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// `SINGLE_NODE_WRITER`: what the kubelet sends for each inline volume.
const SINGLE_NODE_WRITER: i32 = 1;

/// Where the kubelet sends a pod's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensIn {
    /// In `secrets`: a CSIDriver with `serviceAccountTokenInSecrets`.
    Secrets,
    /// In `volume_context`, as all kubelets before 1.35.
    Context,
    /// Nowhere: a CSIDriver without `tokenRequests`.
    Nowhere,
}

/// An inline volume of a pod.
#[derive(Clone, Debug)]
pub struct PodVolume {
    namespace: String,
    pod: String,
    uid: String,
    service_account: String,
    name: String,
    id: String,
    attributes: BTreeMap<String, String>,
    tokens: BTreeMap<String, String>,
    tokens_in: TokensIn,
    group: Option<String>,
    read_only: bool,
}

impl PodVolume {
    /// A volume of a new pod of that service account, with a token for each of AWS's audiences.
    pub fn new(namespace: &str, service_account: &str) -> Result<Self> {
        let subject = format!("system:serviceaccount:{namespace}:{service_account}");
        let token = |audience: &str| anyhow::Ok((audience.to_owned(), web_identity_token(&subject, audience)?));
        Ok(Self {
            namespace: namespace.to_owned(),
            pod: unique_name(service_account),
            uid: unique_id(),
            service_account: service_account.to_owned(),
            name: "secrets".to_owned(),
            // A digest of the pod's uid and the volume's name, of which nobody knows more than the length.
            id: format!("csi-{:032x}{:032x}", fastrand::u128(..), fastrand::u128(..)),
            attributes: BTreeMap::new(),
            tokens: [token(STS_AUDIENCE)?, token(POD_IDENTITY_AUDIENCE)?].into(),
            tokens_in: TokensIn::Secrets,
            group: None,
            read_only: true,
        })
    }

    /// Of the pod with that name and uid.
    pub fn of_pod(mut self, name: &str, uid: &str) -> Self {
        (self.pod, self.uid) = (name.to_owned(), uid.to_owned());
        self
    }

    /// Called that in the pod.
    pub fn called(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// With that among its `volumeAttributes`.
    pub fn attribute(mut self, name: &str, value: impl Into<String>) -> Self {
        self.attributes.insert(name.to_owned(), value.into());
        self
    }

    /// Without an attribute.
    pub fn without_attribute(mut self, name: &str) -> Self {
        self.attributes.remove(name);
        self
    }

    /// For a pod with that `fsGroup`.
    pub fn group(mut self, group: u32) -> Self {
        self.group = Some(group.to_string());
        self
    }

    /// Not mounted `readOnly`.
    pub fn writable(mut self) -> Self {
        self.read_only = false;
        self
    }

    /// With its tokens there.
    pub fn tokens_in(mut self, place: TokensIn) -> Self {
        self.tokens_in = place;
        self
    }

    /// With that token for an audience.
    pub fn token(mut self, audience: &str, token: &str) -> Self {
        self.tokens.insert(audience.to_owned(), token.to_owned());
        self
    }

    /// Without a token for an audience.
    pub fn without_token(mut self, audience: &str) -> Self {
        self.tokens.remove(audience);
        self
    }

    /// With new tokens, as the kubelet gets them before the old ones end.
    pub fn with_fresh_tokens(mut self) -> Result<Self> {
        let subject = format!("system:serviceaccount:{}:{}", self.namespace, self.service_account);
        for (audience, token) in &mut self.tokens {
            *token = web_identity_token(&subject, audience)?;
        }
        Ok(self)
    }

    /// The token for an audience; empty if there is none.
    pub fn token_for(&self, audience: &str) -> &str {
        self.tokens.get(audience).map_or("", String::as_str)
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod's name.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The volume's name in the pod.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id that the kubelet makes for it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The request that a kubelet makes for it, at that place.
    pub fn publish_request(&self, target: &Path) -> NodePublishVolumeRequest {
        let mut context: BTreeMap<String, String> = self.attributes.clone();
        for (key, value) in [
            ("pod.name", &*self.pod),
            ("pod.namespace", &self.namespace),
            ("pod.uid", &self.uid),
            ("serviceAccount.name", &self.service_account),
            ("ephemeral", "true"),
        ] {
            context.insert(format!("csi.storage.k8s.io/{key}"), value.to_owned());
        }
        let mut secrets = BTreeMap::new();
        match self.tokens_in {
            TokensIn::Secrets => drop(secrets.insert(TOKENS_KEY.to_owned(), self.tokens_json())),
            TokensIn::Context => drop(context.insert(TOKENS_KEY.to_owned(), self.tokens_json())),
            TokensIn::Nowhere => {}
        }
        let mount =
            MountVolume { volume_mount_group: self.group.clone().unwrap_or_default(), ..MountVolume::default() };
        NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            target_path: target.display().to_string(),
            volume_capability: Some(VolumeCapability {
                access_mode: Some(AccessMode { mode: SINGLE_NODE_WRITER }),
                access_type: Some(AccessType::Mount(mount)),
            }),
            readonly: self.read_only,
            secrets: secrets.into_iter().collect(),
            volume_context: context.into_iter().collect(),
            ..NodePublishVolumeRequest::default()
        }
    }

    /// The request that a kubelet makes when the pod goes.
    pub fn unpublish_request(&self, target: &Path) -> NodeUnpublishVolumeRequest {
        NodeUnpublishVolumeRequest { volume_id: self.id.clone(), target_path: target.display().to_string() }
    }

    fn tokens_json(&self) -> String {
        let tokens = self.tokens.iter().map(|(audience, token)| {
            (audience.clone(), json!({"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}))
        });
        Value::Object(tokens.collect::<Map<_, _>>()).to_string()
    }
}
