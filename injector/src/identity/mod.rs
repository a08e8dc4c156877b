//! Who asks AWS: a pod's service account, by IRSA or by EKS Pod Identity.
//!
//! The kubelet gives a token along with each volume ([`Tokens`]). It stands for a namespace, a service
//! account and the kind of identity ([`Key`]), and what is fetched under one such key is never seen
//! under another: each has credentials, stores and answers of its own ([`Registry`]).

mod registry;
mod session;
mod token;

use std::fmt;

pub use coffer_runtime::aws::{AddressType, AgentUrl, AgentUrlError};

pub use self::registry::Registry;
pub use self::session::session_name;
pub use self::token::{TOKENS_KEY, Token, TokenError, Tokens};

/// An identity: what its pods fetch is shared, and nothing beyond it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace of the pods.
    pub namespace: String,
    /// Their service account.
    pub service_account: String,
    /// How it becomes an identity of AWS.
    pub kind: Kind,
}

/// How a service account becomes an identity of AWS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// By its token, at STS: IAM roles for service accounts.
    WebIdentity {
        /// The role to assume.
        role_arn: String,
    },
    /// By its token, at the EKS Pod Identity agent of the node.
    PodIdentity {
        /// Which of the agent's addresses to ask.
        address: AddressType,
    },
}

impl Key {
    /// The identity as errors and logs name it: the role's ARN, or `pod identity of
    /// NAMESPACE/SERVICEACCOUNT`, of which the role is not known.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.kind {
            Kind::WebIdentity { role_arn } => role_arn.clone(),
            Kind::PodIdentity { .. } => format!("pod identity of {}/{}", self.namespace, self.service_account),
        }
    }

    /// The `sub` of its tokens (Kubernetes, "Managing Service Accounts").
    fn subject(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }
}

impl Kind {
    /// Whom the token has to be for.
    #[must_use]
    pub fn audience(&self) -> &'static str {
        match self {
            Self::WebIdentity { .. } => "sts.amazonaws.com",
            Self::PodIdentity { .. } => "pods.eks.amazonaws.com",
        }
    }

    /// The call that the token is for, as policies name it.
    fn action(&self) -> &'static str {
        match self {
            Self::WebIdentity { .. } => "sts:AssumeRoleWithWebIdentity",
            Self::PodIdentity { .. } => "eks-auth:AssumeRoleForPodIdentity",
        }
    }
}

impl fmt::Display for Key {
    /// `NAMESPACE/SERVICEACCOUNT as ROLE`, or the label.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::WebIdentity { role_arn } => write!(f, "{}/{} as {role_arn}", self.namespace, self.service_account),
            Kind::PodIdentity { .. } => f.write_str(&self.label()),
        }
    }
}
