//! Where to decrypt first, for a key that is in several regions: pure, by what happened before.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Kind, Trouble};

/// How long the replicas are asked first, once one of them has stood in for the key's own region.
const DETOUR: Duration = Duration::from_secs(30);

/// Whether the key's own region has failed of late.
#[derive(Debug, Default)]
pub(super) struct Detour(Option<Instant>);

impl Detour {
    /// The places to ask, in order; place 0 is the key's own region.
    pub(super) fn order(&self, replicas: usize, now: Instant) -> Vec<usize> {
        let away = replicas > 0 && self.0.is_some_and(|until| now < until);
        if away { (1..=replicas).chain([0]).collect() } else { (0..=replicas).collect() }
    }
}

/// One Decrypt, from place to place.
#[derive(Debug, Default)]
pub(super) struct Journey {
    home: Option<Trouble>,
    elsewhere: Option<Trouble>,
}

impl Journey {
    /// Somewhere it worked. Says whether that begins a detour.
    pub(super) fn arrived(&self, place: usize, detour: &mut Detour, now: Instant) -> bool {
        if place == 0 {
            detour.0 = None;
        } else if self.home.is_some() {
            return detour.0.replace(now + DETOUR).is_none();
        }
        false
    }

    /// It did not work there; the error is the answer if no other place can do better. The key's own region
    /// has the last word on whether it may be used; what a replica refuses may be its own policy.
    pub(super) fn failed(&mut self, place: usize, trouble: Trouble) -> Result<(), Trouble> {
        match trouble.kind {
            // No other region helps: the bound is our own.
            Kind::Busy => return Err(trouble),
            _ if place > 0 => {
                self.elsewhere.get_or_insert(trouble);
            }
            _ if trouble.kind.is_outage() => self.home = Some(trouble),
            _ => return Err(trouble),
        }
        Ok(())
    }

    /// Why it worked nowhere.
    pub(super) fn end(self) -> Trouble {
        self.home
            .or(self.elsewhere)
            .unwrap_or_else(|| Trouble::new(Kind::Unreachable, "there is no region to decrypt in"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(kind: Kind) -> Trouble {
        Trouble::new(kind, kind.as_str())
    }

    #[test]
    fn a_replica_that_stood_in_is_asked_first_for_a_while() {
        let (mut detour, now) = (Detour::default(), Instant::now());
        assert_eq!(detour.order(2, now), [0, 1, 2]);
        let mut journey = Journey::default();
        journey.failed(0, trouble(Kind::Unreachable)).unwrap();
        assert_eq!(detour.order(2, now), [0, 1, 2]);
        assert!(journey.arrived(1, &mut detour, now));
        assert!(!journey.arrived(1, &mut detour, now));
        assert_eq!(detour.order(2, now), [1, 2, 0]);
        assert_eq!(detour.order(2, now + DETOUR), [0, 1, 2]);
        Journey::default().arrived(0, &mut detour, now);
        assert_eq!(detour.order(2, now), [0, 1, 2]);
    }

    #[test]
    fn a_refusal_at_home_is_final_and_one_elsewhere_is_not() {
        for kind in [Kind::Denied, Kind::KeyUnusable, Kind::BadCiphertext, Kind::BadRequest] {
            assert_eq!(Journey::default().failed(0, trouble(kind)), Err(trouble(kind)));
            let mut journey = Journey::default();
            journey.failed(1, trouble(kind)).unwrap();
            journey.failed(0, trouble(Kind::TimedOut)).unwrap();
            assert_eq!(journey.end().kind, Kind::TimedOut);
        }
        assert!(Journey::default().failed(1, trouble(Kind::Busy)).is_err());
        let mut journey = Journey::default();
        journey.failed(1, trouble(Kind::Denied)).unwrap();
        assert_eq!(journey.end().kind, Kind::Denied);
    }
}
