//! The log: what was asked, by whom, and how it was answered.

use std::{collections::HashMap, sync::Arc, sync::Mutex, time::Instant};

use hyper::{Request, body::Bytes, header};
use serde_json::Value;

use super::{Fault, lock, reply::Reply};
use crate::{Service, aws::xml_text, form};

/// One call that reached the proxy.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the whole request was there.
    pub at: Instant,
    /// Whom it was for.
    pub service: Service,
    /// The operation, such as `GetSecretValue`; method and path for [`Service::Other`].
    pub operation: String,
    /// The access key it is signed with; nothing if it is not signed.
    pub access_key: Option<String>,
    /// The region it is signed for.
    pub region: Option<String>,
    /// The ARN of the role that the access key was issued for, as far as the proxy has
    /// relayed that; nothing for keys that no role stands behind.
    pub role: Option<String>,
    /// The ARN of that role's session, which ends in the session name.
    pub session: Option<String>,
    /// The `user-agent` header.
    pub user_agent: Option<String>,
    /// The `x-amz-source-arn` header: on whose behalf it is made.
    pub source_arn: Option<String>,
    /// The `x-amz-source-account` header.
    pub source_account: Option<String>,
    /// The body: JSON, or a form's fields as an object of strings; null if it is neither.
    pub request: Value,
    /// The HTTP status it was answered with; nothing while, or if, it has no answer.
    pub status: Option<u16>,
    /// The answer's `x-amzn-requestid`.
    pub request_id: Option<String>,
    /// How it was answered.
    pub outcome: Outcome,
}

/// How the proxy answered a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Not yet.
    Pending,
    /// With the upstream's answer.
    Relayed,
    /// With an earlier answer of the upstream.
    Replayed,
    /// By this fault.
    Faulted(Fault),
    /// With 502, as the upstream could not be reached; with the reason.
    Unreachable(String),
    /// Not at all: the client left first.
    Abandoned,
}

/// Whom an access key was issued to.
#[derive(Clone, Debug)]
struct Issued {
    role: String,
    session: Option<String>,
}

/// All calls, and what the proxy has learned of access keys.
#[derive(Debug, Default)]
pub(super) struct Log {
    calls: Mutex<Calls>,
    issued: Mutex<HashMap<String, Issued>>,
}

#[derive(Debug, Default)]
struct Calls {
    /// How many calls were cleared: the number of the first in `kept`.
    cleared: usize,
    kept: Vec<Call>,
}

impl Log {
    /// Understands a request.
    pub(super) fn read(&self, request: &Request<Bytes>) -> Call {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let (service, operation, body) = match header("x-amz-target").and_then(|target| target.split_once('.')) {
            Some((prefix, operation)) => {
                let body = serde_json::from_slice(request.body()).unwrap_or_default();
                (Service::of_target_prefix(prefix), operation.to_owned(), body)
            }
            None => read_query(request),
        };
        let scope = header(header::AUTHORIZATION.as_str()).and_then(|value| value.split_once("Credential="));
        let mut scope = scope.map_or("", |(_, rest)| rest).split(['/', ',']).map(str::to_owned);
        let access_key = scope.next().filter(|key| !key.is_empty());
        let issued = access_key.as_ref().and_then(|key| lock(&self.issued).get(key).cloned());
        let (role, session) = issued.map_or((None, None), |issued| (Some(issued.role), issued.session));
        Call {
            at: Instant::now(),
            service,
            operation,
            access_key,
            // KEY/DATE/REGION/SERVICE/aws4_request, and the date was not taken yet.
            region: scope.nth(1),
            role,
            session,
            user_agent: header(header::USER_AGENT.as_str()).map(str::to_owned),
            source_arn: header("x-amz-source-arn").map(str::to_owned),
            source_account: header("x-amz-source-account").map(str::to_owned),
            request: body,
            status: None,
            request_id: None,
            outcome: Outcome::Pending,
        }
    }

    /// Notes a call, with the fault that is to answer it.
    pub(super) fn open(self: &Arc<Self>, mut call: Call, fault: Option<Fault>) -> LogEntry {
        if let Some(fault) = fault {
            call.outcome = Outcome::Faulted(fault);
        }
        let mut calls = lock(&self.calls);
        let number = calls.cleared + calls.kept.len();
        calls.kept.push(call);
        LogEntry { log: Arc::clone(self), number }
    }

    /// Learns from an answer of STS whose access key that is.
    pub(super) fn learn(&self, call: &Call, reply: &Reply) {
        if call.service != Service::Sts || reply.status != 200 {
            return;
        }
        let xml = String::from_utf8_lossy(&reply.body);
        let role = call.request["RoleArn"].as_str();
        if let Some((key, role)) = xml_text(&xml, "AccessKeyId").zip(role) {
            let session = xml_text(&xml, "AssumedRoleUser").and_then(|user| xml_text(&user, "Arn"));
            lock(&self.issued).insert(key, Issued { role: role.to_owned(), session });
        }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls_where(|_| true)
    }

    pub(super) fn calls_where(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        lock(&self.calls).kept.iter().filter(|call| wanted(call)).cloned().collect()
    }

    pub(super) fn clear(&self) {
        let mut calls = lock(&self.calls);
        calls.cleared += calls.kept.len();
        calls.kept.clear();
    }
}

/// A call's place in the log, held while the call lasts.
#[derive(Debug)]
pub(super) struct LogEntry {
    log: Arc<Log>,
    number: usize,
}

impl LogEntry {
    /// Notes how the call is answered, unless a fault answers it.
    pub(super) fn resolve(&self, outcome: Outcome) {
        self.update(|call| {
            if call.outcome == Outcome::Pending {
                call.outcome = outcome;
            }
        });
    }

    /// Notes what it was answered.
    pub(super) fn close(self, reply: &Reply) {
        self.update(|call| {
            call.status = Some(reply.status);
            call.request_id = reply.request_id();
            self.log.learn(call, reply);
        });
    }

    fn update(&self, change: impl FnOnce(&mut Call)) {
        let mut calls = lock(&self.log.calls);
        let place = self.number.checked_sub(calls.cleared);
        if let Some(call) = place.and_then(|place| calls.kept.get_mut(place)) {
            change(call);
        }
    }
}

impl Drop for LogEntry {
    fn drop(&mut self) {
        self.update(|call| {
            if call.status.is_none() && !matches!(call.outcome, Outcome::Faulted(_)) {
                call.outcome = Outcome::Abandoned;
            }
        });
    }
}

/// Understands a request of the query protocol, or one that is no AWS call.
fn read_query(request: &Request<Bytes>) -> (Service, String, Value) {
    let fields = form::decode(&String::from_utf8_lossy(request.body()));
    let field = |name: &str| fields.get(name).and_then(Value::as_str);
    match (field("Action"), field("Version")) {
        (Some(action), Some(version)) => (Service::of_query_version(version), action.to_owned(), Value::Object(fields)),
        _ => {
            let operation = format!("{} {}", request.method(), request.uri().path());
            let body = serde_json::from_slice(request.body()).unwrap_or_default();
            (Service::Other, operation, body)
        }
    }
}
