//! The calls to AWS KMS.

use std::collections::HashMap;
use std::future::Future;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_sdk_kms::Client;
use aws_sdk_kms::operation::RequestId;
use aws_sdk_kms::primitives::Blob;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use coffer_runtime::Secret;
use coffer_runtime::aws::{
    Aws, AwsConfigError, AwsError, CallObserver, Class, Credentials, RoleStep, Timeouts, UserAgent, session_name,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::attempts::Attempts;
use super::{Lane, Retries};
use crate::audit::Caller;
use crate::key::{EncryptionContext, KeyName};
use crate::{Kind, Trouble};

/// Far above what KMS needs, and still inside an API server's 3 s.
const TIMEOUTS: Timeouts = Timeouts { connect: Duration::from_secs(1), attempt: Duration::from_secs(6) };
/// How long Decrypt goes to a replica first, once the key's own region has failed.
const DETOUR: Duration = Duration::from_secs(30);
/// Credentials that are not allowed what they should be may be another role's: those of a node whose
/// role came late (kube2iam and its like). So they are fetched anew, this often at most.
const BETWEEN_DOUBTS: Duration = Duration::from_secs(60);

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
    /// The budget of all second tries.
    pub retries: Retries,
}

/// AWS KMS, under one identity.
pub struct Kms {
    aws: Aws,
    region: Option<String>,
    endpoint: Option<String>,
    source_arn: Option<SourceArn>,
    credentials: Credentials,
    retries: Retries,
    calls: Arc<dyn CallObserver>,
    doubted: Mutex<Option<Instant>>,
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
            doubted: Mutex::default(),
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
        let elsewhere = replicas.iter().filter(|replica| *replica != region).filter_map(|replica| {
            let key = name.in_region(replica)?;
            Some(Site { region: replica.clone(), client: self.client(replica), key })
        });
        Ok(KmsKey {
            kms: Arc::clone(self),
            name: name.clone(),
            context: context.to_request(),
            home: Site { region: region.to_owned(), client: self.client(region), key: name.as_str().to_owned() },
            replicas: elsewhere.collect(),
            detour: Mutex::default(),
        })
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

    /// Makes a call, as often as the deadline, the budget and the kind of failure let it.
    async fn call<T, Asked>(
        &self,
        action: &'static str,
        lane: &Lane,
        deadline: Instant,
        ask: impl Fn() -> Asked,
    ) -> Result<(T, Option<String>), Trouble>
    where
        Asked: Future<Output = Result<(T, Option<String>), AwsError>>,
    {
        let mut attempts = Attempts::until(deadline);
        let mut renewed = false;
        loop {
            let place = lane.enter(deadline).await?;
            let keys = timeout_at(deadline, self.credentials.get()).await.unwrap_or_else(|_| {
                Err(AwsError::new(action, Class::NoCredentials, "Timeout", "no credentials before the deadline"))
            });
            let keys = keys.map_err(|error| Trouble::new(Kind::Credentials, format!("no credentials: {error}")))?;
            let started = Instant::now();
            let patience = attempts.next();
            let result = timeout(patience, ask()).await.unwrap_or_else(|_| {
                let text = format!("no answer within {} ms", patience.as_millis());
                Err(AwsError::new(action, Class::Transient, "Timeout", &text))
            });
            self.calls.called(action, result.as_ref().map(|(_, id)| id.as_deref()), started.elapsed());
            let error = match result {
                Ok(answer) => {
                    place.went_well();
                    self.retries.give_back(attempts.retried());
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let kind = Kind::of_aws(&error);
            match kind {
                Kind::Throttled => place.throttled(),
                Kind::Credentials if !renewed => {
                    tracing::info!(%error, "credentials not accepted; fetching new ones");
                    self.credentials.reject(keys.access_key_id());
                    renewed = true;
                    continue;
                }
                Kind::Denied if self.doubt() => self.credentials.reject(keys.access_key_id()),
                _ => {}
            }
            drop(place);
            match attempts.pause(kind) {
                Some(pause) if self.retries.take() => tokio::time::sleep(pause).await,
                _ => return Err(error.into()),
            }
        }
    }

    /// Whether a denial is a reason to fetch credentials anew.
    fn doubt(&self) -> bool {
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        let due = doubted.is_none_or(|last| last.elapsed() >= BETWEEN_DOUBTS);
        if due {
            *doubted = Some(Instant::now());
        }
        due
    }
}

/// One key in KMS, under one encryption context.
pub struct KmsKey {
    kms: Arc<Kms>,
    name: KeyName,
    context: Option<HashMap<String, String>>,
    home: Site,
    replicas: Vec<Site>,
    /// Until when the home region is asked last.
    detour: Mutex<Option<Instant>>,
}

/// The key in one region.
struct Site {
    region: String,
    client: Client,
    key: String,
}

/// What Decrypt gives.
#[derive(Debug)]
pub struct Decrypted {
    /// The plaintext.
    pub plaintext: Secret,
    /// ARN of the key that it was encrypted under.
    pub key_arn: Option<String>,
}

/// What `DescribeKey` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// ARN of the key, also where an alias was asked for.
    pub arn: String,
    /// Which of its key materials encrypts now; keys that cannot rotate have none.
    pub material: Option<String>,
    /// When imported key material ends, if it does.
    pub material_ends: Option<SystemTime>,
}

impl KmsKey {
    /// As the flag names it.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Encrypts under `key` (this key, or the one that its alias named when that was last looked at).
    pub async fn encrypt(
        &self,
        key: &str,
        plaintext: &Secret,
        lane: &Lane,
        deadline: Instant,
        caller: &Caller,
    ) -> Result<Vec<u8>, Trouble> {
        const ACTION: &str = "kms:Encrypt";
        let started = Instant::now();
        let answer = self.kms.call(ACTION, lane, deadline, || async {
            let answer = self
                .home
                .client
                .encrypt()
                .key_id(key)
                // The SDK keeps a copy that it does not wipe.
                .plaintext(Blob::new(plaintext.expose()))
                .set_encryption_context(self.context.clone())
                .send()
                .await
                .map_err(|error| AwsError::from_sdk(ACTION, &error))?;
            let request_id = answer.request_id().map(str::to_owned);
            match answer.ciphertext_blob {
                Some(blob) => Ok(((blob.into_inner(), answer.key_id), request_id)),
                None => Err(AwsError::new(ACTION, Class::Transient, "UnreadableAnswer", "no ciphertext in the answer")),
            }
        });
        let answer = answer.await;
        let outcome = answer.as_ref().map(|((_, arn), id)| (arn.as_deref(), id.as_deref()));
        caller.audit(ACTION, &self.name, &self.home.region, outcome, started.elapsed());
        answer.map(|((blob, _), _)| blob)
    }

    /// Decrypts. With a key to `pin` (this key, or the one that its alias named when that was last looked
    /// at), only what was encrypted under it.
    pub async fn decrypt(
        &self,
        blob: &[u8],
        pin: Option<&str>,
        lane: &Lane,
        deadline: Instant,
        caller: &Caller,
    ) -> Result<Decrypted, Trouble> {
        let detour = self.on_detour();
        let home = std::iter::once(&self.home);
        let sites: Vec<&Site> =
            if detour { self.replicas.iter().chain(home).collect() } else { home.chain(&self.replicas).collect() };
        let mut trouble = None;
        for (place, site) in sites.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let last = place + 1 == sites.len();
            let until = if last { deadline } else { Instant::now() + left / 2 };
            let is_home = std::ptr::eq(*site, &raw const self.home);
            let key = if is_home { pin } else { Some(site.key.as_str()) };
            match self.decrypt_at(site, blob, key, lane, until, caller).await {
                Ok(decrypted) => {
                    if is_home {
                        self.set_detour(None);
                    } else {
                        tracing::warn!(key = %self.name, region = site.region, "decrypted in another region");
                    }
                    return Ok(decrypted);
                }
                Err(error) if !last && (error.kind.is_outage() || !is_home) => {
                    if is_home {
                        self.set_detour(Some(Instant::now() + DETOUR));
                    } else if !error.kind.is_outage() {
                        // Another region that refuses is no help while it does.
                        self.set_detour(None);
                    }
                    trouble = Some(error);
                }
                Err(error) if is_home => return Err(error),
                // What the key's own region says counts for more than a replica's denial.
                Err(error) => return Err(trouble.filter(|_| !error.kind.is_outage()).unwrap_or(error)),
            }
        }
        Err(trouble.unwrap_or_else(|| Trouble::new(Kind::Unreachable, "no region to decrypt in")))
    }

    async fn decrypt_at(
        &self,
        site: &Site,
        blob: &[u8],
        key: Option<&str>,
        lane: &Lane,
        deadline: Instant,
        caller: &Caller,
    ) -> Result<Decrypted, Trouble> {
        const ACTION: &str = "kms:Decrypt";
        let started = Instant::now();
        let answer = self.kms.call(ACTION, lane, deadline, || async {
            let answer = site
                .client
                .decrypt()
                .set_key_id(key.map(str::to_owned))
                .ciphertext_blob(Blob::new(blob))
                .set_encryption_context(self.context.clone())
                .send()
                .await
                .map_err(|error| AwsError::from_sdk(ACTION, &error))?;
            let request_id = answer.request_id().map(str::to_owned);
            match answer.plaintext {
                Some(plaintext) => {
                    let plaintext = Secret::new(plaintext.into_inner());
                    Ok((Decrypted { plaintext, key_arn: answer.key_id }, request_id))
                }
                None => Err(AwsError::new(ACTION, Class::Transient, "UnreadableAnswer", "no plaintext in the answer")),
            }
        });
        let answer = answer.await;
        let outcome = answer.as_ref().map(|(decrypted, id)| (decrypted.key_arn.as_deref(), id.as_deref()));
        caller.audit(ACTION, &self.name, &site.region, outcome, started.elapsed());
        answer.map(|(decrypted, _)| decrypted)
    }

    /// What the key is, and for an alias, which key.
    pub async fn describe(&self, lane: &Lane, deadline: Instant) -> Result<Description, Trouble> {
        const ACTION: &str = "kms:DescribeKey";
        let answer = self.kms.call(ACTION, lane, deadline, || async {
            let answer = self
                .home
                .client
                .describe_key()
                .key_id(self.name.as_str())
                .send()
                .await
                .map_err(|error| AwsError::from_sdk(ACTION, &error))?;
            let request_id = answer.request_id().map(str::to_owned);
            let described = answer.key_metadata.and_then(|key| {
                Some(Description {
                    arn: key.arn?,
                    material: key.current_key_material_id,
                    material_ends: key.valid_to.and_then(|at| SystemTime::try_from(at).ok()),
                })
            });
            match described {
                Some(description) => Ok((description, request_id)),
                None => Err(AwsError::new(ACTION, Class::Transient, "UnreadableAnswer", "no ARN in the answer")),
            }
        });
        Ok(answer.await?.0)
    }

    /// When the alias was last pointed to the key of that ARN; nothing where KMS does not say.
    pub async fn alias_moved(&self, arn: &str, lane: &Lane, deadline: Instant) -> Result<Option<SystemTime>, Trouble> {
        const ACTION: &str = "kms:ListAliases";
        let alias = self.name.as_str().rsplit_once(":alias/").map_or(self.name.as_str(), |(_, name)| name);
        let alias = alias.strip_prefix("alias/").unwrap_or(alias);
        let mut marker = None;
        loop {
            let answer = self.kms.call(ACTION, lane, deadline, || async {
                let answer = self
                    .home
                    .client
                    .list_aliases()
                    .key_id(arn)
                    .set_marker(marker.clone())
                    .send()
                    .await
                    .map_err(|error| AwsError::from_sdk(ACTION, &error))?;
                let request_id = answer.request_id().map(str::to_owned);
                Ok((answer, request_id))
            });
            let (answer, _) = answer.await?;
            let entry = answer.aliases().iter().find(|entry| {
                entry.alias_name().is_some_and(|name| name.strip_prefix("alias/").unwrap_or(name) == alias)
            });
            if let Some(entry) = entry {
                let date = entry.last_updated_date().or(entry.creation_date());
                return Ok(date.and_then(|at| SystemTime::try_from(*at).ok()));
            }
            match answer.next_marker {
                Some(next) if answer.truncated => marker = Some(next),
                _ => return Ok(None),
            }
        }
    }

    fn on_detour(&self) -> bool {
        !self.replicas.is_empty() && self.detour().is_some_and(|until| Instant::now() < until)
    }

    fn set_detour(&self, until: Option<Instant>) {
        if !self.replicas.is_empty() {
            *self.detour() = until;
        }
    }

    fn detour(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.detour.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The resource on whose behalf KMS is called: two headers that key policies can ask for against a
/// confused deputy (AWS Encryption Provider, `pkg/cloud/cloud.go`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceArn {
    arn: String,
    account: String,
}

/// A text that is no ARN of a resource in an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an ARN; they look like arn:aws:SERVICE:REGION:ACCOUNT:RESOURCE")]
pub struct SourceArnError(String);

impl FromStr for SourceArn {
    type Err = SourceArnError;

    fn from_str(text: &str) -> Result<Self, SourceArnError> {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        match parts[..] {
            ["arn", _, _, _, account, resource]
                if !resource.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                Ok(Self { arn: text.to_owned(), account: account.to_owned() })
            }
            _ => Err(SourceArnError(text.to_owned())),
        }
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for SourceArn {
    fn name(&self) -> &'static str {
        "SourceArn"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        headers.insert("x-amz-source-arn", self.arn.clone());
        headers.insert("x-amz-source-account", self.account.clone());
        Ok(())
    }
}
