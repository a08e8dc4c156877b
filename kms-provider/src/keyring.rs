//! The keys behind one socket: one to encrypt with, any number to decrypt with, and what is known of
//! how they are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use coffer_runtime::Secret;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::audit::{Caller, Purpose};
use crate::follow::{Active, of_key, stands_for};
use crate::health::{Health, Operation, Verdict};
use crate::key::KeyName;
use crate::metrics::KeyMetrics;
use crate::remote::{KmsKey, Lane, RemoteKey};
use crate::{Kind, Trouble};

/// Encrypts at KMS at once. An API server makes few (KMS v2) or one for each write (v1).
const ENCRYPTS: usize = 32;
/// A caller with less time than this may have hurried too much for its timeout to say anything.
const FAIR_TIME: Duration = Duration::from_secs(1);

/// Which keys may decrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Whatever the identity is allowed to, as the AWS Encryption Provider does it: KMS reads from the
    /// ciphertext which key that is.
    Any,
    /// Only the keys that are listed: KMS is told the key, and refuses another's ciphertext.
    Listed,
}

/// The keys of one socket.
pub struct Keyring {
    writer: KmsKey,
    readers: Vec<KmsKey>,
    policy: Policy,
    lanes: Lanes,
    active: RwLock<Result<Arc<Active>, Trouble>>,
    material_ends: Mutex<Option<SystemTime>>,
    health: Mutex<Health>,
    /// Rung when a call fails, so that the prober looks sooner.
    alarm: Notify,
    /// Which key decrypted last: with no key_id to go by, it is tried first.
    last_good: AtomicUsize,
    warned_foreign: AtomicBool,
    metrics: KeyMetrics,
}

#[derive(Debug)]
struct Lanes {
    encrypt: Lane,
    decrypt: Lane,
    own: Lane,
}

impl Keyring {
    /// Keys of which nothing is known yet. With `literal`, the writer's key_id is its name as written;
    /// else it is not known until [`Keyring::activate`].
    #[must_use]
    pub fn new(
        writer: KmsKey,
        readers: Vec<KmsKey>,
        policy: Policy,
        literal: bool,
        max_inflight: usize,
        metrics: KeyMetrics,
    ) -> Self {
        let name = writer.name().as_str().to_owned();
        let active = if literal {
            Ok(Arc::new(Active { target: name.clone(), key_id: name }))
        } else {
            Err(Trouble::new(Kind::Unreachable, "starting: KMS has not said yet which key this is"))
        };
        Self {
            writer,
            readers,
            policy,
            lanes: Lanes {
                encrypt: Lane::new("Encrypt", ENCRYPTS),
                decrypt: Lane::new("Decrypt", max_inflight),
                own: Lane::new("probes", 2),
            },
            active: RwLock::new(active),
            material_ends: Mutex::default(),
            health: Mutex::default(),
            alarm: Notify::new(),
            last_good: AtomicUsize::new(0),
            warned_foreign: AtomicBool::new(false),
            metrics,
        }
    }

    /// The key to encrypt with.
    #[must_use]
    pub fn writer(&self) -> &KmsKey {
        &self.writer
    }

    /// The metrics of this key.
    #[must_use]
    pub fn metrics(&self) -> &KeyMetrics {
        &self.metrics
    }

    /// What is encrypted under now, and its key_id; an error while a key that is followed has not been
    /// seen yet.
    pub fn active(&self) -> Result<Arc<Active>, Trouble> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on, `active` is encrypted under.
    pub fn activate(&self, active: Active) {
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Ok(Arc::new(active));
    }

    /// Says why nothing is active yet; a key that is active stays so.
    pub fn explain_inactive(&self, trouble: &Trouble) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        if active.is_err() {
            *active = Err(trouble.clone());
        }
    }

    /// When imported key material ends, as far as that is known.
    #[must_use]
    pub fn material_ends(&self) -> Option<SystemTime> {
        *self.material_ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes when imported key material ends.
    pub fn set_material_ends(&self, at: Option<SystemTime>) {
        *self.material_ends.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// How the key to encrypt with is.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.health().verdict()
    }

    /// How long ago an operation last worked.
    #[must_use]
    pub fn since_success(&self, operation: Operation) -> Option<Duration> {
        self.health().last_success(operation).map(|at| at.elapsed())
    }

    /// How many Decrypts may be at KMS at once now.
    #[must_use]
    pub fn decrypt_limit(&self) -> usize {
        self.lanes.decrypt.limit()
    }

    /// The lane of calls that nobody waits for.
    #[must_use]
    pub fn own_lane(&self) -> &Lane {
        &self.lanes.own
    }

    /// Encrypts under what is active.
    pub async fn encrypt(&self, plaintext: &Secret, deadline: Instant, caller: &Caller) -> Result<Vec<u8>, Trouble> {
        let active = self.active()?;
        let fair = is_fair(deadline);
        let lane = if caller.purpose == Purpose::Probe { &self.lanes.own } else { &self.lanes.encrypt };
        let result = self.writer.encrypt(&active.target, plaintext, lane, deadline, caller).await;
        match &result {
            Ok(_) => self.succeeded(Operation::Encrypt),
            Err(trouble) => match trouble.kind {
                Kind::Busy | Kind::BadRequest => {}
                Kind::TimedOut if !fair => {}
                _ => self.failed(Operation::Encrypt, trouble.clone()),
            },
        }
        result
    }

    /// Decrypts with whichever key it takes. `key_id` is what the API server was told when it was
    /// encrypted; v1 knows none.
    pub async fn decrypt(
        &self,
        blob: &[u8],
        key_id: Option<&str>,
        deadline: Instant,
        caller: &Caller,
    ) -> Result<Secret, Trouble> {
        let fair = is_fair(deadline);
        let mut first_trouble: Option<Trouble> = None;
        for place in self.candidates(key_id)? {
            let key = self.key(place);
            match key.decrypt(blob, self.pin(place).as_deref(), &self.lanes.decrypt, deadline, caller).await {
                Ok(decrypted) => {
                    self.last_good.store(place, Ordering::Relaxed);
                    if place == 0 {
                        self.succeeded(Operation::Decrypt);
                    }
                    self.notice_foreign(decrypted.key_arn.as_deref());
                    return Ok(decrypted.plaintext);
                }
                Err(trouble) => {
                    let blames_key = match trouble.kind {
                        Kind::Throttled | Kind::Unreachable | Kind::Credentials => true,
                        Kind::TimedOut => fair,
                        // Whatever else KMS says of a ciphertext may concern another key than ours.
                        _ => false,
                    };
                    if place == 0 && blames_key {
                        self.failed(Operation::Decrypt, trouble.clone());
                    }
                    if trouble.kind.is_outage() {
                        return Err(trouble);
                    }
                    // Of several keys' answers, one that is more than "not mine" tells most.
                    match &first_trouble {
                        Some(first) if first.kind != Kind::BadCiphertext || trouble.kind == Kind::BadCiphertext => {}
                        _ => first_trouble = Some(trouble),
                    }
                }
            }
        }
        Err(first_trouble.unwrap_or_else(|| Trouble::new(Kind::BadRequest, "no key to decrypt with")))
    }

    /// How a request is routed, as part of what its answer may be kept under.
    pub fn route<'k>(&self, key_id: Option<&'k str>) -> Result<&'k str, Trouble> {
        if self.policy == Policy::Any {
            return Ok("");
        }
        self.candidates(key_id)?;
        Ok(key_id.unwrap_or_default())
    }

    /// Encrypts and decrypts something random, and compares.
    pub async fn probe(&self, patience: Duration) {
        let caller = Caller::own(Purpose::Probe);
        let deadline = Instant::now() + patience;
        let mut bytes = vec![0; 32];
        fastrand::fill(&mut bytes);
        // Not a secret: its use is to be compared.
        let plaintext = Secret::new(bytes);
        let Ok(blob) = self.encrypt(&plaintext, deadline, &caller).await else { return };
        // The key's own probe does not go to other keys.
        match self.writer.decrypt(&blob, self.pin(0).as_deref(), &self.lanes.own, deadline, &caller).await {
            Ok(decrypted) if decrypted.plaintext.expose() == plaintext.expose() => self.succeeded(Operation::Decrypt),
            Ok(_) => {
                let text = "KMS gives back another plaintext than was encrypted; look at what is between here and KMS";
                self.failed(Operation::Decrypt, Trouble::new(Kind::BadRequest, text));
            }
            Err(trouble) if trouble.kind == Kind::Busy => {}
            Err(trouble) => self.failed(Operation::Decrypt, trouble),
        }
    }

    /// When the next probe is due, the last having ended at `last`.
    #[must_use]
    pub fn next_probe(&self, interval: Duration, last: Instant) -> Instant {
        self.health().next_probe(interval, last)
    }

    /// Waits until the key has been tried once, however that went.
    pub async fn tried(&self) {
        while self.verdict() == Verdict::Starting {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a call fails.
    pub async fn alarmed(&self) {
        self.alarm.notified().await;
    }

    /// The key that KMS is told to decrypt with: of an alias the one that is encrypted under now, which may
    /// not be the one that it was moved to a moment ago.
    fn pin(&self, place: usize) -> Option<String> {
        (self.policy == Policy::Listed).then(|| match self.active() {
            Ok(active) if place == 0 => active.target.clone(),
            _ => self.key(place).name().as_str().to_owned(),
        })
    }

    /// The keys to try, in order: places in writer, then readers.
    fn candidates(&self, key_id: Option<&str>) -> Result<Vec<usize>, Trouble> {
        let all = 0..=self.readers.len();
        let last_good = self.last_good.load(Ordering::Relaxed);
        let Some(key_id) = key_id else {
            let mut places: Vec<usize> = all.collect();
            places.sort_by_key(|place| *place != last_good);
            return Ok(places);
        };
        let is_active =
            |place: &usize| *place == 0 && self.active().is_ok_and(|active| active.key_id == of_key(key_id));
        let (mut known, others): (Vec<usize>, Vec<usize>) =
            all.partition(|place| is_active(place) || stands_for(key_id, self.key(*place).name()));
        match self.policy {
            Policy::Any => {
                known.extend(others);
                Ok(known)
            }
            Policy::Listed if known.is_empty() => Err(Trouble::new(
                Kind::BadRequest,
                format!(
                    "the key_id '{}' is none of --key and --decrypt-key; add --decrypt-key with its key, or set --decrypt-policy any",
                    key_id.chars().take(200).collect::<String>()
                ),
            )),
            Policy::Listed => Ok(known),
        }
    }

    fn key(&self, place: usize) -> &KmsKey {
        if place == 0 { &self.writer } else { &self.readers[place - 1] }
    }

    /// Data of a key that is not listed is read here, and is no longer once the policy says so.
    fn notice_foreign(&self, arn: Option<&str>) {
        let Some(arn) = arn.filter(|_| self.policy == Policy::Any) else { return };
        let names = || (0..=self.readers.len()).map(|place| self.key(place).name());
        if names().any(KeyName::is_alias) || names().any(|name| stands_for(arn, name)) {
            return;
        }
        self.metrics.foreign.inc();
        if !self.warned_foreign.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                key = self.writer.name().as_str(),
                key_arn = arn,
                "data of a key that is not listed was decrypted; list it with --decrypt-key before --decrypt-policy listed"
            );
        }
    }

    fn succeeded(&self, operation: Operation) {
        let mut health = self.health();
        let before = health.verdict();
        health.succeeded(operation, Instant::now());
        let after = health.verdict();
        drop(health);
        if matches!(before, Verdict::Failing(..) | Verdict::Starting) && after == Verdict::Healthy {
            tracing::info!(key = self.writer.name().as_str(), "the key works");
        }
    }

    fn failed(&self, operation: Operation, trouble: Trouble) {
        let mut health = self.health();
        let before = health.verdict();
        health.failed(operation, trouble);
        let after = health.verdict();
        drop(health);
        if !matches!(before, Verdict::Failing(..))
            && let Verdict::Failing(..) = after
        {
            tracing::error!(key = self.writer.name().as_str(), reason = %after, "the key does not work");
        }
        self.alarm.notify_one();
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fair(deadline: Instant) -> bool {
    deadline.saturating_duration_since(Instant::now()) >= FAIR_TIME
}

/// A local KEK is wrapped by the key that is active, and unwrapped by whichever it takes.
impl RemoteKey for Keyring {
    async fn encrypt(&self, plaintext: &Secret, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        Self::encrypt(self, plaintext, deadline, &Caller::own(Purpose::LocalKek)).await
    }

    async fn decrypt(&self, blob: &[u8], deadline: Instant) -> Result<Secret, Trouble> {
        Self::decrypt(self, blob, None, deadline, &Caller::own(Purpose::LocalKek)).await
    }
}
