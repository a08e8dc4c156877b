//! A secret as GetSecretValue gives it: the value and all that AWS says of it.

use std::time::SystemTime;

use crate::render::Value;

/// A question for a whole secret. Where both a version and a stage are given, AWS checks that they
/// agree.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretQuery {
    /// Name or ARN, as AWS's `SecretId` takes it.
    pub id: String,
    /// The VersionId.
    pub version_id: Option<String>,
    /// The staging label; without both AWS means `AWSCURRENT`.
    pub version_stage: Option<String>,
}

/// What GetSecretValue answered.
#[derive(Debug)]
pub struct WholeSecret {
    /// The ARN.
    pub arn: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The VersionId.
    pub version_id: Option<String>,
    /// The value; a version may have none yet.
    pub value: Option<Value>,
    /// The staging labels of the version.
    pub version_stages: Option<Vec<String>>,
    /// When the version was made.
    pub created: Option<SystemTime>,
}
