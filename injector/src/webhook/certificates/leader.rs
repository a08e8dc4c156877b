//! What the holder of the Lease does: it keeps the Secret, and has the API server trust what the Secret says.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, Patch};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::authority::Leaf;
use super::certificate::now;
use super::configuration::{Hooks, Whose};
use super::plan::{Clocks, Due, Settled, Step, Wanted};
use super::state::{Reading, State};
use crate::kubernetes::{KubernetesError, ObjectName, Verb, patching, writing};

/// Why the leader cannot do what it is to.
pub(super) type Trouble = watch::Receiver<Option<String>>;

/// How long the API server may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// First and longest pause after a failure; doubled each time, and half of it is chance.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often to look at the clock, at least and at most; in between an eighth of the overlap.
const LOOK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Who keeps the Secret and the configuration, while it leads.
pub(super) struct Leader {
    pub(super) secrets: Api<Secret>,
    pub(super) configurations: Api<MutatingWebhookConfiguration>,
    pub(super) secret: ObjectName,
    pub(super) configuration: ObjectName,
    pub(super) whose: Whose,
    pub(super) wanted: Wanted,
    pub(super) followed_secret: watch::Receiver<Option<Arc<Secret>>>,
    pub(super) followed_configuration: watch::Receiver<Option<Arc<MutatingWebhookConfiguration>>>,
    /// What this replica shows.
    pub(super) shown: watch::Receiver<Option<Leaf>>,
    pub(super) trouble: watch::Sender<Option<String>>,
}

impl Leader {
    /// Leads until it is to end.
    pub(super) async fn run(&self, mut ended: watch::Receiver<bool>) {
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&self) {
        let mut secret = self.followed_secret.clone();
        let mut configuration = self.followed_configuration.clone();
        let mut shown = self.shown.clone();
        let (mut settled, mut reading) = (None, Reading::default());
        // What another leader did last may not have been heard of yet.
        let mut look = true;
        let mut failures = 0_u32;
        let tick = (self.wanted.overlap / 8).clamp(LOOK.0, LOOK.1);
        loop {
            let seen = (secret.borrow_and_update().clone(), configuration.borrow_and_update().clone());
            shown.mark_unchanged();
            let due = self.due(reading.of(seen.0), self.hooks(seen.1.as_deref()).as_ref(), &mut settled);
            let done = match due {
                Due::Nothing if !look => Ok(true),
                _ => self.act(&mut settled).await,
            };
            look = !matches!(done, Ok(true));
            let news = done.as_ref().err();
            if self.trouble.borrow().as_ref() != news {
                if let Some(why) = news {
                    tracing::error!("{why}");
                }
                self.trouble.send_replace(news.cloned());
            }
            if look {
                let pause = PAUSE.saturating_mul(1 << failures.min(6)).min(PAUSE_MAX);
                failures = failures.saturating_add(1);
                sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                continue;
            }
            failures = 0;
            tokio::select! {
                Ok(()) = secret.changed() => {}
                Ok(()) = configuration.changed() => {}
                Ok(()) = shown.changed() => {}
                () = sleep(tick) => {}
            }
        }
    }

    fn due(&self, state: &State, hooks: Option<&Hooks>, settled: &mut Option<Settled>) -> Due {
        let clocks = Clocks { steady: Instant::now(), wall: now() };
        Due::of(state, hooks, self.shown.borrow().as_ref(), &self.wanted, settled, clocks)
    }

    fn hooks(&self, configuration: Option<&MutatingWebhookConfiguration>) -> Option<Hooks> {
        configuration.and_then(|configuration| Hooks::of(configuration, &self.whose).ok())
    }

    /// Does what there is to be done, by what the API server says now and not by what was heard last. Whether it is
    /// done: another may have changed something at the same time.
    async fn act(&self, settled: &mut Option<Settled>) -> Result<bool, String> {
        let found = self.asked(Verb::Get, &self.secret, self.secrets.get_opt(&self.secret.name)).await;
        let found = found.map_err(|error| error.to_string())?;
        let name = &self.configuration.name;
        let configuration = self.asked(Verb::Get, &self.configuration, self.configurations.get_opt(name)).await;
        // The Secret is kept all the same.
        let (configuration, unread) = match configuration {
            Ok(configuration) => (configuration, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let (state, faults) = read(found.as_ref());
        let hooks = self.hooks(configuration.as_ref());
        let state = match self.due(&state, hooks.as_ref(), settled) {
            Due::Nothing | Due::Tell => state,
            Due::Do(step) => {
                self.tell(step, found.as_ref(), &faults);
                let known = hooks.as_ref().map(|hooks| hooks.known(now())).unwrap_or_default();
                let state = state.after(step, &self.wanted, &known, now())?;
                if !self.write(found, &state).await? {
                    return Ok(false);
                }
                state
            }
        };
        if let (Some(configuration), Some(hooks)) = (&configuration, &hooks)
            && !state.trusted.is_empty()
            && let Some(patch) = hooks.patch(configuration, &state.trusted, &state.bundle())
        {
            return self.patch(&patch).await;
        }
        unread.map_or(Ok(true), Err)
    }

    async fn write(&self, found: Option<Secret>, state: &State) -> Result<bool, String> {
        let params = writing();
        let (verb, written) = if let Some(mut secret) = found {
            // With the version that was read: should another be quicker, this is refused.
            state.write(secret.data.get_or_insert_default());
            (
                Verb::Update,
                self.asked(Verb::Update, &self.secret, self.secrets.replace(&self.secret.name, &params, &secret)).await,
            )
        } else {
            let mut secret = Secret {
                metadata: ObjectMeta { name: Some(self.secret.name.clone()), ..ObjectMeta::default() },
                type_: Some("Opaque".to_owned()),
                ..Secret::default()
            };
            state.write(secret.data.get_or_insert_default());
            (Verb::Create, self.asked(Verb::Create, &self.secret, self.secrets.create(&params, &secret)).await)
        };
        match (verb, written) {
            (_, Ok(_)) => Ok(true),
            (_, Err(KubernetesError::Conflict { .. })) => Ok(false),
            // Without that right, which is a wide one, the manifests' own Secret is to be there.
            (Verb::Create, Err(error @ KubernetesError::Forbidden { .. })) => Err(format!(
                "{} does not exist: apply the empty one of deploy/webhook/webhook.yaml; or else, {error}",
                self.secret
            )),
            (_, Err(error)) => Err(error.to_string()),
        }
    }

    async fn patch(&self, patch: &serde_json::Value) -> Result<bool, String> {
        let params = patching();
        let patch = Patch::Strategic(patch);
        let patched = self.configurations.patch(&self.configuration.name, &params, &patch);
        match self.asked(Verb::Patch, &self.configuration, patched).await {
            Ok(_) => tracing::info!("{} has what the API server is to trust", self.configuration),
            Err(KubernetesError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        }
        Ok(true)
    }

    fn tell(&self, step: Step, found: Option<&Secret>, faults: &[String]) {
        let secret = &self.secret;
        let is_empty = found.is_none_or(|found| found.data.as_ref().is_none_or(std::collections::BTreeMap::is_empty));
        if !faults.is_empty() {
            tracing::warn!("{secret} has what cannot be used, which is made anew: {}", faults.join("; "));
        }
        match step {
            Step::Anew if is_empty => tracing::info!("{secret} is empty: a CA and a certificate are made"),
            Step::Anew => tracing::warn!("{secret} has no CA that is good: one is made, and a certificate"),
            Step::Leaf => tracing::info!("another certificate is made in {secret}"),
            Step::Join if is_empty => {
                tracing::warn!("{secret} is empty: a CA is made; what is shown stays until the API server knows it");
            }
            Step::Join => tracing::info!("another CA is made in {secret}, and made known before it is used"),
            Step::Rejoin => {
                tracing::warn!("the API server does not know the CA in {secret}: it is made known before it is used");
            }
            Step::Switch => tracing::info!("a certificate of the new CA is made in {secret}"),
            Step::Drop => tracing::info!("the CAs of before leave {secret}"),
        }
    }

    async fn asked<T>(
        &self,
        verb: Verb,
        object: &ObjectName,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, KubernetesError> {
        match timeout(ANSWER, answer).await {
            Ok(answer) => answer.map_err(|error| KubernetesError::read(verb, object, error)),
            Err(_) => Err(KubernetesError::timeout(verb, object, ANSWER)),
        }
    }
}

fn read(secret: Option<&Secret>) -> (State, Vec<String>) {
    secret.and_then(|secret| secret.data.as_ref()).map(State::read).unwrap_or_default()
}
