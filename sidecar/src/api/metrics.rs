//! How often the API was asked, and how it answered.

use axum::http::StatusCode;
use coffer_runtime::telemetry::Described;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::cache::Origin;

#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: Family<RequestLabels, Counter>,
    cache: Family<CacheLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    result: &'static str,
}

const REQUESTS: Described =
    Described::counter("api_requests", &["code"], "Requests to the loopback API by class of HTTP status");
const CACHE: Described = Described::counter(
    "api_cache",
    &["result"],
    "Values that the loopback API was asked for: from its cache, from AWS, or an old one while AWS gives none",
);

impl Counters {
    pub(super) fn answered(&self, status: StatusCode) {
        let code = match status.as_u16() {
            200..300 => "2xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&RequestLabels { code }).inc();
    }

    /// `origin` is that of the answer; `None` where AWS gave none and none was kept.
    pub(super) fn looked_up(&self, origin: Option<&Origin>) {
        let result = match origin {
            Some(Origin::Kept) => "hit",
            Some(Origin::Aws) | None => "miss",
            Some(Origin::Stale(_)) => "stale",
        };
        self.cache.get_or_create(&CacheLabels { result }).inc();
    }

    pub(super) const FAMILIES: [&Described; 2] = [&REQUESTS, &CACHE];

    pub(super) fn register(&self, registry: &mut Registry) {
        REQUESTS.register(registry, self.requests.clone());
        CACHE.register(registry, self.cache.clone());
    }
}
