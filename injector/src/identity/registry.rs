//! The identities of a node's pods: their tokens, credentials and stores, each kept apart.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use coffer::identity::Identities;
use coffer::source::{Budgets, Source};
use coffer_runtime::Secret;
use coffer_runtime::aws::{Agent, AgentUrl, Aws, AwsError, CallObserver, Class, Credentials, TokenSource};
use tokio::time::Instant;

use super::{Key, Kind, Token, session_name};

/// How long the credentials of an identity without pods are kept: a rollout replaces the last pod of
/// a node by another.
const KEPT: Duration = Duration::from_secs(300);
/// The kubelet brings a living pod's tokens every minute or two. One that has ended, and that nobody
/// has brought for so long, is of a pod that went without a word.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// How often is looked for what is to be dropped.
const SWEPT: Duration = Duration::from_secs(60);

/// The identities of a node's pods. Clones are the same registry.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    aws: Aws,
    budgets: Arc<Budgets>,
    calls: Arc<dyn CallObserver>,
    agent: Option<AgentUrl>,
    identities: Mutex<HashMap<Key, Held>>,
    swept: AtomicBool,
}

/// What is held for one identity.
struct Held {
    /// By the pod's uid.
    tokens: HashMap<String, Offered>,
    /// By the region of STS: one, but where the process has no region of its own.
    credentials: BTreeMap<String, Arc<Identities>>,
    /// By the region that is asked where a reference names none.
    sources: BTreeMap<String, Arc<Source>>,
    /// The last time that there was a pod, or that the identity was asked for.
    used: Instant,
}

struct Offered {
    token: Token,
    at: Instant,
}

impl Registry {
    /// `budgets` and `calls` are those of the process. `agent` is where the EKS Pod Identity agent is
    /// to be asked; without it, at its own addresses on the node.
    #[must_use]
    pub fn new(aws: Aws, budgets: Arc<Budgets>, calls: Arc<dyn CallObserver>, agent: Option<AgentUrl>) -> Self {
        let swept = AtomicBool::new(false);
        Self(Arc::new(Inner { aws, budgets, calls, agent, identities: Mutex::default(), swept }))
    }

    /// The stores of AWS under that identity; `region` is asked where a reference names none. Nothing
    /// is fetched before the first question.
    ///
    /// There is one for an identity and a region, whoever asks, and all of an identity have the same
    /// credentials.
    #[must_use]
    pub fn source(&self, key: &Key, region: &str) -> Arc<Source> {
        self.keep_swept();
        let mut identities = self.0.identities();
        let held = identities.entry(key.clone()).or_insert_with(Held::new);
        held.used = Instant::now();
        if let Some(source) = held.sources.get(region) {
            return Arc::clone(source);
        }
        // A mistyped region of one volume is not to be where another's credentials come from.
        let sts = self.0.aws.region().unwrap_or(region);
        let new = || Arc::new(self.identities(key, sts));
        let credentials = Arc::clone(held.credentials.entry(sts.to_owned()).or_insert_with(new));
        let Inner { aws, budgets, calls, .. } = &*self.0;
        let source = Arc::new(Source::new(aws.clone(), region, credentials, Arc::clone(budgets), Arc::clone(calls)));
        held.sources.insert(region.to_owned(), Arc::clone(&source));
        source
    }

    /// Takes over a token that the kubelet brought for a pod. The newest of an identity is the one
    /// that is used.
    pub fn offer(&self, key: &Key, pod_uid: &str, token: Token) {
        self.keep_swept();
        let mut identities = self.0.identities();
        let held = identities.entry(key.clone()).or_insert_with(Held::new);
        let now = Instant::now();
        held.used = now;
        // The kubelet gives out tokens from its cache, to two volumes at once in any order.
        let is_older = |known: &Offered| known.token.expires.zip(token.expires).is_some_and(|(had, new)| had > new);
        match held.tokens.get_mut(pod_uid) {
            Some(known) if is_older(known) => known.at = now,
            _ => {
                held.tokens.insert(pod_uid.to_owned(), Offered { token, at: now });
            }
        }
    }

    /// The pod is gone, or its last volume here is. Its tokens go at once; with the last pod of an
    /// identity, its credentials and stores follow a few minutes later.
    pub fn withdraw(&self, pod_uid: &str) {
        for held in self.0.identities().values_mut() {
            if held.tokens.remove(pod_uid).is_some() {
                held.used = Instant::now();
            }
        }
    }

    /// When the present credentials end, for each identity in use by its label: the first to end, where
    /// several share one. `None` where none are held.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, Option<SystemTime>)> {
        let mut ends: BTreeMap<String, Option<SystemTime>> = BTreeMap::new();
        for held in self.0.identities().values() {
            for (label, end) in held.credentials.values().flat_map(|identities| identities.expiries()) {
                let known = ends.entry(label).or_default();
                *known = [*known, end].into_iter().flatten().min();
            }
        }
        ends.into_iter().collect()
    }

    fn identities(&self, key: &Key, sts: &str) -> Identities {
        let Inner { aws, calls, agent, .. } = &*self.0;
        let tokens = Arc::new(Newest { registry: Arc::downgrade(&self.0), key: key.clone() });
        let session = session_name(&key.namespace, &key.service_account);
        let credentials = match &key.kind {
            Kind::WebIdentity { role_arn } => {
                Credentials::web_identity(aws, sts, role_arn, &session, tokens, Arc::clone(calls))
            }
            Kind::PodIdentity { address } => {
                let agent = agent.clone().map_or(Agent::LinkLocal(*address), Agent::At);
                Credentials::pod_identity(agent, tokens, &key.label(), Arc::clone(calls))
            }
        };
        Identities::over(credentials, aws.clone(), sts, session)
    }

    /// Starts the sweeping, once; it ends with the registry.
    fn keep_swept(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.0.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let registry = Arc::downgrade(&self.0);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(SWEPT).await;
                let Some(registry) = registry.upgrade() else { break };
                registry.sweep();
            }
        });
    }
}

impl Inner {
    fn identities(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        // Nothing panics while the lock is held, and every step leaves whole entries.
        self.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what belongs to no pod.
    fn sweep(&self) {
        let now = SystemTime::now();
        self.identities().retain(|_, held| {
            held.tokens.retain(|_, offered| {
                offered.at.elapsed() < FORGOTTEN || offered.token.expires.is_some_and(|end| now < end)
            });
            // Somebody may hold a store still: another beside it would ask everything twice.
            let in_use = held.sources.values().any(|source| Arc::strong_count(source) > 1);
            !held.tokens.is_empty() || in_use || held.used.elapsed() < KEPT
        });
    }
}

impl Held {
    fn new() -> Self {
        Self { tokens: HashMap::new(), credentials: BTreeMap::new(), sources: BTreeMap::new(), used: Instant::now() }
    }
}

/// The newest token that an identity's pods have.
struct Newest {
    registry: Weak<Inner>,
    key: Key,
}

impl TokenSource for Newest {
    fn token(&self) -> Result<Secret, AwsError> {
        let newest = || {
            let registry = self.registry.upgrade()?;
            let identities = registry.identities();
            let tokens = identities.get(&self.key)?.tokens.values();
            let newest = tokens.max_by_key(|offered| (offered.token.expires, offered.at))?;
            Some(Secret::copy_of(newest.token.secret.expose()))
        };
        newest().ok_or_else(|| {
            let text = format!("no pod of {}/{} has a token here", self.key.namespace, self.key.service_account);
            AwsError::new(self.key.kind.action(), Class::CredentialsRejected, "NoToken", &text)
        })
    }
}
