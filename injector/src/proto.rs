//! The wire types and services, as generated from `proto/`, which is their documentation.
#![expect(missing_docs, unused_qualifications, reason = "generated")]

/// The Container Storage Interface, as far as a node-only driver speaks it.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// How a plugin makes itself known to the kubelet.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// What the Secrets Store CSI driver asks of its providers.
pub mod provider {
    tonic::include_proto!("v1alpha1");
}
