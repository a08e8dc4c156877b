//! Which keys to ask for a ciphertext, and in which order: pure.

use crate::follow::stands_for;
use crate::key::KeyName;
use crate::{Kind, Trouble};

/// Keys that a followed name stood for and that are remembered.
const FORMER: usize = 16;

/// Which keys may decrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Whatever the identity is allowed to, as the AWS Encryption Provider does it: KMS reads from the
    /// ciphertext which key that is.
    Any,
    /// Only the keys that are listed: KMS is told the key, and refuses another's ciphertext.
    Listed,
}

/// The keys that there are: place 0 is the one to encrypt with.
#[derive(Debug)]
pub(crate) struct Routes {
    policy: Policy,
    names: Vec<KeyName>,
    /// The places to ask when KMS is not told the key: others would only ask the same again.
    distinct: Vec<usize>,
    /// ARNs that the name at place 0 stands for, or stood or will stand for; the present one first.
    followed: Vec<String>,
}

/// One key to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) place: usize,
    /// What KMS is told of the key, for which alone it then decrypts.
    pub(crate) pin: Option<String>,
}

impl Routes {
    pub(crate) fn new(policy: Policy, names: Vec<KeyName>, distinct: Vec<usize>) -> Self {
        Self { policy, names, distinct, followed: Vec::new() }
    }

    /// The name at place 0 stands for that key: now, or (`!present`) soon.
    pub(crate) fn follow(&mut self, arn: &str, present: bool) {
        let known = self.followed.iter().position(|known| known == arn);
        match (known, present) {
            (Some(place), true) => self.followed[..=place].rotate_right(1),
            (Some(_), false) => {}
            (None, true) => self.followed.insert(0, arn.to_owned()),
            (None, false) => self.followed.push(arn.to_owned()),
        }
        self.followed.truncate(FORMER);
    }

    /// Whether a key_id makes a difference.
    pub(crate) fn by_key_id(&self) -> bool {
        self.policy == Policy::Listed
    }

    /// The keys to ask, in order. `key_id` is what the API server was told at the encryption, if the request
    /// says; `last_good` is the place that decrypted last.
    pub(crate) fn candidates(&self, key_id: Option<&str>, last_good: usize) -> Result<Vec<Candidate>, Trouble> {
        let is_known = |place: usize| key_id.is_some_and(|key_id| self.is(place, key_id));
        match (self.policy, key_id) {
            (Policy::Any, _) => {
                let mut places = self.distinct.clone();
                places.sort_by_key(|place| (!is_known(*place), *place != last_good));
                Ok(places.into_iter().map(|place| Candidate { place, pin: None }).collect())
            }
            (Policy::Listed, None) => {
                let mut places: Vec<usize> = (0..self.names.len()).collect();
                places.sort_by_key(|place| *place != last_good);
                Ok(places.into_iter().flat_map(|place| self.pinned(place, None)).collect())
            }
            (Policy::Listed, Some(key_id)) => {
                let known = (0..self.names.len()).filter(|place| is_known(*place));
                let candidates: Vec<Candidate> = known.flat_map(|place| self.pinned(place, Some(key_id))).collect();
                if candidates.is_empty() { Err(unknown(key_id)) } else { Ok(candidates) }
            }
        }
    }

    /// Whether `arn` is that of the key to encrypt with, or one that its name stood for.
    pub(crate) fn is_writer(&self, arn: &str) -> bool {
        self.is(0, arn)
    }

    /// Whether `arn` is that of a key here; nothing where an alias leaves that open.
    pub(crate) fn lists(&self, arn: &str) -> Option<bool> {
        let listed = (0..self.names.len()).any(|place| self.is(place, arn));
        let open = self
            .names
            .iter()
            .enumerate()
            .any(|(place, name)| name.is_alias() && (place > 0 || self.followed.is_empty()));
        if listed { Some(true) } else { (!open).then_some(false) }
    }

    fn is(&self, place: usize, key_id: &str) -> bool {
        stands_for(key_id, &self.names[place]) || place == 0 && self.of_followed(key_id).is_some()
    }

    fn of_followed(&self, key_id: &str) -> Option<&String> {
        let names = |arn: &String| arn.parse::<KeyName>().is_ok_and(|name| stands_for(key_id, &name));
        self.followed.iter().find(|arn| names(arn))
    }

    fn pinned(&self, place: usize, key_id: Option<&str>) -> Vec<Candidate> {
        let pin = |name: &str| Candidate { place, pin: Some(name.to_owned()) };
        if place > 0 || self.followed.is_empty() {
            return vec![pin(self.names[place].as_str())];
        }
        match key_id.and_then(|key_id| self.of_followed(key_id)) {
            Some(arn) => vec![pin(arn)],
            None => self.followed.iter().map(|arn| pin(arn)).collect(),
        }
    }
}

fn unknown(key_id: &str) -> Trouble {
    let shown: String = key_id.chars().take(200).collect();
    let fix = "add --decrypt-key with its key, or set --decrypt-policy any";
    Trouble::new(Kind::BadRequest, format!("the key_id '{shown}' is none of --key and --decrypt-key; {fix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "arn:aws:kms:eu-west-1:123456789012:key/aaaa";
    const B: &str = "arn:aws:kms:eu-west-1:123456789012:key/bbbb";
    const C: &str = "arn:aws:kms:eu-west-1:123456789012:key/cccc";

    fn routes(policy: Policy, names: &[&str]) -> Routes {
        let distinct = (0..names.len()).collect();
        Routes::new(policy, names.iter().map(|name| name.parse().unwrap()).collect(), distinct)
    }

    fn asked(routes: &Routes, key_id: Option<&str>, last_good: usize) -> Vec<(usize, Option<String>)> {
        let candidates = routes.candidates(key_id, last_good).unwrap();
        candidates.into_iter().map(|candidate| (candidate.place, candidate.pin)).collect()
    }

    fn pin(place: usize, name: &str) -> (usize, Option<String>) {
        (place, Some(name.to_owned()))
    }

    #[test]
    fn without_a_policy_kms_is_asked_once_for_each_question_there_is() {
        let mut routes = routes(Policy::Any, &[A, B, C]);
        assert_eq!(asked(&routes, Some(B), 0), [(1, None), (0, None), (2, None)]);
        assert_eq!(asked(&routes, Some("whatever"), 2), [(2, None), (0, None), (1, None)]);
        routes.distinct = vec![0];
        assert_eq!(asked(&routes, Some(B), 0), [(0, None)]);
    }

    #[test]
    fn listed_keys_are_told_to_kms_and_others_are_refused() {
        let routes = routes(Policy::Listed, &[A, B]);
        assert_eq!(asked(&routes, Some(B), 0), [pin(1, B)]);
        assert_eq!(asked(&routes, None, 0), [pin(0, A), pin(1, B)]);
        assert_eq!(asked(&routes, None, 1), [pin(1, B), pin(0, A)]);
        let refused = routes.candidates(Some(C), 0).unwrap_err();
        assert!(refused.kind == Kind::BadRequest && refused.text.contains("--decrypt-key"), "{refused}");
        assert!(routes.candidates(Some(""), 0).is_err());
    }

    #[test]
    fn one_key_under_two_contexts_is_asked_under_both() {
        let routes = routes(Policy::Listed, &[A, A]);
        assert_eq!(asked(&routes, Some(A), 0), [pin(0, A), pin(1, A)]);
    }

    #[test]
    fn an_alias_that_moves_is_read_before_during_and_after() {
        let mut routes = routes(Policy::Listed, &["alias/etcd", C]);
        routes.follow(A, true);
        routes.follow(B, false);
        assert_eq!(asked(&routes, Some(&format!("{A}#t=1")), 0), [pin(0, A)]);
        // A replica that was faster has written under the key that is pending here.
        assert_eq!(asked(&routes, Some(&format!("{B}#t=2")), 0), [pin(0, B)]);
        routes.follow(B, true);
        assert_eq!(asked(&routes, Some(&format!("{A}#t=1")), 0), [pin(0, A)]);
        assert_eq!(asked(&routes, Some("alias/etcd"), 0), [pin(0, B), pin(0, A)]);
        assert_eq!(asked(&routes, None, 1), [pin(1, C), pin(0, B), pin(0, A)]);
        assert_eq!((routes.is_writer(A), routes.is_writer(C), routes.lists(C)), (true, false, Some(true)));
    }

    #[test]
    fn behind_an_alias_it_is_open_what_is_listed() {
        assert_eq!(routes(Policy::Any, &["alias/etcd"]).lists(A), None);
        assert_eq!(routes(Policy::Any, &[A]).lists(B), Some(false));
    }
}
