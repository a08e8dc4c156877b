//! AWS's SDK as it comes.

use aws_sdk_kms::Client;
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use bed::aws::REGION;

/// A client of a KMS that verifies no signature.
pub(crate) fn client(endpoint: &str) -> Client {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new("AKIDEXAMPLE", "not-verified", None, None, "figures"))
        .endpoint_url(endpoint)
        .build();
    Client::from_conf(config)
}
