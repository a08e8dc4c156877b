//! The life of KEKs against a KMS of the test's own, under a clock of the test's own.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use tokio::time::{advance, sleep};

use super::*;

/// A key in memory that does as it is told.
struct Fake {
    does: Mutex<(Does, Does)>,
    wrapped: Mutex<Vec<Vec<u8>>>,
    /// Bytes that it adds to each ciphertext.
    padding: usize,
    encrypts: AtomicU64,
    decrypts: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Work,
    Fail(Kind),
    Hang,
    /// Decrypts to other bytes than were encrypted.
    Lie,
}
use Does::{Fail, Hang, Lie, Work};

impl Fake {
    fn new() -> Arc<Self> {
        Self::padding(0)
    }

    fn padding(padding: usize) -> Arc<Self> {
        Arc::new(Self {
            does: Mutex::new((Work, Work)),
            wrapped: Mutex::default(),
            padding,
            encrypts: AtomicU64::new(0),
            decrypts: AtomicU64::new(0),
        })
    }

    fn does(&self, what: Does) {
        self.does_each(what, what);
    }

    fn does_each(&self, encrypt: Does, decrypt: Does) {
        *self.does.lock().unwrap() = (encrypt, decrypt);
    }

    /// Encrypts and Decrypts that came.
    fn calls(&self) -> (u64, u64) {
        (self.encrypts.load(Ordering::SeqCst), self.decrypts.load(Ordering::SeqCst))
    }
}

/// A round trip.
const TRIP: Duration = Duration::from_millis(20);

/// What the fake does at the moment when its answer leaves.
async fn answer(does: impl Fn() -> Does) -> Result<Does, Trouble> {
    sleep(TRIP).await;
    match does() {
        Hang => std::future::pending().await,
        Fail(kind) => Err(Trouble::new(kind, "told to fail")),
        it => Ok(it),
    }
}

impl RemoteKey for Fake {
    async fn encrypt(&self, plaintext: &Secret, _: Instant) -> Result<Vec<u8>, Trouble> {
        self.encrypts.fetch_add(1, Ordering::SeqCst);
        answer(|| self.does.lock().unwrap().0).await?;
        let mut wrapped = self.wrapped.lock().unwrap();
        wrapped.push(plaintext.expose().to_vec());
        let mut blob = (wrapped.len() as u64 - 1).to_be_bytes().to_vec();
        blob.resize(8 + self.padding, 0);
        Ok(blob)
    }

    async fn decrypt(&self, blob: &[u8], _: Instant) -> Result<Secret, Trouble> {
        self.decrypts.fetch_add(1, Ordering::SeqCst);
        let does = answer(|| self.does.lock().unwrap().1).await?;
        let at = blob.first_chunk().map(|it| u64::from_be_bytes(*it) as usize);
        let mut bytes = at
            .and_then(|at| self.wrapped.lock().unwrap().get(at).cloned())
            .ok_or_else(|| Trouble::new(Kind::BadCiphertext, "never encrypted"))?;
        if does == Lie {
            bytes[0] ^= 1;
        }
        Ok(Secret::new(bytes))
    }
}

fn kek(fake: &Arc<Fake>, limits: Limits) -> LocalKek<Fake> {
    LocalKek::new(Arc::clone(fake), limits).unwrap()
}

impl LocalKek<Fake> {
    async fn seal(&self) -> Result<Vec<u8>, Trouble> {
        self.encrypt(&Secret::copy_of(b"a seed of 32 bytes, or like that"), soon()).await
    }

    async fn open(&self, bytes: &[u8]) -> Result<(), Trouble> {
        self.open_by(bytes, soon()).await
    }

    async fn open_by(&self, bytes: &[u8], deadline: Instant) -> Result<(), Trouble> {
        let opened = self.decrypt(&Envelope::parse(bytes)?, deadline).await?;
        assert_eq!(opened.expose(), b"a seed of 32 bytes, or like that");
        Ok(())
    }

    /// Opens it once a second for `time`, as long as that works; says after how long it did not.
    async fn open_for(&self, bytes: &[u8], time: Duration) -> Option<(Duration, Trouble)> {
        let start = Instant::now();
        while start.elapsed() < time {
            if let Err(trouble) = self.open(bytes).await {
                return Some((start.elapsed(), trouble));
            }
            sleep(Duration::from_secs(1)).await;
        }
        None
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(3)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const REVALIDATE: Duration = Duration::from_secs(300);

#[tokio::test(start_paused = true)]
async fn the_first_kek_is_made_once_for_all() {
    let fake = Fake::new();
    let kek = Arc::new(kek(&fake, Limits::default()));
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            tokio::spawn({
                let kek = Arc::clone(&kek);
                async move { kek.seal().await }
            })
        })
        .collect();
    for caller in callers {
        kek.open(&caller.await.unwrap().unwrap()).await.unwrap();
    }
    assert_eq!(fake.calls(), (1, 0));
    let told = kek.snapshot();
    assert_eq!((told.held, told.made, told.unwrapped, told.current.map(|it| it.uses)), (1, 1, 0, Some(1000)));
}

#[tokio::test(start_paused = true)]
async fn the_first_caller_may_leave() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    assert!(tokio::time::timeout(TRIP / 2, kek.seal()).await.is_err());
    kek.seal().await.unwrap();
    assert_eq!(fake.calls(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_objects_cost_as_many_calls_as_they_have_keks() {
    let fake = Fake::new();
    let writer = kek(&fake, Limits { max_uses: 2500, ..Limits::default() });
    let mut objects = Vec::new();
    for _ in 0..10_000 {
        objects.push(writer.seal().await.unwrap());
    }
    let made = fake.calls().0;
    assert!((4..=5).contains(&made) && fake.calls().1 == 0, "{made}");

    let reader = Arc::new(kek(&fake, Limits::default()));
    let readers: Vec<_> = objects
        .into_iter()
        .map(|object| {
            tokio::spawn({
                let reader = Arc::clone(&reader);
                async move { reader.open(&object).await }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
    let used = reader.snapshot().held as u64;
    assert_eq!(fake.calls().1, used);
    assert!((4..=5).contains(&used), "{used}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_decrypts_cost_one_call_whoever_leaves() {
    let fake = Fake::new();
    let object = kek(&fake, Limits::default()).seal().await.unwrap();
    let reader = Arc::new(kek(&fake, Limits::default()));
    let spawn = || {
        let (reader, object) = (Arc::clone(&reader), object.clone());
        tokio::spawn(async move { reader.open(&object).await })
    };
    let first = spawn();
    tokio::task::yield_now().await;
    let rest: Vec<_> = (0..1000).map(|_| spawn()).collect();
    tokio::task::yield_now().await;
    first.abort();
    for it in rest {
        it.await.unwrap().unwrap();
    }
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(fake.calls().1, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_everyones_and_nobodys_afterwards() {
    let fake = Fake::new();
    let object = kek(&fake, Limits::default()).seal().await.unwrap();
    let reader = kek(&fake, Limits::default());
    for kind in [Kind::Throttled, Kind::Denied, Kind::BadCiphertext] {
        fake.does(Fail(kind));
        let before = fake.calls().1;
        let (one, other) = tokio::join!(reader.open(&object), reader.open(&object));
        assert_eq!((one.unwrap_err().kind, other.unwrap_err().kind), (kind, kind));
        assert_eq!(fake.calls().1, before + 1);
    }
    fake.does(Work);
    reader.open(&object).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_joins_a_call_late_has_their_own_time() {
    let fake = Fake::new();
    let object = kek(&fake, Limits::default()).seal().await.unwrap();
    let reader = kek(&fake, Limits::default());
    fake.does(Hang);
    let late = async {
        sleep(secs(2)).await;
        fake.does(Work);
        reader.open(&object).await
    };
    let (first, late) = tokio::join!(reader.open(&object), late);
    assert_eq!(first.unwrap_err().kind, Kind::TimedOut);
    late.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_impatient_caller_does_not_shorten_the_call_for_the_others() {
    let fake = Fake::new();
    let object = kek(&fake, Limits::default()).seal().await.unwrap();
    let kek = kek(&fake, Limits::default());
    let before = fake.calls();
    let now = Instant::now();
    let (impatient, patient) = tokio::join!(kek.open_by(&object, now + TRIP / 2), kek.open(&object));
    assert_eq!(impatient.unwrap_err().kind, Kind::TimedOut);
    patient.unwrap();
    let plaintext = Secret::copy_of(b"x");
    let now = Instant::now();
    let (impatient, patient) = tokio::join!(kek.encrypt(&plaintext, now + TRIP / 2), kek.seal());
    assert_eq!(impatient.unwrap_err().kind, Kind::TimedOut);
    patient.unwrap();
    assert_eq!(fake.calls(), (before.0 + 1, before.1 + 1));
}

#[tokio::test(start_paused = true)]
async fn a_callers_deadline_is_kept() {
    let fake = Fake::new();
    let writer = kek(&fake, Limits::default());
    let object = writer.seal().await.unwrap();
    let reader = kek(&fake, Limits::default());
    fake.does(Hang);
    let start = Instant::now();
    assert_eq!(reader.open_by(&object, start + secs(1)).await.unwrap_err().kind, Kind::TimedOut);
    assert_eq!(start.elapsed(), secs(1));
    let trouble = reader.encrypt(&Secret::copy_of(b"x"), start + secs(2)).await.unwrap_err();
    assert_eq!((trouble.kind, start.elapsed()), (Kind::TimedOut, secs(2)));
}

#[tokio::test(start_paused = true)]
async fn the_next_kek_is_made_before_it_is_needed() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits { max_uses: 1000, ..Limits::default() });
    kek.seal().await.unwrap();
    for _ in 1..790 {
        kek.seal().await.unwrap();
    }
    sleep(TRIP * 2).await;
    assert_eq!(fake.calls().0, 1);
    // Nobody waits for it.
    let start = Instant::now();
    for _ in 790..901 {
        kek.seal().await.unwrap();
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    sleep(TRIP * 2).await;
    assert_eq!(fake.calls(), (2, 0));
    assert!(kek.snapshot().current.unwrap().uses < 120);
}

#[tokio::test(start_paused = true)]
async fn while_no_next_kek_can_be_made_the_old_one_serves_to_its_cap() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits { max_uses: 1000, ..Limits::default() });
    for _ in 0..700 {
        kek.seal().await.unwrap();
    }
    fake.does_each(Fail(Kind::Throttled), Work);
    for _ in 700..1000 {
        kek.seal().await.unwrap();
        sleep(secs(1)).await;
    }
    let tries = fake.calls().0 - 1;
    assert!((4..40).contains(&tries), "{tries} tries in 100 to 200 s");
    let trouble = kek.seal().await.unwrap_err();
    assert_eq!((trouble.kind, &trouble.text[..]), (Kind::Throttled, "a new local KEK: told to fail"));
    // Who needs one does not wait for the backoff.
    fake.does(Work);
    kek.seal().await.unwrap();
    assert_eq!(kek.snapshot().current.unwrap().uses, 1);
    assert_eq!(kek.snapshot().made, 2);
}

#[tokio::test(start_paused = true)]
async fn uses_are_never_more_than_the_cap() {
    let fake = Fake::new();
    let kek = Arc::new(kek(&fake, Limits { max_uses: 7, ..Limits::default() }));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            tokio::spawn({
                let kek = Arc::clone(&kek);
                async move { kek.seal().await }
            })
        })
        .collect();
    let mut uses = HashMap::new();
    for caller in callers {
        let object = caller.await.unwrap().unwrap();
        *uses.entry(Envelope::parse(&object).unwrap().wrapped_kek().to_vec()).or_insert(0) += 1;
    }
    assert!(uses.values().all(|count| *count <= 7), "{uses:?}");
    let one = LocalKek::new(Arc::clone(&fake), Limits { max_uses: 1, ..Limits::default() }).unwrap();
    let (a, b) = (one.seal().await.unwrap(), one.seal().await.unwrap());
    assert_ne!(Envelope::parse(&a).unwrap().wrapped_kek(), Envelope::parse(&b).unwrap().wrapped_kek());
}

#[tokio::test(start_paused = true)]
async fn a_kek_that_is_too_old_encrypts_no_more() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    let object = kek.seal().await.unwrap();
    sleep(secs(19 * 3600)).await;
    kek.seal().await.unwrap();
    assert_eq!(fake.calls().0, 1);
    // Between 80 and 90 % the next is made; it fails, and the old one serves.
    fake.does_each(Fail(Kind::Unreachable), Work);
    sleep(secs(24 * 3600 * 9 / 10) - secs(19 * 3600)).await;
    kek.seal().await.unwrap();
    sleep(TRIP * 2).await;
    assert_eq!((fake.calls().0, kek.snapshot().made), (2, 1));
    sleep(secs(24 * 360)).await;
    assert_eq!(kek.seal().await.unwrap_err().kind, Kind::Unreachable);
    fake.does(Work);
    kek.seal().await.unwrap();
    assert_eq!(kek.snapshot().made, 2);
    // What it encrypted is readable as long as KMS unwraps it.
    kek.open(&object).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_disabled_key_stops_working_in_time_and_works_again_once_enabled() {
    for kind in [Kind::KeyUnusable, Kind::Denied, Kind::BadCiphertext, Kind::BadRequest] {
        let fake = Fake::new();
        let kek = kek(&fake, Limits::default());
        let object = kek.seal().await.unwrap();
        assert!(kek.open_for(&object, secs(1000)).await.is_none());
        let revalidations = fake.calls().1;
        assert!((3..=5).contains(&revalidations), "{revalidations}");
        fake.does(Fail(kind));
        let (after, trouble) = kek.open_for(&object, secs(400)).await.unwrap();
        assert!(after <= REVALIDATE + secs(2), "{after:?}");
        assert_eq!(trouble.kind, kind);
        assert_eq!(kek.seal().await.unwrap_err().kind, kind);
        assert_eq!(kek.snapshot().held, 0);
        assert_eq!(kek.snapshot().last_validation.unwrap().outcome.unwrap_err().kind, kind);
        fake.does(Work);
        kek.open(&object).await.unwrap();
        kek.seal().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_kek_that_encrypts_is_dropped_too() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    kek.seal().await.unwrap();
    sleep(secs(1)).await;
    kek.seal().await.unwrap();
    fake.does(Fail(Kind::KeyUnusable));
    sleep(REVALIDATE + secs(1)).await;
    assert_eq!((kek.snapshot().held, kek.snapshot().current), (0, None));
    assert_eq!(kek.seal().await.unwrap_err().kind, Kind::KeyUnusable);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_encrypted_that_kms_would_not_decrypt() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    kek.seal().await.unwrap();
    sleep(secs(1)).await;
    kek.seal().await.unwrap();
    fake.does_each(Work, Fail(Kind::Denied));
    sleep(REVALIDATE + secs(1)).await;
    // KMS would wrap another KEK, and not unwrap it.
    assert_eq!(kek.seal().await.unwrap_err().kind, Kind::Denied);
    fake.does_each(Work, Lie);
    assert_eq!(kek.seal().await.unwrap_err().kind, Kind::BadCiphertext);
    fake.does(Work);
    kek.seal().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_alias_that_moved_does_not_stop_encrypts() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    let object = kek.seal().await.unwrap();
    sleep(REVALIDATE * 4).await;
    // KMS is asked about the KEK first, and the key that had wrapped it is no longer the one asked.
    fake.wrapped.lock().unwrap()[0].clear();
    let next = kek.seal().await.unwrap();
    kek.open(&next).await.unwrap();
    assert_eq!(kek.open(&object).await.unwrap_err().kind, Kind::BadCiphertext);
    assert_eq!(kek.snapshot().made, 2);
}

#[tokio::test(start_paused = true)]
async fn another_kek_for_the_same_ciphertext_is_a_refusal() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    let object = kek.seal().await.unwrap();
    fake.does_each(Work, Lie);
    let (after, trouble) = kek.open_for(&object, secs(400)).await.unwrap();
    assert!(after <= REVALIDATE + secs(2), "{after:?}");
    assert_eq!(trouble.kind, Kind::BadCiphertext);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_served_through_without_waiting_until_it_lasts_too_long() {
    for does in [Fail(Kind::Unreachable), Fail(Kind::Throttled), Fail(Kind::Credentials), Hang] {
        let fake = Fake::new();
        let kek = kek(&fake, Limits::default());
        let object = kek.seal().await.unwrap();
        sleep(secs(1)).await;
        kek.open(&object).await.unwrap();
        fake.does(does);
        let start = Instant::now();
        while start.elapsed() < secs(3590) {
            let call = Instant::now();
            kek.open(&object).await.unwrap();
            kek.seal().await.unwrap();
            assert_eq!(call.elapsed(), Duration::ZERO, "{does:?} at {:?}", start.elapsed());
            sleep(secs(10)).await;
        }
        assert_eq!(kek.snapshot().unheard, 1);
        let tries = fake.calls().1;
        assert!((90..400).contains(&tries), "{tries} tries within the hour");
        sleep(secs(20)).await;
        assert_eq!(kek.snapshot().held, 0);
        let kind = if let Fail(kind) = does { kind } else { Kind::TimedOut };
        assert_eq!(kek.open(&object).await.unwrap_err().kind, kind);
        assert_eq!(kek.seal().await.unwrap_err().kind, kind);
        fake.does(Work);
        kek.open(&object).await.unwrap();
        kek.seal().await.unwrap();
        assert_eq!(kek.snapshot().made, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_kms_is_asked_soon() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    let object = kek.seal().await.unwrap();
    fake.does(Fail(Kind::Unreachable));
    assert!(kek.open_for(&object, secs(1800)).await.is_none());
    fake.does(Work);
    assert!(kek.open_for(&object, secs(31)).await.is_none());
    assert_eq!((kek.snapshot().unheard, kek.snapshot().last_validation.unwrap().outcome), (0, Ok(())));
    fake.does(Fail(Kind::Unreachable));
    assert!(kek.open_for(&object, secs(1800)).await.is_none());
    fake.does(Fail(Kind::KeyUnusable));
    let (after, trouble) = kek.open_for(&object, secs(400)).await.unwrap();
    assert!(after <= secs(31) && trouble.kind == Kind::KeyUnusable, "{after:?} {trouble}");
}

/// As after a pause of the machine: no timer of ours has run, and the KEK is overdue.
#[tokio::test(start_paused = true)]
async fn an_overdue_kek_does_not_serve_before_kms_was_asked() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    let object = kek.seal().await.unwrap();
    sleep(secs(1)).await;
    kek.open(&object).await.unwrap();
    fake.does(Fail(Kind::KeyUnusable));
    advance(secs(600)).await;
    assert_eq!(kek.open(&object).await.unwrap_err().kind, Kind::KeyUnusable);

    fake.does(Work);
    kek.open(&object).await.unwrap();
    sleep(secs(1)).await;
    kek.open(&object).await.unwrap();
    fake.does(Hang);
    advance(secs(600)).await;
    let start = Instant::now();
    let (one, other) = tokio::join!(kek.open(&object), kek.open(&object));
    one.unwrap();
    other.unwrap();
    assert_eq!(start.elapsed(), PATIENCE);
    kek.open(&object).await.unwrap();
    assert_eq!(start.elapsed(), PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn an_idle_kek_costs_no_call_and_serves_a_start_in_an_outage() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    let object = kek.seal().await.unwrap();
    let reader = self::kek(&fake, Limits::default());
    reader.open(&object).await.unwrap();
    sleep(REVALIDATE * 3).await;
    // The writer's was used after it was made, so KMS was asked once more, and then never again.
    assert_eq!((reader.snapshot().held, fake.calls()), (1, (1, 2)));
    fake.does(Fail(Kind::Throttled));
    reader.open(&object).await.unwrap();
    fake.does(Fail(Kind::KeyUnusable));
    sleep(secs(100)).await;
    assert!(reader.open(&object).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_idle_kek_leaves_memory_in_the_end() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    kek.seal().await.unwrap();
    sleep(Limits::default().max_unverified * 2).await;
    assert_eq!(kek.snapshot().held, 0);
    assert!(!kek.0.state().tended);
}

#[tokio::test(start_paused = true)]
async fn no_more_keks_are_held_than_allowed() {
    let fake = Fake::new();
    let writer = kek(&fake, Limits { max_uses: 1, ..Limits::default() });
    let mut objects = Vec::new();
    for _ in 0..20 {
        objects.push(writer.seal().await.unwrap());
    }
    let reader = kek(&fake, Limits { held: NonZeroUsize::new(4).unwrap(), ..Limits::default() });
    for object in &objects {
        reader.open(object).await.unwrap();
        assert!(reader.snapshot().held <= 4);
    }
    let before = fake.calls().1;
    reader.open(&objects[19]).await.unwrap();
    assert_eq!(fake.calls().1, before);
    reader.open(&objects[0]).await.unwrap();
    assert_eq!(fake.calls().1, before + 1);
    // One place for all: slow, and right.
    let narrow = kek(&fake, Limits { held: NonZeroUsize::MIN, ..Limits::default() });
    for object in &objects {
        narrow.open(&narrow.seal().await.unwrap()).await.unwrap();
        narrow.open(object).await.unwrap();
    }
    assert_eq!((narrow.snapshot().held, narrow.snapshot().made), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused() {
    let fake = Fake::padding(900);
    let trouble = kek(&fake, Limits::default()).seal().await.unwrap_err();
    assert_eq!(trouble.kind, Kind::BadRequest);
    assert!(trouble.text.contains("has 908 bytes") && trouble.text.contains("--write-format aep"), "{trouble}");
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    assert_eq!(kek.encrypt(&Secret::new(vec![0; 4097]), soon()).await.unwrap_err().kind, Kind::BadRequest);
    assert_eq!(kek.encrypt(&Secret::new(Vec::new()), soon()).await.unwrap_err().kind, Kind::BadRequest);
    assert_eq!(fake.calls(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_kms_unwraps_must_be_a_kek() {
    let fake = Fake::new();
    let object = kek(&fake, Limits::default()).seal().await.unwrap();
    fake.wrapped.lock().unwrap()[0].pop();
    let trouble = kek(&fake, Limits::default()).open(&object).await.unwrap_err();
    assert_eq!(trouble.kind, Kind::BadCiphertext);
    assert!(trouble.text.contains("has 31 bytes"), "{trouble}");
}

#[tokio::test(start_paused = true)]
async fn all_keks_go_with_their_owner() {
    let fake = Fake::new();
    let kek = kek(&fake, Limits::default());
    kek.seal().await.unwrap();
    tokio::task::yield_now().await;
    let shared = Arc::downgrade(&kek.0);
    drop(kek);
    assert!(shared.upgrade().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever KMS does and whenever a KEK is used: it serves only if KMS allowed it within the time
    /// promised, or within `max_unverified` when KMS could not be reached.
    #[test]
    fn a_kek_never_serves_longer_than_promised(
        steps in prop::collection::vec((0u8..4, 1u64..900, 1u64..60), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let fake = Fake::new();
            let kek = kek(&fake, Limits::default());
            let object = kek.seal().await.unwrap();
            let mut allowed = Instant::now();
            let mut unreachable: Option<Instant> = None;
            for (does, length, pause) in steps {
                let does = [Work, Fail(Kind::KeyUnusable), Fail(Kind::Unreachable), Hang][usize::from(does)];
                fake.does(does);
                let start = Instant::now();
                while start.elapsed() < secs(length) {
                    let served = kek.open(&object).await.is_ok();
                    match does {
                        Work => {
                            allowed = Instant::now();
                            assert!(served, "KMS works, and the KEK is not served");
                        }
                        // The last yes may have come up to a revalidation before the outage, and is asked for
                        // again within a wait of at most 30 s and a hanging call after it.
                        Fail(Kind::KeyUnusable) => {
                            let outage = unreachable.is_some_and(|end| end.elapsed() < secs(34));
                            let promised = if outage { secs(3600) } else { REVALIDATE };
                            let since = allowed.elapsed();
                            assert!(!served || since <= promised + secs(1), "refused, and served {since:?} after the last yes");
                        }
                        _ => {
                            let since = allowed.elapsed();
                            assert!(!served || since <= secs(3601), "unreachable, and served {since:?} after the last yes");
                        }
                    }
                    sleep(secs(pause)).await;
                    if does == Work {
                        allowed = Instant::now();
                    } else if does != Fail(Kind::KeyUnusable) {
                        unreachable = Some(Instant::now());
                    }
                }
            }
        });
    }
}
