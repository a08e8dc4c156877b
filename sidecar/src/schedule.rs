//! When to look again. Pure: it is given the time and the chance.
//!
//! Looks fall on a grid of the volume's interval whose phase belongs to this instance, so that a
//! fleet started together spreads over the whole interval and stays spread; a small jitter, the
//! same for everything this instance looks at, keeps two fleets from beating in step.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coffer_runtime::aws::Class;

/// Part of the interval by which a look may come early or late.
const JITTER: f64 = 0.1;
/// After the first publication the next look comes within this time, whatever the interval: it
/// learns when AWS will rotate, and finds what changed during the start.
const SECOND_LOOK: Duration = Duration::from_secs(120);
/// What is taken over within this time is looked at with one look.
const ADOPTED_TOGETHER: Duration = Duration::from_secs(15);
/// AWS rotates on or before the date it gives (DescribeSecret, `NextRotationDate`); looking a little
/// later finds the new version more often than not.
const ROTATION_MARGIN: Duration = Duration::from_secs(5);
/// The looks after a rotation date are spread over this time.
const ROTATION_SPREAD: Duration = Duration::from_secs(10);
/// Failed looks wait at most this long, or the interval where that is shorter than it.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// At start-up someone waits: failed looks wait at most this long.
const LONGEST_BACKOFF_AT_START: Duration = Duration::from_secs(10);

/// The grid of one volume.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    interval: Duration,
    /// Of this instance; the same after a restart.
    seed: u64,
}

impl Schedule {
    /// `seed` should differ between instances and be the same after a restart of one: the pod's
    /// name will do. `interval` is at least a second.
    #[must_use]
    pub fn new(interval: Duration, seed: u64) -> Self {
        Self { interval: interval.max(Duration::from_secs(1)), seed }
    }

    /// The next look after one at `now` that succeeded. `next_rotation` is AWS's date, if known.
    #[must_use]
    pub fn after_success(&self, now: SystemTime, next_rotation: Option<SystemTime>) -> SystemTime {
        let regular = self.tick_after(now + self.interval / 2);
        match next_rotation {
            Some(date) => regular.min(self.after_rotation(now, date)),
            None => regular,
        }
    }

    /// The next look after the first publication at `now`.
    #[must_use]
    pub fn after_start(&self, now: SystemTime) -> SystemTime {
        let soon = SECOND_LOOK / 2 + (SECOND_LOOK / 2).mul_f64(self.phase());
        self.after_success(now, None).min(now + soon)
    }

    /// The first look after taking a set over at `now` from an earlier process: together with the others of
    /// this seed that are taken over at about the same time.
    #[must_use]
    pub fn after_adoption(&self, now: SystemTime) -> SystemTime {
        Self::new(self.interval.min(ADOPTED_TOGETHER), self.seed).tick_after(now)
    }

    /// The next look after one at `now` that failed as the `failures`th in a row (from 1).
    /// Exponential, with full jitter above a floor; `chance` is uniform in 0..1.
    #[must_use]
    pub fn after_failure(&self, now: SystemTime, failures: u32, class: Class, chance: f64) -> SystemTime {
        let longest = LONGEST_BACKOFF.min(self.interval.max(Duration::from_secs(30)));
        now + backoff(first_wait(class), longest, failures, chance)
    }

    /// How long to wait at start-up after the `failures`th failure in a row (from 1).
    #[must_use]
    pub fn wait_at_start(failures: u32, class: Class, chance: f64) -> Duration {
        backoff(first_wait(class) / 4, LONGEST_BACKOFF_AT_START, failures, chance)
    }

    /// No wait is longer than this, `failing` or not; one that is shows that the clock was set back.
    #[must_use]
    pub fn longest_wait(&self, failing: bool) -> Duration {
        let regular = self.interval * 2;
        if failing { regular.max(LONGEST_BACKOFF) } else { regular }
    }

    /// What is due within this time of a look is looked at with it: one call instead of two.
    #[must_use]
    pub fn slack(&self) -> Duration {
        (self.interval / 20).min(Duration::from_secs(5))
    }

    fn after_rotation(&self, now: SystemTime, date: SystemTime) -> SystemTime {
        let due = date + ROTATION_MARGIN + ROTATION_SPREAD.mul_f64(self.phase());
        if due > now {
            return due;
        }
        // The rotation is late. Look again after as long as it is late by, so ever more seldom.
        let late = now.duration_since(date).unwrap_or_default();
        now + late.max(ROTATION_SPREAD)
    }

    fn tick_after(&self, time: SystemTime) -> SystemTime {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let interval = self.interval.as_secs_f64();
        let mut tick = (since_epoch.as_secs_f64() / interval - self.phase() - JITTER).floor();
        loop {
            let jitter =
                JITTER * (2.0 * unit(self.seed ^ (tick as i64 as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) - 1.0);
            let at = UNIX_EPOCH + Duration::from_secs_f64(((tick + self.phase() + jitter) * interval).max(0.0));
            if at > time {
                return at;
            }
            tick += 1.0;
        }
    }

    /// Where in the interval this instance looks, from 0 to 1.
    fn phase(&self) -> f64 {
        unit(self.seed)
    }
}

/// How long the first failure of a kind makes us wait.
fn first_wait(class: Class) -> Duration {
    Duration::from_secs(match class {
        Class::Transient | Class::CredentialsRejected => 1,
        // The quota is shared with the whole account: going slow helps everyone.
        Class::Throttled => 4,
        // Someone has to act.
        Class::Denied | Class::NoCredentials | Class::NotFound | Class::Invalid => 10,
    })
}

fn backoff(first: Duration, longest: Duration, failures: u32, chance: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let most = first.saturating_mul(1 << doublings).min(longest);
    // A floor of a quarter keeps the unluckiest draws from hammering.
    most / 4 + (most * 3 / 4).mul_f64(chance.clamp(0.0, 1.0))
}

/// A number in 0..1 from the seed: the finaliser of splitmix64 (Steele, Lea, Flood 2014).
fn unit(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const NOW: u64 = 1_795_459_200;

    proptest! {
        #[test]
        fn looks_come_once_an_interval_and_never_bunch(seed: u64, seconds in 1u64..100_000, start in NOW..NOW + 200_000) {
            let schedule = Schedule::new(Duration::from_secs(seconds), seed);
            let mut time = at(start);
            let mut looks = 0.0;
            for _ in 0..40 {
                let next = schedule.after_success(time, None);
                let gap = next.duration_since(time).unwrap().as_secs_f64() / seconds as f64;
                prop_assert!((0.5..=1.7).contains(&gap), "{gap}");
                if looks > 0.0 {
                    prop_assert!((0.79..=1.21).contains(&gap), "{gap}");
                }
                looks += 1.0;
                time = next;
            }
            let mean = time.duration_since(at(start)).unwrap().as_secs_f64() / looks / seconds as f64;
            prop_assert!((0.96..1.04).contains(&mean), "{mean}");
        }

        #[test]
        fn backoff_grows_and_is_bounded(failures in 1u32..1000, chance in 0.0f64..1.0, seconds in 1u64..4000) {
            let schedule = Schedule::new(Duration::from_secs(seconds), 7);
            for class in [Class::Transient, Class::Throttled, Class::Denied] {
                let wait = schedule.after_failure(at(NOW), failures, class, chance).duration_since(at(NOW)).unwrap();
                prop_assert!(wait >= first_wait(class) / 4 && wait <= LONGEST_BACKOFF, "{wait:?}");
                prop_assert!(Schedule::wait_at_start(failures, class, chance) <= LONGEST_BACKOFF_AT_START);
            }
        }
    }

    #[test]
    fn a_fleet_started_together_spreads_over_the_interval() {
        let mut quarters = [0; 4];
        for seed in 0..1000 {
            let next = Schedule::new(Duration::from_secs(60), seed).after_success(at(NOW), None);
            let phase = next.duration_since(at(NOW)).unwrap().as_secs_f64() - 30.0;
            quarters[((phase / 15.0) as usize).min(3)] += 1;
        }
        assert!(quarters.iter().all(|count| (150..350).contains(count)), "{quarters:?}");
    }

    #[test]
    fn a_restart_keeps_the_phase() {
        let one = Schedule::new(Duration::from_secs(60), 42).after_success(at(NOW), None);
        let other = Schedule::new(Duration::from_secs(60), 42).after_success(at(NOW) + Duration::from_millis(10), None);
        assert_eq!(one, other);
    }

    #[test]
    fn what_this_instance_looks_at_is_due_at_the_same_moment() {
        let schedule = Schedule::new(Duration::from_secs(60), 42);
        assert_eq!(
            schedule.after_success(at(NOW), None),
            schedule.after_success(at(NOW) + Duration::from_millis(5), None)
        );
    }

    #[test]
    fn a_rotation_date_is_honoured() {
        let schedule = Schedule::new(Duration::from_secs(3600), 42);
        let next = schedule.after_success(at(NOW), Some(at(NOW + 100))).duration_since(at(NOW)).unwrap();
        assert!((105..=115).contains(&next.as_secs()), "{next:?}");
        let next = schedule.after_success(at(NOW), Some(at(NOW + 100_000))).duration_since(at(NOW)).unwrap();
        assert!(next.as_secs() <= 3600 * 3 / 2 + 360, "{next:?}");
    }

    #[test]
    fn a_late_rotation_is_looked_for_ever_more_seldom() {
        let schedule = Schedule::new(Duration::from_secs(7200), 42);
        let date = at(NOW);
        let mut now = at(NOW + 16);
        let mut looks = 0;
        while now < at(NOW + 1800) {
            now = schedule.after_success(now, Some(date));
            looks += 1;
        }
        assert!((5..=9).contains(&looks), "{looks}");
    }

    #[test]
    fn the_second_look_comes_soon_however_long_the_interval() {
        let next = Schedule::new(Duration::from_secs(86_400), 3).after_start(at(NOW)).duration_since(at(NOW)).unwrap();
        assert!(next <= SECOND_LOOK, "{next:?}");
    }
}
