//! What a request is refused with: status and body as AWS's agent gives them.

use std::borrow::Cow;

use axum::http::StatusCode;
use coffer_runtime::aws::Class;
use serde::Serialize;

use crate::source::FetchError;

/// The calls that requests are answered by.
const CALLS: [&str; 2] = ["secretsmanager:GetSecretValue", "ssm:GetParameter"];
/// AWS's word for what is nobody's business; it comes without a message.
const INTERNAL: &str = "InternalFailure";

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

impl Refusal {
    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: text.into() }
    }

    pub(super) fn not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, body: "Not found".to_owned() }
    }

    pub(super) fn bad_token() -> Self {
        Self { status: StatusCode::FORBIDDEN, body: "Bad Token".to_owned() }
    }

    pub(super) fn forwarded() -> Self {
        Self::bad_request("Forwarded")
    }

    pub(super) fn method() -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, body: "Not allowed".to_owned() }
    }

    pub(super) fn too_many() -> Self {
        Self { status: StatusCode::TOO_MANY_REQUESTS, body: "Connection limit exceeded".to_owned() }
    }

    /// AWS did not answer in the time that a request may take.
    pub(super) fn too_late() -> Self {
        Self::coded(StatusCode::GATEWAY_TIMEOUT, "TimeoutError", "Timeout")
    }

    pub(super) fn internal() -> Self {
        Self::coded(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL, "")
    }

    /// There are as many roles and regions in use as may be.
    pub(super) fn too_many_identities(limit: usize, wanted: &str) -> Self {
        let text = format!(
            "The maximum number of assumed roles ({limit}) has been reached. Unable to assume the following role to create a client: {wanted}"
        );
        Self::coded(StatusCode::BAD_REQUEST, "MaxRolesExceeded", &text)
    }

    /// AWS's own refusal, with its code and its words.
    ///
    /// Both services speak AWS JSON 1.1, whose errors of the client are all HTTP 400, throttling
    /// and denials among them.
    pub(super) fn of_aws(error: &FetchError) -> Self {
        let cause = &error.cause;
        let (code, message) = (cause.code.as_str(), cause.message.as_str());
        if !CALLS.contains(&cause.action) {
            // What leads up to the call: credentials, and the role to assume.
            return match (cause.class, code) {
                (Class::Denied, _) => Self::coded(StatusCode::FORBIDDEN, "AccessDeniedException", message),
                (_, "Timeout") => Self::too_late(),
                _ => Self::internal(),
            };
        }
        match (cause.class, code) {
            (_, "Timeout") => Self::too_late(),
            (_, "ConnectionFailed") => Self::coded(StatusCode::BAD_GATEWAY, "ConnectionError", "Read Error"),
            (_, "UnreadableAnswer") => Self::coded(StatusCode::BAD_GATEWAY, "ConnectionError", "Response Error"),
            (_, "RequestNotSent") => Self::internal(),
            // Without a code of AWS's own.
            (_, code) if code.starts_with("HTTP") => Self::internal(),
            (Class::Transient, "ServiceUnavailable" | "ServiceUnavailableException") => {
                Self::coded(StatusCode::SERVICE_UNAVAILABLE, code, message)
            }
            (Class::Transient, "RequestTimeout" | "RequestTimeoutException") => {
                Self::coded(StatusCode::BAD_REQUEST, code, message)
            }
            (Class::Transient, _) => Self::coded(StatusCode::INTERNAL_SERVER_ERROR, code, message),
            _ => Self::coded(StatusCode::BAD_REQUEST, code, message),
        }
    }

    /// An error in the form of AWS JSON 1.1.
    fn coded(status: StatusCode, code: &str, message: &str) -> Self {
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(rename = "__type")]
            code: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            message: Option<&'a str>,
        }
        let document = match message {
            "" => Document { code: INTERNAL, message: None },
            _ if code == INTERNAL => Document { code, message: None },
            message => Document { code, message: Some(message) },
        };
        let body =
            serde_json::to_string(&document).map_or(Cow::Borrowed(r#"{"__type":"InternalFailure"}"#), Cow::Owned);
        Self { status, body: body.into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use coffer_runtime::aws::AwsError;

    use super::*;

    const GET_SECRET: &str = CALLS[0];

    fn answer(action: &'static str, class: Class, code: &str, message: &str) -> (u16, String) {
        let cause = AwsError::new(action, class, code, message);
        let error = FetchError::new(cause, "process", "eu-west-1");
        let refusal = Refusal::of_aws(&error);
        (refusal.status.as_u16(), refusal.body)
    }

    #[test]
    fn aws_own_errors_pass_through_with_code_and_words() {
        for (class, code, status) in [
            (Class::NotFound, "ResourceNotFoundException", 400),
            (Class::Denied, "AccessDeniedException", 400),
            (Class::Throttled, "ThrottlingException", 400),
            (Class::Invalid, "InvalidRequestException", 400),
            (Class::Transient, "InternalServiceError", 500),
            (Class::Transient, "ServiceUnavailableException", 503),
        ] {
            let expected = (status, format!(r#"{{"__type":"{code}","message":"no \"a\""}}"#));
            assert_eq!(answer(GET_SECRET, class, code, "no \"a\""), expected, "{code}");
        }
    }

    #[test]
    fn what_never_was_an_answer_has_the_agents_codes() {
        let internal = (500, r#"{"__type":"InternalFailure"}"#.to_owned());
        for (action, class, code, expected) in [
            (
                GET_SECRET,
                Class::Transient,
                "Timeout",
                (504, r#"{"__type":"TimeoutError","message":"Timeout"}"#.to_owned()),
            ),
            (
                GET_SECRET,
                Class::Transient,
                "ConnectionFailed",
                (502, r#"{"__type":"ConnectionError","message":"Read Error"}"#.to_owned()),
            ),
            (GET_SECRET, Class::Transient, "HTTP502", internal.clone()),
            (
                "sts:AssumeRole",
                Class::Denied,
                "AccessDenied",
                (403, r#"{"__type":"AccessDeniedException","message":"m"}"#.to_owned()),
            ),
            ("credentials", Class::NoCredentials, "NoCredentials", internal),
        ] {
            assert_eq!(answer(action, class, code, "m"), expected, "{code}");
        }
    }
}
