//! Health, liveness and metrics over HTTP, on the paths and with the bodies of the AWS Encryption
//! Provider.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use coffer_kms::health::Verdict;
use coffer_kms::probe::{ENDS_SOON, Pulse};
use coffer_kms::service::Door;

/// A prober that has not stirred for so long is stuck: it looks around every few seconds, and a probe
/// ends after three.
const STUCK: Duration = Duration::from_secs(60);

/// The routes. Their texts name no key and quote nothing of AWS: they are often open to the network.
pub(super) fn routes(
    healthz: &str,
    livez: &str,
    doors: Vec<Arc<Door>>,
    pulses: Vec<Arc<Pulse>>,
    serving: Arc<AtomicBool>,
) -> Router {
    let ready = doors.clone();
    let routes = Router::new()
        .route(healthz, get(async move || health(&doors)))
        .route("/readyz", get(async move || readiness(&ready, &serving)));
    if healthz == livez {
        // One path for both, as a single probe would have it: it tells of health.
        return routes;
    }
    routes.route(livez, get(async move || liveness(&pulses)))
}

type Answer = (StatusCode, String);

fn ok() -> Answer {
    (StatusCode::OK, "OK".to_owned())
}

/// Whether every key encrypts and decrypts.
fn health(doors: &[Arc<Door>]) -> Answer {
    let failing: Vec<String> = doors.iter().enumerate().filter_map(|(place, door)| failure(place, door)).collect();
    if failing.is_empty() { ok() } else { (StatusCode::INTERNAL_SERVER_ERROR, failing.join("; ")) }
}

fn failure(place: usize, door: &Door) -> Option<String> {
    let what = match door.keyring().verdict() {
        Verdict::Healthy => return None,
        Verdict::Starting => "has not been probed yet".to_owned(),
        Verdict::Failing(operation, trouble) => format!("{} fails: {}", operation.as_str(), trouble.kind.as_str()),
    };
    Some(format!("key {} of --key {what}; the log says more", place + 1))
}

/// Whether the sockets are served and are of use to an API server, even if KMS is not; and what is to be
/// seen to before it is too late.
fn readiness(doors: &[Arc<Door>], serving: &AtomicBool) -> Answer {
    if !serving.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "the sockets are not served".to_owned());
    }
    if doors.iter().any(|door| door.keyring().active().is_err()) {
        return (StatusCode::SERVICE_UNAVAILABLE, "KMS has not said yet which key this is".to_owned());
    }
    let ending: Vec<String> = doors.iter().enumerate().filter_map(|(place, door)| ending(place, door)).collect();
    if ending.is_empty() { ok() } else { (StatusCode::OK, format!("OK, but {}", ending.join("; "))) }
}

fn ending(place: usize, door: &Door) -> Option<String> {
    let left = door.keyring().material_ends()?.duration_since(SystemTime::now()).unwrap_or_default();
    (left < ENDS_SOON).then(|| {
        let days = left.as_secs() / 86_400;
        format!("the imported key material of key {} of --key ends in {days} days: import it again", place + 1)
    })
}

/// Whether this process does its work; what KMS does is no reason to restart it.
fn liveness(pulses: &[Arc<Pulse>]) -> Answer {
    match pulses.iter().all(|pulse| pulse.age() < STUCK) {
        true => ok(),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "the prober is stuck".to_owned()),
    }
}
