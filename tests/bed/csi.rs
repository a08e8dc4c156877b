//! A kubelet's end of a CSI node driver: its folders, its clients, and the mounts that it sees.
//!
//! The driver runs in a mount namespace of its own ([`MountNamespace`]), so that what it mounts goes
//! with the test, however that ends; the test looks into it through `/proc`. That takes root.

mod agent;
mod kubelet;
mod mounts;
mod namespace;
mod volume;

pub(crate) use self::mounts::parse as mounts;
pub use self::{
    agent::PodIdentityAgent,
    kubelet::Kubelet,
    mounts::Mount,
    namespace::MountNamespace,
    volume::{POD_IDENTITY_AUDIENCE, PodVolume, STS_AUDIENCE, TOKENS_KEY, TokensIn},
};
