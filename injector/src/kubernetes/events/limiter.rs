//! Which events are worth telling. Pure: the clock comes from outside.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use super::Kind;

/// The same event on the same pod is told again after so long.
const REPEAT: Duration = Duration::from_secs(600);
/// Another event of its kind on the same pod is told after so long.
const PAUSE: Duration = Duration::from_secs(60);
/// How often what has run out is forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// What was told lately.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    /// By pod and kind. A warning does not wait because something went well a moment before.
    last: HashMap<(String, Kind), Instant>,
    /// By pod, reason and message, as a hash: the messages would be most of it.
    told: HashMap<u64, Instant>,
    swept: Option<Instant>,
}

impl Limiter {
    /// Whether to tell it now; if so, that is remembered.
    pub(super) fn admits(&mut self, kind: Kind, pod: &str, reason: &str, message: &str, now: Instant) -> bool {
        self.sweep(now);
        let mut hasher = DefaultHasher::new();
        (pod, reason, message).hash(&mut hasher);
        let (event, about) = (hasher.finish(), (pod.to_owned(), kind));
        let within =
            |told: Option<&Instant>, limit: Duration| told.is_some_and(|told| now.duration_since(*told) < limit);
        if within(self.told.get(&event), REPEAT) || within(self.last.get(&about), PAUSE) {
            return false;
        }
        self.told.insert(event, now);
        self.last.insert(about, now);
        true
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.duration_since(swept) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.told.retain(|_, told| now.duration_since(*told) < REPEAT);
        self.last.retain(|_, told| now.duration_since(*told) < PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_one_is_told_each_ten_minutes_and_another_each_minute() {
        let (start, mut limiter) = (Instant::now(), Limiter::default());
        let mut told = |seconds: u64, kind: Kind, pod: &str, message: &str| {
            limiter.admits(kind, pod, "Failed", message, start + Duration::from_secs(seconds))
        };
        use Kind::{Normal, Warning};
        assert!(told(0, Warning, "a", "one"));
        assert!(!told(1, Warning, "a", "one"));
        assert!(!told(2, Warning, "a", "two"), "another within a minute");
        assert!(told(2, Normal, "a", "three"), "good news and bad do not wait for each other");
        assert!(told(2, Warning, "b", "one"), "pods do not wait for each other");
        assert!(told(60, Warning, "a", "two"), "what was not told is no repetition");
        assert!(!told(599, Warning, "a", "one"));
        assert!(told(600, Warning, "a", "one"));
    }

    #[test]
    fn it_does_not_grow() {
        let (start, mut limiter) = (Instant::now(), Limiter::default());
        for number in 0..10_000u64 {
            limiter.admits(Kind::Normal, &format!("pod-{number}"), "r", "m", start + Duration::from_secs(number));
        }
        assert!(limiter.told.len() <= 700 && limiter.last.len() <= 130, "{limiter:?}");
    }
}
