//! Whether a key works: what each call to KMS teaches, and what the API server and the kubelet are
//! told. Pure; whoever calls says what time it is.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::Trouble;

/// A failure or two is weather: an API server that is told of each turns unready with every one.
const FAILURES_UNTIL_UNHEALTHY: u32 = 3;
/// Failures that are not further apart are one.
const ONE_FAILURE: Duration = Duration::from_millis(500);
/// Between probes while something fails and the outcome is not yet decided.
const DOUBT: Duration = Duration::from_secs(2);
/// Between probes of a key that does not work: recovery shows within this.
const RECOVERY: Duration = Duration::from_secs(10);

/// What is done with a key. Either may be denied while the other works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Wrapping.
    Encrypt,
    /// Unwrapping.
    Decrypt,
}

impl Operation {
    /// The label in metrics and logs, which is also the AWS Encryption Provider's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }
}

/// What is known of one key.
#[derive(Debug, Default)]
pub struct Health {
    encrypt: Record,
    decrypt: Record,
}

#[derive(Debug, Default)]
struct Record {
    succeeded: Option<Instant>,
    failed: Option<Instant>,
    failures: u32,
    last: Option<Trouble>,
}

/// How a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both operations work.
    Healthy,
    /// Not both have been tried yet.
    Starting,
    /// One has failed several times in a row, most recently with this.
    Failing(Operation, Trouble),
}

impl Health {
    /// A call succeeded, a probe's or a real one.
    pub fn succeeded(&mut self, operation: Operation, now: Instant) {
        *self.record(operation) = Record { succeeded: Some(now), failed: None, failures: 0, last: None };
    }

    /// A call failed that says something about the key. One that began before the last success is old
    /// news, and those that fail together are one failure.
    pub fn failed(&mut self, operation: Operation, trouble: Trouble, began: Instant, now: Instant) {
        let record = self.record(operation);
        if record.succeeded.is_some_and(|at| began < at) {
            return;
        }
        if record.failed.is_none_or(|at| now.duration_since(at) >= ONE_FAILURE) {
            record.failures = record.failures.saturating_add(1);
            record.failed = Some(now);
        }
        record.last = Some(trouble);
    }

    /// How the key is now. Before the first success one failure is enough to say so.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        for (operation, record) in self.records() {
            if let Some(trouble) = &record.last
                && (record.failures >= FAILURES_UNTIL_UNHEALTHY || record.succeeded.is_none())
            {
                return Verdict::Failing(operation, trouble.clone());
            }
        }
        if self.records().iter().any(|(_, record)| record.succeeded.is_none()) {
            return Verdict::Starting;
        }
        Verdict::Healthy
    }

    /// When to probe next, the last time having been at `last`: `interval` after the last success of the
    /// operation that succeeded longest ago, since real calls tell as much as a probe does; sooner while
    /// something fails.
    #[must_use]
    pub fn next_probe(&self, interval: Duration, last: Instant) -> Instant {
        match self.verdict() {
            Verdict::Failing(..) => last + RECOVERY.min(interval),
            Verdict::Starting => last + DOUBT.min(interval),
            Verdict::Healthy if self.records().iter().any(|(_, record)| record.failures > 0) => {
                last + DOUBT.min(interval)
            }
            Verdict::Healthy => {
                let oldest = self.records().iter().filter_map(|(_, record)| record.succeeded).min();
                oldest.unwrap_or(last) + interval
            }
        }
    }

    /// When an operation last worked.
    #[must_use]
    pub fn last_success(&self, operation: Operation) -> Option<Instant> {
        match operation {
            Operation::Encrypt => self.encrypt.succeeded,
            Operation::Decrypt => self.decrypt.succeeded,
        }
    }

    fn records(&self) -> [(Operation, &Record); 2] {
        [(Operation::Encrypt, &self.encrypt), (Operation::Decrypt, &self.decrypt)]
    }

    fn record(&mut self, operation: Operation) -> &mut Record {
        match operation {
            Operation::Encrypt => &mut self.encrypt,
            Operation::Decrypt => &mut self.decrypt,
        }
    }
}

impl fmt::Display for Verdict {
    /// What `healthz` of the Status call says: `ok` exactly, or the reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("ok"),
            Self::Starting => f.write_str("starting: KMS has not answered the first probe yet"),
            Self::Failing(operation, trouble) => write!(f, "{} fails: {trouble}", operation.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn trouble() -> Trouble {
        Trouble::new(Kind::Throttled, "KMS throttles")
    }

    fn healthy(now: Instant) -> Health {
        let mut health = Health::default();
        health.succeeded(Operation::Encrypt, now);
        health.succeeded(Operation::Decrypt, now);
        health
    }

    #[test]
    fn one_failure_is_weather_and_three_are_not() {
        let now = Instant::now();
        let mut health = healthy(now);
        for second in 1..=2 {
            let at = now + Duration::from_secs(second);
            for _ in 0..100 {
                health.failed(Operation::Decrypt, trouble(), now, at);
            }
            assert_eq!(health.verdict(), Verdict::Healthy);
            assert_eq!(health.next_probe(INTERVAL, now), now + DOUBT);
        }
        health.failed(Operation::Decrypt, trouble(), now, now + Duration::from_secs(3));
        assert_eq!(health.verdict().to_string(), "decrypt fails: KMS throttles");
        assert_eq!(health.next_probe(INTERVAL, now), now + RECOVERY);
        // Encrypt's success says nothing about Decrypt.
        health.succeeded(Operation::Encrypt, now);
        assert!(matches!(health.verdict(), Verdict::Failing(Operation::Decrypt, _)));
        health.succeeded(Operation::Decrypt, now);
        assert_eq!(health.verdict().to_string(), "ok");
    }

    #[test]
    fn a_failure_that_began_before_a_success_is_old_news() {
        let (began, now) = (Instant::now(), Instant::now() + Duration::from_secs(9));
        let mut health = healthy(now);
        for second in 0..9 {
            health.failed(Operation::Encrypt, trouble(), began, now + Duration::from_secs(second));
        }
        assert_eq!(health.verdict(), Verdict::Healthy);
    }

    #[test]
    fn before_the_first_success_nothing_is_ok() {
        let mut health = Health::default();
        assert_eq!(health.verdict(), Verdict::Starting);
        health.succeeded(Operation::Encrypt, Instant::now());
        assert_eq!(health.verdict(), Verdict::Starting);
        health.failed(Operation::Decrypt, trouble(), Instant::now(), Instant::now());
        assert!(matches!(health.verdict(), Verdict::Failing(Operation::Decrypt, _)));
    }

    #[test]
    fn real_calls_put_the_probe_off() {
        let now = Instant::now();
        let mut health = healthy(now);
        assert_eq!(health.next_probe(INTERVAL, now), now + INTERVAL);
        let later = now + Duration::from_secs(30);
        health.succeeded(Operation::Encrypt, later);
        assert_eq!(health.next_probe(INTERVAL, now), now + INTERVAL);
        health.succeeded(Operation::Decrypt, later);
        assert_eq!(health.next_probe(INTERVAL, now), later + INTERVAL);
    }
}
