//! A loopback HTTP API with the requests and answers of AWS's Secrets Manager Agent, and for parameters
//! with those of AWS's Parameters and Secrets Lambda Extension, so that programs written for them work
//! unchanged.
//!
//! ```text
//! GET /ping                                                        no token; `healthy`
//! GET /secretsmanager/get?secretId=&versionId=&versionStage=&refreshNow=&roleArn=
//! GET /v1/NAME?versionId=&versionStage=&refreshNow=&roleArn=
//! GET /systemsmanager/parameters/get?name=&version=&label=&withDecryption=&refreshNow=&roleArn=
//! ```
//!
//! A request carries the token in `X-Aws-Parameters-Secrets-Token` or `X-Vault-Token`. The body is
//! GetSecretValue's or GetParameter's JSON. What differs from the agent: many who ask together cost one
//! call, and that is GetSecretValue alone; while AWS gives no new answer the old one is given on, and says so in
//! `x-coffer-stale-since` (RFC 3339) and `x-coffer-stale-reason` (AWS's code).
//!
//! This is the one cache of Coffer. It keeps values in memory, each wiped when it is displaced.

mod body;
mod cache;
mod listener;
mod metrics;
mod refusal;
mod request;
#[cfg(test)]
mod tests;
mod token;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use coffer_runtime::telemetry::Described;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::cache::{Answer, Ask, Cache, Failure, Key, Limits, Origin};
use self::listener::Bounded;
use self::metrics::Counters;
use self::refusal::Refusal;
use self::request::{Request, ValueRequest};
use self::token::Token;
pub use self::token::TokenError;
use crate::journal::{Cause, Event, Journal};
use crate::source::{FetchError, Source, Whole, WholeQuery};
use crate::spec::{Access, ApiSpec, ParameterRef, ParameterVersion, Reference, RoleStep, SecretRef, SecretVersion};

/// Headers that may carry the token.
static TOKEN_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-aws-parameters-secrets-token"), HeaderName::from_static("x-vault-token")];
/// A proxy on the way: whoever asks is not on this host.
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");
const STALE_SINCE: HeaderName = HeaderName::from_static("x-coffer-stale-since");
const STALE_REASON: HeaderName = HeaderName::from_static("x-coffer-stale-reason");
/// Roles and regions that requests may name, beside those of the config: each has its own credentials
/// and connections. As many as AWS's agent assumes.
const IDENTITIES_MAX: usize = 20;
/// How long a request may take, as AWS's agent has it.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// Connections beyond those whose requests are answered: they learn that there are too many, and
/// `/ping` still has room.
const SPARE_CONNECTIONS: usize = 64;

/// The API, before it is served and while it is.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    token: Token,
    path_prefix: String,
    access: Access,
    /// Where AWS is asked when nothing names a region.
    region: String,
    cache: Cache,
    identities: Mutex<HashSet<Access>>,
    connections: usize,
    seats: Semaphore,
    counters: Counters,
}

/// The API cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Neither the config nor the environment names a token: anyone on this host could ask.
    #[error(
        "`api` has no token to ask of its clients: set `token_file`, or AWS_TOKEN, AWS_SESSION_TOKEN or \
         AWS_CONTAINER_AUTHORIZATION_TOKEN to the token or to file://PATH"
    )]
    NoToken,
    /// A variable of the environment holds what cannot be a token.
    #[error("`api` has no token: {name}: {reason}")]
    TokenInVariable {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        reason: TokenError,
    },
    /// The file that shall hold the token does not.
    #[error("`api` has no token: {name}: {path}: {reason}; put the token there before Coffer starts", path = .path.display())]
    TokenInFile {
        /// Who names the file: `token_file`, or a variable of the environment.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: TokenError,
    },
    /// The kernel gave no random bytes, which tokens are compared with.
    #[error("`api` has no random bytes to compare tokens with: {0}")]
    NoRandomness(io::Error),
}

/// What the API holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiStatus {
    /// How many answers it keeps.
    pub entries: usize,
    /// Those that AWS gives nothing newer for.
    pub stale: Vec<StaleEntry>,
}

/// An answer that AWS gives nothing newer for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct StaleEntry {
    /// The secret or parameter as it was asked for, such as `secretsmanager:prod/db?stage=AWSPREVIOUS`.
    pub reference: String,
    /// The role it is asked for as, where one is assumed.
    pub role: Option<String>,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// AWS's code.
    pub reason: String,
}

impl Api {
    /// Finds the token, in the file that `spec` names or through `env`; asks AWS nothing yet. What is
    /// fetched later is written to `journal`.
    ///
    /// # Errors
    /// Without a usable token there is no API.
    pub fn new(
        spec: ApiSpec,
        source: Arc<Source>,
        journal: Journal,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ApiError> {
        let region = source.region().to_owned();
        let ask = move |key: Key| -> cache::Asked {
            let source = Arc::clone(&source);
            Box::pin(async move {
                let found = source.whole(&key.access, &key.query).await;
                audit(journal, &key, &source, &found);
                found
            })
        };
        Self::asking(spec, region, Box::new(ask), env)
    }

    fn asking(spec: ApiSpec, region: String, ask: Ask, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ApiError> {
        let token = Token::find(spec.token_file.as_deref(), env)?;
        let limits = Limits { ttl: spec.ttl, entries: spec.max_entries, flights: spec.max_connections };
        Ok(Self(Arc::new(Inner {
            token,
            path_prefix: spec.path_prefix,
            access: spec.access,
            region,
            cache: Cache::new(limits, ask),
            identities: Mutex::default(),
            connections: spec.max_connections,
            seats: Semaphore::new(spec.max_connections),
            counters: Counters::default(),
        })))
    }

    /// All that is served.
    pub fn router(&self) -> Router {
        // One door for every path and method: the order of the checks is part of what is compatible.
        let answer = async |State(api): State<Self>, request: axum::extract::Request| {
            let (head, _) = request.into_parts();
            api.0.answer(&head).await
        };
        Router::new().fallback(answer).with_state(self.clone())
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        let connections = self.0.connections + SPARE_CONNECTIONS;
        axum::serve(Bounded::new(listener, connections), self.router()).await
    }

    /// What is kept, and what of it is stale.
    #[must_use]
    pub fn status(&self) -> ApiStatus {
        let entry = |(key, stale): (Key, cache::Stale)| StaleEntry {
            reference: key.query.to_string(),
            role: key.access.role.map(|role| role.role_arn),
            since: stale.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            reason: stale.reason,
        };
        let mut stale: Vec<StaleEntry> = self.0.cache.stale().into_iter().map(entry).collect();
        stale.sort();
        ApiStatus { entries: self.0.cache.len(), stale }
    }

    /// The families of its metrics.
    pub const FAMILIES: [&Described; 2] = Counters::FAMILIES;

    /// Adds `api_requests` and `api_cache`.
    pub fn register(&self, registry: &mut Registry) {
        self.0.counters.register(registry);
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("path_prefix", &self.0.path_prefix).finish_non_exhaustive()
    }
}

fn audit(journal: Journal, key: &Key, source: &Source, found: &Result<Whole, FetchError>) {
    let region = key.access.region.as_deref().unwrap_or(source.region());
    let identity = &source.identity(&key.access);
    let reference = &key.query.to_string();
    let (version, request_id, error) = match found {
        Ok(whole) => {
            let (version, request_id) = whole.audited();
            (version, request_id, None)
        }
        Err(error) => (None, error.cause.request_id.as_deref(), Some(error.cause.code.as_str())),
    };
    let (volume, cause, version) = (None, Cause::Api, version.as_deref());
    journal.write(&Event::Fetch { volume, reference, region, identity, cause, version, request_id, error });
}

impl Inner {
    async fn answer(&self, head: &Parts) -> Response {
        let response = match self.result(head).await {
            Ok(response) => response,
            Err(Refusal { status, body }) => {
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = status;
                response
            }
        };
        self.counters.answered(response.status());
        response
    }

    /// The checks of AWS's agent, in its order.
    async fn result(&self, head: &Parts) -> Result<Response, Refusal> {
        let path = head.uri.path();
        let is_ping = path == "/ping";
        let mut seat = None;
        if !is_ping {
            // Nobody closes the semaphore: it fails only when there are too many.
            seat = Some(self.seats.try_acquire().map_err(|_| Refusal::too_many())?);
            self.admit(&head.headers)?;
        }
        if head.method != Method::GET {
            return Err(Refusal::method());
        }
        match Request::read(path, head.uri.query(), &self.path_prefix)? {
            Request::Health => Ok(Response::new(Body::from("healthy"))),
            Request::Value(request) => {
                let wanted = request.query.to_string();
                let result = self.value(request).await;
                let status = result.as_ref().map_or_else(|refusal| refusal.status, Response::status);
                tracing::debug!(wanted, status = status.as_u16(), "the API was asked");
                drop(seat);
                result
            }
        }
    }

    /// Whether the request comes from a program of this host that knows the token.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if headers.contains_key(FORWARDED) {
            return Err(Refusal::forwarded());
        }
        let presented = TOKEN_HEADERS.iter().filter_map(|name| headers.get(name));
        if self.token.accepts(presented.map(HeaderValue::as_bytes)) { Ok(()) } else { Err(Refusal::bad_token()) }
    }

    async fn value(&self, request: ValueRequest) -> Result<Response, Refusal> {
        let access = self.access(&request)?;
        let key = Key { access, query: request.query };
        let found = tokio::time::timeout(REQUEST_TIME, self.cache.get(&key, request.refresh_now)).await;
        let origin = found.as_ref().ok().and_then(|found| found.as_ref().ok()).map(|answer| &answer.origin);
        self.counters.looked_up(origin);
        let answer = found.map_err(|_| Refusal::too_late())?.map_err(|failure| match failure {
            Failure::Aws(error) => {
                // The fix is for those who read the log; the client gets AWS's words.
                tracing::debug!(wanted = %key.query, code = error.cause.code, "AWS refused: {}", error.fix());
                Refusal::of_aws(&error)
            }
            Failure::TooMany => Refusal::too_many(),
            Failure::Lost => Refusal::internal(),
        })?;
        respond(&answer)
    }

    /// As whom and where to ask: as the request says, else as the config does. An ARN names its region.
    fn access(&self, request: &ValueRequest) -> Result<Access, Refusal> {
        let own_region = self.access.region.as_deref().unwrap_or(&self.region);
        let region = named_region(&request.query).filter(|region| region != own_region);
        let role = request.role_arn.clone().map(|role_arn| RoleStep { role_arn, external_id: None });
        let role = match (role, &self.access.role) {
            // The role of the config, with the external id that stands beside it.
            (Some(role), Some(own)) if role.role_arn == own.role_arn => Some(own.clone()),
            (role, own) => role.or_else(|| own.clone()),
        };
        let access = Access { region: region.or_else(|| self.access.region.clone()), role };
        if access == self.access {
            return Ok(access);
        }
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if !identities.contains(&access) {
            if identities.len() >= IDENTITIES_MAX {
                let wanted = request.role_arn.as_deref().or(access.region.as_deref()).unwrap_or_default();
                return Err(Refusal::too_many_identities(IDENTITIES_MAX, wanted));
            }
            identities.insert(access.clone());
        }
        Ok(access)
    }
}

fn respond(answer: &Answer) -> Result<Response, Refusal> {
    let body = body::write(&answer.whole).map_err(|_| Refusal::internal())?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::OK;
    if let Origin::Stale(stale) = &answer.origin {
        let since = humantime::format_rfc3339_seconds(stale.since).to_string();
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"));
        response.headers_mut().insert(STALE_SINCE, value(&since));
        response.headers_mut().insert(STALE_REASON, value(&stale.reason));
    }
    Ok(response)
}

/// The region of an ARN, where it can be one: it becomes part of a host name.
fn named_region(query: &WholeQuery) -> Option<String> {
    let reference = match query {
        WholeQuery::Secret(query) => {
            Reference::Secret(SecretRef { id: query.id.clone(), version: SecretVersion::Current })
        }
        WholeQuery::Parameter(query) => {
            Reference::Parameter(ParameterRef { name: query.name.clone(), version: ParameterVersion::Latest })
        }
    };
    let region = reference.region()?;
    let plausible = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_one = (1..=32).contains(&region.len()) && region.bytes().all(plausible);
    is_one.then(|| region.to_owned())
}
