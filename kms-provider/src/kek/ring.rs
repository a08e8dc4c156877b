//! Which KEKs are in memory, how long each may serve, and which one encrypts. Pure: it is given the
//! time and the chance.
//!
//! A KEK serves for `revalidate` since KMS last unwrapped it. From then on it is one of:
//! *refused* (KMS answered, and not with the same KEK): it leaves at once; *unheard* (KMS did not
//! answer): it serves on until `max_unverified`; *idle* (nobody used it since): KMS is asked
//! when somebody does.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coffer_runtime::Secret;
use lru::LruCache;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::key::Key;
use super::limits::Limits;
use crate::{Kind, Trouble};

/// A revalidation comes earlier than `revalidate` by up to this part of it, so that KEKs unwrapped
/// together are not revalidated together.
const EARLY: f64 = 0.2;
/// The next KEK is made from this part of the uses or of the age on, and up to [`RENEW_SPREAD`] later:
/// the replicas of a control plane start together.
const RENEW: f64 = 0.8;
const RENEW_SPREAD: f64 = 0.1;
/// Longest wait between two tries.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// How long the word "KMS does not answer" stands. Tries come more often than this; should they ever
/// not, whoever uses the KEK makes one.
const UNHEARD_STANDS: Duration = Duration::from_secs(90);
/// How long a revalidation that was handed out is not handed out again: longer than any call.
const HANDED_OUT: Duration = Duration::from_secs(15);

/// A KEK's name in memory and in logs: SHA-256 of its wrapped form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id([u8; 32]);

/// A KEK as KMS has wrapped it.
#[derive(Clone, Debug)]
pub(super) struct Wrapped {
    pub(super) id: Id,
    pub(super) bytes: Arc<[u8]>,
}

/// What is known of a KEK when it is wanted.
#[derive(Debug)]
pub(super) enum Sight {
    /// It may serve.
    Fresh(Arc<Key>),
    /// KMS should have been asked about it by now, and was not.
    Overdue(Arc<Key>),
    /// It is not in memory, or no longer.
    Absent,
}

/// One use of the KEK that encrypts, already counted.
#[derive(Debug)]
pub(super) struct Reserved {
    pub(super) wrapped: Wrapped,
    /// The KEK, when it may serve at once.
    pub(super) key: Option<Arc<Key>>,
    /// Whether it is time to make the next.
    pub(super) renew: bool,
}

/// What the metrics tell. Taken by [`super::LocalKek::snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// KEKs in memory.
    pub held: usize,
    /// Those of them that KMS did not answer about when it was last asked.
    pub unheard: usize,
    /// The KEK that encrypts; none before the first Encrypt and after a refusal.
    pub current: Option<Current>,
    /// KEKs made by this process.
    pub made: u64,
    /// KEKs that others, or an earlier run, had made and KMS has unwrapped for us.
    pub unwrapped: u64,
    /// When KMS was last asked about a KEK that is or was in memory, and its answer.
    pub last_validation: Option<Validation>,
}

/// The KEK that encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// Encryptions so far.
    pub uses: u64,
    /// Since it was made.
    pub age: Duration,
}

/// KMS's word on a KEK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// How long ago it came.
    pub ago: Duration,
    /// The word.
    pub outcome: Result<(), Trouble>,
}

#[derive(Debug)]
pub(super) struct Ring {
    limits: Limits,
    entries: LruCache<Id, Entry>,
    current: Option<Generation>,
    /// Failures in a row to make the next KEK, and when to try again.
    renewal: Option<Backoff>,
    /// KMS has refused the KEK that encrypted: the next must be unwrapped once before it is used, or
    /// what it encrypts might be readable by nobody.
    distrusted: bool,
    made: u64,
    unwrapped: u64,
    last_validation: Option<(Instant, Result<(), Trouble>)>,
}

#[derive(Debug)]
struct Entry {
    key: Arc<Key>,
    wrapped: Wrapped,
    /// When the call left by which KMS last vouched for it.
    validated: Instant,
    last_used: Instant,
    /// When to ask KMS again.
    due: Instant,
    unheard: Option<Backoff>,
}

/// The KEK that encrypts. Its key is in `entries`, or KMS is asked for it.
#[derive(Debug)]
struct Generation {
    wrapped: Wrapped,
    born: Instant,
    uses: u64,
    renew_at_uses: u64,
    renew_at_age: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Backoff {
    failures: u32,
    last: Instant,
    next: Instant,
}

impl Ring {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            entries: LruCache::new(limits.held),
            limits,
            current: None,
            renewal: None,
            distrusted: false,
            made: 0,
            unwrapped: 0,
            last_validation: None,
        }
    }

    /// The KEK `id`, which is then used.
    pub(super) fn look(&mut self, id: &Id, now: Instant) -> Sight {
        let Some(entry) = self.entries.get_mut(id) else { return Sight::Absent };
        let age = now.duration_since(entry.validated);
        if age >= self.limits.max_unverified {
            self.entries.pop(id);
            return Sight::Absent;
        }
        entry.last_used = now;
        let key = Arc::clone(&entry.key);
        let unheard = entry.unheard.is_some_and(|it| now.duration_since(it.last) < UNHEARD_STANDS);
        if age < self.limits.revalidate.mul_f64(1.5) || unheard { Sight::Fresh(key) } else { Sight::Overdue(key) }
    }

    /// A use of the KEK that encrypts; nothing when one has to be made first.
    pub(super) fn reserve(&mut self, now: Instant) -> Option<Reserved> {
        let current = self.current.as_mut()?;
        let age = now.duration_since(current.born);
        if current.uses >= self.limits.max_uses || age >= self.limits.max_age {
            return None;
        }
        current.uses += 1;
        let ripe = current.uses >= current.renew_at_uses || age >= current.renew_at_age;
        let renew = ripe && self.renewal.is_none_or(|it| now >= it.next);
        let wrapped = current.wrapped.clone();
        let key = match self.look(&wrapped.id, now) {
            Sight::Fresh(key) => Some(key),
            Sight::Overdue(_) | Sight::Absent => None,
        };
        Some(Reserved { wrapped, key, renew })
    }

    /// KMS has wrapped a new KEK by a call that left at `asked`: it encrypts from `now` on.
    pub(super) fn adopt(&mut self, wrapped: Wrapped, key: Arc<Key>, asked: Instant, now: Instant, chance: f64) {
        let part = RENEW + RENEW_SPREAD * chance;
        self.current = Some(Generation {
            wrapped: wrapped.clone(),
            born: now,
            uses: 0,
            renew_at_uses: (self.limits.max_uses as f64 * part).ceil() as u64,
            renew_at_age: self.limits.max_age.mul_f64(part),
        });
        self.renewal = None;
        self.distrusted = false;
        self.made += 1;
        self.hold(wrapped, key, asked, chance);
    }

    /// No new KEK could be made. Says whether one is still in use.
    pub(super) fn not_made(&mut self, now: Instant, kind: Kind, chance: f64) -> bool {
        self.renewal = Some(Backoff::after(self.renewal, now, kind, chance));
        let limits = &self.limits;
        self.current
            .as_ref()
            .is_some_and(|it| it.uses < limits.max_uses && now.duration_since(it.born) < limits.max_age)
    }

    /// The KEK that encrypts does not any more.
    pub(super) fn retire(&mut self) {
        self.current = None;
    }

    /// Whether a new KEK must be unwrapped by KMS before it is used.
    pub(super) fn is_distrusted(&self) -> bool {
        self.distrusted
    }

    /// KMS has unwrapped a KEK by a call that left at `asked`.
    ///
    /// # Errors
    /// It is no KEK, or another one than before: it is dropped.
    pub(super) fn vouched(
        &mut self,
        wrapped: &Wrapped,
        bytes: Secret,
        asked: Instant,
        now: Instant,
        chance: f64,
    ) -> Result<Arc<Key>, Trouble> {
        let key = match self.entries.peek(&wrapped.id) {
            Some(entry) if entry.key.is(&bytes) => Arc::clone(&entry.key),
            Some(_) => {
                let text = "KMS unwraps it to another key than before; find out who answers at --kms-endpoint";
                let trouble = Trouble::new(Kind::BadCiphertext, text);
                tracing::error!(kek = %wrapped.id, "a local KEK is no longer used: {trouble}");
                self.refused(&wrapped.id, &trouble, now);
                return Err(trouble);
            }
            None => {
                let key =
                    Arc::new(Key::from_secret(bytes).inspect_err(|trouble| self.refused(&wrapped.id, trouble, now))?);
                self.unwrapped += 1;
                key
            }
        };
        self.last_validation = Some((now, Ok(())));
        self.hold(wrapped.clone(), Arc::clone(&key), asked, chance);
        Ok(key)
    }

    /// KMS has answered, and not with the KEK.
    pub(super) fn refused(&mut self, id: &Id, trouble: &Trouble, now: Instant) {
        let held = self.entries.pop(id).is_some();
        let current = self.current.take_if(|it| it.wrapped.id == *id).is_some();
        self.distrusted |= current;
        if held || current {
            tracing::warn!(kek = %id, "a local KEK is no longer used: {trouble}");
            self.last_validation = Some((now, Err(trouble.clone())));
        }
    }

    /// KMS has not answered.
    pub(super) fn unheard(&mut self, id: &Id, trouble: &Trouble, now: Instant, chance: f64) {
        let Some(entry) = self.entries.peek_mut(id) else { return };
        let backoff = Backoff::after(entry.unheard, now, trouble.kind, chance);
        if backoff.failures == 1 {
            let left = self.limits.max_unverified.saturating_sub(now.duration_since(entry.validated));
            tracing::warn!(kek = %id, "KMS does not confirm a local KEK, which serves {} longer: {trouble}", spoken(left));
        }
        entry.unheard = Some(backoff);
        entry.due = backoff.next;
        self.last_validation = Some((now, Err(trouble.clone())));
    }

    /// Drops those that may not stay, and hands out those to ask KMS about. One that is not in use is kept,
    /// for an API server that starts while KMS cannot be reached.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Wrapped> {
        let mut due = Vec::new();
        let mut gone = Vec::new();
        for (id, entry) in &mut self.entries {
            if now.duration_since(entry.validated) >= self.limits.max_unverified {
                tracing::warn!(kek = %id, "a local KEK is no longer used: KMS has not confirmed it for {}",
                    spoken(self.limits.max_unverified));
                gone.push(*id);
            } else if now >= entry.due && entry.unheard.is_none() && entry.last_used <= entry.validated {
                // Nobody asks for it: whoever does next will make us ask KMS first.
                entry.due = entry.validated + self.limits.max_unverified;
            } else if now >= entry.due {
                entry.due = now + HANDED_OUT;
                due.push(entry.wrapped.clone());
            }
        }
        for id in gone {
            self.entries.pop(&id);
        }
        due
    }

    /// When [`Ring::due`] has something to do again; nothing when no KEK is in memory.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.iter().map(|(_, it)| it.due.min(it.validated + self.limits.max_unverified)).min()
    }

    pub(super) fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            held: self.entries.len(),
            unheard: self.entries.iter().filter(|(_, entry)| entry.unheard.is_some()).count(),
            current: self.current.as_ref().map(|it| Current { uses: it.uses, age: now.duration_since(it.born) }),
            made: self.made,
            unwrapped: self.unwrapped,
            last_validation: self
                .last_validation
                .as_ref()
                .map(|(at, outcome)| Validation { ago: now.duration_since(*at), outcome: outcome.clone() }),
        }
    }

    fn hold(&mut self, wrapped: Wrapped, key: Arc<Key>, validated: Instant, chance: f64) {
        let due = validated + self.limits.revalidate.mul_f64(1.0 - EARLY * chance);
        match self.entries.peek_mut(&wrapped.id) {
            Some(entry) => {
                if entry.unheard.take().is_some() {
                    tracing::info!(kek = %wrapped.id, "KMS confirms the local KEK again");
                }
                entry.validated = validated;
                entry.due = due;
            }
            None => {
                let entry = Entry { key, wrapped, validated, last_used: validated, due, unheard: None };
                self.entries.put(entry.wrapped.id, entry);
            }
        }
    }
}

impl Backoff {
    /// Exponential, with full jitter above a floor of a quarter.
    fn after(before: Option<Self>, now: Instant, kind: Kind, chance: f64) -> Self {
        let failures = before.map_or(0, |it| it.failures).saturating_add(1);
        let first = Duration::from_secs(match kind {
            // The quota is the account's: going slow helps everyone.
            Kind::Throttled => 4,
            _ => 1,
        });
        let most = first.saturating_mul(1 << (failures - 1).min(8)).min(LONGEST_BACKOFF);
        Self { failures, last: now, next: now + most / 4 + (most * 3 / 4).mul_f64(chance) }
    }
}

impl Id {
    pub(super) fn of(wrapped: &[u8]) -> Self {
        Self(Sha256::digest(wrapped).into())
    }
}

impl Wrapped {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self { id: Id::of(bytes), bytes: bytes.into() }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn spoken(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(time.as_secs()))
}
