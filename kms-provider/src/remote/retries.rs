//! How often calls of one key may be tried again, all of them together: a KMS that is down gets no storm.

use std::sync::{Mutex, PoisonError};

/// Tokens that retries take and successes give back, as the AWS SDK for Go v2 does it
/// (`aws/ratelimit/token_rate_limit.go` and `aws/retry/standard.go`).
#[derive(Debug)]
pub(super) struct Retries {
    settings: RetrySettings,
    tokens: Mutex<u32>,
}

/// What a first try that succeeds gives back.
const REFUND: u32 = 1;

/// How large the bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    capacity: u32,
    cost: u32,
}

impl RetrySettings {
    /// A bucket of `capacity` tokens, 5 for a retry. The SDK's own is 500.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self { capacity, cost: 5 }
    }

    /// A bucket of which each retry takes one: what the deprecated limits of the AWS Encryption
    /// Provider come to (its `pkg/cloud/cloud.go`).
    #[must_use]
    pub fn one_by_one(capacity: u32) -> Self {
        Self { capacity, cost: 1 }
    }
}

impl Retries {
    pub(super) fn new(settings: RetrySettings) -> Self {
        Self { settings, tokens: Mutex::new(settings.capacity) }
    }

    /// Takes the tokens of one retry; `false` when they are not there.
    pub(super) fn take(&self) -> bool {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        match tokens.checked_sub(self.settings.cost) {
            Some(left) => {
                *tokens = left;
                true
            }
            None => false,
        }
    }

    /// A call ended well, after a retry or at once.
    pub(super) fn give_back(&self, retried: bool) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let back = if retried { self.settings.cost } else { REFUND };
        *tokens = tokens.saturating_add(back).min(self.settings.capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_uses_the_budget_up_and_successes_fill_it() {
        let retries = Retries::new(RetrySettings::new(12));
        assert_eq!([retries.take(), retries.take(), retries.take()], [true, true, false]);
        for _ in 0..3 {
            retries.give_back(false);
        }
        assert!(retries.take());
        retries.give_back(true);
        assert!(retries.take() && !retries.take());
    }
}
