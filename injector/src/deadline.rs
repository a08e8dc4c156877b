//! How long whoever asks is going to wait.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// How much sooner than at their deadline callers are answered, so that they hear the reason.
const BEFORE_THE_DEADLINE: Duration = Duration::from_secs(1);

/// How long the caller waits, less what the answer needs to reach it (gRPC over HTTP/2, `Timeout`).
pub(crate) fn time_limit(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.saturating_sub(BEFORE_THE_DEADLINE).max(timeout / 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whoever_asks_is_answered_before_they_give_up() {
        let limit = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            time_limit(&metadata)
        };
        assert_eq!(limit("2M"), Some(Duration::from_secs(119)));
        assert_eq!(limit("99999999u"), Some(Duration::from_micros(98_999_999)));
        assert_eq!(limit("1S"), Some(Duration::from_millis(500)));
        assert_eq!(limit("x"), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9]{0,12}[HMSmun]?") {
            let mut metadata = MetadataMap::new();
            if let Ok(value) = text.parse() {
                metadata.insert("grpc-timeout", value);
            }
            time_limit(&metadata);
        }
    }
}
