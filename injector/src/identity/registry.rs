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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use coffer::spec::RateLimits;
    use coffer_runtime::aws::{AddressType, Timeouts};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    struct Nobody;

    impl CallObserver for Nobody {
        fn called(&self, _: &'static str, _: Result<Option<&str>, &AwsError>, _: Duration) {}
    }

    async fn registry(agent: Option<AgentUrl>) -> Registry {
        let aws = Aws::load(Some("eu-west-1"), Timeouts::default()).await.unwrap();
        Registry::new(aws, Arc::new(Budgets::new(RateLimits::default())), Arc::new(Nobody), agent)
    }

    fn pod_identity(namespace: &str, account: &str) -> Key {
        let kind = Kind::PodIdentity { address: AddressType::Auto };
        Key { namespace: namespace.into(), service_account: account.into(), kind }
    }

    fn web_identity(role: &str) -> Key {
        let kind = Kind::WebIdentity { role_arn: format!("arn:aws:iam::123456789012:role/{role}") };
        Key { kind, ..pod_identity("shop", "api") }
    }

    fn token(text: &str, expires: Option<u64>) -> Token {
        let expires = expires.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        Token { secret: Secret::copy_of(text.as_bytes()), expires }
    }

    fn newest(registry: &Registry, key: &Key) -> Option<String> {
        let source = Newest { registry: Arc::downgrade(&registry.0), key: key.clone() };
        source.token().ok().map(|token| String::from_utf8(token.expose().to_vec()).unwrap())
    }

    /// The credentials that a key's stores have.
    fn credentials(registry: &Registry, key: &Key) -> Credentials {
        registry.0.identities()[key].credentials["eu-west-1"].credentials(None)
    }

    /// An agent whose keys are called as the token that they are for; as many as it is asked for.
    async fn agent() -> AgentUrl {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut read).await.unwrap() > 0);
                }
                let text = String::from_utf8(read).unwrap();
                let token = text.split("authorization: ").nth(1).unwrap().split("\r\n").next().unwrap();
                let body = format!(
                    r#"{{"AccessKeyId":"{token}","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}}"#
                );
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn nothing_crosses_between_identities() {
        let registry = registry(Some(agent().await)).await;
        let keys = [pod_identity("shop", "api"), pod_identity("shop", "web"), pod_identity("api", "shop")];
        let mut sources = Vec::new();
        for key in &keys {
            registry.offer(
                key,
                &format!("pod of {key}"),
                token(&format!("{}.{}", key.namespace, key.service_account), None),
            );
            sources.push(registry.source(key, "eu-west-1"));
        }
        for (at, key) in keys.iter().enumerate() {
            let keys = credentials(&registry, key).get().await.unwrap();
            assert_eq!(keys.access_key_id(), format!("{}.{}", key.namespace, key.service_account));
            let same = sources.iter().filter(|source| Arc::ptr_eq(source, &sources[at])).count();
            assert_eq!(same, 1);
        }
        // The same account by another kind or role is another identity.
        registry.offer(&web_identity("app"), "pod", token("w", None));
        assert_eq!(newest(&registry, &web_identity("app")).as_deref(), Some("w"));
        assert_eq!(newest(&registry, &web_identity("other")), None);
        assert_eq!(newest(&registry, &keys[0]).as_deref(), Some("shop.api"));
    }

    #[tokio::test]
    async fn an_identity_has_one_store_a_region_and_one_set_of_credentials() {
        let registry = registry(None).await;
        let key = web_identity("app");
        let source = registry.source(&key, "eu-west-1");
        assert!(Arc::ptr_eq(&source, &registry.source(&key, "eu-west-1")));
        let elsewhere = registry.source(&key, "us-east-1");
        assert!(!Arc::ptr_eq(&source, &elsewhere));
        assert_eq!((source.region(), elsewhere.region()), ("eu-west-1", "us-east-1"));
        assert_eq!(registry.0.identities()[&key].credentials.len(), 1);
        let label = "arn:aws:iam::123456789012:role/app".to_owned();
        assert_eq!(registry.expiries(), [(label, None)]);
    }

    #[tokio::test]
    async fn the_newest_token_wins() {
        let registry = registry(None).await;
        let key = web_identity("app");
        let is = |text: &str| assert_eq!(newest(&registry, &key).as_deref(), Some(text));
        registry.offer(&key, "pod-1", token("a", Some(100)));
        registry.offer(&key, "pod-2", token("b", Some(50)));
        is("a");
        registry.offer(&key, "pod-2", token("c", Some(200)));
        is("c");
        registry.offer(&key, "pod-2", token("b again", Some(50)));
        is("c");
        registry.withdraw("pod-2");
        is("a");
        registry.offer(&key, "pod-1", token("d", Some(100)));
        is("d");
    }

    #[tokio::test]
    async fn a_withdrawn_pods_token_is_gone() {
        let registry = registry(Some(agent().await)).await;
        let key = pod_identity("shop", "api");
        let _source = registry.source(&key, "eu-west-1");
        registry.offer(&key, "pod-1", token("a", None));
        registry.withdraw("pod-1");
        assert_eq!(newest(&registry, &key), None);
        let error = credentials(&registry, &key).get().await.unwrap_err();
        assert_eq!((error.class, error.code.as_str()), (Class::CredentialsRejected, "NoToken"));
        assert!(error.message.contains("shop/api"), "{error}");
        registry.offer(&key, "pod-2", token("b", None));
        assert_eq!(credentials(&registry, &key).get().await.unwrap().access_key_id(), "b");
    }

    #[tokio::test]
    async fn what_no_pod_needs_is_dropped_a_few_minutes_later() {
        let registry = registry(None).await;
        tokio::time::pause();
        let key = web_identity("app");
        let held = registry.source(&key, "eu-west-1");
        drop(registry.source(&web_identity("other"), "eu-west-1"));
        registry.offer(&key, "pod-1", token("a", None));
        tokio::time::sleep(KEPT + SWEPT * 2).await;
        assert_eq!(registry.0.identities().len(), 1, "one has a pod, the other has none");
        registry.withdraw("pod-1");
        drop(held);
        tokio::time::sleep(KEPT / 2).await;
        assert_eq!(registry.0.identities().len(), 1);
        tokio::time::sleep(KEPT).await;
        assert!(registry.0.identities().is_empty());
    }

    #[tokio::test]
    async fn a_pod_that_went_without_a_word_is_forgotten() {
        let registry = registry(None).await;
        tokio::time::pause();
        registry.offer(&web_identity("ended"), "pod-1", token("a", Some(100)));
        registry.offer(&web_identity("lives"), "pod-2", token("b", Some(32_503_680_000)));
        tokio::time::sleep(FORGOTTEN + SWEPT * 2).await;
        assert_eq!(newest(&registry, &web_identity("ended")), None);
        assert!(newest(&registry, &web_identity("lives")).is_some());
    }
}
