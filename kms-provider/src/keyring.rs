//! The keys behind one socket: one to encrypt with, any number to decrypt with, and what is known of
//! how they are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use coffer_runtime::Secret;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::audit::{Caller, Purpose};
use crate::follow::{Active, of_key};
use crate::health::{Health, Operation, Verdict};
use crate::metrics::KeyMetrics;
use crate::remote::{KmsKey, Lane, RemoteKey};
use crate::route::{Candidate, Policy, Routes};
use crate::{Kind, Trouble};

/// Encrypts at KMS at once. An API server makes few (KMS v2) or one for each write (v1).
const ENCRYPTS: usize = 32;
/// Calls of our own at once: probes, and what is asked of KMS about local KEKs.
const OWN: usize = 8;
/// A caller with less time than this may have hurried too much for its timeout to say anything.
const FAIR_TIME: Duration = Duration::from_secs(1);

/// The keys of one socket.
pub struct Keyring {
    writer: KmsKey,
    readers: Vec<KmsKey>,
    routes: RwLock<Routes>,
    lanes: Lanes,
    active: RwLock<Result<Arc<Active>, Trouble>>,
    /// ARN of the key that KMS last encrypted under.
    written_under: Mutex<Option<String>>,
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
        let mut keys: Vec<&KmsKey> = vec![&writer];
        keys.extend(&readers);
        let is_new = |place: &usize| !keys[..*place].iter().any(|before| before.asks_like(keys[*place]));
        let distinct = (0..keys.len()).filter(is_new).collect();
        let names = keys.iter().map(|key| key.name().clone()).collect();
        let routes = Routes::new(policy, names, distinct);
        Self {
            writer,
            readers,
            routes: RwLock::new(routes),
            lanes: Lanes {
                encrypt: Lane::new("Encrypts are", "KMS is slow or throttles", ENCRYPTS),
                decrypt: Lane::new("Decrypts are", "raise --max-inflight if KMS does not throttle", max_inflight),
                own: Lane::new("calls about keys are", "KMS is slow or throttles", OWN),
            },
            active: RwLock::new(active),
            written_under: Mutex::default(),
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

    /// From now on, `active` is encrypted under. What its name stood for before can still be read.
    pub fn activate(&self, active: Active) {
        self.routes.write().unwrap_or_else(PoisonError::into_inner).follow(&active.target, true);
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Ok(Arc::new(active));
    }

    /// Another instance may encrypt under that key already.
    pub fn expect(&self, active: &Active) {
        self.routes.write().unwrap_or_else(PoisonError::into_inner).follow(&active.target, false);
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

    /// Encrypts under `active`, or what was that a moment ago.
    pub async fn encrypt(
        &self,
        plaintext: &Secret,
        active: &Active,
        deadline: Instant,
        caller: &Caller,
    ) -> Result<Vec<u8>, Trouble> {
        let began = Instant::now();
        let lane = if caller.purpose == Purpose::Probe { &self.lanes.own } else { &self.lanes.encrypt };
        match self.writer.encrypt(&active.target, plaintext, lane, deadline, caller).await {
            Ok(encrypted) => {
                *self.written_under.lock().unwrap_or_else(PoisonError::into_inner) = encrypted.key_arn;
                self.succeeded(Operation::Encrypt);
                Ok(encrypted.blob)
            }
            Err(trouble) => {
                let concerns_key = match trouble.kind {
                    Kind::Busy => false,
                    // An API server's fault, or else ours.
                    Kind::BadRequest => caller.purpose == Purpose::Probe,
                    Kind::TimedOut => is_fair(began, deadline),
                    _ => true,
                };
                if concerns_key {
                    self.failed(Operation::Encrypt, trouble.clone(), began);
                }
                Err(trouble)
            }
        }
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
        let lane = if caller.purpose == Purpose::LocalKek { &self.lanes.own } else { &self.lanes.decrypt };
        let candidates = self.candidates(key_id)?;
        let mut troubles = Troubles::default();
        for (asked, candidate) in candidates.iter().enumerate() {
            let Candidate { place, pin } = candidate;
            let key = self.key(*place);
            if troubles.came_of(key.region()) {
                continue;
            }
            let began = Instant::now();
            let left = deadline.saturating_duration_since(began);
            let rest = u32::try_from(candidates.len() - asked).unwrap_or(u32::MAX);
            // A key in another region shall have its time, should this one's be away.
            let elsewhere = candidates[asked..].iter().any(|next| self.key(next.place).region() != key.region());
            let until = if elsewhere { began + left / rest } else { deadline };
            match key.decrypt(blob, pin.as_deref(), lane, until, caller).await {
                Ok(decrypted) => {
                    self.last_good.store(*place, Ordering::Relaxed);
                    self.read(*place, decrypted.key_arn.as_deref());
                    return Ok(decrypted.plaintext);
                }
                Err(trouble) => {
                    // Whatever else KMS says of a ciphertext may concern another key than ours.
                    let concerns_key = match trouble.kind {
                        Kind::Throttled | Kind::Unreachable | Kind::Credentials => true,
                        Kind::TimedOut => is_fair(began, until),
                        _ => false,
                    };
                    if *place == 0 && concerns_key {
                        self.failed(Operation::Decrypt, trouble.clone(), began);
                    }
                    troubles.add(trouble, key.region());
                }
            }
        }
        Err(troubles.worst())
    }

    /// How a request is routed, as part of what its answer may be kept under.
    pub fn route<'k>(&self, key_id: Option<&'k str>) -> Result<&'k str, Trouble> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if !routes.by_key_id() {
            return Ok("");
        }
        routes.candidates(key_id.map(of_key), 0)?;
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
        let Ok(active) = self.active() else { return };
        let started = Instant::now();
        let encrypted = self.encrypt(&plaintext, &active, deadline, &caller).await;
        self.metrics.probed(Operation::Encrypt, encrypted.as_ref().map(drop), started.elapsed());
        let Ok(blob) = encrypted else { return };
        // The key's own probe does not go to other keys.
        let pin = self.candidates(Some(&active.key_id)).ok().and_then(|mut candidates| candidates.remove(0).pin);
        let began = Instant::now();
        let decrypted = self.writer.decrypt(&blob, pin.as_deref(), &self.lanes.own, deadline, &caller).await;
        self.metrics.probed(Operation::Decrypt, decrypted.as_ref().map(drop), began.elapsed());
        match decrypted {
            Ok(decrypted) if decrypted.plaintext.expose() == plaintext.expose() => self.succeeded(Operation::Decrypt),
            Ok(_) => {
                let text = "KMS gives back another plaintext than was encrypted; look at what is between here and KMS";
                self.failed(Operation::Decrypt, Trouble::new(Kind::BadRequest, text), began);
            }
            Err(trouble) if trouble.kind == Kind::Busy => {}
            Err(trouble) => self.failed(Operation::Decrypt, trouble, began),
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

    fn candidates(&self, key_id: Option<&str>) -> Result<Vec<Candidate>, Trouble> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.candidates(key_id.map(of_key), self.last_good.load(Ordering::Relaxed))
    }

    fn key(&self, place: usize) -> &KmsKey {
        if place == 0 { &self.writer } else { &self.readers[place - 1] }
    }

    /// Something was decrypted. Only what the key to encrypt with encrypted says that it works; and what no
    /// listed key did is no longer read once the policy says so.
    fn read(&self, place: usize, arn: Option<&str>) {
        let written_under = self.written_under.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_latest = arn.is_some() && arn == written_under.as_deref();
        let (is_writers, listed) = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            (arn.is_some_and(|arn| routes.is_writer(arn)), arn.and_then(|arn| routes.lists(arn)))
        };
        if place == 0 && (is_latest || is_writers) {
            self.succeeded(Operation::Decrypt);
        }
        if is_latest || listed != Some(false) {
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

    fn failed(&self, operation: Operation, trouble: Trouble, began: Instant) {
        let mut health = self.health();
        let before = health.verdict();
        health.failed(operation, trouble, began, Instant::now());
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

fn is_fair(began: Instant, deadline: Instant) -> bool {
    deadline.saturating_duration_since(began) >= FAIR_TIME
}

/// Why keys did not decrypt something.
#[derive(Default)]
struct Troubles {
    worst: Option<Trouble>,
    /// Regions that could not be heard: their other keys are not asked.
    away: Vec<String>,
}

impl Troubles {
    fn came_of(&self, region: &str) -> bool {
        self.away.iter().any(|away| away == region)
    }

    /// An outage tells most: the plaintext may well be there. Then what is more than "not mine".
    fn add(&mut self, trouble: Trouble, region: &str) {
        if trouble.kind.is_outage() {
            self.away.push(region.to_owned());
        }
        let weight = |trouble: &Trouble| (trouble.kind.is_outage(), trouble.kind != Kind::BadCiphertext);
        if self.worst.as_ref().is_none_or(|worst| weight(&trouble) > weight(worst)) {
            self.worst = Some(trouble);
        }
    }

    fn worst(self) -> Trouble {
        self.worst.unwrap_or_else(|| Trouble::new(Kind::BadRequest, "there is no key to decrypt with"))
    }
}

/// A local KEK is wrapped by the key that is active, and unwrapped by whichever it takes.
impl RemoteKey for Keyring {
    async fn encrypt(&self, plaintext: &Secret, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        let active = self.active()?;
        Self::encrypt(self, plaintext, &active, deadline, &Caller::own(Purpose::LocalKek)).await
    }

    async fn decrypt(&self, blob: &[u8], deadline: Instant) -> Result<Secret, Trouble> {
        Self::decrypt(self, blob, None, deadline, &Caller::own(Purpose::LocalKek)).await
    }
}
