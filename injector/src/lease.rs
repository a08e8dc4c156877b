//! Which of several processes does what only one should: an election on a Lease of the Kubernetes API.
//!
//! The holder renews the lease every few seconds; who does not hold it looks at it, and takes it once it was
//! not renewed for as long as it is good for. Nobody compares clocks: a lease counts as not renewed from the
//! moment that the one who looks saw it change last. The holder stops before anyone else may begin:
//!
//! ```text
//! last renewal ──── 5 s: the next is due ──── 10 s: the holder stops ──── 15 s: others may take it
//! ```

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::kubernetes::{KubernetesError, ObjectName, Verb, writing};

/// How long a lease is good for after a renewal.
const GOOD_FOR: Duration = Duration::from_secs(15);
/// How long its holder goes on without one. The rest is for what is under way when it stops.
const STOPS_AFTER: Duration = Duration::from_secs(10);
/// How long after a renewal the next one comes, give or take [`JITTER`].
const RENEWED_EVERY: Duration = Duration::from_secs(5);
/// How often those who do not hold it look at it.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);
/// How long after a failure the next try comes.
const TRIED_AGAIN: Duration = Duration::from_secs(1);
/// What part of a pause is left to chance.
const JITTER: f64 = 0.2;
/// How long the API server may take for an answer.
const ANSWER: Duration = Duration::from_secs(4);
/// How long giving the lease back may take, all told.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);
/// The longest that a lease is taken to be good for, whatever it says itself.
const GOOD_FOR_MAX: Duration = Duration::from_secs(60);

/// How one candidate stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not seen the lease yet.
    Starting,
    /// Another holds the lease, or it is about to be taken.
    StandingBy,
    /// It holds the lease.
    Leading,
    /// It does not, and cannot tell who does.
    Failing(KubernetesError),
}

/// A candidate in the election of a lease.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    object: ObjectName,
    identity: String,
    standing: watch::Sender<Standing>,
}

impl Standing {
    /// Whether it holds the lease.
    #[must_use]
    pub fn leads(&self) -> bool {
        *self == Self::Leading
    }
}

impl Candidate {
    /// A candidate for the lease of that name, which need not exist. `name` is what the lease shows of its
    /// holder, such as the pod's name; a random part is added, for a pod may be restarted in place.
    ///
    /// RBAC: `get` and `update` of that one Lease, and `create`.
    ///
    /// # Errors
    /// When the namespace or the lease cannot be called so.
    pub fn new(client: Client, namespace: &str, lease: &str, name: &str) -> Result<Self, KubernetesError> {
        let object = ObjectName::of::<Lease>(namespace, lease)?;
        let identity = format!("{name}_{:016x}", fastrand::u64(..));
        let (standing, _) = watch::channel(Standing::Starting);
        Ok(Self { api: Api::namespaced(client, namespace), object, identity, standing })
    }

    /// What stands in the lease as its holder while this one leads.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// How it stands, now and as it changes.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Stands for election until `shutdown`; each time that it wins, `work` is called and its future driven.
    ///
    /// That future is dropped as soon as the lease is lost, before another may hold it; then this one stands
    /// again. When it ends by itself, as it is to at `shutdown`, the lease is given back and this returns.
    pub async fn lead<Work>(&self, shutdown: impl Future<Output = ()>, work: impl Fn() -> Work)
    where
        Work: Future<Output = ()>,
    {
        let mut shutdown = pin!(shutdown);
        loop {
            let mut held = tokio::select! {
                held = self.wins() => held,
                () = &mut shutdown => return,
            };
            tracing::info!("{} holds {}: it leads", self.identity, self.object);
            self.standing.send_replace(Standing::Leading);
            let lost = tokio::select! {
                // After a long pause of the whole process the end of the lease comes first.
                biased;
                error = self.keep(&mut held) => Some(error),
                () = work() => None,
            };
            let Some(error) = lost else {
                self.standing.send_replace(Standing::StandingBy);
                self.release().await;
                return;
            };
            tracing::warn!("{} no longer holds {}: {error}", self.identity, self.object);
            self.standing.send_replace(Standing::Failing(error));
        }
    }

    /// Waits until the lease is there to be taken, and takes it.
    async fn wins(&self) -> Held {
        let mut sight = None;
        loop {
            match self.look(&mut sight).await {
                Ok(Some(held)) => return held,
                Ok(None) => self.stands(Standing::StandingBy),
                // It was taken a moment ago.
                Err(KubernetesError::Conflict { .. }) => self.stands(Standing::StandingBy),
                Err(error) => {
                    if !matches!(&*self.standing.borrow(), Standing::Failing(_)) {
                        tracing::warn!("{error}");
                    }
                    self.stands(Standing::Failing(error));
                }
            }
            sleep(jittered(LOOKED_AT_EVERY)).await;
        }
    }

    /// Looks at the lease once, and takes it if that may be.
    async fn look(&self, sight: &mut Option<Sight>) -> Result<Option<Held>, KubernetesError> {
        let found = self.get().await?;
        let now = Instant::now();
        let Some(mut lease) = found else {
            let metadata = ObjectMeta { name: Some(self.object.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.taken(None)) };
            let create = async { self.api.create(&writing(), &lease).await };
            return self.asked(Verb::Create, create).await.map(|lease| Some(Held { lease, renewed: now }));
        };
        let seen = Sight::of(sight.take(), lease.spec.take().unwrap_or_default(), now);
        if !seen.is_free(&self.identity, now) {
            *sight = Some(seen);
            return Ok(None);
        }
        lease.spec = Some(self.taken(Some(&seen.spec)));
        // Should another be quicker, it is no longer as it was.
        *sight = Some(seen);
        Ok(Some(Held { lease: self.replace(&lease).await?, renewed: now }))
    }

    /// Renews the lease for as long as that can be done; why it no longer can.
    async fn keep(&self, held: &mut Held) -> KubernetesError {
        let mut last = None;
        loop {
            let stops = held.renewed + STOPS_AFTER;
            let due = match last {
                None => held.renewed + jittered(RENEWED_EVERY),
                Some(_) => Instant::now() + jittered(TRIED_AGAIN),
            };
            sleep_until(due.min(stops)).await;
            let renewal = timeout_at(stops, self.renew(held)).await;
            let error = match renewal {
                Ok(Ok(())) => None,
                Ok(Err(error @ (KubernetesError::Conflict { .. } | KubernetesError::NotFound { .. }))) => return error,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(KubernetesError::timeout(Verb::Update, &self.object, STOPS_AFTER)),
            };
            if Instant::now() >= held.renewed + STOPS_AFTER {
                // A renewal whose answer came so late is none either.
                let late = || KubernetesError::timeout(Verb::Update, &self.object, STOPS_AFTER);
                return error.or(last).unwrap_or_else(late);
            }
            if let Some(error) = &error {
                tracing::debug!("{error}");
            }
            last = error;
        }
    }

    /// Renews it once; a conflict is an error only if another holds it.
    async fn renew(&self, held: &mut Held) -> Result<(), KubernetesError> {
        let now = Instant::now();
        let renewed = match self.replace(&self.renewed(&held.lease)).await {
            // Somebody has put a label on it; or what failed a moment ago was done after all.
            Err(error @ KubernetesError::Conflict { .. }) => match self.get().await? {
                Some(lease) if holder(lease.spec.as_ref()) == Some(&self.identity) => {
                    self.replace(&self.renewed(&lease)).await?
                }
                _ => return Err(error),
            },
            other => other?,
        };
        *held = Held { lease: renewed, renewed: now };
        Ok(())
    }

    /// Gives the lease back, so that nobody has to wait for its end. If that fails, they wait.
    async fn release(&self) {
        let release = async {
            let found = self.get().await?;
            let Some(mut lease) = found.filter(|lease| holder(lease.spec.as_ref()) == Some(&self.identity)) else {
                return Ok(());
            };
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(now());
            // Also to those who do not know that nobody holds it.
            spec.lease_duration_seconds = Some(1);
            self.replace(&lease).await.map(drop)
        };
        match timeout(RELEASED_WITHIN, release).await {
            Ok(Ok(())) => tracing::info!("{} is given back", self.object),
            Ok(Err(error)) => tracing::warn!("{} is not given back: {error}; others wait for its end", self.object),
            Err(_) => tracing::warn!("{} is not given back in time; others wait for its end", self.object),
        }
    }

    /// The lease, taken by this candidate from what it was before.
    fn taken(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let transitions = before.map(|spec| spec.lease_transitions.unwrap_or(0).saturating_add(1));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(GOOD_FOR.as_secs()).ok(),
            acquire_time: Some(now()),
            renew_time: Some(now()),
            lease_transitions: Some(transitions.unwrap_or(0)),
            ..LeaseSpec::default()
        }
    }

    fn renewed(&self, lease: &Lease) -> Lease {
        let mut lease = lease.clone();
        lease.spec.get_or_insert_default().renew_time = Some(now());
        lease
    }

    async fn get(&self) -> Result<Option<Lease>, KubernetesError> {
        self.asked(Verb::Get, self.api.get_opt(&self.object.name)).await
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, KubernetesError> {
        let params = writing();
        self.asked(Verb::Update, self.api.replace(&self.object.name, &params, lease)).await
    }

    async fn asked<T>(
        &self,
        verb: Verb,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, KubernetesError> {
        match timeout(ANSWER, answer).await {
            Ok(answer) => answer.map_err(|error| KubernetesError::read(verb, &self.object, error)),
            Err(_) => Err(KubernetesError::timeout(verb, &self.object, ANSWER)),
        }
    }

    fn stands(&self, standing: Standing) {
        self.standing.send_if_modified(|now| {
            let news = *now != standing;
            *now = standing;
            news
        });
    }
}

/// The lease while it is held.
#[derive(Debug)]
struct Held {
    lease: Lease,
    /// When its last renewal was sent.
    renewed: Instant,
}

/// What one who does not hold the lease knows of it.
#[derive(Debug)]
struct Sight {
    spec: LeaseSpec,
    /// Since when it is so.
    since: Instant,
}

impl Sight {
    fn of(before: Option<Self>, spec: LeaseSpec, now: Instant) -> Self {
        let since = before.filter(|before| before.spec == spec).map_or(now, |before| before.since);
        Self { spec, since }
    }

    /// Whether a candidate may take it.
    fn is_free(&self, candidate: &str, now: Instant) -> bool {
        let says = self.spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let good_for = says.map_or(GOOD_FOR, Duration::from_secs).min(GOOD_FOR_MAX);
        match holder(Some(&self.spec)) {
            None => true,
            Some(holder) => holder == candidate || now.duration_since(self.since) >= good_for,
        }
    }
}

fn holder(spec: Option<&LeaseSpec>) -> Option<&str> {
    spec?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// A pause of that length or somewhat less, so that nobody keeps in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - JITTER * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_free_once_it_was_not_seen_to_change_for_its_time() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        // However long ago the holder's clock says that it was.
        let sight = Sight::of(None, spec("other", 0), start);
        assert!(!sight.is_free("me", after(14)));
        let sight = Sight::of(Some(sight), spec("other", 0), after(14));
        assert!(sight.is_free("me", after(15)));
        let sight = Sight::of(Some(sight), spec("other", 1), after(15));
        assert!(!sight.is_free("me", after(29)));
        assert!(sight.is_free("me", after(30)));
    }

    #[test]
    fn nobodys_lease_and_ones_own_are_free() {
        let now = Instant::now();
        for (spec, free) in [
            (LeaseSpec::default(), true),
            (spec("", 0), true),
            (spec("me", 0), true),
            (spec("me too", 0), false),
            (LeaseSpec { lease_duration_seconds: None, ..spec("other", 0) }, false),
            (LeaseSpec { lease_duration_seconds: Some(-1), ..spec("other", 0) }, false),
        ] {
            assert_eq!(Sight::of(None, spec.clone(), now).is_free("me", now), free, "{spec:?}");
        }
        let forever = LeaseSpec { lease_duration_seconds: Some(i32::MAX), ..spec("other", 0) };
        assert!(Sight::of(None, forever, now).is_free("me", now + GOOD_FOR_MAX));
    }

    #[test]
    fn the_holder_stops_before_others_may_begin() {
        assert!(RENEWED_EVERY + ANSWER < STOPS_AFTER && STOPS_AFTER + ANSWER < GOOD_FOR);
        for _ in 0..100 {
            let pause = jittered(RENEWED_EVERY);
            assert!(pause <= RENEWED_EVERY && pause >= RENEWED_EVERY.mul_f64(1.0 - JITTER));
        }
    }
}
