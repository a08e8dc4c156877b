//! A call that is under way, and all who wait for it.

use std::future::Future;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::{Kind, Trouble};

/// A call on a task of its own: it runs to its end, whoever of those who wait gives up.
#[derive(Debug)]
pub(crate) struct Flight<T>(watch::Receiver<Option<Result<T, Trouble>>>);

impl<T: Clone + Send + Sync + 'static> Flight<T> {
    /// Starts `call`, within a Tokio runtime.
    pub(crate) fn depart(call: impl Future<Output = Result<T, Trouble>> + Send + 'static) -> Self {
        let (sender, answer) = watch::channel(None);
        tokio::spawn(async move { sender.send_replace(Some(call.await)) });
        Self(answer)
    }

    /// Whether an answer can still come. It cannot when the call's task was ended before its time.
    pub(crate) fn under_way(&self) -> bool {
        self.0.has_changed().is_ok()
    }

    /// The answer, the same for everyone, or [`Kind::TimedOut`] when it does not come by `deadline`.
    pub(crate) async fn answer(mut self, deadline: Instant) -> Result<T, Trouble> {
        match timeout_at(deadline, self.0.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone().unwrap_or_else(|| Err(ended())),
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(too_late()),
        }
    }
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// `call`'s answer, or [`Kind::TimedOut`] at `deadline`.
pub(crate) async fn in_time<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    timeout_at(deadline, call).await.unwrap_or_else(|_| Err(too_late()))
}

fn too_late() -> Trouble {
    Trouble::new(Kind::TimedOut, "KMS did not answer before the deadline")
}

fn ended() -> Trouble {
    Trouble::new(Kind::Unreachable, "the call to KMS was ended before its answer: the plugin is stopping")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn all_get_the_answer_and_none_can_end_the_call() {
        let flight = Flight::depart(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(7)
        });
        assert_eq!(flight.clone().answer(after(1)).await.unwrap_err().kind, Kind::TimedOut);
        assert!(flight.under_way());
        assert_eq!(flight.clone().answer(after(9)).await, Ok(7));
        assert_eq!(flight.answer(after(9)).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_ends_without_an_answer_leaves_nobody_waiting() {
        let flight = Flight::<()>::depart(async { panic!("a fault of the test's") });
        assert_eq!(flight.clone().answer(after(9)).await.unwrap_err().kind, Kind::Unreachable);
        assert!(!flight.under_way());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_its_own_deadline() {
        let never = in_time(after(3), std::future::pending::<Result<(), Trouble>>());
        assert_eq!(never.await.unwrap_err().kind, Kind::TimedOut);
    }
}
