//! Answers in AWS's own form: changed ones and made-up ones.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use hyper::{
    HeaderMap, Response, StatusCode,
    body::{Body, Bytes, Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};

use super::Call;
use crate::{
    Service,
    aws::{REGION, xml_text},
    unique_id,
};

const REQUEST_ID: &str = "x-amzn-requestid";
const JSON: &str = "application/x-amz-json-1.1";

/// Marks a `NextToken` as the proxy's own.
const MINTED_TOKEN: &str = "after-an-empty-page-";

/// A whole answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Whether a `NextToken` is one that the proxy has made for an empty page.
pub(super) fn is_minted_token(token: &Value) -> bool {
    token.as_str().is_some_and(|token| token.starts_with(MINTED_TOKEN))
}

/// Answers that the proxy makes up.
impl Reply {
    pub(super) fn throttled(service: Service) -> Self {
        let code = if service == Service::Sts { "Throttling" } else { "ThrottlingException" };
        Self::error(service, 400, code, "Rate exceeded")
    }

    pub(super) fn server_error(service: Service, status: u16) -> Self {
        let internal = match service {
            Service::SecretsManager => "InternalServiceError",
            Service::ParameterStore => "InternalServerError",
            Service::Kms => "KMSInternalException",
            _ => "InternalFailure",
        };
        let unavailable = if service == Service::Sts { "ServiceUnavailable" } else { "ServiceUnavailableException" };
        match status {
            500 => Self::error(service, 500, internal, "An error occurred on the server side."),
            503 => Self::error(service, 503, unavailable, "Service is unable to handle request."),
            _ => {
                let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
                let title = format!("{status} {}", reason.unwrap_or_default());
                let page = format!(
                    "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n\
                     <center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
                );
                Self::made_up(status, "text/html", page)
            }
        }
    }

    pub(super) fn access_denied(call: &Call) -> Self {
        let action = format!("{}:{}", call.service.signing_name(), call.operation);
        if call.operation == "AssumeRoleWithWebIdentity" {
            return Self::error(call.service, 403, "AccessDenied", &format!("Not authorized to perform {action}"));
        }
        let user = match (&call.session, &call.role) {
            (Some(arn), _) | (None, Some(arn)) => arn.clone(),
            (None, None) => format!("arn:aws:iam::{}:user/test", account(call)),
        };
        let message = format!(
            "User: {user} is not authorized to perform: {action} on resource: {} \
             because no identity-based policy allows the {action} action",
            resource(call)
        );
        match call.service {
            Service::Sts | Service::Iam => Self::error(call.service, 403, "AccessDenied", &message),
            _ => Self::error(call.service, 400, "AccessDeniedException", &message),
        }
    }

    pub(super) fn expired_token(service: Service) -> Self {
        let message = match service {
            Service::Sts => "Token expired: current date/time must be before the expiration date/time",
            _ => "The security token included in the request is expired",
        };
        Self::error(service, 400, "ExpiredTokenException", message)
    }

    pub(super) fn invalid_identity_token() -> Self {
        let message = "No OpenIDConnect provider found in your account for https://oidc.example.test/id/COFFER";
        Self::error(Service::Sts, 400, "InvalidIdentityToken", message)
    }

    /// An error in a service's form.
    pub(super) fn error(service: Service, status: u16, code: &str, message: &str) -> Self {
        match service.query_version() {
            Some(version) => {
                let host = service.signing_name();
                let fault = if status < 500 { "Sender" } else { "Receiver" };
                let [code, message] = [code, message].map(xml_escaped);
                Self::with_id(status, "text/xml", |id| {
                    format!(
                        "<ErrorResponse xmlns=\"https://{host}.amazonaws.com/doc/{version}/\">\n  <Error>\n    \
                         <Type>{fault}</Type>\n    <Code>{code}</Code>\n    <Message>{message}</Message>\n  \
                         </Error>\n  <RequestId>{id}</RequestId>\n</ErrorResponse>\n"
                    )
                })
            }
            None => {
                let words = if service == Service::SecretsManager { "Message" } else { "message" };
                Self::made_up(status, JSON, json!({"__type": code, words: message}).to_string())
            }
        }
    }

    /// A page of nothing, of that operation.
    pub(super) fn empty_page(operation: &str) -> Self {
        let token = format!("{MINTED_TOKEN}{}", unique_id());
        let page = match operation {
            "GetParametersByPath" => json!({"Parameters": [], "NextToken": token}),
            _ => json!({"SecretValues": [], "Errors": [], "NextToken": token}),
        };
        Self::made_up(200, JSON, page.to_string())
    }

    pub(super) fn garbage() -> Self {
        let page = "<!doctype html>\n<title>Welcome to the network</title>\n<p>Please sign in.\n";
        Self::made_up(200, "text/html", page.to_owned())
    }

    /// 200 and that body.
    pub(super) fn of_body(body: String) -> Self {
        Self::made_up(200, JSON, body)
    }

    fn made_up(status: u16, content_type: &'static str, body: String) -> Self {
        Self::with_id(status, content_type, |_| body)
    }

    fn with_id(status: u16, content_type: &'static str, body: impl FnOnce(&str) -> String) -> Self {
        let id = unique_id();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(REQUEST_ID, HeaderValue::from_str(&id).expect("an id of hexadecimal digits and hyphens"));
        Self { status, headers, body: body(&id).into() }
    }
}

/// Answers of the upstream, changed.
impl Reply {
    /// Moves secrets from `SecretValues` to `Errors`.
    pub(super) fn with_batch_errors(self, request: &Value, errors: &BTreeMap<String, (String, String)>) -> Self {
        let Ok(mut answer) = serde_json::from_slice::<Value>(&self.body) else { return self };
        let asked: Vec<&str> =
            request["SecretIdList"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut refused = Vec::new();
        for (secret, (code, message)) in errors {
            let mut names = vec![secret.clone()];
            if let Some(values) = answer["SecretValues"].as_array_mut() {
                let is_it = |value: &Value| value["Name"] == secret.as_str() || value["ARN"] == secret.as_str();
                let found = values.iter().position(is_it);
                if let Some(value) = found.map(|place| values.remove(place)) {
                    names.extend(
                        [&value["Name"], &value["ARN"]].into_iter().filter_map(Value::as_str).map(str::to_owned),
                    );
                }
            }
            // AWS names a secret as it was asked for. One found by a filter has its ARN.
            let as_asked = names.iter().find(|name| asked.contains(&name.as_str()));
            let known = names.len() > 1;
            if let Some(id) = as_asked.or_else(|| names.last().filter(|_| known)) {
                refused.push(json!({"SecretId": id, "ErrorCode": code, "Message": message}));
            }
        }
        let listed = answer["Errors"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let is_refused = |error: &Value| refused.iter().any(|new| new["SecretId"] == error["SecretId"]);
        let others: Vec<Value> = listed.into_iter().filter(|error| !is_refused(error)).collect();
        answer["Errors"] = others.into_iter().chain(refused).collect();
        Self { body: answer.to_string().into(), ..self }
    }

    /// Makes the credentials in an answer of STS end that long from now.
    pub(super) fn with_expiration(self, lifetime: Duration) -> Self {
        let xml = String::from_utf8_lossy(&self.body);
        let Some(old) = xml_text(&xml, "Expiration") else { return self };
        let new = humantime::format_rfc3339_millis(SystemTime::now() + lifetime).to_string();
        let body = xml.replace(&format!("<Expiration>{old}<"), &format!("<Expiration>{new}<"));
        Self { body: body.into(), ..self }
    }

    /// Whether this holds credentials that have ended.
    pub(super) fn has_expired(&self) -> bool {
        let expiration = xml_text(&String::from_utf8_lossy(&self.body), "Expiration");
        let expiration = expiration.and_then(|time| humantime::parse_rfc3339_weak(&time).ok());
        expiration.is_some_and(|time| time <= SystemTime::now())
    }

    pub(super) fn request_id(&self) -> Option<String> {
        Some(self.headers.get(REQUEST_ID)?.to_str().ok()?.to_owned())
    }
}

/// On to the wire.
impl Reply {
    pub(super) fn whole(self) -> Response<AnswerBody> {
        let length = self.body.len();
        self.into_response(length)
    }

    /// Announces all of the body and sends the first half.
    pub(super) fn half(self) -> Response<AnswerBody> {
        let length = self.body.len() / 2;
        self.into_response(length)
    }

    fn into_response(self, sent: usize) -> Response<AnswerBody> {
        let body = AnswerBody {
            length: self.body.len(),
            unsent: Some(self.body.slice(..sent)),
            cut: sent < self.body.len(),
            paused: false,
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = self.headers;
        response
    }
}

/// A body that may break off.
#[derive(Debug)]
pub(super) struct AnswerBody {
    /// What is announced, in bytes.
    length: usize,
    unsent: Option<Bytes>,
    cut: bool,
    paused: bool,
}

/// The proxy closes the connection, here.
#[derive(Debug)]
pub(super) struct ConnectionCut;

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = ConnectionCut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionCut>>> {
        if let Some(data) = self.unsent.take().filter(|data| !data.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !self.cut {
            return Poll::Ready(None);
        }
        if self.paused {
            return Poll::Ready(Some(Err(ConnectionCut)));
        }
        // hyper sends what it has when the body pauses, and drops it when the body fails: so a
        // pause comes first.
        self.paused = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length as u64)
    }
}

impl fmt::Display for ConnectionCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection cut on purpose")
    }
}

impl std::error::Error for ConnectionCut {}

fn account(call: &Call) -> &str {
    let is_account = |key: &&str| key.len() == 12 && key.bytes().all(|byte| byte.is_ascii_digit());
    call.access_key.as_deref().filter(is_account).unwrap_or("000000000000")
}

/// What a call wants to use, as AWS names it in a denial.
fn resource(call: &Call) -> String {
    let text = |field: &str| call.request[field].as_str().map(str::to_owned);
    let role_account = call.role.as_deref().and_then(|arn| arn.split(':').nth(4));
    let owner = role_account.unwrap_or_else(|| account(call));
    let region = call.region.as_deref().unwrap_or(REGION);
    let found = match call.service {
        Service::ParameterStore => {
            let name = text("Name").or_else(|| text("Path"));
            let name = name.or_else(|| call.request["Names"][0].as_str().map(str::to_owned));
            name.map(|name| format!("arn:aws:ssm:{region}:{owner}:parameter/{}", name.trim_start_matches('/')))
        }
        Service::Kms => text("KeyId"),
        Service::Sts => text("RoleArn"),
        _ => text("SecretId"),
    };
    found.unwrap_or_else(|| "*".to_owned())
}

fn xml_escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
