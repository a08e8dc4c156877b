//! Secrets Manager and Parameter Store behind one question: what does this reference say now?
//!
//! A pure planner turns what is asked at the same moment into the fewest calls; the store makes
//! them, within the rate limits, each answer shared by all who ask for it under the same identity.

mod budget;
mod calls;
mod explain;
mod failover;
mod flight;
mod plan;
mod store;
mod whole;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use coffer_runtime::aws::{Aws, CallObserver};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::identity::Identities;
use crate::render::Value;
use crate::spec::{Access, Reference, Wanted};
pub use budget::Budgets;
pub use explain::FetchError;
use failover::{Detours, Place, Replies, Turn};
use store::{Ask, Store, unanswered};
pub use whole::{ParameterQuery, SecretQuery, Whole, WholeParameter, WholeQuery, WholeSecret};

/// A value as a store gave it.
#[derive(Debug)]
pub struct Fetched {
    /// The value.
    pub value: Value,
    /// A VersionId of Secrets Manager, or a parameter's version number.
    pub version: String,
    /// The ARN, where AWS told it.
    pub arn: Option<String>,
    /// AWS's id of the call that brought it.
    pub request_id: Option<String>,
}

/// What a reference says.
#[derive(Debug)]
pub enum Answer {
    /// The value of a secret or a parameter.
    One(Fetched),
    /// The parameters under a path, by the rest of their names below it, sorted.
    Tree(Vec<(String, Fetched)>),
}

impl Answer {
    /// All values in it.
    pub fn values(&self) -> impl Iterator<Item = &Fetched> {
        let (one, many) = match self {
            Self::One(fetched) => (Some(fetched), &[][..]),
            Self::Tree(parameters) => (None, &parameters[..]),
        };
        one.into_iter().chain(many.iter().map(|(_, fetched)| fetched))
    }
}

/// A question.
#[derive(Clone, Debug)]
pub struct Question {
    /// What is asked for, as whom and where, and what stands in for it in a second region.
    pub wanted: Wanted,
    /// The version that the asker has; the answer may then be that it is still the one.
    pub known: Option<String>,
    /// Whether some version is in use: a region that is only too busy is then not left for the second.
    pub in_place: bool,
}

/// The answer to a question, and who gave it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The answer.
    pub found: Found,
    /// The region that gave it.
    pub region: String,
    /// Whether that is the second one, which was asked for what stands in there.
    pub failed_over: bool,
}

/// What there is to answer.
#[derive(Clone, Debug)]
pub enum Found {
    /// The version that the asker has is still the one.
    Unchanged {
        /// When AWS will rotate the secret next, if it will.
        next_rotation: Option<SystemTime>,
    },
    /// The value, whether changed or not.
    Answer {
        /// The value.
        answer: Arc<Answer>,
        /// When AWS will rotate the secret next, if it will and that is known.
        next_rotation: Option<SystemTime>,
    },
}

/// The stores of AWS, under every identity and in every region of the process.
pub struct Source {
    aws: Aws,
    region: String,
    identities: Arc<Identities>,
    budgets: Arc<Budgets>,
    calls: Arc<dyn CallObserver>,
    stores: Mutex<HashMap<Access, Arc<Store>>>,
    detours: Detours,
}

impl Source {
    /// `region` is asked where an access names none. `budgets` are those of the whole process.
    #[must_use]
    pub fn new(
        aws: Aws,
        region: &str,
        identities: Arc<Identities>,
        budgets: Arc<Budgets>,
        calls: Arc<dyn CallObserver>,
    ) -> Self {
        Self {
            aws,
            region: region.to_owned(),
            identities,
            budgets,
            calls,
            stores: Mutex::default(),
            detours: Detours::default(),
        }
    }

    /// Answers every question, each for itself: one that fails does not sink the others.
    ///
    /// What the first region fails to give is asked for in the second, where there is one: all of it
    /// together. No answer is older than `since`. Fails only question by question; a question is never
    /// left without an answer.
    pub async fn look(&self, questions: Vec<Question>, since: Instant) -> HashMap<Wanted, Result<Reply, FetchError>> {
        failover::look(questions, &self.detours, |turn, asked| self.ask(turn, asked, since)).await
    }

    /// Asks every store for its part, all at once. Each place that is asked for has its answer.
    async fn ask(&self, turn: Turn, asked: Vec<(Place, Option<String>)>, since: Instant) -> Replies {
        let mut by_access: BTreeMap<Access, BTreeMap<Reference, Option<String>>> = BTreeMap::new();
        for ((access, reference), known) in &asked {
            let asked = by_access.entry(self.resolved(access)).or_default();
            let same = asked.entry(reference.clone()).or_insert_with(|| known.clone());
            // To those who know different versions of the same, the value tells.
            if same != known {
                *same = None;
            }
        }
        let mut looks = JoinSet::new();
        for (access, asked) in by_access {
            let store = self.store(&access);
            if turn == Turn::Second {
                store.stand_by();
            }
            let asked = asked.into_iter().map(|(reference, known)| Ask { reference, known }).collect();
            looks.spawn(async move {
                let found = store.look(asked, since).await;
                (access, store, found)
            });
        }
        let mut found = HashMap::new();
        while let Some(look) = looks.join_next().await {
            // What a task that panicked was asked for is missed below.
            let Ok((access, store, answers)) = look else { continue };
            for (reference, result) in answers {
                let reply = match result {
                    Ok(found) => Ok(Reply { found, region: store.region().to_owned(), failed_over: false }),
                    Err(error) => Err(Box::new(FetchError::new(error, store.who(), store.region()))),
                };
                found.insert((access.clone(), reference), reply);
            }
        }
        let reply = |(access, reference): &Place| {
            let found = found.get(&(self.resolved(access), reference.clone())).cloned();
            found.unwrap_or_else(|| {
                let store = self.store(access);
                let error = unanswered(calls::action::of(reference));
                Err(Box::new(FetchError::new(error, store.who(), store.region())))
            })
        };
        asked.iter().map(|(place, _)| (place.clone(), reply(place))).collect()
    }

    /// Asks for all that AWS tells of one secret or parameter: one call, within the same rate limits.
    ///
    /// Nothing is kept and nobody shares the answer: that is the asker's business.
    pub async fn whole(&self, access: &Access, query: &WholeQuery) -> Result<Whole, FetchError> {
        let store = self.store(access);
        store.whole(query).await.map_err(|error| FetchError::new(error, store.who(), store.region()))
    }

    /// Where AWS is asked when an access names no region.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// As whom AWS is asked: a role's ARN, or `process` where that cannot be known.
    #[must_use]
    pub fn identity(&self, access: &Access) -> String {
        self.store(access).who().to_owned()
    }

    fn store(&self, access: &Access) -> Arc<Store> {
        let resolved = self.resolved(access);
        let region = resolved.region.as_deref().unwrap_or(&self.region);
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let credentials = self.identities.credentials(access.role.as_ref());
            let account = credentials.label().split(':').nth(4).unwrap_or_default().to_owned();
            Arc::new(Store::new(&self.aws, region, &account, credentials, &self.budgets, Arc::clone(&self.calls)))
        };
        Arc::clone(stores.entry(resolved.clone()).or_insert_with(make))
    }

    /// One store for a region, whether it was named or is the process's own.
    fn resolved(&self, access: &Access) -> Access {
        let region = access.region.as_ref().unwrap_or(&self.region);
        Access { region: Some(region.clone()), role: access.role.clone() }
    }
}
