//! When credentials are a suspect: pure, by what happened before.

use std::time::Duration;

use tokio::time::Instant;

/// Credentials that are not allowed what they should be may be another role's: those of a node whose
/// role came late (kube2iam and its like). They are fetched anew, this often at most.
const BETWEEN_DOUBTS: Duration = Duration::from_secs(60);
/// Those that AWS does not accept are fetched anew at once, and then this often at most: a wrong clock
/// makes all of them unacceptable.
const BETWEEN_REJECTIONS: Duration = Duration::from_secs(5);

/// What was suspected, and when.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    doubted: Option<Instant>,
    rejected: Option<Instant>,
}

impl Doubt {
    /// AWS denied something; `worked` if this identity was ever allowed it. Whether that casts a doubt.
    pub(super) fn denied(&mut self, worked: bool, now: Instant) -> bool {
        !worked && due(&mut self.doubted, BETWEEN_DOUBTS, now)
    }

    /// AWS did not accept the credentials. Whether to drop them.
    pub(super) fn not_accepted(&mut self, now: Instant) -> bool {
        due(&mut self.rejected, BETWEEN_REJECTIONS, now)
    }
}

fn due(last: &mut Option<Instant>, apart: Duration, now: Instant) -> bool {
    let due = last.is_none_or(|last| now.duration_since(last) >= apart);
    if due {
        *last = Some(now);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_doubted_once_a_minute_and_never_where_it_worked_before() {
        let (mut doubt, now) = (Doubt::default(), Instant::now());
        assert!(!doubt.denied(true, now));
        assert!(doubt.denied(false, now) && !doubt.denied(false, now + BETWEEN_DOUBTS / 2));
        assert!(doubt.denied(false, now + BETWEEN_DOUBTS));
    }

    #[test]
    fn a_wrong_clock_does_not_fetch_credentials_with_every_call() {
        let (mut doubt, now) = (Doubt::default(), Instant::now());
        assert!(doubt.not_accepted(now) && !doubt.not_accepted(now + BETWEEN_REJECTIONS / 2));
        assert!(doubt.not_accepted(now + BETWEEN_REJECTIONS));
    }
}
