//! What to do about a call that failed.

use std::error::Error;
use std::fmt;

use tonic::{Code, Status};

use crate::doctor::Finding;
use crate::doctor::config::Stanza;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Status,
    Version,
    Encrypt,
    Decrypt,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A call that failed, and the fix.
pub(super) fn failed(stanza: &Stanza, call: Call, status: &Status) -> Finding {
    let name = &stanza.name;
    // A status with a source never came over the wire.
    if status.source().is_some() {
        let fix = "let this user in with --allow-uid, and see that it is a KMS plugin which listens there: `ss -xlp`";
        return Finding::fail(format!("`{name}`: who listens closed the connection on {call}"), fix);
    }
    let (code, text) = (code_name(status.code()), status.message());
    Finding::fail(format!("`{name}`: {call} failed: {code}: {text}"), fix(stanza, call, status.code(), text))
}

/// The fix for a health that is not `ok`.
pub(super) fn unwell(stanza: &Stanza, healthz: &str) -> String {
    fix(stanza, Call::Status, Code::Unknown, healthz)
}

fn fix(stanza: &Stanza, call: Call, code: Code, text: &str) -> String {
    // Other plugins answer UNKNOWN to everything; then AWS's own word for it is in the text.
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["AccessDenied"]) || code == Code::PermissionDenied {
        let actions = match call {
            Call::Encrypt => "kms:Encrypt",
            Call::Decrypt => "kms:Decrypt",
            Call::Status | Call::Version => "kms:Encrypt and kms:Decrypt",
        };
        return format!("allow {actions} on the key to the role of the plugin, in IAM and in the key's policy");
    }
    if says(&["DisabledException", "KMSInvalidState", "pending deletion"]) {
        return "enable the key, or cancel its deletion: `aws kms describe-key` tells its state".to_owned();
    }
    if says(&["NotFoundException", "InvalidArnException"]) {
        return "look at --key and --region of the plugin: KMS knows no such key there".to_owned();
    }
    if says(&["InvalidCiphertext", "IncorrectKey"]) {
        return "look at --encryption-context, --key and --decrypt-key of the plugin".to_owned();
    }
    if says(&["Throttling", "LimitExceeded", "throttle"]) || code == Code::ResourceExhausted {
        return "wait, then look at the request quota of KMS and at --qps-limit".to_owned();
    }
    if says(&["ExpiredToken", "UnrecognizedClient", "InvalidClientToken", "InvalidSignature", "redential"])
        || code == Code::Unauthenticated
    {
        return "give the plugin credentials that AWS accepts: the role of the instance, a web identity, or --role-arn"
            .to_owned();
    }
    let reach = "see that the plugin reaches KMS: --region, --kms-endpoint, proxy, route";
    if says(&["cannot be reached", "does not answer in time", "ConnectionFailed", "connection refused", "no such host"])
    {
        return reach.to_owned();
    }
    match code {
        Code::Unimplemented => match call {
            Call::Version => "the plugin does not speak KMS v1: write `apiVersion: v2`".to_owned(),
            _ => "the plugin does not speak KMS v2: bring it up to date, or write `apiVersion: v1`".to_owned(),
        },
        Code::FailedPrecondition => {
            "enable the key, or cancel its deletion: `aws kms describe-key` tells its state".to_owned()
        }
        Code::InvalidArgument => "look at --encryption-context, --key and --decrypt-key of the plugin".to_owned(),
        Code::DeadlineExceeded => format!(
            "see that the plugin reaches KMS (--region, --kms-endpoint, proxy, route), or raise the `timeout` of {:?}",
            stanza.timeout
        ),
        Code::Unavailable => reach.to_owned(),
        _ => "look at the log of the plugin".to_owned(),
    }
}

/// As the gRPC documentation writes it, and so every log of an API server.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
