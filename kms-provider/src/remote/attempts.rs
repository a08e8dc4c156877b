//! When to try a call again within its caller's deadline.

use std::time::Duration;

use tokio::time::Instant;

use crate::Kind;

/// As many as the AWS SDKs make by default.
const MOST: u32 = 3;
/// KMS answers in tens of milliseconds; a try that takes less than this cannot be told from a hang.
const SHORTEST: Duration = Duration::from_millis(100);
/// The most that one try waits, however far the deadline.
const LONGEST: Duration = Duration::from_secs(5);
/// The bound of the first pause, doubled for each later one; the pause is random below it.
const PAUSE: Duration = Duration::from_millis(50);
/// The same after a throttle, which comes of too many calls.
const PAUSE_THROTTLED: Duration = Duration::from_millis(200);

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Attempts {
    deadline: Instant,
    made: u32,
}

impl Attempts {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, made: 0 }
    }

    /// How long the next try may take: a hang must leave time for another, except the last.
    pub(super) fn next(&mut self) -> Duration {
        self.made += 1;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let part = if self.made == MOST { left } else { left.mul_f64(0.45) };
        part.max(SHORTEST).min(left).min(LONGEST)
    }

    /// Whether a try was made before this one.
    pub(super) fn retried(&self) -> bool {
        self.made > 1
    }

    /// How long to pause before the next try after a failure of that kind; nothing if there is to be
    /// none.
    pub(super) fn pause(&self, kind: Kind) -> Option<Duration> {
        let bound = match kind {
            Kind::Throttled => PAUSE_THROTTLED,
            Kind::Unreachable => PAUSE,
            // The time is spent already.
            Kind::TimedOut => Duration::ZERO,
            _ => return None,
        };
        let pause = (bound * 2_u32.pow(self.made.saturating_sub(1))).mul_f64(fastrand::f64());
        let left = self.deadline.saturating_duration_since(Instant::now());
        (self.made < MOST && pause + SHORTEST < left).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hang_leaves_time_for_two_more() {
        let mut attempts = Attempts::until(Instant::now() + Duration::from_secs(3));
        let mut made = 0;
        loop {
            tokio::time::advance(attempts.next()).await;
            made += 1;
            match attempts.pause(Kind::TimedOut) {
                Some(pause) => tokio::time::advance(pause).await,
                None => break,
            }
        }
        assert_eq!(made, 3);
        assert!(attempts.deadline >= Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_fail_again_is_not_tried_again() {
        let mut attempts = Attempts::until(Instant::now() + Duration::from_secs(3));
        attempts.next();
        for kind in [Kind::Denied, Kind::KeyUnusable, Kind::BadCiphertext, Kind::BadRequest, Kind::Credentials] {
            assert_eq!(attempts.pause(kind), None);
        }
        assert!(attempts.pause(Kind::Throttled).is_some());
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(attempts.pause(Kind::Throttled), None);
    }
}
