//! How many calls of one kind are at KMS at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::{Kind, Trouble};

/// Throttles that come together are one sign, not many.
const BETWEEN_CUTS: Duration = Duration::from_millis(200);
/// What is left of the bound after a throttle.
const CUT: f64 = 0.7;

/// A bound on calls under way, cut when KMS throttles and grown again with each success, by one for
/// as many successes as there are places (additive increase, multiplicative decrease).
#[derive(Debug)]
pub struct Lane {
    calls: &'static str,
    fix: &'static str,
    most: usize,
    places: Arc<Semaphore>,
    bound: Mutex<Bound>,
}

#[derive(Debug)]
struct Bound {
    wanted: f64,
    /// Places that exist: free or taken.
    there: usize,
    last_cut: Option<Instant>,
}

/// A place for one call.
#[derive(Debug)]
pub(super) struct Place<'a> {
    lane: &'a Lane,
    permit: Option<OwnedSemaphorePermit>,
}

impl Lane {
    /// `most` calls at once, at least one. `calls` and `fix` are for the error of one who waited in vain.
    #[must_use]
    pub fn new(calls: &'static str, fix: &'static str, most: usize) -> Self {
        let most = most.max(1);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let bound = Bound { wanted: most as f64, there: most, last_cut: None };
        Self { calls, fix, most, places: Arc::new(Semaphore::new(most)), bound: Mutex::new(bound) }
    }

    /// How many calls may be under way now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.bound().wanted()
    }

    /// Waits for a place, in order of arrival.
    pub(super) async fn enter(&self, deadline: Instant) -> Result<Place<'_>, Trouble> {
        match timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place { lane: self, permit: Some(permit) }),
            Ok(Err(_)) | Err(_) => Err(Trouble::new(
                Kind::Busy,
                format!("no turn before the deadline: {} {} at KMS already; {}", self.limit(), self.calls, self.fix),
            )),
        }
    }

    fn bound(&self) -> std::sync::MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// KMS answered.
    pub(super) fn went_well(&self) {
        let mut bound = self.lane.bound();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let most = self.lane.most as f64;
        bound.wanted = (bound.wanted + 1.0 / bound.wanted).min(most);
        let more = bound.wanted().saturating_sub(bound.there);
        bound.there += more;
        self.lane.places.add_permits(more);
    }

    /// KMS throttled.
    pub(super) fn throttled(&self) {
        let mut bound = self.lane.bound();
        let now = Instant::now();
        if bound.last_cut.is_none_or(|last| now.duration_since(last) >= BETWEEN_CUTS) {
            bound.last_cut = Some(now);
            bound.wanted = (bound.wanted * CUT).max(1.0);
        }
    }
}

impl Drop for Place<'_> {
    /// A place that is one too many goes, instead of back.
    fn drop(&mut self) {
        let mut bound = self.lane.bound();
        if let Some(permit) = self.permit.take()
            && bound.there > bound.wanted()
        {
            bound.there -= 1;
            permit.forget();
        }
    }
}

impl Bound {
    fn wanted(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, at most `most`")]
        let whole = self.wanted as usize;
        whole.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_lane_says_so_at_the_deadline() {
        let lane = Lane::new("Decrypts are", "wait", 1);
        let held = lane.enter(soon()).await.unwrap();
        let error = lane.enter(soon()).await.unwrap_err();
        assert_eq!(error.kind, Kind::Busy);
        assert!(error.text.contains("1 Decrypts are at KMS"), "{error}");
        drop(held);
        lane.enter(soon()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn throttles_narrow_it_and_successes_widen_it() {
        let lane = Lane::new("Decrypts are", "wait", 10);
        for _ in 0..20 {
            let place = lane.enter(soon()).await.unwrap();
            place.throttled();
            drop(place);
            tokio::time::advance(BETWEEN_CUTS).await;
        }
        assert_eq!(lane.limit(), 1);
        let only = lane.enter(soon()).await;
        // Places go one by one, as calls end.
        let mut held = vec![only.unwrap()];
        while let Ok(place) = lane.enter(soon()).await {
            held.push(place);
        }
        held.clear();
        let one = lane.enter(soon()).await.unwrap();
        assert!(lane.enter(soon()).await.is_err());
        drop(one);
        for _ in 0..200 {
            lane.enter(soon()).await.unwrap().went_well();
        }
        assert_eq!(lane.limit(), 10);
        let mut held = Vec::new();
        while let Ok(place) = lane.enter(soon()).await {
            held.push(place);
        }
        assert_eq!(held.len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn throttles_that_come_together_are_one_sign() {
        let lane = Lane::new("Decrypts are", "wait", 10);
        let (one, two) = (lane.enter(soon()).await.unwrap(), lane.enter(soon()).await.unwrap());
        one.throttled();
        two.throttled();
        assert_eq!(lane.limit(), 7);
    }
}
