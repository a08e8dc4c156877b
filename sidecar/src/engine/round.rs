//! What one look brought, and what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use coffer_runtime::aws::Class;

use super::recipe::MakeError;
use crate::digest::{Digest, Key};
use crate::notify::Swap;
use crate::render::Value;
use crate::source::{Answer, Fetched};
use crate::spec::Wanted;

/// The code of a value that was fetched and is not in the files.
pub(super) const NOT_PUBLISHED: &str = "NotPublished";

/// What a look saw.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) version: String,
    /// The ARN, where AWS told it and it is one: events name ARNs, and references may be names.
    pub(super) arn: Option<String>,
    pub(super) digest: Digest,
}

/// What became of a look.
#[derive(Default)]
pub(super) struct Round {
    /// The new values.
    pub(super) answers: BTreeMap<Wanted, Arc<Answer>>,
    pub(super) seen: BTreeMap<Wanted, Seen>,
    /// When AWS will rotate, where that is known.
    pub(super) rotations: BTreeMap<Wanted, SystemTime>,
    pub(super) unchanged: Vec<Wanted>,
    /// The region that gave what the first did not.
    pub(super) elsewhere: BTreeMap<Wanted, String>,
    pub(super) failed: BTreeMap<Wanted, Failure>,
}

/// What became of a round's values.
#[derive(Default)]
pub(super) struct Settled {
    /// Whether there was anything to make.
    pub(super) tried: bool,
    /// Whether the set that was made of them is in place.
    pub(super) published: bool,
    /// Whether the set will never be taken where it is to go.
    pub(super) refused_for_good: bool,
    /// What the application is to be told, where the set was replaced.
    pub(super) swap: Option<Swap>,
    /// What was fetched and could not be made into files.
    pub(super) unmade: BTreeMap<Wanted, MakeError>,
}

/// Why a reference gave nothing.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) class: Class,
    /// AWS's code, or a word of ours: what failed alike has it alike.
    pub(super) code: String,
    pub(super) text: String,
}

impl From<&MakeError> for Failure {
    fn from(error: &MakeError) -> Self {
        let (class, code) = match error {
            // The other value may come; this one is not to blame.
            MakeError::Incomplete { .. } => (Class::Transient, NOT_PUBLISHED),
            _ => (Class::Invalid, "NotRendered"),
        };
        Self { class, code: code.to_owned(), text: error.to_string() }
    }
}

impl Round {
    /// Takes a later round's results over this one's.
    pub(super) fn absorb(&mut self, later: Self) {
        self.failed.retain(|wanted, _| !later.answers.contains_key(wanted));
        self.elsewhere.retain(|wanted, _| !later.answers.contains_key(wanted));
        self.elsewhere.extend(later.elsewhere);
        self.answers.extend(later.answers);
        self.seen.extend(later.seen);
        self.rotations.extend(later.rotations);
        self.unchanged.extend(later.unchanged);
        self.failed.extend(later.failed);
    }
}

/// One text for the version of an answer.
pub(super) fn version(answer: &Answer) -> String {
    match answer {
        Answer::One(fetched) => fetched.version.clone(),
        Answer::Tree(parameters) => format!("{} parameters", parameters.len()),
    }
}

pub(super) fn arn(answer: &Answer) -> Option<String> {
    match answer {
        Answer::One(fetched) => fetched.arn.clone(),
        Answer::Tree(_) => None,
    }
}

pub(super) fn digest(answer: &Answer, key: &Key) -> Digest {
    fn bytes(fetched: &Fetched) -> &[u8] {
        let (Value::Text(secret) | Value::Binary(secret)) = &fetched.value;
        secret.expose()
    }
    match answer {
        Answer::One(fetched) => key.digest([bytes(fetched)]),
        Answer::Tree(parameters) => {
            key.digest(parameters.iter().flat_map(|(name, fetched)| [name.as_bytes(), bytes(fetched)]))
        }
    }
}
