//! How long a caller waits for its answer.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// Left for the answer's way back, so that a caller reads our reason and not its own timeout.
const WAY_BACK: Duration = Duration::from_millis(50);
/// For a caller that names no deadline. An API server does, 3 s unless told otherwise
/// (k8s.io/apiserver, `encryptionconfig/config.go`, `kmsPluginHealthzInterval` and `timeout`).
const UNTOLD: Duration = Duration::from_secs(10);
/// The furthest deadline that is kept: a call to KMS that takes longer has failed.
const FURTHEST: Duration = Duration::from_secs(30);

/// When the answer to a request has to be on its way.
pub(crate) fn deadline(metadata: &MetadataMap) -> Instant {
    let told = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
    let time = told.unwrap_or(UNTOLD).min(FURTHEST);
    // A very short one keeps four fifths of itself.
    Instant::now() + time.saturating_sub(WAY_BACK.min(time / 5))
}

/// Reads `grpc-timeout` ("gRPC over HTTP2", `TimeoutValue TimeoutUnit`): up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        assert_eq!(timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(timeout("2999m"), Some(Duration::from_millis(2999)));
        assert_eq!(timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(timeout("2999843u"), Some(Duration::from_micros(2_999_843)));
        for text in ["", "S", "3", "3s", "-3S", "123456789S", "3é"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_leaves_before_the_caller_does() {
        let mut metadata = MetadataMap::new();
        let wait = |metadata: &MetadataMap| deadline(metadata) - Instant::now();
        assert_eq!(wait(&metadata), UNTOLD - WAY_BACK);
        metadata.insert("grpc-timeout", "3S".parse().unwrap());
        assert_eq!(wait(&metadata), Duration::from_millis(2950));
        metadata.insert("grpc-timeout", "10m".parse().unwrap());
        assert_eq!(wait(&metadata), Duration::from_millis(8));
        metadata.insert("grpc-timeout", "9H".parse().unwrap());
        assert_eq!(wait(&metadata), FURTHEST - WAY_BACK);
    }
}
