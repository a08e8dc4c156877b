//! What a reader has seen of the object, and so what is new to it. Pure.

use std::time::Duration;

use coffer::push::Change;
use k8s_openapi::jiff::Timestamp;

use super::document::{Rotations, age};

/// At first sight, what is younger than this is news. A process that starts reads everything anyway, but
/// what it read may be some seconds older than the first sight, and clocks differ.
const NEWS_FOR: Duration = Duration::from_secs(120);

/// Sees one state of the object after the other.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    seen: Option<u64>,
}

impl Follower {
    /// The changes that are new in this state, each once, the newest last.
    ///
    /// Where numbers have started anew, as when the object was made again under another clock, it is like
    /// at first sight: a change told twice costs a look, one left out a whole interval.
    pub fn see(&mut self, rotations: &Rotations, now: Timestamp) -> Vec<Change> {
        let seen = self.seen.replace(rotations.seq()).filter(|seen| *seen <= rotations.seq());
        let mut news: Vec<Change> = Vec::new();
        for announced in rotations.changes() {
            let new = match seen {
                Some(seen) => announced.seq > seen,
                None => age(announced.at, now) < NEWS_FOR,
            };
            if new && !news.contains(&announced.change) {
                news.push(announced.change.clone());
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use coffer::push::Subject;

    use super::*;

    fn change(name: &str) -> Change {
        let subject = Subject::Secret { name: Some(name.to_owned()), arn: None };
        Change { subject, region: None, account: None, version: None, label: None }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn told(rotations: &mut Rotations, names: &[&str], seconds: i64) {
        rotations.announce(names.iter().map(|name| change(name)).collect(), at(seconds));
    }

    #[test]
    fn at_first_sight_only_what_is_young_is_news_and_then_what_is_new() {
        let mut rotations = Rotations::default();
        told(&mut rotations, &["old"], 0);
        told(&mut rotations, &["young"], 200);
        let mut follower = Follower::default();
        assert_eq!(follower.see(&rotations, at(201)), [change("young")]);
        assert_eq!(follower.see(&rotations, at(202)), []);
        told(&mut rotations, &["a", "b"], 210);
        told(&mut rotations, &["young"], 211);
        assert_eq!(follower.see(&rotations, at(212)), [change("a"), change("b"), change("young")]);
        // However long this one was away, what it has not seen is news.
        told(&mut rotations, &["c"], 220);
        assert_eq!(follower.see(&rotations, at(800)), [change("c")]);
    }

    #[test]
    fn an_empty_object_is_seen_too() {
        let mut rotations = Rotations::default();
        let mut follower = Follower::default();
        assert_eq!(follower.see(&rotations, at(0)), []);
        told(&mut rotations, &["a"], 10);
        assert_eq!(follower.see(&rotations, at(10_000)), [change("a")]);
    }

    #[test]
    fn an_object_made_again_goes_on() {
        let mut rotations = Rotations::default();
        told(&mut rotations, &["a", "b", "c"], 0);
        let mut follower = Follower::default();
        follower.see(&rotations, at(1));
        // By another notifier, at a later time: its numbers are higher, however many there were.
        let mut again = Rotations::default();
        told(&mut again, &["a", "d"], 2);
        assert_eq!(follower.see(&again, at(2)), [change("a"), change("d")]);
    }

    #[test]
    fn numbers_that_start_anew_are_taken_by_time() {
        let mut rotations = Rotations::default();
        told(&mut rotations, &["a"], 100_000);
        let mut follower = Follower::default();
        follower.see(&rotations, at(100_000));
        let mut again = Rotations::default();
        told(&mut again, &["old"], 0);
        told(&mut again, &["b"], 300);
        assert_eq!(follower.see(&again, at(310)), [change("b")]);
        assert_eq!(follower.see(&again, at(310)), []);
        told(&mut again, &["c"], 320);
        assert_eq!(follower.see(&again, at(330)), [change("c")]);
    }

    #[test]
    fn a_notifier_whose_clock_is_ahead_is_heard() {
        let mut rotations = Rotations::default();
        told(&mut rotations, &["a"], 3600);
        assert_eq!(Follower::default().see(&rotations, at(0)), [change("a")]);
    }
}
