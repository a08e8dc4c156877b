//! The way to the upstream, and the memory of its answers.

use std::{collections::HashMap, sync::Mutex};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::{
    HeaderMap, Request,
    body::Bytes,
    header::{ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};
use serde_json::Value;

use super::{
    Call, Outcome,
    call::LogEntry,
    lock,
    reply::{Reply, is_minted_token},
};
use crate::{
    Service,
    http::{self, HttpClient},
};

/// Headers that speak of one connection or of a body's form on it, and so are not passed on.
const OF_ONE_CONNECTION: [HeaderName; 6] = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// The endpoint behind the proxy.
#[derive(Debug)]
pub(super) struct Upstream {
    url: String,
    http: HttpClient,
    /// Answers by request; nothing when replay is off.
    memory: Mutex<Option<HashMap<MemoryKey, Reply>>>,
}

/// What makes two requests the same: service, operation, caller, and the request itself.
type MemoryKey = (Service, String, Option<String>, String);

impl Upstream {
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.trim_end_matches('/').to_owned(), http: http::client(), memory: Mutex::default() }
    }

    pub(super) fn set_replay(&self, on: bool) {
        *lock(&self.memory) = on.then(HashMap::new);
    }

    /// The upstream's answer, or one from memory, or a 502 if there is neither.
    pub(super) async fn answer(&self, request: Request<Bytes>, call: &Call, entry: &LogEntry) -> Reply {
        let key = memory_key(call);
        if let Some(reply) = key.as_ref().and_then(|key| self.remembered(key)) {
            entry.resolve(Outcome::Replayed);
            return reply;
        }
        match self.relay(request, call).await {
            Ok(reply) => {
                if let (Some(key), Some(memory), 200) = (key, lock(&self.memory).as_mut(), reply.status) {
                    memory.insert(key, reply.clone());
                }
                entry.resolve(Outcome::Relayed);
                reply
            }
            Err(error) => {
                entry.resolve(Outcome::Unreachable(format!("{error:#}")));
                Reply::server_error(call.service, 502)
            }
        }
    }

    fn remembered(&self, key: &MemoryKey) -> Option<Reply> {
        let memory = lock(&self.memory);
        memory.as_ref()?.get(key).filter(|reply| !reply.has_expired()).cloned()
    }

    async fn relay(&self, request: Request<Bytes>, call: &Call) -> Result<Reply> {
        let (mut parts, mut body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = format!("{}{path}", self.url).parse().with_context(|| format!("not a URL: {}", self.url))?;
        parts.headers.remove(ACCEPT_ENCODING);
        remove_connection_headers(&mut parts.headers);
        // The first page is still to come, and the upstream knows nothing of the empty one.
        if is_minted_token(&call.request["NextToken"]) {
            body = without(&call.request, &["NextToken"]).into();
        }
        let answer = http::exchange(&self.http, Request::from_parts(parts, Full::new(body))).await?;
        let (mut parts, body) = answer.into_parts();
        remove_connection_headers(&mut parts.headers);
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

fn remove_connection_headers(headers: &mut HeaderMap) {
    for name in OF_ONE_CONNECTION {
        headers.remove(name);
    }
}

/// The key of a call that only reads; nothing for others.
fn memory_key(call: &Call) -> Option<MemoryKey> {
    let reads = ["Get", "BatchGet", "Describe", "AssumeRole"];
    if !reads.iter().any(|read| call.operation.starts_with(read)) || call.service == Service::Other {
        return None;
    }
    let caller = call.role.clone().or_else(|| call.access_key.clone());
    let mut volatile = vec!["WebIdentityToken", "RoleSessionName"];
    if is_minted_token(&call.request["NextToken"]) {
        volatile.push("NextToken");
    }
    Some((call.service, call.operation.clone(), caller, without(&call.request, &volatile)))
}

/// A request without some of its fields, as JSON.
fn without(request: &Value, fields: &[&str]) -> String {
    let mut request = request.clone();
    if let Some(object) = request.as_object_mut() {
        object.retain(|name, _| !fields.contains(&name.as_str()));
    }
    request.to_string()
}
