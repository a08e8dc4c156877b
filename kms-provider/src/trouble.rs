//! One classification of what goes wrong, for everyone who is told: the API server, health, metrics,
//! the caches.

use std::fmt;

use coffer_runtime::aws::{AwsError, Class};
use tonic::Code;

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// KMS throttles.
    Throttled,
    /// Too many requests here: KMS was not asked.
    Busy,
    /// KMS or the way to it is broken.
    Unreachable,
    /// No answer before the caller's deadline.
    TimedOut,
    /// The key is disabled, pending deletion, gone, or not of a kind that encrypts.
    KeyUnusable,
    /// IAM or the key policy says no.
    Denied,
    /// There are no credentials, or AWS does not accept them.
    Credentials,
    /// The ciphertext is not one, was made with another encryption context, or under another key.
    BadCiphertext,
    /// The request can never work as it is.
    BadRequest,
}

impl Kind {
    /// Of what AWS answered.
    ///
    /// The codes are those of the "Errors" sections of Encrypt, Decrypt and `DescribeKey` in the
    /// AWS KMS API Reference.
    #[must_use]
    pub fn of_aws(error: &AwsError) -> Self {
        match error.code.as_str() {
            "DisabledException"
            | "KMSInvalidStateException"
            | "KMSInvalidState"
            | "NotFoundException"
            | "InvalidKeyUsageException"
            | "InvalidArnException" => return Self::KeyUnusable,
            "InvalidCiphertextException" | "IncorrectKeyException" => return Self::BadCiphertext,
            "Timeout" => return Self::TimedOut,
            _ => {}
        }
        match error.class {
            Class::Throttled => Self::Throttled,
            Class::Transient => Self::Unreachable,
            Class::CredentialsRejected | Class::NoCredentials => Self::Credentials,
            Class::Denied => Self::Denied,
            Class::NotFound => Self::KeyUnusable,
            Class::Invalid => Self::BadRequest,
        }
    }

    /// Whether KMS has said no to the use of the key, so that what it allowed before may not be used
    /// any longer either.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::KeyUnusable | Self::Denied)
    }

    /// Whether it says nothing about the key: KMS was not heard.
    #[must_use]
    pub fn is_outage(self) -> bool {
        matches!(self, Self::Throttled | Self::Busy | Self::Unreachable | Self::TimedOut | Self::Credentials)
    }

    /// The label in our metrics and logs, and the first word of a health text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Busy => "busy",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::KeyUnusable => "key_unusable",
            Self::Denied => "denied",
            Self::Credentials => "credentials",
            Self::BadCiphertext => "bad_ciphertext",
            Self::BadRequest => "bad_request",
        }
    }

    /// The label `status` of the AWS Encryption Provider's metrics (its `pkg/plugin/metrics.go`).
    #[must_use]
    pub fn aep_status(self) -> &'static str {
        match self {
            Self::Throttled | Self::Busy => "failure-throttle",
            Self::BadCiphertext => "failure-corruption",
            _ => "failure",
        }
    }

    /// The gRPC code: an API server only counts by it (`kms_operations_latency_seconds`).
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Throttled | Self::Busy => Code::ResourceExhausted,
            Self::Unreachable => Code::Unavailable,
            Self::TimedOut => Code::DeadlineExceeded,
            Self::KeyUnusable => Code::FailedPrecondition,
            Self::Denied => Code::PermissionDenied,
            Self::Credentials => Code::Unauthenticated,
            Self::BadCiphertext | Self::BadRequest => Code::InvalidArgument,
        }
    }
}

/// A request that failed: what it means, and one line for people, without any plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What it means.
    pub kind: Kind,
    /// What happened, and the fix where there is one.
    pub text: String,
}

impl Trouble {
    /// One of our own.
    #[must_use]
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl From<AwsError> for Trouble {
    fn from(error: AwsError) -> Self {
        let kind = Kind::of_aws(&error);
        let text = match kind {
            Kind::Throttled | Kind::Busy => format!("KMS throttles: {error}"),
            Kind::Unreachable => format!("KMS cannot be reached: {error}"),
            Kind::TimedOut => format!("KMS does not answer in time: {error}"),
            Kind::KeyUnusable => format!("KMS cannot use the key: {error}; {}", fix(&error.code)),
            Kind::Denied => format!("KMS refuses: {error}; allow it in IAM and in the key's policy"),
            Kind::Credentials => format!("no credentials that AWS accepts: {error}"),
            Kind::BadCiphertext => format!(
                "not a ciphertext of this key and encryption context: {error}; look at --encryption-context and --decrypt-key"
            ),
            Kind::BadRequest => format!("KMS does not take the request: {error}"),
        };
        Self { kind, text }
    }
}

/// What to do about a key of which KMS says that.
fn fix(code: &str) -> &'static str {
    match code {
        "DisabledException" => "enable it",
        "KMSInvalidStateException" | "KMSInvalidState" => {
            "cancel its deletion, or import its material again: `aws kms describe-key` shows its state"
        }
        "InvalidKeyUsageException" => "it takes a symmetric key for encryption",
        _ => "look at its name, account and region",
    }
}

impl From<&Trouble> for tonic::Status {
    fn from(trouble: &Trouble) -> Self {
        Self::new(trouble.kind.code(), trouble.text.clone())
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Trouble {}
