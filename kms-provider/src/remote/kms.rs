//! AWS KMS, under one identity: its clients, and how a call is made.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kms::Client;
use coffer_runtime::aws::{
    Aws, AwsConfigError, AwsError, CallObserver, Class, Credentials, RoleStep, Timeouts, UserAgent, session_name,
};
use tokio::time::{Instant, timeout_at};

use super::attempts::Attempts;
use super::doubt::Doubt;
use super::key::{KmsKey, Site};
use super::{Lane, Retries, RetrySettings, SourceArn};
use crate::key::{EncryptionContext, KeyName};
use crate::{Kind, Trouble};

/// Far above what KMS needs, and still inside an API server's 3 s.
const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(1), attempt: Duration::from_secs(6) };
/// What all calls to KMS have in common.
#[derive(Debug)]
pub struct KmsSettings {
    /// Of keys that are not named by ARN; else that of the environment.
    pub region: Option<String>,
    /// Instead of AWS's own endpoints.
    pub endpoint: Option<String>,
    /// On whose behalf, for key policies with `aws:SourceArn`.
    pub source_arn: Option<SourceArn>,
    /// To assume with the credentials of the environment.
    pub role: Option<RoleStep>,
    /// The budget of second tries, for each key.
    pub retries: RetrySettings,
}

/// AWS KMS, under one identity.
pub struct Kms {
    aws: Aws,
    region: Option<String>,
    endpoint: Option<String>,
    source_arn: Option<SourceArn>,
    credentials: Credentials,
    retries: RetrySettings,
    calls: Arc<dyn CallObserver>,
    doubt: Mutex<Doubt>,
}

/// The region of a key is not known.
#[derive(Debug, thiserror::Error)]
#[error("no region for the key '{key}': give --region, set AWS_REGION, or name the key by its ARN")]
pub struct NoRegion {
    key: String,
}

impl Kms {
    /// Reads the AWS settings of the environment. `keys` are those that will be asked for: where each
    /// names its region, the instance metadata is not asked for one.
    pub async fn load(
        settings: KmsSettings,
        keys: impl IntoIterator<Item = &KeyName>,
        calls: Arc<dyn CallObserver>,
    ) -> Result<Self, AwsConfigError> {
        let regions: Option<Vec<&str>> = keys.into_iter().map(KeyName::region).collect();
        let named = regions.and_then(|regions| regions.first().map(|region| (*region).to_owned()));
        let given = settings.region.or(named);
        let aws = Aws::load(given.as_deref(), TIMEOUTS).await?;
        let region = aws.region().map(str::to_owned);
        // Without a region nothing is ever asked: `Kms::key` refuses.
        let home = region.as_deref().unwrap_or("us-east-1");
        let mut credentials = Credentials::ambient(&aws, home, Arc::clone(&calls));
        if let Some(role) = settings.role {
            let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            credentials = credentials.assume(&aws, home, role, &session_name(&variable));
        }
        Ok(Self {
            aws,
            region,
            endpoint: settings.endpoint,
            source_arn: settings.source_arn,
            credentials,
            retries: settings.retries,
            calls,
            doubt: Mutex::default(),
        })
    }

    /// The credentials that sign.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// A key, with `replicas` to decrypt where its own region does not.
    pub fn key(
        self: &Arc<Self>,
        name: &KeyName,
        context: &EncryptionContext,
        replicas: &[String],
    ) -> Result<KmsKey, NoRegion> {
        let region = name.region().or(self.region.as_deref()).ok_or_else(|| NoRegion { key: name.to_string() })?;
        let home = Site { region: region.to_owned(), client: self.client(region), key: name.as_str().to_owned() };
        let elsewhere = replicas.iter().filter(|replica| *replica != region).filter_map(|replica| {
            let key = name.in_region(replica)?;
            Some(Site { region: replica.clone(), client: self.client(replica), key })
        });
        Ok(KmsKey::new(Arc::clone(self), name, context, home, elsewhere.collect(), Retries::new(self.retries)))
    }

    fn client(&self, region: &str) -> Client {
        let shared = self.aws.client_config(region, self.credentials.clone());
        let mut config = aws_sdk_kms::config::Builder::from(&shared).interceptor(UserAgent);
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        if let Some(source_arn) = &self.source_arn {
            config = config.interceptor(source_arn.clone());
        }
        Client::from_conf(config.build())
    }

    /// Makes a call, as often as the deadline, the budget and the kind of failure let it. `worked` says
    /// whether this identity was ever allowed it.
    pub(super) async fn call<T, Asked>(
        &self,
        action: &'static str,
        limits: Limits<'_>,
        deadline: Instant,
        worked: bool,
        ask: impl Fn() -> Asked,
    ) -> Result<(T, Option<String>), Trouble>
    where
        Asked: Future<Output = Result<(T, Option<String>), AwsError>>,
    {
        let Limits { lane, retries } = limits;
        let mut attempts = Attempts::until(deadline);
        let mut renewed = false;
        let attempt = || async {
            let started = Instant::now();
            let result = ask().await;
            self.calls.called(action, result.as_ref().map(|(_, id)| id.as_deref()), started.elapsed());
            result
        };
        loop {
            let keys = timeout_at(deadline, self.credentials.get()).await.unwrap_or_else(|_| {
                Err(AwsError::new(action, Class::NoCredentials, "Timeout", "no credentials before the deadline"))
            });
            let keys = keys.map_err(|error| Trouble::new(Kind::Credentials, format!("no credentials: {error}")))?;
            let place = lane.enter(deadline).await?;
            let error = match attempts.make(attempt, || retries.take()).await {
                Some(Ok(answer)) => {
                    place.went_well();
                    retries.give_back(attempts.retried());
                    return Ok(answer);
                }
                Some(Err(error)) => error,
                None => {
                    let error = AwsError::new(action, Class::Transient, "Timeout", "no answer before the deadline");
                    self.calls.called(action, Err(&error), Duration::ZERO);
                    error
                }
            };
            let kind = Kind::of_aws(&error);
            match kind {
                Kind::Throttled => place.throttled(),
                Kind::Credentials if !renewed && self.doubt().not_accepted(Instant::now()) => {
                    tracing::info!(%error, "credentials not accepted; fetching new ones");
                    self.credentials.reject(keys.access_key_id());
                    renewed = true;
                    continue;
                }
                Kind::Denied if self.doubt().denied(worked, Instant::now()) => self.credentials.doubt(),
                _ => {}
            }
            drop(place);
            match attempts.pause(kind) {
                Some(pause) if retries.take() => tokio::time::sleep(pause).await,
                _ => return Err(error.into()),
            }
        }
    }

    fn doubt(&self) -> std::sync::MutexGuard<'_, Doubt> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What bounds a call beside its deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits<'a> {
    pub(super) lane: &'a Lane,
    pub(super) retries: &'a Retries,
}
