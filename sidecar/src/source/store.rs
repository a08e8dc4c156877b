//! The stores under one identity in one region: makes the planned calls and puts their answers
//! together.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coffer_runtime::aws::{Aws, AwsError, CallObserver, Class, Credentials};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::budget::{Budget, Budgets, Service};
use super::calls::{Clients, Head, Pages, action};
use super::flight::Flights;
use super::plan::{Call, plan_heads, plan_values};
use super::{Answer, Found, Whole, WholeQuery};
use crate::spec::{ParameterRef, Reference, SecretRef};

/// After a denied permission that has a substitute, how long the substitute is used before the
/// permission is tried again: policies change.
const DENIAL_KEPT: Duration = Duration::from_secs(3600);

/// Calls in the air at once. Each holds its share of memory; a rate of calls is not made higher by
/// more of them.
const LANES: usize = 4;

type ValueResult = Result<Arc<Answer>, AwsError>;
type HeadResult = Result<Head, AwsError>;

pub(super) struct Store(Arc<Inner>);

/// What a store is asked.
pub(super) struct Ask {
    pub(super) reference: Reference,
    /// The version that the asker has; the answer may then be that it is still the one.
    pub(super) known: Option<String>,
}

struct Inner {
    clients: Clients,
    credentials: Credentials,
    region: String,
    secrets_budget: Arc<Budget>,
    parameters_budget: Arc<Budget>,
    lanes: Semaphore,
    calls: Arc<dyn CallObserver>,
    values: Arc<Flights<Reference, ValueResult>>,
    heads: Arc<Flights<String, HeadResult>>,
    memory: Mutex<Memory>,
}

/// What earlier answers taught.
#[derive(Default)]
struct Memory {
    batch_denied: Option<Instant>,
    describe_denied: Option<Instant>,
    /// References that failed on their own account the last time.
    apart: HashSet<Reference>,
}

impl Store {
    pub(super) fn new(
        aws: &Aws,
        region: &str,
        account: &str,
        credentials: Credentials,
        budgets: &Budgets,
        calls: Arc<dyn CallObserver>,
    ) -> Self {
        Self(Arc::new(Inner {
            clients: Clients::new(&aws.client_config(region, credentials.clone())),
            credentials,
            region: region.to_owned(),
            secrets_budget: budgets.of(account, region, Service::SecretsManager),
            parameters_budget: budgets.of(account, region, Service::ParameterStore),
            lanes: Semaphore::new(LANES),
            calls,
            values: Arc::new(Flights::new()),
            heads: Arc::new(Flights::new()),
            memory: Mutex::default(),
        }))
    }

    /// The identity, as errors name it.
    pub(super) fn who(&self) -> &str {
        self.0.credentials.label()
    }

    pub(super) fn region(&self) -> &str {
        &self.0.region
    }

    /// Has credentials fetched by way of this region too, should they not come from their own: where
    /// this store stands in for another's, that one's region may be down as a whole.
    pub(super) fn stand_by(&self) {
        self.0.credentials.stand_by(&self.0.region);
    }

    pub(super) async fn look(&self, asked: Vec<Ask>, since: Instant) -> Vec<(Reference, Result<Found, AwsError>)> {
        let mut answers = Vec::with_capacity(asked.len());
        let mut wanted = Vec::new();
        let mut heads_wanted = Vec::new();
        let describe = self.0.usable(|memory| &mut memory.describe_denied);
        for Ask { reference, known } in asked {
            match (reference, known) {
                (Reference::Secret(secret), Some(known)) if describe => heads_wanted.push((secret, known)),
                (reference, _) => wanted.push(reference),
            }
        }
        // What needs no description does not wait for those that do.
        let (changed, direct) = tokio::join!(self.changed(heads_wanted, since), self.values(wanted, since));
        answers.extend(changed);
        let found = |answer| Found::Answer { answer, next_rotation: None };
        answers.extend(direct.into_iter().map(|(reference, result)| (reference, result.map(found))));
        answers
    }

    pub(super) async fn whole(&self, query: &WholeQuery) -> Result<Whole, AwsError> {
        let inner = &self.0;
        match query {
            WholeQuery::Secret(query) => {
                let ask = || inner.clients.whole_secret(query);
                inner.call(action::GET_SECRET, &inner.secrets_budget, ask).await.map(Whole::Secret)
            }
            WholeQuery::Parameter(query) => {
                let ask = || inner.clients.whole_parameter(query);
                inner.call(action::GET_PARAMETER, &inner.parameters_budget, ask).await.map(Whole::Parameter)
            }
        }
    }

    /// Asks for the versions of secrets, and for the values of those whose version is not the known
    /// one.
    async fn changed(
        &self,
        secrets: Vec<(SecretRef, String)>,
        since: Instant,
    ) -> Vec<(Reference, Result<Found, AwsError>)> {
        let mut answers = Vec::new();
        // What is to be fetched: the version that the description names, and the rotation date.
        let mut described = HashMap::new();
        for (secret, known, head) in self.heads(secrets, since).await {
            let reference = Reference::Secret(secret.clone());
            match head {
                Ok(head) if head.version(&secret.version) == Some(&known) => {
                    answers.push((reference, Ok(Found::Unchanged { next_rotation: head.next_rotation })));
                }
                Ok(head) => {
                    described.insert(reference, (head.version(&secret.version).map(str::to_owned), head.next_rotation));
                }
                // Without leave to describe, the value itself tells.
                Err(error) if denies(&error, action::DESCRIBE) => {
                    described.insert(reference, (None, None));
                }
                Err(error) => answers.push((reference, Err(error))),
            }
        }
        let values = self.values(described.keys().cloned().collect(), since).await;
        // An answer that others got a moment ago may be older than the description.
        let is_older = |(reference, result): &(Reference, ValueResult)| {
            let expected = described.get(reference).and_then(|(version, _)| version.as_ref());
            let given = result.as_ref().ok().and_then(|answer| answer.values().next());
            expected.zip(given).is_some_and(|(expected, given)| *expected != given.version)
        };
        let (older, values): (Vec<_>, Vec<_>) = values.into_iter().partition(is_older);
        let again = self.values(older.into_iter().map(|(reference, _)| reference).collect(), Instant::now()).await;
        for (reference, result) in values.into_iter().chain(again) {
            let next_rotation = described.get(&reference).and_then(|(_, next_rotation)| *next_rotation);
            answers.push((reference, result.map(|answer| Found::Answer { answer, next_rotation })));
        }
        answers
    }

    async fn heads(&self, wanted: Vec<(SecretRef, String)>, since: Instant) -> Vec<(SecretRef, String, HeadResult)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let ids = plan_heads(wanted.iter().map(|(secret, _)| secret)).into_iter().collect();
        let inner = Arc::clone(&self.0);
        let ask = move |ids: Vec<String>| async move { inner.describe(ids).await };
        let heads: HashMap<String, HeadResult> = self.0.heads.get(ids, since, ask).await.into_iter().collect();
        let head =
            |secret: &SecretRef| heads.get(&secret.id).cloned().unwrap_or_else(|| Err(unanswered(action::DESCRIBE)));
        wanted
            .into_iter()
            .map(|(secret, known)| {
                let head = head(&secret);
                (secret, known, head)
            })
            .collect()
    }

    async fn values(&self, keys: Vec<Reference>, since: Instant) -> Vec<(Reference, ValueResult)> {
        if keys.is_empty() {
            return Vec::new();
        }
        let inner = Arc::clone(&self.0);
        let ask = move |keys: Vec<Reference>| async move { inner.fetch(keys).await };
        let mut found: HashMap<Reference, ValueResult> =
            self.0.values.get(keys.clone(), since, ask).await.into_iter().collect();
        let answer = |key: Reference| {
            let result = found.remove(&key).unwrap_or_else(|| Err(unanswered(action::of(&key))));
            (key, result)
        };
        keys.into_iter().map(answer).collect()
    }
}

impl Inner {
    async fn describe(self: Arc<Self>, ids: Vec<String>) -> Vec<(String, HeadResult)> {
        let mut tasks = JoinSet::new();
        for id in ids {
            let inner = Arc::clone(&self);
            tasks.spawn(async move {
                let head = inner.call(action::DESCRIBE, &inner.secrets_budget, || inner.clients.head(&id)).await;
                if head.as_ref().is_err_and(|error| denies(error, action::DESCRIBE)) {
                    inner.memory().describe_denied = Some(Instant::now());
                }
                (id, head)
            });
        }
        tasks.join_all().await
    }

    async fn fetch(self: Arc<Self>, references: Vec<Reference>) -> Vec<(Reference, ValueResult)> {
        let batch = self.usable(|memory| &mut memory.batch_denied);
        let wanted: BTreeSet<Reference> = references.into_iter().collect();
        let apart = self.memory().apart.clone();
        let mut tasks = JoinSet::new();
        for call in plan_values(&wanted, &apart, batch) {
            let inner = Arc::clone(&self);
            tasks.spawn(async move {
                match call {
                    Call::Batch(secrets) => inner.batch(secrets).await,
                    Call::Secret(secret) => vec![inner.secret(secret).await],
                    Call::Parameters(parameters) => inner.parameters(parameters).await,
                    Call::Path(path) => {
                        let answer = inner.path(&path).await;
                        vec![(Reference::Path(path), answer)]
                    }
                }
            });
        }
        let answers = tasks.join_all().await.concat();
        let mut memory = self.memory();
        for (reference, answer) in &answers {
            if answer.as_ref().is_err_and(|error| sinks_others(reference, error)) {
                memory.apart.insert(reference.clone());
            } else {
                memory.apart.remove(reference);
            }
        }
        drop(memory);
        answers
    }

    async fn secret(&self, secret: SecretRef) -> (Reference, ValueResult) {
        let fetched = self.call(action::GET_SECRET, &self.secrets_budget, || self.clients.secret(&secret)).await;
        (Reference::Secret(secret), fetched.map(|fetched| Arc::new(Answer::One(fetched))))
    }

    async fn batch(self: Arc<Self>, mut secrets: Vec<SecretRef>) -> Vec<(Reference, ValueResult)> {
        let ids: Vec<String> = secrets.iter().map(|secret| secret.id.clone()).collect();
        let mut answers = Vec::new();
        let mut page = None;
        loop {
            let batch = self.call(action::BATCH, &self.secrets_budget, || self.clients.batch(&ids, page.clone())).await;
            match batch {
                Ok(batch) => {
                    for entry in batch.found {
                        let (same, others) = secrets.into_iter().partition(|secret| entry.is(&secret.id));
                        secrets = others;
                        let answer = Arc::new(Answer::One(entry.fetched));
                        answers.extend(named(same).map(|reference| (reference, Ok(Arc::clone(&answer)))));
                    }
                    for (id, error) in batch.failed.into_iter().filter(|(_, error)| is_final(error)) {
                        let (same, others) = secrets.into_iter().partition(|secret| secret.id == id);
                        secrets = others;
                        answers.extend(named(same).map(|reference| (reference, Err(error.clone()))));
                    }
                    page = batch.next;
                    if page.is_none() {
                        break;
                    }
                }
                Err(error) => {
                    if denies(&error, action::BATCH) {
                        tracing::info!(
                            identity = self.credentials.label(),
                            "not allowed to use BatchGetSecretValue; fetching secrets one by one"
                        );
                        self.memory().batch_denied = Some(Instant::now());
                    }
                    // A batch has a hundredth of the quota of GetSecretValue, and its own permission; one
                    // bad name may also refuse the whole. What neither would help fails here.
                    let singly = Class::Throttled == error.class || is_final(&error);
                    if error.action != action::BATCH || !singly {
                        answers.extend(named(secrets).map(|reference| (reference, Err(error.clone()))));
                        return answers;
                    }
                    break;
                }
            }
        }
        let mut tasks = JoinSet::new();
        for secret in secrets {
            let inner = Arc::clone(&self);
            tasks.spawn(async move { inner.secret(secret).await });
        }
        answers.extend(tasks.join_all().await);
        answers
    }

    async fn parameters(self: Arc<Self>, wanted: Vec<ParameterRef>) -> Vec<(Reference, ValueResult)> {
        match self.parameters_once(&wanted).await {
            Ok(answers) => answers,
            // AWS refuses the whole call for one name: find out which.
            Err(error) if wanted.len() > 1 && is_final(&error) && error.action == action::GET_PARAMETERS => {
                let mut tasks = JoinSet::new();
                for parameter in wanted {
                    let inner = Arc::clone(&self);
                    tasks.spawn(async move {
                        let one = [parameter];
                        inner.parameters_once(&one).await.unwrap_or_else(|error| failed(&one, &error))
                    });
                }
                tasks.join_all().await.concat()
            }
            Err(error) => failed(&wanted, &error),
        }
    }

    async fn parameters_once(&self, wanted: &[ParameterRef]) -> Result<Vec<(Reference, ValueResult)>, AwsError> {
        let ask = || self.clients.parameters(wanted);
        let (found, missing) = self.call(action::GET_PARAMETERS, &self.parameters_budget, ask).await?;
        let found = found.into_iter().map(|(parameter, fetched)| (parameter, Ok(Arc::new(Answer::One(fetched)))));
        let missing = missing.into_iter().map(|(parameter, error)| (parameter, Err(error)));
        Ok(found.chain(missing).map(|(parameter, answer)| (Reference::Parameter(parameter), answer)).collect())
    }

    async fn path(&self, path: &crate::spec::PathRef) -> ValueResult {
        let mut pages = Pages::new();
        let mut token = None;
        loop {
            let ask = || self.clients.path_page(path, token.clone());
            let (found, next) = self.call(action::GET_BY_PATH, &self.parameters_budget, ask).await?;
            pages.add(found)?;
            match next {
                // A page may be empty and still not the last (GetParametersByPath is best effort).
                Some(next) => token = Some(next),
                None => return pages.whole().map(Arc::new),
            }
        }
    }

    /// Makes a call once there is a lane for it, within `budget`; see [`Credentials::call`].
    async fn call<T, Fut>(&self, action: &'static str, budget: &Budget, ask: impl Fn() -> Fut) -> Result<T, AwsError>
    where
        Fut: Future<Output = Result<(T, Option<String>), AwsError>>,
    {
        let admit = || async {
            // Held to the end of the call; nobody closes a store's lanes.
            let lane = self.lanes.acquire().await;
            budget.spend().await;
            lane
        };
        self.credentials.call(action, &*self.calls, admit, ask).await
    }

    /// Whether a permission may be tried: it was not denied of late.
    fn usable(&self, denied: impl Fn(&mut Memory) -> &mut Option<Instant>) -> bool {
        let mut memory = self.memory();
        let denied = denied(&mut memory);
        if denied.is_some_and(|at| at.elapsed() >= DENIAL_KEPT) {
            *denied = None;
        }
        denied.is_none()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the error denies this very action, and not what leads up to it: a role that cannot be
/// assumed says nothing of what it may do.
fn denies(error: &AwsError, action: &str) -> bool {
    error.class == Class::Denied && error.action == action
}

/// Whether a reference that failed so makes AWS refuse a whole call that names it with others.
fn sinks_others(reference: &Reference, error: &AwsError) -> bool {
    match reference {
        Reference::Secret(_) => error.class == Class::Invalid && error.action == action::GET_SECRET,
        Reference::Parameter(_) => {
            matches!(error.class, Class::Denied | Class::Invalid) && error.action == action::GET_PARAMETERS
        }
        Reference::Path(_) => false,
    }
}

/// Whether asking for this one alone, or again at once, would not change the answer.
fn is_final(error: &AwsError) -> bool {
    matches!(error.class, Class::Denied | Class::NotFound | Class::Invalid)
}

fn named(secrets: Vec<SecretRef>) -> impl Iterator<Item = Reference> {
    secrets.into_iter().map(Reference::Secret)
}

fn failed(parameters: &[ParameterRef], error: &AwsError) -> Vec<(Reference, ValueResult)> {
    parameters.iter().map(|parameter| (Reference::Parameter(parameter.clone()), Err(error.clone()))).collect()
}

/// The call ended without a word of this reference.
pub(super) fn unanswered(action: &'static str) -> AwsError {
    AwsError::new(action, Class::Transient, "Unanswered", "the answer left this reference out")
}
