//! Answers with all that AWS says: GetSecretValue's of a secret, GetParameter's of a parameter.

use std::fmt;
use std::time::SystemTime;

use coffer_runtime::Secret;

use crate::render::Value;

/// A question for all that AWS says of one secret or parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WholeQuery {
    /// GetSecretValue.
    Secret(SecretQuery),
    /// GetParameter.
    Parameter(ParameterQuery),
}

/// Which secret. Where both a version and a stage are given, AWS checks that they agree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretQuery {
    /// Name or ARN, as AWS's `SecretId` takes it.
    pub id: String,
    /// The VersionId.
    pub version_id: Option<String>,
    /// The staging label; without both AWS means `AWSCURRENT`.
    pub version_stage: Option<String>,
}

/// Which parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParameterQuery {
    /// Name or ARN.
    pub name: String,
    /// Version number or label; without it AWS means the newest.
    pub selector: Option<String>,
    /// Whether AWS shall decrypt a SecureString; without it the ciphertext is the value.
    pub decrypt: bool,
}

/// The answer to a [`WholeQuery`], of the same kind.
#[derive(Debug)]
pub enum Whole {
    /// Of a secret.
    Secret(WholeSecret),
    /// Of a parameter.
    Parameter(WholeParameter),
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
    /// AWS's id of the call that brought it.
    pub request_id: Option<String>,
}

/// What GetParameter answered.
#[derive(Debug)]
pub struct WholeParameter {
    /// The ARN.
    pub arn: Option<String>,
    /// `text`, or what AWS checks the value to be.
    pub data_type: Option<String>,
    /// When it was last changed.
    pub last_modified: Option<SystemTime>,
    /// The name.
    pub name: Option<String>,
    /// The version or label that was asked for, with a colon before it.
    pub selector: Option<String>,
    /// What another service says of a parameter that only refers to it.
    pub source_result: Option<String>,
    /// `String`, `StringList` or `SecureString`.
    pub kind: Option<String>,
    /// The value: valid UTF-8.
    pub value: Option<Secret>,
    /// The version number.
    pub version: i64,
    /// AWS's id of the call that brought it.
    pub request_id: Option<String>,
}

impl Whole {
    /// The VersionId, or the version number; and AWS's id of the call.
    pub(crate) fn audited(&self) -> (Option<String>, Option<&str>) {
        match self {
            Self::Secret(secret) => (secret.version_id.clone(), secret.request_id.as_deref()),
            Self::Parameter(parameter) => (Some(parameter.version.to_string()), parameter.request_id.as_deref()),
        }
    }
}

impl fmt::Display for WholeQuery {
    /// Much like a reference, for logs and status; names are shown with what is strange in them escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(SecretQuery { id, version_id, version_stage }) => {
                write!(f, "secretsmanager:{}", id.escape_debug())?;
                let mut lead = '?';
                for (key, value) in [("version", version_id), ("stage", version_stage)] {
                    if let Some(value) = value {
                        write!(f, "{lead}{key}={}", value.escape_debug())?;
                        lead = '&';
                    }
                }
                Ok(())
            }
            Self::Parameter(ParameterQuery { name, selector, .. }) => {
                write!(f, "parameterstore:{}", name.escape_debug())?;
                selector.as_ref().map_or(Ok(()), |selector| write!(f, ":{}", selector.escape_debug()))
            }
        }
    }
}
