//! What AWS answered, kept for a while: the most recently used answers, each asked for by one call
//! at a time, and given on, marked as stale, while AWS does not answer.
//!
//! What happens when a kept answer has run out and AWS gives none:
//! - the old one is given on with since when and why, for as long as AWS refuses (throttling, an
//!   outage, a denial, expired credentials, a key out of order, a secret scheduled for deletion, which
//!   can be restored), and AWS is asked again after a pause, not at each request;
//! - what AWS does not know (any more) is given on for [`GRACE`], for a staging label that moves is
//!   nowhere for a moment; then it is forgotten, and AWS's own answer is passed on;
//! - who asks with `refreshNow` wants AWS's word, and gets its error as it is.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use coffer_runtime::aws::Class;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::source::{FetchError, Whole, WholeQuery};
use crate::spec::Access;

/// How much shorter or longer than configured an answer is kept, so that what was fetched together
/// is not asked for together ever after.
const JITTER: f64 = 0.10;
/// How long a request waits for AWS when there is an old answer to give.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause after a failure; doubled with each one that follows, to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long something is given on that AWS says is not there.
const GRACE: Duration = Duration::from_secs(60);

/// Asks AWS.
pub(super) type Ask = Box<dyn Fn(Key) -> Asked + Send + Sync>;
pub(super) type Asked = Pin<Box<dyn Future<Output = Result<Whole, FetchError>> + Send>>;

/// What an answer is an answer to. Two identities never share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) access: Access,
    pub(super) query: WholeQuery,
}

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Zero keeps nothing.
    pub(super) ttl: Duration,
    /// Most answers.
    pub(super) entries: usize,
    /// Most calls in the air, waiting for their turn included.
    pub(super) flights: usize,
}

/// An answer, and where it is from.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) whole: Arc<Whole>,
    pub(super) origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Kept, and not run out.
    Kept,
    /// AWS, just now.
    Aws,
    /// Kept, and run out; AWS gives nothing newer.
    Stale(Stale),
}

/// Since when and why nothing newer came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) since: SystemTime,
    /// AWS's code.
    pub(super) reason: String,
}

/// There is no answer to give.
#[derive(Debug)]
pub(super) enum Failure {
    /// AWS said no.
    Aws(Box<FetchError>),
    /// As many calls are in the air as may be.
    TooMany,
    /// The call ended without a word.
    Lost,
}

pub(super) struct Cache(Arc<Inner>);

struct Inner {
    ask: Ask,
    limits: Limits,
    board: Mutex<Board>,
}

#[derive(Default)]
struct Board {
    entries: HashMap<Key, Entry>,
    flights: HashMap<Key, Flight>,
    /// Grows with each use of an entry.
    uses: u64,
}

struct Entry {
    whole: Arc<Whole>,
    runs_out: Instant,
    last_use: u64,
    trouble: Option<Trouble>,
}

/// What came of asking since the answer was given.
struct Trouble {
    stale: Stale,
    failures: u32,
    /// Before this, AWS is not asked again unless a request insists.
    ask_again: Instant,
    /// Since when AWS says that there is no such thing.
    gone: Option<Instant>,
}

type Landing = watch::Receiver<Option<Result<Arc<Whole>, FetchError>>>;

#[derive(Clone)]
struct Flight {
    departed: Instant,
    landing: Landing,
}

impl Cache {
    pub(super) fn new(limits: Limits, ask: Ask) -> Self {
        Self(Arc::new(Inner { ask, limits, board: Mutex::default() }))
    }

    /// Answers from what is kept, or by one call to AWS that all share who ask while it is in the
    /// air. With `refresh_now` AWS is asked in any case, and not before this moment.
    pub(super) async fn get(&self, key: &Key, refresh_now: bool) -> Result<Answer, Failure> {
        let arrived = Instant::now();
        loop {
            let (mut flight, fallback) = {
                let mut board = self.0.board();
                let now = Instant::now();
                if !refresh_now && let Some(answer) = board.kept(key, now) {
                    return Ok(answer);
                }
                let flight = match board.flights.get(key).filter(|flight| flight.is_up()) {
                    Some(flight) => flight.clone(),
                    None => self.0.depart(&mut board, key, now)?,
                };
                (flight, !refresh_now && board.entries.contains_key(key))
            };
            let landed = flight.landing.wait_for(Option::is_some);
            let patience = if fallback { PATIENCE } else { Duration::MAX };
            let landed = match tokio::time::timeout(patience, landed).await {
                Ok(landed) => landed.map_err(|_| Failure::Lost)?.clone().ok_or(Failure::Lost)?,
                // The call goes on, and what comes of it is for the next.
                Err(_) => match self.0.board().stale(key) {
                    Some(answer) => return Ok(answer),
                    None => continue,
                },
            };
            if refresh_now && flight.departed < arrived {
                continue;
            }
            return match landed {
                Ok(whole) => Ok(Answer { whole, origin: Origin::Aws }),
                Err(error) => {
                    let fallback = if refresh_now { None } else { self.0.board().stale(key) };
                    fallback.ok_or_else(|| Failure::Aws(Box::new(error)))
                }
            };
        }
    }

    /// How many answers are kept.
    pub(super) fn len(&self) -> usize {
        self.0.board().entries.len()
    }

    /// The kept answers that AWS gives nothing newer for.
    pub(super) fn stale(&self) -> Vec<(Key, Stale)> {
        let board = self.0.board();
        let stale = board.entries.iter().filter_map(|(key, entry)| Some((key, &entry.trouble.as_ref()?.stale)));
        stale.map(|(key, stale)| (key.clone(), stale.clone())).collect()
    }
}

impl Inner {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a call, which runs to its end even when those who wait for it give up.
    fn depart(self: &Arc<Self>, board: &mut Board, key: &Key, now: Instant) -> Result<Flight, Failure> {
        if board.flights.len() >= self.limits.flights {
            return Err(Failure::TooMany);
        }
        let (sender, landing) = watch::channel(None);
        let flight = Flight { departed: now, landing };
        board.flights.insert(key.clone(), flight.clone());
        let (inner, key) = (Arc::clone(self), key.clone());
        tokio::spawn(async move {
            let result = (inner.ask)(key.clone()).await.map(Arc::new);
            let mut board = inner.board();
            board.land(&key, &result, &inner.limits);
            drop(board);
            sender.send_replace(Some(result));
        });
        Ok(flight)
    }
}

impl Board {
    /// An answer that can be given without asking.
    fn kept(&mut self, key: &Key, now: Instant) -> Option<Answer> {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        entry.last_use = self.uses;
        let origin = match &entry.trouble {
            _ if now < entry.runs_out => Origin::Kept,
            Some(trouble) if now < trouble.ask_again => Origin::Stale(trouble.stale.clone()),
            _ => return None,
        };
        Some(Answer { whole: Arc::clone(&entry.whole), origin })
    }

    /// The old answer, in place of one that does not come.
    fn stale(&self, key: &Key) -> Option<Answer> {
        let entry = self.entries.get(key)?;
        let slow = || Stale { since: SystemTime::now(), reason: "Timeout".to_owned() };
        let stale = entry.trouble.as_ref().map_or_else(slow, |trouble| trouble.stale.clone());
        Some(Answer { whole: Arc::clone(&entry.whole), origin: Origin::Stale(stale) })
    }

    fn land(&mut self, key: &Key, result: &Result<Arc<Whole>, FetchError>, limits: &Limits) {
        let now = Instant::now();
        self.flights.remove(key);
        match result {
            Ok(_) if limits.ttl.is_zero() => {}
            Ok(whole) => self.keep(key, whole, now + spread(limits.ttl), limits.entries),
            Err(error) => {
                let Some(entry) = self.entries.get_mut(key) else { return };
                if entry.fail(key, error, now) {
                    self.entries.remove(key);
                }
            }
        }
    }

    fn keep(&mut self, key: &Key, whole: &Arc<Whole>, runs_out: Instant, limit: usize) {
        self.uses += 1;
        let entry = Entry { whole: Arc::clone(whole), runs_out, last_use: self.uses, trouble: None };
        let before = self.entries.insert(key.clone(), entry);
        if before.is_some_and(|before| before.trouble.is_some()) {
            tracing::info!(wanted = %key.query, "AWS answers again; the API's answer is fresh");
        }
        if self.entries.len() > limit {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| key.clone());
            oldest.map(|key| self.entries.remove(&key));
        }
    }
}

impl Entry {
    /// Notes a failure; whether the answer is to be forgotten for it.
    fn fail(&mut self, key: &Key, error: &FetchError, now: Instant) -> bool {
        let code = &error.cause.code;
        if self.trouble.is_none() {
            tracing::warn!(wanted = %key.query, code, "AWS gives no answer to the API; the last one is given on, as stale");
        }
        let before = self.trouble.as_ref();
        let failures = before.map_or(1, |trouble| trouble.failures.saturating_add(1));
        let gone = match error.cause.class {
            Class::NotFound => Some(before.and_then(|trouble| trouble.gone).unwrap_or(now)),
            _ => None,
        };
        let since = before.map_or_else(SystemTime::now, |trouble| trouble.stale.since);
        let stale = Stale { since, reason: code.clone() };
        self.trouble = Some(Trouble { stale, failures, ask_again: now + pause(failures), gone });
        gone.is_some_and(|gone| now - gone >= GRACE)
    }
}

impl Flight {
    /// Whether an answer is yet to come; a task that panicked lands nowhere.
    fn is_up(&self) -> bool {
        self.landing.has_changed().is_ok()
    }
}

fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(8);
    spread((PAUSE * 2_u32.pow(doublings)).min(PAUSE_MAX))
}

fn spread(time: Duration) -> Duration {
    time.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use coffer_runtime::Secret;
    use coffer_runtime::aws::AwsError;

    use super::*;
    use crate::render::Value;
    use crate::source::{SecretQuery, WholeSecret};

    const TTL: Duration = Duration::from_secs(300);
    /// Above any jitter.
    const PAST_TTL: Duration = Duration::from_secs(331);

    /// An AWS of which the tests say what it answers, 100 ms later.
    #[derive(Clone, Default)]
    struct Aws {
        calls: Arc<AtomicUsize>,
        trouble: Arc<Mutex<Option<(Class, &'static str)>>>,
        hangs: Arc<Mutex<bool>>,
    }

    impl Aws {
        fn cache(&self, ttl: Duration, entries: usize) -> Arc<Cache> {
            let aws = self.clone();
            let ask = move |_: Key| -> Asked {
                let aws = aws.clone();
                Box::pin(async move { aws.answer().await })
            };
            Arc::new(Cache::new(Limits { ttl, entries, flights: 2000 }, Box::new(ask)))
        }

        async fn answer(&self) -> Result<Whole, FetchError> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
            let delay = if *self.hangs.lock().unwrap() { 20_000 } else { 100 };
            tokio::time::sleep(Duration::from_millis(delay)).await;
            if let Some((class, code)) = *self.trouble.lock().unwrap() {
                let cause = AwsError::new("secretsmanager:GetSecretValue", class, code, "no");
                return Err(FetchError::new(cause, "process", "eu-west-1"));
            }
            Ok(Whole::Secret(WholeSecret {
                arn: None,
                name: None,
                version_id: Some(call.to_string()),
                value: Some(Value::Text(Secret::copy_of(b"v"))),
                version_stages: None,
                created: None,
                request_id: None,
            }))
        }

        fn says(&self, trouble: Option<(Class, &'static str)>) {
            *self.trouble.lock().unwrap() = trouble;
        }

        fn hangs(&self, hangs: bool) {
            *self.hangs.lock().unwrap() = hangs;
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    fn key(id: &str) -> Key {
        secret_key(SecretQuery { id: id.into(), version_id: None, version_stage: None })
    }

    fn secret_key(query: SecretQuery) -> Key {
        Key { access: Access::default(), query: WholeQuery::Secret(query) }
    }

    /// The number of the call that brought the answer.
    fn call_of(answer: &Answer) -> usize {
        match &*answer.whole {
            Whole::Secret(secret) => secret.version_id.as_ref().unwrap().parse().unwrap(),
            Whole::Parameter(_) => panic!("a parameter"),
        }
    }

    /// The number of the call that brought the answer, and whether it is stale.
    async fn get(cache: &Cache, id: &str, refresh_now: bool) -> Result<(usize, Option<String>), String> {
        match cache.get(&key(id), refresh_now).await {
            Ok(answer) => {
                let call = call_of(&answer);
                let stale = match answer.origin {
                    Origin::Stale(stale) => Some(stale.reason),
                    Origin::Kept | Origin::Aws => None,
                };
                Ok((call, stale))
            }
            Err(Failure::Aws(error)) => Err(error.cause.code),
            Err(other) => Err(format!("{other:?}")),
        }
    }

    async fn together(
        cache: &Arc<Cache>,
        count: usize,
        refresh_now: bool,
    ) -> Vec<Result<(usize, Option<String>), String>> {
        let askers: Vec<_> = (0..count)
            .map(|n| {
                let cache = Arc::clone(cache);
                tokio::spawn(async move {
                    // Over the whole time that the call is in the air.
                    tokio::time::sleep(Duration::from_micros(90 * n as u64)).await;
                    get(&cache, "a", refresh_now).await
                })
            })
            .collect();
        let mut answers = Vec::new();
        for asker in askers {
            answers.push(asker.await.unwrap());
        }
        answers
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_its_time() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 10);
        assert_eq!(get(&cache, "a", false).await, Ok((1, None)));
        tokio::time::sleep(Duration::from_secs(269)).await;
        assert_eq!(get(&cache, "a", false).await, Ok((1, None)));
        tokio::time::sleep(PAST_TTL).await;
        assert_eq!(get(&cache, "a", false).await, Ok((2, None)));
        assert_eq!(get(&cache, "a", true).await, Ok((3, None)));
        assert_eq!(get(&cache, "a", false).await, Ok((3, None)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_who_ask_together_cost_one_call() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 10);
        assert!(together(&cache, 1000, false).await.iter().all(|answer| *answer == Ok((1, None))));
        tokio::time::sleep(PAST_TTL).await;
        assert!(together(&cache, 1000, false).await.iter().all(|answer| *answer == Ok((2, None))));
        assert_eq!(aws.calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_share_a_failure_too() {
        let aws = Aws::default();
        aws.says(Some((Class::Denied, "AccessDeniedException")));
        let cache = aws.cache(TTL, 10);
        let denied = Err("AccessDeniedException".to_owned());
        assert!(together(&cache, 1000, false).await.iter().all(|answer| *answer == denied));
        assert_eq!(aws.calls(), 1);
        // Without an old answer, each new request asks anew.
        aws.says(None);
        assert_eq!(get(&cache, "a", false).await, Ok((2, None)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_insists_gets_an_answer_that_was_asked_for_no_earlier() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 10);
        let early = tokio::spawn({
            let cache = Arc::clone(&cache);
            async move { get(&cache, "a", false).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(get(&cache, "a", true).await, Ok((2, None)));
        assert_eq!(early.await.unwrap(), Ok((1, None)));
        // And many who insist share calls, of which there is one at a time.
        let answers = together(&cache, 1000, true).await;
        assert!(answers.iter().all(Result::is_ok));
        assert!(aws.calls() <= 4, "{}", aws.calls());
    }

    #[tokio::test(start_paused = true)]
    async fn a_ttl_of_zero_keeps_nothing_and_still_asks_once_for_many() {
        let aws = Aws::default();
        let cache = aws.cache(Duration::ZERO, 10);
        assert!(together(&cache, 1000, false).await.iter().all(|answer| *answer == Ok((1, None))));
        assert_eq!(get(&cache, "a", false).await, Ok((2, None)));
        assert_eq!(cache.len(), 0);
        aws.says(Some((Class::Throttled, "ThrottlingException")));
        assert_eq!(get(&cache, "a", false).await, Err("ThrottlingException".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_bridged_marked_and_costs_few_calls() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 10);
        get(&cache, "a", false).await.unwrap();
        aws.says(Some((Class::Throttled, "ThrottlingException")));
        // Within its time nobody notices.
        assert_eq!(get(&cache, "a", false).await, Ok((1, None)));
        tokio::time::sleep(PAST_TTL).await;
        let stale = Ok((1, Some("ThrottlingException".to_owned())));
        for _ in 0..3600 {
            assert_eq!(get(&cache, "a", false).await, stale);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let calls = aws.calls();
        assert!((100..=150).contains(&calls), "{calls}");
        assert_eq!(cache.stale().len(), 1);
        // Who insists learns the truth.
        assert_eq!(get(&cache, "a", true).await, Err("ThrottlingException".to_owned()));
        // The end of it shows at once when the pause is over, and the answer is fresh again.
        aws.says(None);
        tokio::time::sleep(PAUSE_MAX.mul_f64(1.0 + JITTER)).await;
        let call = aws.calls() + 1;
        assert_eq!(get(&cache, "a", false).await, Ok((call, None)));
        assert!(cache.stale().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_aws_that_hangs_does_not_hold_up_who_can_be_answered() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 10);
        get(&cache, "a", false).await.unwrap();
        tokio::time::sleep(PAST_TTL).await;
        aws.hangs(true);
        let started = Instant::now();
        assert_eq!(get(&cache, "a", false).await, Ok((1, Some("Timeout".to_owned()))));
        assert!(started.elapsed() <= PATIENCE + Duration::from_millis(10));
        // The call goes on and lands.
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(get(&cache, "a", false).await, Ok((2, None)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_aws_does_not_know_any_more_is_forgotten_after_a_while() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 10);
        get(&cache, "a", false).await.unwrap();
        tokio::time::sleep(PAST_TTL).await;
        aws.says(Some((Class::NotFound, "ResourceNotFoundException")));
        assert_eq!(get(&cache, "a", false).await, Ok((1, Some("ResourceNotFoundException".to_owned()))));
        // A deletion that can be taken back is not the end of it.
        aws.says(Some((Class::Invalid, "InvalidRequestException")));
        tokio::time::sleep(GRACE * 2).await;
        assert_eq!(get(&cache, "a", false).await, Ok((1, Some("InvalidRequestException".to_owned()))));
        aws.says(Some((Class::NotFound, "ResourceNotFoundException")));
        for _ in 0..2 {
            tokio::time::sleep(PAUSE_MAX).await;
            let _ = get(&cache, "a", false).await;
        }
        tokio::time::sleep(GRACE).await;
        assert_eq!(get(&cache, "a", false).await, Err("ResourceNotFoundException".to_owned()));
        assert_eq!(cache.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_makes_room_and_is_let_go() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 2);
        get(&cache, "a", false).await.unwrap();
        let b = cache.get(&key("b"), false).await.unwrap().whole;
        get(&cache, "a", false).await.unwrap();
        get(&cache, "c", false).await.unwrap();
        assert_eq!(cache.len(), 2);
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&b), 1, "nothing but the test holds what was displaced");
        assert_eq!(get(&cache, "a", false).await, Ok((1, None)));
        assert_eq!(get(&cache, "b", false).await, Ok((4, None)));
    }

    #[tokio::test(start_paused = true)]
    async fn identities_and_versions_do_not_share() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 10);
        let mut other_region = key("a");
        other_region.access.region = Some("us-east-1".into());
        let version = || Some("AWSPREVIOUS".to_owned());
        let other_stage = secret_key(SecretQuery { id: "a".into(), version_id: None, version_stage: version() });
        let other_version = secret_key(SecretQuery { id: "a".into(), version_id: version(), version_stage: None });
        for (key, call) in [(key("a"), 1), (other_region, 2), (other_stage, 3), (other_version, 4)] {
            assert_eq!(call_of(&cache.get(&key, false).await.unwrap()), call);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_in_the_air_are_bounded() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 10);
        let askers: Vec<_> = (0..2001)
            .map(|n| {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move { get(&cache, &format!("s{n}"), false).await })
            })
            .collect();
        let mut refused = 0;
        for asker in askers {
            refused += usize::from(asker.await.unwrap() == Err("TooMany".to_owned()));
        }
        assert_eq!(refused, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_does_not_end_the_call_for_the_others() {
        let aws = Aws::default();
        let cache = aws.cache(TTL, 10);
        let key = key("a");
        let impatient = cache.get(&key, false);
        assert!(tokio::time::timeout(Duration::from_millis(10), impatient).await.is_err());
        assert_eq!(get(&cache, "a", false).await, Ok((1, None)));
        assert_eq!(aws.calls(), 1);
    }
}
