//! Secrets Manager and Parameter Store behind one question: what does this reference say now?
//!
//! A pure planner turns what is asked at the same moment into the fewest calls; the store makes
//! them, within the rate limits, each answer shared by all who ask for it under the same identity.

mod budget;
mod calls;
mod explain;
mod flight;
mod plan;
mod store;
mod whole;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use coffer_runtime::aws::{Aws, AwsError, CallObserver};
use tokio::time::Instant;

use crate::identity::Identities;
use crate::render::Value;
use crate::spec::{Access, Reference};
pub use budget::Budgets;
pub use explain::FetchError;
use store::Store;
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
    /// What is asked for.
    pub reference: Reference,
    /// The version that the asker has; the answer may then be that it is still the one.
    pub known: Option<String>,
}

/// The answer to a question.
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
        Self { aws, region: region.to_owned(), identities, budgets, calls, stores: Mutex::default() }
    }

    /// Answers every question, each for itself: one that fails does not sink the others.
    ///
    /// No answer is older than `since`. Fails only question by question; a question is never left
    /// without an answer.
    pub async fn look(
        &self,
        access: &Access,
        questions: Vec<Question>,
        since: Instant,
    ) -> HashMap<Reference, Result<Found, FetchError>> {
        let store = self.store(access);
        let explain = |error: AwsError| FetchError::new(error, store.who(), store.region());
        let found = store.look(questions, since).await;
        found.into_iter().map(|(reference, result)| (reference, result.map_err(explain))).collect()
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
        let region = access.region.as_deref().unwrap_or(&self.region);
        // One store for a region, whether it was named or is the process's own.
        let resolved = Access { region: Some(region.to_owned()), role: access.role.clone() };
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let credentials = self.identities.credentials(access.role.as_ref());
            let account = credentials.label().split(':').nth(4).unwrap_or_default().to_owned();
            Arc::new(Store::new(&self.aws, region, &account, credentials, &self.budgets, Arc::clone(&self.calls)))
        };
        Arc::clone(stores.entry(resolved).or_insert_with(make))
    }
}
