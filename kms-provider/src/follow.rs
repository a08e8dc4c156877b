//! Which key a name stands for, and when that changes: a pure account of what was seen.
//!
//! An API server learns of a rotation from the key_id alone. Behind an alias another key may stand
//! tomorrow, and a key may get new material with the same ARN; with `--follow-key` the key_id tells
//! both. It must be the same on all replicas, must not go back and forth, and must never come again
//! ("Using a KMS provider for data encryption", kubernetes.io): so it is made of what KMS itself
//! says, the time at which an alias was moved included, and a change counts a set time after KMS
//! dates it.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::key::KeyName;
use crate::remote::Description;

/// Enough of KMS's id of a key material (64 hexadecimal digits) to tell those of one key apart.
const MATERIAL_PART: usize = 16;

/// What KMS said a key's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// ARN of the key, and its material.
    pub description: Description,
    /// When the alias was moved to it, where KMS says so.
    pub moved: Option<SystemTime>,
}

/// What to encrypt under, and what to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// For KMS's `KeyId`.
    pub target: String,
    /// For the API server.
    pub key_id: String,
}

/// The account.
#[derive(Debug)]
pub struct Follow {
    delay: Duration,
    active: Option<Active>,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    active: Active,
    due: SystemTime,
}

impl Seen {
    /// What this is called: `ARN#m=MATERIAL#t=SECONDS`. The ARN of a multi-region key goes without
    /// its region, which is not the same everywhere.
    fn active(&self) -> Active {
        let Description { arn, material, .. } = &self.description;
        let mut key_id = arn.clone();
        if let Ok(name) = arn.parse::<KeyName>()
            && name.is_multi_region()
        {
            key_id = name.in_region("").unwrap_or(key_id);
        }
        // Writing to a string cannot fail.
        if let Some(material) = material {
            let _ = write!(key_id, "#m={}", material.chars().take(MATERIAL_PART).collect::<String>());
        }
        if let Some(moved) = self.moved {
            let seconds = moved.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            let _ = write!(key_id, "#t={seconds}");
        }
        Active { target: arn.clone(), key_id }
    }
}

impl Follow {
    /// Nothing seen yet; a change is to count `delay` after it was made.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { delay, active: None, pending: None }
    }

    /// Takes note of what was seen; `now` is the time of day. Returns what is active from now on, if
    /// that has changed.
    ///
    /// The first thing seen is active at once: there is nothing to fall back on. A change has to be
    /// seen twice, and is forgotten if the old state is seen again before its time.
    pub fn see(&mut self, seen: &Seen, now: SystemTime) -> Option<Active> {
        let next = seen.active();
        match (&self.active, &self.pending) {
            (None, _) => {}
            (Some(active), _) if *active == next => {
                self.pending = None;
                return None;
            }
            (Some(_), Some(pending)) if pending.active == next => {
                if now < pending.due {
                    return None;
                }
            }
            (Some(_), _) => {
                let made = seen.moved.filter(|moved| *moved <= now).unwrap_or(now);
                self.pending = Some(Pending { active: next, due: made + self.delay });
                return None;
            }
        }
        self.pending = None;
        self.active = Some(next.clone());
        Some(next)
    }

    /// The change that waits for its time, and that time.
    #[must_use]
    pub fn pending(&self) -> Option<(&Active, SystemTime)> {
        self.pending.as_ref().map(|pending| (&pending.active, pending.due))
    }
}

/// What a key_id goes by while a local KEK seals what is written: a change of the format is told to the API
/// server like a change of the key, so that it writes anew what it is asked to write.
#[must_use]
pub fn of_local_kek(key_id: &str) -> String {
    format!("{key_id}{LOCAL_KEK}")
}

const LOCAL_KEK: &str = "#local-kek";

/// The same without what tells the format.
#[must_use]
pub fn of_key(key_id: &str) -> &str {
    key_id.strip_suffix(LOCAL_KEK).unwrap_or(key_id)
}

/// Whether a key_id, a literal name or one made here, stands for the key of that name.
#[must_use]
pub fn stands_for(key_id: &str, name: &KeyName) -> bool {
    let written = key_id.split_once('#').map_or(key_id, |(arn, _)| arn);
    if key_id == name.as_str() || written == name.as_str() {
        return true;
    }
    // The same key, once by its id and once by its ARN; or a multi-region key of another region.
    let key = |text: &str| text.rsplit_once(":key/").map_or_else(|| text.to_owned(), |(_, id)| id.to_owned());
    name.key_id().is_some_and(|id| key(written) == id && (name.region().is_none() || same_account(written, name)))
}

fn same_account(written: &str, name: &KeyName) -> bool {
    let account = |text: &str| text.split(':').nth(4).map(str::to_owned);
    let region = |text: &str| text.split(':').nth(3).map(str::to_owned);
    !written.starts_with("arn:")
        || account(written) == account(name.as_str())
            && (name.is_multi_region() || region(written) == region(name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(300);
    const A: &str = "arn:aws:kms:eu-west-1:123456789012:key/aaaa";
    const B: &str = "arn:aws:kms:eu-west-1:123456789012:key/bbbb";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn seen(arn: &str, material: Option<&str>, moved: Option<u64>) -> Seen {
        let description =
            Description { arn: arn.to_owned(), material: material.map(str::to_owned), material_ends: None };
        Seen { description, moved: moved.map(at) }
    }

    fn key_id(active: Option<Active>) -> Option<String> {
        active.map(|active| active.key_id)
    }

    #[test]
    fn a_moved_alias_counts_its_delay_after_it_was_moved_wherever_it_is_seen() {
        let (a, b) = (seen(A, None, Some(1_000)), seen(B, None, Some(10_000)));
        for first_look in [10_010, 10_050, 10_290] {
            let mut follow = Follow::new(DELAY);
            assert_eq!(key_id(follow.see(&a, at(9_000))), Some(format!("{A}#t=1000")));
            assert_eq!(follow.see(&b, at(first_look)), None);
            assert_eq!(follow.see(&b, at(10_299)), None);
            assert_eq!(key_id(follow.see(&b, at(10_300))), Some(format!("{B}#t=10000")));
            assert_eq!(follow.see(&b, at(10_400)), None);
        }
    }

    #[test]
    fn going_back_before_the_time_changes_nothing_and_a_later_return_has_a_new_name() {
        let mut follow = Follow::new(DELAY);
        follow.see(&seen(A, None, Some(1)), at(9_000)).unwrap();
        follow.see(&seen(B, None, Some(10_000)), at(10_000));
        assert_eq!(follow.see(&seen(A, None, Some(1)), at(10_100)), None);
        assert!(follow.pending().is_none());

        follow.see(&seen(B, None, Some(20_000)), at(20_000));
        follow.see(&seen(B, None, Some(20_000)), at(20_300)).unwrap();
        follow.see(&seen(A, None, Some(30_000)), at(30_000));
        assert_eq!(key_id(follow.see(&seen(A, None, Some(30_000)), at(30_300))), Some(format!("{A}#t=30000")));
    }

    #[test]
    fn new_material_is_a_new_name_for_the_same_key() {
        let mut follow = Follow::new(DELAY);
        let material = |digit: &str| digit.repeat(64);
        let first = follow.see(&seen(A, Some(&material("0")), None), at(0)).unwrap();
        assert_eq!(first.key_id, format!("{A}#m=0000000000000000"));
        let next = seen(A, Some(&material("1")), None);
        assert_eq!(follow.see(&next, at(10)), None);
        assert_eq!(follow.see(&next, at(309)), None);
        let second = follow.see(&next, at(310)).unwrap();
        assert_eq!((second.target.as_str(), second.key_id), (A, format!("{A}#m=1111111111111111")));
    }

    #[test]
    fn a_multi_region_key_has_one_name_in_all_regions() {
        let name = |region: &str| {
            let arn = format!("arn:aws:kms:{region}:123456789012:key/mrk-1");
            Follow::new(DELAY).see(&seen(&arn, None, None), at(0)).unwrap().key_id
        };
        assert_eq!(name("eu-west-1"), name("us-east-1"));
        assert_eq!(name("eu-west-1"), "arn:aws:kms::123456789012:key/mrk-1");
    }

    #[test]
    fn a_key_is_known_by_each_of_its_names() {
        let known = |key_id: &str, name: &str| stands_for(key_id, &name.parse().unwrap());
        assert!(known("alias/etcd", "alias/etcd"));
        assert!(known(A, A) && known(A, "aaaa") && known("aaaa", A) && known(&format!("{A}#m=00#t=1"), "aaaa"));
        assert!(known("alias/etcd#local-kek", "alias/etcd") && of_key(&of_local_kek(A)) == A);
        assert!(!known(A, B) && !known("alias/etcd", A) && !known("", A) && !known(A, "alias/etcd"));
        assert!(!known("arn:aws:kms:eu-west-1:999999999999:key/aaaa", A));
        assert!(!known("arn:aws:kms:eu-west-2:123456789012:key/aaaa", A));
        let mrk = |region: &str| format!("arn:aws:kms:{region}:123456789012:key/mrk-1");
        assert!(known(&mrk("eu-west-1"), &mrk("us-east-1")) && known(&mrk(""), &mrk("us-east-1")));
    }
}
