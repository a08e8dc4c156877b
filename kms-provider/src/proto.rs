//! The wire types and services, as generated from `proto/`, which is their documentation.
#![expect(missing_docs, unused_qualifications, reason = "generated")]

/// KMS API, version 1.
pub mod v1beta1 {
    tonic::include_proto!("v1beta1");
}

/// KMS API, version 2.
pub mod v2 {
    tonic::include_proto!("v2");
}
