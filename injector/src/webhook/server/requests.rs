//! A request of HTTP in, its answer out.

use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::body::Bodies;
use super::connection::UnderWay;
use crate::webhook::metrics::Metrics;
use crate::webhook::review::{Answer, Reviewer, RoleUnknown};

/// Where reviews are sent to.
const PATH: &str = "/mutate";
/// Where those of namespaces are sent to in which a pod is rather not created than created without its role.
const PATH_REQUIRED: &str = "/mutate/required";

/// What answers requests.
#[derive(Debug)]
pub(super) struct Requests {
    reviewer: Reviewer,
    bodies: Bodies,
    metrics: Metrics,
}

impl Requests {
    pub(super) fn new(reviewer: Reviewer, metrics: Metrics) -> Self {
        Self { reviewer, bodies: Bodies::default(), metrics }
    }

    /// Answers a request, and tells once all of it has come.
    pub(super) async fn answer(&self, request: Request<Incoming>, under_way: &mut UnderWay) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let role_unknown = match head.uri.path() {
            PATH => RoleUnknown::GoOn,
            PATH_REQUIRED => RoleUnknown::TryAgain,
            _ => {
                let why = format!(
                    "there is nothing here but {PATH} and {PATH_REQUIRED}; health and metrics have a port of their own"
                );
                return response(Answer::sentence(StatusCode::NOT_FOUND, &why));
            }
        };
        if head.method != Method::POST {
            let answer = Answer::sentence(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is sent by POST");
            let mut response = response(answer);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let read = self.bodies.read(body, head.headers.contains_key(CONTENT_LENGTH)).await;
        under_way.is_whole();
        let started = Instant::now();
        let answer = match read {
            Ok(body) => self.reviewer.answer(body.bytes(), role_unknown, caller_waits(head.uri.query())).await,
            Err(refused) => Answer::sentence(refused.status(), &refused.to_string()),
        };
        self.metrics.answered(answer.outcome, started.elapsed());
        response(answer)
    }
}

/// How long the API server waits: it says so in the query, `timeout=5s`.
fn caller_waits(query: Option<&str>) -> Option<Duration> {
    let timeout = query?.split('&').find_map(|pair| pair.strip_prefix("timeout="))?;
    humantime::parse_duration(timeout).ok()
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let kind = if answer.status == StatusCode::OK { "application/json" } else { "text/plain; charset=utf-8" };
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_says_how_long_it_waits() {
        assert_eq!(caller_waits(Some("timeout=5s")), Some(Duration::from_secs(5)));
        assert_eq!(caller_waits(Some("a=b&timeout=1m30s")), Some(Duration::from_secs(90)));
        for other in [None, Some(""), Some("timeout="), Some("timeout=x"), Some("no=5s")] {
            assert_eq!(caller_waits(other), None, "{other:?}");
        }
    }
}
