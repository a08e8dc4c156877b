//! Whether and when a program is started anew. Pure: it is given the time and the chance.

use std::time::{Duration, Instant};

/// Secrets of one moment come one volume after the other: a restart waits at least so long for the rest
/// of them.
const SETTLE: Duration = Duration::from_secs(2);

/// Follows which secrets, in the state `S`, the running program was started with, and plans at most one
/// restart for those that come after.
#[derive(Debug)]
pub(super) struct Restarts<S> {
    /// Shortest time from one start to the next.
    min_interval: Duration,
    /// A restart waits a random part of this, so that a fleet does not restart in step.
    jitter: Duration,
    running: S,
    started: Instant,
    planned: Option<Planned<S>>,
}

#[derive(Debug)]
struct Planned<S> {
    state: S,
    due: Instant,
}

/// What a rotation led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The program runs with these secrets, or is about to.
    Known,
    /// A restart is planned.
    Planned,
    /// A planned restart takes these secrets instead, at the same time.
    Replaced,
    /// What was planned is called off: the secrets are again those the program runs with.
    CalledOff,
}

impl<S: PartialEq> Restarts<S> {
    /// A program was started with secrets in `state` at `now`.
    pub(super) fn new(min_interval: Duration, jitter: Duration, state: S, now: Instant) -> Self {
        Self { min_interval, jitter, running: state, started: now, planned: None }
    }

    /// The secrets are now in `state`. `chance` is uniform in 0..1.
    pub(super) fn rotated(&mut self, state: S, now: Instant, chance: f64) -> Decision {
        if state == self.running {
            return if self.planned.take().is_some() { Decision::CalledOff } else { Decision::Known };
        }
        match &mut self.planned {
            Some(planned) if planned.state == state => Decision::Known,
            // The time stays: secrets that rotate again and again must not put it off for ever.
            Some(planned) => {
                planned.state = state;
                Decision::Replaced
            }
            None => {
                let spread = now + self.jitter.mul_f64(chance.clamp(0.0, 1.0)).max(SETTLE);
                let due = spread.max(self.started + self.min_interval);
                self.planned = Some(Planned { state, due });
                Decision::Planned
            }
        }
    }

    /// When the program is to be stopped, if it is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.planned.as_ref().map(|planned| planned.due)
    }

    /// The program was started anew at `now`, with the newest secrets.
    pub(super) fn restarted(&mut self, now: Instant) {
        if let Some(planned) = self.planned.take() {
            self.running = planned.state;
        }
        self.started = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);
    const JITTER: Duration = Duration::from_secs(10);

    fn started() -> (Restarts<String>, Instant) {
        let now = Instant::now();
        (Restarts::new(INTERVAL, JITTER, "1".to_owned(), now), now)
    }

    #[test]
    fn versions_that_are_known_change_nothing() {
        let (mut restarts, now) = started();
        assert_eq!(restarts.rotated("1".to_owned(), now, 0.5), Decision::Known);
        assert_eq!(restarts.due(), None);
        assert_eq!(restarts.rotated("2".to_owned(), now, 0.5), Decision::Planned);
        let due = restarts.due();
        assert_eq!(restarts.rotated("2".to_owned(), now + JITTER, 0.9), Decision::Known);
        assert_eq!(restarts.due(), due);
        restarts.restarted(now + INTERVAL);
        assert_eq!(restarts.rotated("2".to_owned(), now + INTERVAL * 2, 0.5), Decision::Known);
        assert_eq!(restarts.due(), None);
    }

    #[test]
    fn waits_its_part_of_the_jitter_and_no_less_than_the_interval() {
        let (mut restarts, start) = started();
        let later = start + INTERVAL * 2;
        restarts.rotated("2".to_owned(), later, 0.5);
        assert_eq!(restarts.due(), Some(later + JITTER / 2));
        restarts.restarted(later + JITTER / 2);
        restarts.rotated("3".to_owned(), later + JITTER, 0.5);
        assert_eq!(restarts.due(), Some(later + JITTER / 2 + INTERVAL));
        restarts.restarted(later + JITTER / 2 + INTERVAL);
        // And never so little that the rest of what rotated together would come after it.
        let latest = later + INTERVAL * 3;
        restarts.rotated("4".to_owned(), latest, 0.0);
        assert_eq!(restarts.due(), Some(latest + SETTLE));
    }

    #[test]
    fn a_rotation_replaces_the_one_that_waits_and_one_back_calls_it_off() {
        let (mut restarts, now) = started();
        restarts.rotated("2".to_owned(), now, 0.0);
        let due = restarts.due();
        assert_eq!(restarts.rotated("3".to_owned(), now + JITTER, 1.0), Decision::Replaced);
        assert_eq!(restarts.due(), due);
        assert_eq!(restarts.rotated("1".to_owned(), now + JITTER, 1.0), Decision::CalledOff);
        assert_eq!(restarts.due(), None);
        restarts.rotated("4".to_owned(), now + JITTER, 0.0);
        restarts.restarted(now + INTERVAL);
        // A secret that is set back is a new state of it: the program needs the value of then.
        assert_eq!(restarts.rotated("1".to_owned(), now + INTERVAL, 0.0), Decision::Planned);
    }

    proptest! {
        /// Whatever rotates whenever: starts keep their distance, each is of other versions than
        /// the one before, and the last rotation wins.
        #[test]
        fn restarts_keep_their_distance_and_end_at_the_newest(
            rotations in proptest::collection::vec((0u64..90, 0u8..4, 0.0f64..1.0), 1..60),
        ) {
            let (mut restarts, mut now) = started();
            let (mut running, mut since, mut newest) = ("1".to_owned(), now, "1".to_owned());
            for (wait, versions, chance) in rotations {
                let next = now + Duration::from_secs(wait);
                if let Some(due) = restarts.due().filter(|due| *due <= next) {
                    prop_assert!(due >= since + INTERVAL);
                    prop_assert_ne!(&running, &newest);
                    restarts.restarted(due);
                    running.clone_from(&newest);
                    since = due;
                }
                now = next;
                newest = versions.to_string();
                restarts.rotated(newest.clone(), now, chance);
                prop_assert_eq!(restarts.due().is_some(), newest != running);
                prop_assert!(restarts.due().is_none_or(|due| due <= now + JITTER.max(INTERVAL)));
            }
        }
    }
}
