//! What KMS has decrypted before, for a while: an API server asks for the same few seeds, and for many
//! of them at once (it does not gather equal requests: k8s.io/apiserver, `kmsv2/envelope.go`).
//!
//! A key that is disabled can be read through the cache for as long as an entry lives; that is its
//! price, told in deploy/kms.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coffer_runtime::Secret;
use lru::LruCache;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::flight::Flight;
use crate::{Kind, Trouble};

/// How the cache is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// How long KMS's word is taken for; zero for no cache.
    pub ttl: Duration,
    /// How much longer while KMS cannot be heard; what it refuses goes at once.
    pub max_stale: Duration,
    /// How many values.
    pub size: usize,
}

/// Stands for what was asked: the ciphertext, and how it is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asked([u8; 32]);

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// From memory.
    Hit,
    /// KMS was asked.
    Miss,
    /// KMS was being asked already, for another.
    Shared,
    /// From memory, past its time, since KMS cannot be heard.
    Stale,
    /// From nowhere: too many wait for KMS.
    Refused,
}

/// Values by what was asked.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    settings: CacheSettings,
    state: Mutex<State>,
}

struct State {
    values: LruCache<Asked, Entry>,
    flights: HashMap<Asked, Flight<Arc<Secret>>>,
}

struct Entry {
    value: Arc<Secret>,
    confirmed: Instant,
    /// After a failure that says nothing about the key, when to ask KMS again.
    ask_again: Option<Instant>,
}

/// How long KMS is waited for by one who could be served a value that is past its time.
const PATIENCE: Duration = Duration::from_secs(1);

type Answer = Result<Arc<Secret>, Trouble>;

/// Calls under way or queued; beyond it, a storm is turned away at once instead of filling the memory.
const FLIGHTS: usize = 8192;
/// While KMS cannot be heard, a value that is past its time is served this long before the next try.
const BETWEEN_TRIES: Duration = Duration::from_secs(5);

impl Asked {
    /// The digest of what was asked: `route` is the key_id where that matters.
    #[must_use]
    pub fn of(route: &str, blob: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update((route.len() as u64).to_be_bytes());
        digest.update(route.as_bytes());
        digest.update(blob);
        Self(digest.finalize().into())
    }
}

impl Source {
    /// The label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Shared => "shared",
            Self::Stale => "stale",
            Self::Refused => "refused",
        }
    }
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(settings: CacheSettings) -> Self {
        // Bounded by `keep`: a bounded one would take all its memory at once.
        let state = State { values: LruCache::unbounded(), flights: HashMap::new() };
        Self(Arc::new(Inner { settings, state: Mutex::new(state) }))
    }

    /// The value from memory, or what `ask` brings, which is called once however many wait for it, and
    /// not cut short when the first of them leaves.
    pub async fn get<Asking>(&self, asked: Asked, deadline: Instant, ask: impl FnOnce() -> Asking) -> (Answer, Source)
    where
        Asking: Future<Output = Result<Secret, Trouble>> + Send + 'static,
    {
        let (flight, source, stale) = {
            let mut state = self.state();
            let stale = match state.look(&asked, self.0.settings, Instant::now()) {
                Found::Fresh(value) => return (Ok(value), Source::Hit),
                Found::Waiting(value) => return (Ok(value), Source::Stale),
                Found::Stale(value) => Some(value),
                Found::Nothing => None,
            };
            match state.flights.get(&asked) {
                Some(flight) => (flight.clone(), Source::Shared, stale),
                None if state.flights.len() >= FLIGHTS => {
                    let text = format!("{FLIGHTS} Decrypts wait for KMS already; try again");
                    return match stale {
                        Some(value) => (Ok(value), Source::Stale),
                        None => (Err(Trouble::new(Kind::Busy, text)), Source::Refused),
                    };
                }
                None => {
                    let place = Place { cache: self.clone(), asked };
                    let ask = ask();
                    let flight = Flight::depart(async move {
                        let answer = ask.await.map(Arc::new);
                        place.cache.keep(asked, &answer);
                        answer
                    });
                    state.flights.insert(asked, flight.clone());
                    (flight, Source::Miss, stale)
                }
            }
        };
        let Some(value) = stale else { return (flight.answer(deadline).await, source) };
        let now = Instant::now();
        let patience = PATIENCE.min(deadline.saturating_duration_since(now) / 2);
        match flight.answer(now + patience).await {
            Err(trouble) if trouble.kind.is_outage() => {
                // One who gave up waiting spares the next ones the wait; the call is still under way.
                self.state().put_off(asked);
                (Ok(value), Source::Stale)
            }
            answer => (answer, source),
        }
    }

    /// Wipes what is past its time; called now and then, so that nothing lingers unasked for.
    pub fn sweep(&self) {
        let mut state = self.state();
        let (now, life) = (Instant::now(), self.0.settings.ttl + self.0.settings.max_stale);
        let old: Vec<Asked> = state
            .values
            .iter()
            .filter(|(_, entry)| now.duration_since(entry.confirmed) >= life)
            .map(|(asked, _)| *asked)
            .collect();
        for asked in old {
            state.values.pop(&asked);
        }
    }

    /// How many values are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state().values.len()
    }

    /// Whether no value is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn keep(&self, asked: Asked, answer: &Answer) {
        let mut state = self.state();
        match answer {
            Ok(value) if !self.0.settings.ttl.is_zero() && self.0.settings.size > 0 => {
                let entry = Entry { value: Arc::clone(value), confirmed: Instant::now(), ask_again: None };
                state.values.put(asked, entry);
                if state.values.len() > self.0.settings.size {
                    state.values.pop_lru();
                }
            }
            Ok(_) => {}
            Err(trouble) if trouble.kind.is_outage() => state.put_off(asked),
            Err(_) => {
                state.values.pop(&asked);
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Found {
    Fresh(Arc<Secret>),
    /// Past its time, and KMS was asked in vain a moment ago.
    Waiting(Arc<Secret>),
    /// Past its time.
    Stale(Arc<Secret>),
    Nothing,
}

impl State {
    fn look(&mut self, asked: &Asked, settings: CacheSettings, now: Instant) -> Found {
        let Some(entry) = self.values.get(asked) else { return Found::Nothing };
        let age = now.duration_since(entry.confirmed);
        if age < settings.ttl {
            return Found::Fresh(Arc::clone(&entry.value));
        }
        if age >= settings.ttl + settings.max_stale {
            self.values.pop(asked);
            return Found::Nothing;
        }
        match entry.ask_again {
            Some(at) if now < at => Found::Waiting(Arc::clone(&entry.value)),
            _ => Found::Stale(Arc::clone(&entry.value)),
        }
    }

    fn put_off(&mut self, asked: Asked) {
        if let Some(entry) = self.values.peek_mut(&asked) {
            entry.ask_again = Some(Instant::now() + BETWEEN_TRIES);
        }
    }
}

/// A flight's place among the flights, given back when it ends.
struct Place {
    cache: Cache,
    asked: Asked,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cache.state().flights.remove(&self.asked);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const TTL: Duration = Duration::from_secs(600);
    const STALE: Duration = Duration::from_secs(3600);

    fn cache() -> Cache {
        Cache::new(CacheSettings { ttl: TTL, max_stale: STALE, size: 3 })
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(3)
    }

    async fn ask(cache: &Cache, blob: &[u8], answer: Result<&'static [u8], Kind>) -> (Result<Vec<u8>, Kind>, Source) {
        let (got, source) = cache
            .get(Asked::of("", blob), soon(), || async move {
                answer.map(Secret::copy_of).map_err(|kind| Trouble::new(kind, "told"))
            })
            .await;
        (got.map(|value| value.expose().to_vec()).map_err(|trouble| trouble.kind), source)
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_asked_for_once_in_its_time() {
        let cache = cache();
        assert_eq!(ask(&cache, b"1", Ok(b"one")).await, (Ok(b"one".to_vec()), Source::Miss));
        assert_eq!(ask(&cache, b"1", Err(Kind::Denied)).await, (Ok(b"one".to_vec()), Source::Hit));
        tokio::time::advance(TTL).await;
        assert_eq!(ask(&cache, b"1", Ok(b"new")).await, (Ok(b"new".to_vec()), Source::Miss));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_bridged_and_a_refusal_is_not() {
        let cache = cache();
        let _ = ask(&cache, b"1", Ok(b"one")).await;
        tokio::time::advance(TTL).await;
        for kind in [Kind::Throttled, Kind::Unreachable, Kind::TimedOut] {
            assert_eq!(ask(&cache, b"1", Err(kind)).await, (Ok(b"one".to_vec()), Source::Stale));
        }
        tokio::time::advance(BETWEEN_TRIES).await;
        assert_eq!(ask(&cache, b"1", Err(Kind::KeyUnusable)).await.0, Err(Kind::KeyUnusable));
        assert_eq!(ask(&cache, b"1", Err(Kind::Unreachable)).await.0, Err(Kind::Unreachable));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_outlives_its_last_time() {
        let cache = cache();
        let _ = ask(&cache, b"1", Ok(b"one")).await;
        tokio::time::advance(TTL + STALE).await;
        assert_eq!(cache.len(), 1);
        cache.sweep();
        assert!(cache.is_empty());
        assert_eq!(ask(&cache, b"1", Err(Kind::Unreachable)).await.0, Err(Kind::Unreachable));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_values_is_bounded_and_routes_do_not_mix() {
        let cache = cache();
        for blob in [b"1", b"2", b"3", b"4"] {
            let _ = ask(&cache, blob, Ok(b"value")).await;
        }
        assert_eq!(cache.len(), 3);
        assert_ne!(Asked::of("a", b"bc"), Asked::of("ab", b"c"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_who_ask_together_are_one_call_that_no_one_cuts_short() {
        let cache = cache();
        let calls = Arc::new(AtomicUsize::new(0));
        let asking = |deadline| {
            let (cache, calls) = (cache.clone(), Arc::clone(&calls));
            tokio::spawn(async move {
                let ask = || async move {
                    calls.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Ok(Secret::copy_of(b"value"))
                };
                cache.get(Asked::of("", b"1"), deadline, ask).await.0.map(|value| value.len())
            })
        };
        let first = asking(soon());
        tokio::task::yield_now().await;
        let hurried = asking(Instant::now() + Duration::from_millis(10));
        let rest: Vec<_> = (0..1_000).map(|_| asking(soon())).collect();
        tokio::task::yield_now().await;
        first.abort();
        assert_eq!(hurried.await.unwrap().unwrap_err().kind, Kind::TimedOut);
        for one in rest {
            assert_eq!(one.await.unwrap().unwrap(), 5);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_kept_and_no_time_means_no_cache() {
        let cache = cache();
        assert_eq!(ask(&cache, b"1", Err(Kind::Denied)).await.0, Err(Kind::Denied));
        assert_eq!(ask(&cache, b"1", Ok(b"one")).await, (Ok(b"one".to_vec()), Source::Miss));
        let none = Cache::new(CacheSettings { ttl: Duration::ZERO, max_stale: STALE, size: 3 });
        let _ = ask(&none, b"1", Ok(b"one")).await;
        assert_eq!(ask(&none, b"1", Err(Kind::Unreachable)).await.0, Err(Kind::Unreachable));
    }
}
