//! Local KEKs: a key of our own, wrapped by KMS, seals many DEKs or seeds, and KMS is asked once for it
//! instead of once for each of them.
//!
//! The price: the KEK is in this process's memory, and KMS is not asked at each use. So a KEK has a
//! number of uses and an age, and KMS must unwrap it anew again and again ([`Limits`]): a key disabled
//! at KMS stops working here within `revalidate` and a round trip, as long as KMS can be reached.
//!
//! [`Envelope`] is the format, `key` the cipher, `ring` the bookkeeping, `flight` a call that many wait for.

mod envelope;

mod key;
mod limits;
mod ring;
#[cfg(test)]
mod tests;

pub use envelope::Envelope;
pub use key::Key;
pub use limits::{InvalidLimits, Limits};
pub use ring::{Current, Snapshot, Validation};

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use coffer_runtime::Secret;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::flight::{Flight, in_time};
use crate::remote::RemoteKey;
use crate::{Kind, Trouble};
use ring::{Id, Ring, Sight, Wrapped};

/// What a call to KMS has, even if the one who wants it first has less: others may join. An API server
/// gives 3 s unless told otherwise (`timeout` in its `EncryptionConfiguration`).
const CALL: Duration = Duration::from_secs(3);
/// How long the first user of an overdue KEK waits for KMS before it counts as not answering.
const PATIENCE: Duration = Duration::from_secs(1);

/// Encrypts under local KEKs that a key in KMS has wrapped.
pub struct LocalKek<K>(Arc<Shared<K>>);

struct Shared<K> {
    remote: Arc<K>,
    state: Mutex<State>,
    /// There is something earlier to do than what [`tend`] sleeps for.
    wake: Arc<Notify>,
}

struct State {
    ring: Ring,
    /// KEKs that KMS is asked to unwrap.
    unwrapping: HashMap<Id, Flight<Arc<Key>>>,
    /// The next KEK, which KMS is asked to wrap.
    making: Option<Flight<()>>,
    /// How often [`LocalKek::renew`] was called: a KEK that was asked for before is not wanted any more.
    renewals: u64,
    /// Whether [`tend`] runs: only while a KEK is in memory.
    tended: bool,
}

impl<K: RemoteKey> LocalKek<K> {
    /// No KEK yet: the first Encrypt or Decrypt asks KMS for one.
    ///
    /// # Errors
    /// A limit is out of its range.
    pub fn new(remote: Arc<K>, limits: Limits) -> Result<Self, InvalidLimits> {
        limits.check()?;
        let ring = Ring::new(limits);
        let state = State { ring, unwrapping: HashMap::new(), making: None, renewals: 0, tended: false };
        Ok(Self(Arc::new(Shared { remote, state: Mutex::new(state), wake: Arc::default() })))
    }

    /// An [`Envelope`] of `plaintext`, 1 to 4,096 bytes. With a KEK in memory, KMS is not waited for.
    ///
    /// # Errors
    /// There is no KEK that may be used, and why KMS gives none; or the plaintext has no or too many bytes.
    pub async fn encrypt(&self, plaintext: &Secret, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        envelope::check_plaintext(plaintext)?;
        let shared = &self.0;
        let mut refused = false;
        let mut too_late = false;
        loop {
            let (reserved, making) = {
                let mut state = shared.state();
                let reserved = state.ring.reserve(Instant::now());
                let making = match &reserved {
                    Some(it) if it.renew => Some(shared.make(&mut state, Instant::now() + CALL)),
                    Some(_) => None,
                    None => Some(shared.make(&mut state, deadline.max(Instant::now() + CALL))),
                };
                (reserved, making)
            };
            if let Some(it) = reserved {
                let key = match it.key {
                    Some(key) => Ok(key),
                    None => shared.key(it.wrapped.id, &it.wrapped.bytes, deadline).await,
                };
                match key {
                    Ok(key) => return envelope::seal(&key, &it.wrapped.bytes, plaintext),
                    // That KEK is gone. Whether the key in KMS is usable is for the next one to tell.
                    Err(trouble) if !trouble.kind.is_outage() && !refused => refused = true,
                    Err(trouble) => return Err(trouble),
                }
            } else if let Some((flight, joined)) = making {
                match flight.answer(deadline).await {
                    // Others may have used it up already: look again.
                    Ok(()) => {}
                    Err(trouble) if joined && !too_late && is_early(&trouble, deadline) => too_late = true,
                    Err(trouble) => return Err(trouble),
                }
                if Instant::now() >= deadline {
                    return Err(Trouble::new(Kind::TimedOut, "no local KEK had a use left before the deadline"));
                }
            }
        }
    }

    /// The plaintext of an envelope. With its KEK in memory, KMS is not waited for.
    ///
    /// # Errors
    /// KMS does not unwrap its KEK, and why; or the envelope does not open with it.
    pub async fn decrypt(&self, envelope: &Envelope<'_>, deadline: Instant) -> Result<Secret, Trouble> {
        let wrapped = envelope.wrapped_kek();
        envelope.open(&*self.0.key(Id::of(wrapped), wrapped, deadline).await?)
    }

    /// Encrypts under a new KEK from now on: the key that wraps them is another. Those in memory go on
    /// decrypting.
    pub fn renew(&self) {
        let mut state = self.0.state();
        state.renewals += 1;
        state.making = None;
        state.ring.retire();
    }

    /// What the metrics tell, as of now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.state().ring.snapshot(Instant::now())
    }
}

impl<K: RemoteKey> Shared<K> {
    /// A KEK that may be used now: from memory, or from KMS by one call for all who want it.
    async fn key(self: &Arc<Self>, id: Id, wrapped: &[u8], deadline: Instant) -> Result<Arc<Key>, Trouble> {
        let mut too_late = false;
        loop {
            let (held, flight, joined) = {
                let mut state = self.state();
                let held = match state.ring.look(&id, Instant::now()) {
                    Sight::Fresh(key) => return Ok(key),
                    Sight::Overdue(key) => Some(key),
                    Sight::Absent => None,
                };
                let (flight, joined) =
                    self.unwrap(&mut state, Wrapped { id, bytes: wrapped.into() }, deadline.max(Instant::now() + CALL));
                (held, flight, joined)
            };
            let Some(held) = held else {
                match flight.answer(deadline).await {
                    Err(trouble) if joined && !too_late && is_early(&trouble, deadline) => too_late = true,
                    answer => return answer,
                }
                continue;
            };
            return self.confirmed(id, held, flight, deadline).await;
        }
    }

    /// An overdue KEK, once KMS has had the chance to refuse it.
    async fn confirmed(
        &self,
        id: Id,
        held: Arc<Key>,
        flight: Flight<Arc<Key>>,
        deadline: Instant,
    ) -> Result<Arc<Key>, Trouble> {
        let now = Instant::now();
        // Half of the time, so that an answer can still be given in the other half.
        let half = now + deadline.saturating_duration_since(now) / 2;
        match flight.answer(half.min(now + PATIENCE)).await {
            Err(trouble) if trouble.kind.is_outage() => {
                if half >= now + PATIENCE {
                    // Those who come next need not wait too; the call is still under way.
                    let mut state = self.state();
                    state.ring.unheard(&id, &trouble, Instant::now(), fastrand::f64());
                    self.wake.notify_one();
                }
                Ok(held)
            }
            answer => answer,
        }
    }

    /// The call that unwraps a KEK, and whether it was under way already.
    fn unwrap(self: &Arc<Self>, state: &mut State, wrapped: Wrapped, deadline: Instant) -> (Flight<Arc<Key>>, bool) {
        if let Some(flight) = state.unwrapping.get(&wrapped.id).filter(|it| it.under_way()) {
            return (flight.clone(), true);
        }
        let shared = Arc::clone(self);
        let id = wrapped.id;
        let flight = Flight::depart(async move {
            let asked = Instant::now();
            let answer = in_time(deadline, shared.remote.decrypt(&wrapped.bytes, deadline)).await;
            shared.unwrapped(&wrapped, asked, answer)
        });
        state.unwrapping.insert(id, flight.clone());
        (flight, false)
    }

    fn unwrapped(
        self: &Arc<Self>,
        wrapped: &Wrapped,
        asked: Instant,
        answer: Result<Secret, Trouble>,
    ) -> Result<Arc<Key>, Trouble> {
        let mut state = self.state();
        state.unwrapping.remove(&wrapped.id);
        let (now, chance) = (Instant::now(), fastrand::f64());
        let answer = match answer {
            Ok(bytes) => state.ring.vouched(wrapped, bytes, asked, now, chance),
            Err(trouble) => {
                if trouble.kind.is_outage() {
                    state.ring.unheard(&wrapped.id, &trouble, now, chance);
                } else {
                    state.ring.refused(&wrapped.id, &trouble, now);
                }
                Err(trouble)
            }
        };
        self.see_to(&mut state);
        answer.map_err(|it| Trouble::new(it.kind, format!("local KEK {}: {}", wrapped.id, it.text)))
    }

    /// The call that makes the next KEK, and whether it was under way already.
    fn make(self: &Arc<Self>, state: &mut State, deadline: Instant) -> (Flight<()>, bool) {
        if let Some(flight) = state.making.as_ref().filter(|it| it.under_way()) {
            return (flight.clone(), true);
        }
        let shared = Arc::clone(self);
        let distrusted = state.ring.is_distrusted();
        let renewals = state.renewals;
        let flight = Flight::depart(async move {
            let asked = Instant::now();
            let made = in_time(deadline, shared.wrap(distrusted, deadline)).await;
            shared.made(renewals, asked, made)
        });
        state.making = Some(flight.clone());
        (flight, false)
    }

    /// A new KEK and its wrapped form.
    async fn wrap(&self, distrusted: bool, deadline: Instant) -> Result<(Key, Wrapped), Trouble> {
        let key = Key::random()?;
        let wrapped = self.remote.encrypt(key.secret(), deadline).await?;
        envelope::check_wrapped(&wrapped)?;
        if distrusted && !key.is(&self.remote.decrypt(&wrapped, deadline).await?) {
            return Err(Trouble::new(Kind::BadCiphertext, "KMS does not decrypt what it has just encrypted"));
        }
        Ok((key, Wrapped::new(&wrapped)))
    }

    fn made(
        self: &Arc<Self>,
        renewals: u64,
        asked: Instant,
        made: Result<(Key, Wrapped), Trouble>,
    ) -> Result<(), Trouble> {
        let mut state = self.state();
        if state.renewals != renewals {
            return Err(Trouble::new(Kind::Busy, "the key changed while a local KEK was made; try again"));
        }
        state.making = None;
        let chance = fastrand::f64();
        match made {
            Ok((key, wrapped)) => {
                tracing::info!(kek = %wrapped.id, "a new local KEK");
                state.ring.adopt(wrapped, Arc::new(key), asked, Instant::now(), chance);
                self.see_to(&mut state);
                Ok(())
            }
            Err(trouble) => {
                if state.ring.not_made(Instant::now(), trouble.kind, chance) {
                    tracing::warn!("no new local KEK, the one in use serves on for now: {trouble}");
                }
                Err(Trouble::new(trouble.kind, format!("a new local KEK: {}", trouble.text)))
            }
        }
    }

    /// Sees to it that the KEKs in memory are tended.
    fn see_to(self: &Arc<Self>, state: &mut State) {
        if state.tended {
            self.wake.notify_one();
        } else if state.ring.next_due().is_some() {
            state.tended = true;
            tokio::spawn(tend(Arc::downgrade(self)));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Revalidates the KEKs in memory as they fall due, until there are none.
async fn tend<K: RemoteKey>(shared: Weak<Shared<K>>) {
    while let Some(strong) = shared.upgrade() {
        let next = {
            let mut state = strong.state();
            let now = Instant::now();
            for wrapped in state.ring.due(now) {
                strong.unwrap(&mut state, wrapped, now + CALL);
            }
            let Some(next) = state.ring.next_due() else {
                state.tended = false;
                return;
            };
            next
        };
        let wake = Arc::clone(&strong.wake);
        // Nothing is held while asleep: the KEKs are wiped with the last `LocalKek`.
        drop(strong);
        let _ = timeout_at(next, wake.notified()).await;
    }
}

/// Whether a call ran out of time before `deadline`: it had left under someone else's.
fn is_early(trouble: &Trouble, deadline: Instant) -> bool {
    trouble.kind == Kind::TimedOut && Instant::now() < deadline
}

impl<K> fmt::Debug for LocalKek<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalKek(…)")
    }
}
