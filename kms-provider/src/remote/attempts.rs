//! When to try a call again within its caller's deadline.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::Kind;

/// As many as the AWS SDKs make by default.
const MOST: u32 = 3;
/// KMS answers in tens of milliseconds; a try that takes less than this cannot be told from a hang.
const SHORTEST: Duration = Duration::from_millis(100);
/// How much of the time that is left a try has for itself, before a second one is sent beside it.
const ALONE: f64 = 0.45;
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

    /// Makes a try, with a second beside it if the first is long in coming and `may_double` lets it: the
    /// first may hang on a dead connection, or just be slow. Nothing, when neither ends by the deadline.
    pub(super) async fn make<T, E, Trying>(
        &mut self,
        mut attempt: impl FnMut() -> Trying,
        may_double: impl FnOnce() -> bool,
    ) -> Option<Result<T, E>>
    where
        Trying: Future<Output = Result<T, E>>,
    {
        self.made += 1;
        let left = self.deadline.saturating_duration_since(Instant::now());
        // Boxed: a call of the SDK is large, and nearly always there is no second.
        let mut first = Box::pin(attempt());
        if let Ok(answer) = timeout(left.mul_f64(ALONE).max(SHORTEST).min(left), &mut first).await {
            return Some(answer);
        }
        if self.made >= MOST || !may_double() {
            return timeout_at(self.deadline, first).await.ok();
        }
        self.made += 1;
        let mut second = Box::pin(attempt());
        let either = timeout_at(self.deadline, async {
            tokio::select! {
                answer = &mut first => (answer, true),
                answer = &mut second => (answer, false),
            }
        });
        match either.await.ok()? {
            (Ok(answer), _) => Some(Ok(answer)),
            (Err(_), true) => timeout_at(self.deadline, second).await.ok(),
            (Err(_), false) => timeout_at(self.deadline, first).await.ok(),
        }
    }

    /// Whether more than one try was made.
    pub(super) fn retried(&self) -> bool {
        self.made > 1
    }

    /// How long to pause before the next try after a failure of that kind; nothing if there is to be
    /// none.
    pub(super) fn pause(&self, kind: Kind) -> Option<Duration> {
        let bound = match kind {
            Kind::Throttled => PAUSE_THROTTLED,
            Kind::Unreachable => PAUSE,
            _ => return None,
        };
        let pause = (bound * 2_u32.pow(self.made.saturating_sub(1))).mul_f64(fastrand::f64());
        let left = self.deadline.saturating_duration_since(Instant::now());
        (self.made < MOST && pause + SHORTEST < left).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const TIME: Duration = Duration::from_secs(3);

    fn attempts() -> Attempts {
        Attempts::until(Instant::now() + TIME)
    }

    /// Each try takes its own time.
    async fn made(
        attempts: &mut Attempts,
        times: [Duration; 2],
        may_double: bool,
    ) -> (Option<Result<usize, ()>>, Duration) {
        let (started, number) = (Instant::now(), Cell::new(0));
        let attempt = || {
            let mine = number.get();
            number.set(mine + 1);
            async move {
                tokio::time::sleep(times[mine]).await;
                Ok(mine)
            }
        };
        let answer = attempts.make(attempt, || may_double).await;
        (answer, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_hang_is_overtaken_and_slowness_is_waited_for() {
        let (hang, quick, slow) = (TIME * 2, Duration::from_millis(20), Duration::from_millis(1_500));
        assert_eq!(made(&mut attempts(), [quick, quick], true).await, (Some(Ok(0)), quick));
        let (answer, took) = made(&mut attempts(), [hang, quick], true).await;
        assert_eq!((answer, took), (Some(Ok(1)), TIME.mul_f64(ALONE) + quick));
        assert_eq!(made(&mut attempts(), [slow, slow], true).await, (Some(Ok(0)), slow));
        assert_eq!(made(&mut attempts(), [slow, quick], false).await, (Some(Ok(0)), slow));
        assert_eq!(made(&mut attempts(), [hang, hang], true).await, (None, TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_fail_again_is_not_tried_again() {
        let mut attempts = attempts();
        made(&mut attempts, [Duration::ZERO; 2], true).await.0.unwrap().unwrap();
        for kind in
            [Kind::Denied, Kind::KeyUnusable, Kind::BadCiphertext, Kind::BadRequest, Kind::Credentials, Kind::TimedOut]
        {
            assert_eq!(attempts.pause(kind), None);
        }
        assert!(attempts.pause(Kind::Throttled).is_some());
        tokio::time::advance(TIME).await;
        assert_eq!(attempts.pause(Kind::Throttled), None);
    }
}
