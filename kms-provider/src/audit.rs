//! The audit log: one line for each Encrypt and Decrypt asked of KMS, and who is behind it.

use std::time::Duration;

use crate::Trouble;
use crate::key::KeyName;

/// On whose behalf KMS is called.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What for.
    pub purpose: Purpose,
    /// The API server's own id of its request; v1 has none.
    pub uid: String,
}

/// What a call to KMS is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A request of KMS API v1.
    V1,
    /// A request of KMS API v2.
    V2,
    /// A look at whether the key works.
    Probe,
    /// The local KEK.
    LocalKek,
    /// A command.
    Command,
}

impl Caller {
    /// Nobody but ourselves.
    #[must_use]
    pub fn own(purpose: Purpose) -> Self {
        Self { purpose, uid: String::new() }
    }

    /// Writes the line: what was asked of which key, and how it ended. `outcome` is the ARN of the key
    /// that KMS names, and the request id.
    pub(crate) fn audit(
        &self,
        action: &'static str,
        key: &KeyName,
        region: &str,
        outcome: Result<(Option<&str>, Option<&str>), &Trouble>,
        took: Duration,
    ) {
        let (purpose, uid) = (self.purpose.as_str(), self.uid.as_str());
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok((arn, request_id)) => tracing::info!(
                action,
                key = key.as_str(),
                key_arn = arn.unwrap_or_default(),
                region,
                purpose,
                uid,
                milliseconds,
                aws_request_id = request_id.unwrap_or_default(),
                "kms call"
            ),
            Err(trouble) => tracing::warn!(
                action,
                key = key.as_str(),
                region,
                purpose,
                uid,
                milliseconds,
                class = trouble.kind.as_str(),
                error = trouble.text,
                "kms call failed"
            ),
        }
    }
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Probe => "probe",
            Self::LocalKek => "local-kek",
            Self::Command => "command",
        }
    }
}
