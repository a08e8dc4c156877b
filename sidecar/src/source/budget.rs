//! How fast AWS may be asked: a token bucket for each account, region and service, shared by the
//! whole process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::spec::RateLimits;

/// How many seconds' worth of calls may be made at once: a start is a burst.
const BURST_SECONDS: f64 = 2.0;

/// Which of AWS's services a call goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Service {
    SecretsManager,
    ParameterStore,
}

/// How fast the process may ask AWS: one budget for each account, region and service, shared by every
/// [`Source`](super::Source) that is given it.
pub struct Budgets {
    limits: RateLimits,
    buckets: Mutex<HashMap<(String, String, Service), Arc<Budget>>>,
}

impl Budgets {
    /// Nothing has been spent yet.
    #[must_use]
    pub fn new(limits: RateLimits) -> Self {
        Self { limits, buckets: Mutex::default() }
    }

    /// The bucket for calls to `service` in `region` that count against `account` (empty for the
    /// process's own).
    pub(super) fn of(&self, account: &str, region: &str, service: Service) -> Arc<Budget> {
        let rate = match service {
            Service::SecretsManager => self.limits.secretsmanager,
            Service::ParameterStore => self.limits.parameterstore,
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (account.to_owned(), region.to_owned(), service);
        Arc::clone(buckets.entry(key).or_insert_with(|| Arc::new(Budget::new(rate))))
    }
}

/// One token bucket.
#[derive(Debug)]
pub(super) struct Budget {
    rate: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl Budget {
    fn new(rate: f64) -> Self {
        let burst = (rate * BURST_SECONDS).max(1.0);
        Self { rate, burst, state: Mutex::new((burst, Instant::now())) }
    }

    /// Waits until one more call fits.
    pub(super) async fn spend(&self) {
        let wait = self.reserve(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes a token, on credit if there is none, and tells how long to wait before using it: those
    /// who ask together leave in order.
    fn reserve(&self, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, at) = *state;
        let refilled = (tokens + now.saturating_duration_since(at).as_secs_f64() * self.rate).min(self.burst);
        let left = refilled - 1.0;
        *state = (left, now.max(at));
        if left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-left / self.rate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate_holds() {
        let budget = Budget::new(5.0);
        let started = Instant::now();
        for _ in 0..10 {
            budget.spend().await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            budget.spend().await;
        }
        let took = started.elapsed();
        assert!((1.9..2.1).contains(&took.as_secs_f64()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn accounts_regions_and_services_do_not_share() {
        let budgets = Budgets::new(RateLimits { secretsmanager: 0.5, parameterstore: 0.5 });
        let started = Instant::now();
        for (account, region, service) in [
            ("", "eu-west-1", Service::SecretsManager),
            ("1", "eu-west-1", Service::SecretsManager),
            ("", "us-east-1", Service::SecretsManager),
            ("", "eu-west-1", Service::ParameterStore),
        ] {
            budgets.of(account, region, service).spend().await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        budgets.of("", "eu-west-1", Service::SecretsManager).spend().await;
        assert_eq!(started.elapsed(), Duration::from_secs(2));
    }
}
