//! One classification of what AWS answers, for everything that decides whether to retry, to warn
//! or to give up.

use std::error::Error;
use std::fmt;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_types::request_id::RequestId;

/// Longest part of an AWS message that is kept, in characters: enough for the longest denial with
/// two ARNs, and a bound on what a strange endpoint can put into a log.
const MESSAGE_MAX: usize = 600;

/// What a failed call means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Too many calls; come back later and slower. AWS sends most of these as HTTP 400.
    Throttled,
    /// The service or the network failed; the same call may work soon.
    Transient,
    /// The credentials are expired or not accepted; new ones may be.
    CredentialsRejected,
    /// Nothing in this environment gives credentials, or what should give them failed for good.
    NoCredentials,
    /// Not allowed. May still change by itself: IAM is eventually consistent.
    Denied,
    /// The secret, parameter or version is not there (any more, or yet).
    NotFound,
    /// The request can never work as it is.
    Invalid,
}

impl Class {
    /// The label in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::CredentialsRejected => "credentials_rejected",
            Self::NoCredentials => "no_credentials",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Invalid => "invalid",
        }
    }

    /// The class of an AWS error code; `status` is the HTTP status, for codes unknown to us.
    ///
    /// The throttling codes are those of the SDK (`aws_runtime::retries::classifiers`); the others
    /// are from the "Errors" sections of the Secrets Manager, Systems Manager, STS and KMS API
    /// references and from "Common Errors".
    #[must_use]
    pub fn of_code(code: &str, status: u16) -> Self {
        match code {
            "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottledException"
            | "RequestThrottled"
            | "TooManyRequestsException"
            | "ProvisionedThroughputExceededException"
            | "TransactionInProgressException"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "LimitExceededException"
            | "SlowDown"
            | "PriorRequestNotComplete"
            | "EC2ThrottledException" => Self::Throttled,

            "ExpiredToken"
            | "ExpiredTokenException"
            | "UnrecognizedClient"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "RequestExpired"
            | "RequestTimeTooSkewed"
            | "IncompleteSignature" => Self::CredentialsRejected,

            "AccessDenied"
            | "AccessDeniedException"
            | "NotAuthorized"
            | "UnauthorizedOperation"
            | "OptInRequired"
            | "InvalidIdentityToken"
            | "IDPRejectedClaim"
            | "RegionDisabledException"
            | "KMSAccessDeniedException" => Self::Denied,

            "ResourceNotFoundException"
            | "ParameterNotFound"
            | "ParameterVersionNotFound"
            | "ParameterVersionLabelNotFound" => Self::NotFound,

            "InternalServiceError"
            | "InternalServiceErrorException"
            | "InternalServerError"
            | "InternalFailure"
            | "ServiceUnavailable"
            | "ServiceUnavailableException"
            | "RequestTimeout"
            | "RequestTimeoutException"
            | "IDPCommunicationError" => Self::Transient,

            _ if status == 429 => Self::Throttled,
            _ if status >= 500 || status == 408 => Self::Transient,
            _ => Self::Invalid,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A call to AWS that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsError {
    /// The IAM action, as policies name it: `secretsmanager:GetSecretValue`.
    pub action: &'static str,
    /// What it means for the caller.
    pub class: Class,
    /// AWS's own code, or ours for what never got an answer: `Timeout`, `ConnectionFailed`,
    /// `UnreadableAnswer`.
    pub code: String,
    /// AWS's message, cut to a bounded length and to one line.
    pub message: String,
    /// To give to AWS support; absent when no answer came.
    pub request_id: Option<String>,
}

impl AwsError {
    /// An error that AWS reported by code, or that never reached AWS.
    #[must_use]
    pub fn new(action: &'static str, class: Class, code: impl Into<String>, message: &str) -> Self {
        Self { action, class, code: code.into(), message: one_line(message), request_id: None }
    }

    /// Reads the SDK's error.
    pub fn from_sdk<E>(action: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let (class, code, message) = match error {
            SdkError::TimeoutError(_) => (Class::Transient, "Timeout".to_owned(), "no answer in time".to_owned()),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                (Class::Transient, "Timeout".to_owned(), root_cause(error))
            }
            SdkError::DispatchFailure(_) => (Class::Transient, "ConnectionFailed".to_owned(), root_cause(error)),
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                match service.err().code() {
                    Some(code) => (
                        Class::of_code(code, status),
                        code.to_owned(),
                        service.err().message().unwrap_or("no message").to_owned(),
                    ),
                    None => without_code(status),
                }
            }
            // The cause may quote the answer, and the answer may hold a value: it is left out.
            SdkError::ResponseError(response) => without_code(response.raw().status().as_u16()),
            _ => (Class::Invalid, "RequestNotSent".to_owned(), root_cause(error)),
        };
        Self { action, class, code, message: one_line(&message), request_id: error.request_id().map(str::to_owned) }
    }
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.action, self.code, self.message)?;
        match &self.request_id {
            Some(id) => write!(f, " (request id {id})"),
            None => Ok(()),
        }
    }
}

impl Error for AwsError {}

/// An answer without a code is not AWS's own: a load balancer's while the service behind it is
/// down, or that of something on the way (a proxy, a captive portal), whatever its status says.
pub(super) fn without_code(status: u16) -> (Class, String, String) {
    match Class::of_code("", status) {
        class @ (Class::Transient | Class::Throttled) => {
            (class, format!("HTTP{status}"), "no error code in the answer".to_owned())
        }
        _ => (Class::Transient, "UnreadableAnswer".to_owned(), format!("HTTP status {status}, not an answer of AWS")),
    }
}

/// The innermost cause: what surrounds it are the names of libraries.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn one_line(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_MAX).collect()
}
