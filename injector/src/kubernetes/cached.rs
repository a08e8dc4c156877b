//! What was read lately, and reads that are shared by all who ask for the same object.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::KubernetesError;

/// How long an answer holds, by a fifth more or less: what many pods read at once is not to be read anew at once.
const LIFETIME: Duration = Duration::from_secs(60);
const JITTER: f64 = 0.2;
/// How long a no holds: someone may be about to make the object. Long enough for those who ask together.
const NO_LIFETIME: Duration = Duration::from_secs(2);
/// How long the last known answer is given without a new attempt while the API is away.
const OUTAGE_LIFETIME: Duration = Duration::from_secs(5);
/// How long whoever could have the last known answer waits for a new one.
const PATIENCE: Duration = Duration::from_secs(1);
/// An answer that nobody has asked for in so long is dropped.
const FORGET: Duration = Duration::from_secs(600);
/// The most answers that are kept: who asks may make names up. There are no more service accounts or ConfigMaps in use on
/// a node, and more in a cluster only where they are read anew each time without harm.
const MOST: usize = 4096;
/// How often to look for those.
const SWEEP: Duration = Duration::from_secs(60);

/// Answers by namespace and name.
pub(super) struct Cached<V> {
    board: Arc<Mutex<Board<V>>>,
    lifetime: fn(&V) -> Lifetime,
    outage: Arc<Outage>,
}

/// How long an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// As long as a no: it says that something is missing.
    Brief,
    /// A minute.
    Usual,
    /// It cannot change.
    Forever,
}

/// Whether the API is known to be away, so that it is told once.
#[derive(Debug, Default)]
pub(super) struct Outage(AtomicBool);

type Key = (String, String);
type Answer<V> = Result<V, KubernetesError>;

struct Board<V> {
    entries: HashMap<Key, Entry<V>>,
    swept: Instant,
}

struct Entry<V> {
    /// What to answer until when; `None` for good.
    answer: Option<(Answer<V>, Option<Instant>)>,
    /// When that was read.
    read: Instant,
    /// The last answer that was one.
    known: Option<V>,
    asked: Instant,
    flight: Option<watch::Receiver<Option<Answer<V>>>>,
}

impl<V: Clone + Send + Sync + 'static> Cached<V> {
    pub(super) fn new(outage: &Arc<Outage>, lifetime: fn(&V) -> Lifetime) -> Self {
        let board = Board { entries: HashMap::new(), swept: Instant::now() };
        Self { board: Arc::new(Mutex::new(board)), lifetime, outage: Arc::clone(outage) }
    }

    /// The answer for that name: a recent one, the one that is being fetched, or that of `ask`, which runs to
    /// its end even when the caller gives up. While the API is away, the last one known. With `young`, recent
    /// is what those who ask together have just been told, and no more.
    pub(super) async fn get<F, Fut>(&self, namespace: &str, name: &str, young: bool, ask: F) -> Answer<V>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Answer<V>> + Send + 'static,
    {
        let key = (namespace.to_owned(), name.to_owned());
        let (mut flight, known) = {
            let now = Instant::now();
            let mut board = lock(&self.board);
            board.sweep(now);
            board.make_room(&key);
            let entry = board.entries.entry(key.clone()).or_insert_with(|| Entry {
                answer: None,
                read: now,
                known: None,
                asked: now,
                flight: None,
            });
            entry.asked = now;
            if let Some((answer, until)) = &entry.answer
                && until.is_none_or(|until| now < until && (!young || now.duration_since(entry.read) < NO_LIFETIME))
            {
                return answer.clone();
            }
            // One whose task has ended without an answer, by a panic, is none.
            let flight = match entry.flight.as_ref().filter(|flight| flight.has_changed().is_ok()) {
                Some(flight) => flight.clone(),
                None => {
                    let (sender, flight) = watch::channel(None);
                    entry.flight = Some(flight.clone());
                    let (board, lifetime, outage) = (Arc::clone(&self.board), self.lifetime, Arc::clone(&self.outage));
                    let asked = ask();
                    tokio::spawn(async move {
                        let answer = asked.await;
                        let landed = lock(&board).land(&key, answer, lifetime, &outage);
                        sender.send_replace(Some(landed));
                    });
                    flight
                }
            };
            (flight, entry.known.clone())
        };
        let landed = flight.wait_for(Option::is_some);
        let landed = match known {
            None => landed.await,
            Some(known) => match timeout(PATIENCE, landed).await {
                Ok(landed) => landed,
                Err(_) => return Ok(known),
            },
        };
        let landed = landed.ok().and_then(|answer| answer.clone());
        landed.unwrap_or_else(|| Err(KubernetesError::Interrupted { object: format!("{namespace}/{name}") }))
    }
}

impl<V: Clone> Board<V> {
    /// Takes an answer in, and gives the one to pass on.
    fn land(&mut self, key: &Key, answer: Answer<V>, lifetime: fn(&V) -> Lifetime, outage: &Outage) -> Answer<V> {
        let now = Instant::now();
        let Some(entry) = self.entries.get_mut(key) else { return answer };
        entry.flight = None;
        let (answer, holds) = match answer {
            Ok(value) => {
                outage.ended();
                entry.known = Some(value.clone());
                let holds = match lifetime(&value) {
                    Lifetime::Brief => Some(NO_LIFETIME),
                    Lifetime::Usual => Some(LIFETIME.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64())),
                    Lifetime::Forever => None,
                };
                (Ok(value), holds)
            }
            Err(error) if error.is_outage() => {
                outage.began(&error);
                match &entry.known {
                    Some(known) => (Ok(known.clone()), Some(OUTAGE_LIFETIME)),
                    None => (Err(error), Some(NO_LIFETIME)),
                }
            }
            Err(error) => {
                outage.ended();
                entry.known = None;
                (Err(error), Some(NO_LIFETIME))
            }
        };
        entry.answer = Some((answer.clone(), holds.map(|holds| now + holds)));
        entry.read = now;
        answer
    }

    /// Drops the answer that was asked for longest ago, should there be no room for another name. Whoever waits for one
    /// that is under way gets it all the same.
    fn make_room(&mut self, key: &Key) {
        if self.entries.len() < MOST || self.entries.contains_key(key) {
            return;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| (entry.flight.is_some(), entry.asked));
        if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
            self.entries.remove(&oldest);
        }
    }

    /// Drops what nobody has asked for in a long time.
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        self.entries.retain(|_, entry| {
            let forever = matches!(entry.answer, Some((_, None)));
            forever || entry.flight.is_some() || now.duration_since(entry.asked) < FORGET
        });
        self.entries.shrink_to_fit();
    }
}

impl Outage {
    fn began(&self, error: &KubernetesError) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!("{error}; until then, what was last read from it is used");
        }
    }

    fn ended(&self) {
        if self.0.swap(false, Ordering::Relaxed) {
            tracing::info!("the Kubernetes API answers again");
        }
    }
}

fn lock<V>(board: &Mutex<Board<V>>) -> MutexGuard<'_, Board<V>> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::time::{advance, sleep};

    use super::*;
    use crate::kubernetes::{ObjectName, Verb};

    /// An API whose next answer a test sets, and which counts.
    #[derive(Clone)]
    struct Api {
        cached: Arc<Cached<Option<u32>>>,
        next: Arc<Mutex<Answer<Option<u32>>>>,
        asked: Arc<AtomicUsize>,
    }

    impl Api {
        fn new() -> Self {
            let lifetime = |value: &Option<u32>| match value {
                None => Lifetime::Brief,
                Some(7) => Lifetime::Forever,
                Some(_) => Lifetime::Usual,
            };
            Self {
                cached: Arc::new(Cached::new(&Arc::default(), lifetime)),
                next: Arc::new(Mutex::new(Ok(Some(1)))),
                asked: Arc::default(),
            }
        }

        fn answers(&self, next: Answer<Option<u32>>) {
            *self.next.lock().unwrap() = next;
        }

        async fn get(&self, name: &str) -> Answer<Option<u32>> {
            let Self { next, asked, .. } = self.clone();
            let ask = || async move {
                asked.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(20)).await;
                next.lock().unwrap().clone()
            };
            self.cached.get("shop", name, false, ask).await
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    fn object() -> ObjectName {
        ObjectName::of::<k8s_openapi::api::core::v1::ConfigMap>("shop", "app").unwrap()
    }

    fn gone() -> KubernetesError {
        KubernetesError::NotFound { object: object() }
    }

    fn away() -> KubernetesError {
        KubernetesError::Unavailable { verb: Verb::Get, object: object(), cause: "refused".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_first_set_is_told_what_holds_now() {
        let cached = Cached::new(&Arc::default(), |_: &u8| Lifetime::Usual);
        let read = async |young, value: u8| cached.get("shop", "app", young, || async move { Ok(value) }).await;
        assert_eq!(read(false, 1).await, Ok(1));
        assert_eq!(read(true, 2).await, Ok(1), "asked together");
        sleep(Duration::from_secs(3)).await;
        assert_eq!(read(false, 2).await, Ok(1));
        assert_eq!(read(true, 2).await, Ok(2));
        assert_eq!(read(false, 3).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_who_ask_at_once_ask_once() {
        let api = Api::new();
        let askers: Vec<_> = (0..100)
            .map(|_| {
                let api = api.clone();
                tokio::spawn(async move { api.get("app").await })
            })
            .collect();
        for asker in askers {
            assert_eq!(asker.await.unwrap(), Ok(Some(1)));
        }
        assert_eq!(api.asked(), 1);
        api.get("other").await.unwrap();
        assert_eq!(api.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_a_minute_and_a_no_for_moments() {
        let api = Api::new();
        api.get("app").await.unwrap();
        advance(Duration::from_secs(45)).await;
        api.get("app").await.unwrap();
        assert_eq!(api.asked(), 1);
        advance(Duration::from_secs(30)).await;
        api.answers(Err(gone()));
        assert_eq!(api.get("app").await, Err(gone()));
        assert_eq!(api.get("app").await, Err(gone()));
        assert_eq!(api.asked(), 2);
        api.answers(Ok(None));
        advance(Duration::from_secs(3)).await;
        assert_eq!(api.get("app").await, Ok(None));
        api.answers(Ok(Some(2)));
        advance(Duration::from_secs(3)).await;
        assert_eq!(api.get("app").await, Ok(Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_known_holds_while_the_api_is_away_and_not_once_it_says_no() {
        let api = Api::new();
        api.answers(Err(away()));
        assert_eq!(api.get("app").await, Err(away()));
        advance(Duration::from_secs(3)).await;
        api.answers(Ok(Some(1)));
        assert_eq!(api.get("app").await, Ok(Some(1)));
        api.answers(Err(away()));
        advance(Duration::from_secs(90)).await;
        for _ in 0..10 {
            assert_eq!(api.get("app").await, Ok(Some(1)));
        }
        assert_eq!(api.asked(), 3);
        api.answers(Err(gone()));
        advance(Duration::from_secs(6)).await;
        assert_eq!(api.get("app").await, Err(gone()));
        api.answers(Err(away()));
        advance(Duration::from_secs(6)).await;
        assert_eq!(api.get("app").await, Err(away()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_hangs_holds_up_only_who_knows_nothing_yet() {
        let api = Api::new();
        api.get("app").await.unwrap();
        advance(Duration::from_secs(90)).await;
        let started = Instant::now();
        let hangs = || async {
            sleep(Duration::from_secs(10)).await;
            Ok(Some(2))
        };
        assert_eq!(api.cached.get("shop", "app", false, hangs).await, Ok(Some(1)));
        assert_eq!(started.elapsed(), PATIENCE);
        assert_eq!(api.cached.get("shop", "other", false, hangs).await, Ok(Some(2)));
        assert_eq!(api.get("app").await, Ok(Some(2)));
        assert_eq!(api.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_is_dropped_unless_it_cannot_change() {
        let api = Api::new();
        api.get("app").await.unwrap();
        api.answers(Ok(Some(7)));
        api.get("node").await.unwrap();
        advance(FORGET).await;
        api.get("another").await.unwrap();
        let names: Vec<String> = lock(&api.cached.board).entries.keys().map(|(_, name)| name.clone()).collect();
        assert!(!names.contains(&"app".to_owned()) && names.contains(&"node".to_owned()), "{names:?}");
        let before = api.asked();
        api.get("node").await.unwrap();
        assert_eq!(api.asked(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_are_made_up_take_the_place_of_the_oldest() {
        let cached = Cached::new(&Arc::default(), |_: &u8| Lifetime::Usual);
        let read = async |name: &str, value: u8| cached.get("shop", name, false, || async move { Ok(value) }).await;
        assert_eq!(read("old", 1).await, Ok(1));
        advance(Duration::from_millis(1)).await;
        assert_eq!(read("app", 1).await, Ok(1));
        for number in 0..MOST * 2 {
            if number % 1000 == 0 {
                advance(Duration::from_millis(1)).await;
                assert_eq!(read("app", 2).await, Ok(1), "it is asked for, and stays");
            }
            read(&format!("made-up-{number}"), 1).await.unwrap();
        }
        assert_eq!(lock(&cached.board).entries.len(), MOST);
        assert_eq!(read("old", 2).await, Ok(2), "it had to go");
    }

    #[tokio::test(start_paused = true)]
    async fn an_asker_who_leaves_does_not_end_the_read_for_the_others() {
        let api = Api::new();
        assert!(timeout(Duration::from_millis(5), api.get("app")).await.is_err());
        assert_eq!(api.get("app").await, Ok(Some(1)));
        assert_eq!(api.asked(), 1);
    }
}
