//! Credentials: where they come from, how long they are kept, when they are renewed.

mod agent;
mod sts;

use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};

pub use self::agent::{AddressType, Agent, AgentUrl, AgentUrlError};
use self::sts::Sts;
use super::{Aws, AwsError, Class};
use crate::Secret;

/// Session names in STS have 2 to 64 characters of `[\w+=,.@-]`
/// (STS API reference, AssumeRole, `RoleSessionName`).
const SESSION_NAME_MAX: usize = 64;
/// Credentials are renewed when this part of their life is over, give or take [`RENEWAL_JITTER`]:
/// early enough to outlive a long outage of STS, late enough not to double the calls.
const RENEWAL_POINT: f64 = 0.80;
/// Keeps the processes of a node from renewing in step.
const RENEWAL_JITTER: f64 = 0.05;
/// After a failed renewal the old credentials serve on, and the next try waits this long.
const RENEWAL_RETRY: Duration = Duration::from_secs(15);
/// Credentials that end sooner than this are not handed out: a call must have time to arrive.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// A role to assume with the credentials of the step before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleStep {
    /// ARN of the role.
    pub role_arn: String,
    /// What the role's trust policy asks for in `sts:ExternalId`.
    pub external_id: Option<String>,
}

/// Gives the service account's token that stands for an identity: of IRSA for STS, or of EKS Pod
/// Identity for its agent.
pub trait TokenSource: Send + Sync {
    /// The newest token there is. It is asked for anew at each fetch of credentials.
    fn token(&self) -> Result<Secret, AwsError>;
}

/// Told of every call to AWS, for metrics.
pub trait CallObserver: Send + Sync {
    /// A call ended; `action` is its IAM action, or `credentials` for the endpoints of the node.
    /// `outcome` is the request id, where there is one, or the error.
    fn called(&self, action: &'static str, outcome: Result<Option<&str>, &AwsError>, took: Duration);
}

/// Credentials of one identity: fetched when first needed, shared by every client of that identity,
/// renewed ahead of their end, dropped when AWS rejects them.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    label: String,
    source: Source,
    events: Arc<dyn CallObserver>,
    held: Mutex<Option<Held>>,
    /// The last fetch that failed, and when it ended.
    failed: Mutex<Option<(Instant, AwsError)>>,
    /// Held while fetching: one fetch at a time, and the others take what it brought.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Held {
    keys: Keys,
    renew_at: Option<SystemTime>,
}

enum Source {
    Ambient { aws: Box<Aws>, region: String },
    Role { sts: Sts, base: Credentials, step: RoleStep, session_name: String },
    WebIdentity { sts: Sts, role_arn: String, session_name: String, tokens: Arc<dyn TokenSource> },
    PodIdentity { agent: Agent, tokens: Arc<dyn TokenSource> },
}

impl Credentials {
    /// The credentials that this process finds in its environment, in AWS's own order: environment
    /// variables, the shared profile, a web-identity token (IRSA), the container endpoint (ECS, EKS
    /// Pod Identity), the instance metadata.
    #[must_use]
    pub fn ambient(aws: &Aws, region: &str, events: Arc<dyn CallObserver>) -> Self {
        let label = token_role(&found).map_or_else(|| "process".to_owned(), |(_, role_arn)| role_arn);
        Self::new(&label, Source::Ambient { aws: Box::new(aws.clone()), region: region.to_owned() }, events)
    }

    /// The role that STS in `region` gives for a token of `tokens` (IRSA).
    #[must_use]
    pub fn web_identity(
        aws: &Aws,
        region: &str,
        role_arn: &str,
        session_name: &str,
        tokens: Arc<dyn TokenSource>,
        events: Arc<dyn CallObserver>,
    ) -> Self {
        let sts = Sts::new(aws, region, None);
        let (role_arn, session_name) = (role_arn.to_owned(), session_name.to_owned());
        Self::new(&role_arn.clone(), Source::WebIdentity { sts, role_arn, session_name, tokens }, events)
    }

    /// What the EKS Pod Identity agent of the node gives for a token of `tokens`. `label` names the
    /// identity in logs and errors, since the role is not known before.
    #[must_use]
    pub fn pod_identity(
        agent: Agent,
        tokens: Arc<dyn TokenSource>,
        label: &str,
        events: Arc<dyn CallObserver>,
    ) -> Self {
        Self::new(label, Source::PodIdentity { agent, tokens }, events)
    }

    /// The role of `step`, assumed with these credentials.
    #[must_use]
    pub fn assume(&self, aws: &Aws, region: &str, step: RoleStep, session_name: &str) -> Self {
        let sts = Sts::new(aws, region, Some(self.clone()));
        let label = step.role_arn.clone();
        let source = Source::Role { sts, base: self.clone(), step, session_name: session_name.to_owned() };
        Self::new(&label, source, Arc::clone(&self.0.events))
    }

    fn new(label: &str, source: Source, events: Arc<dyn CallObserver>) -> Self {
        Self(Arc::new(Inner {
            label: label.to_owned(),
            source,
            events,
            held: Mutex::new(None),
            failed: Mutex::new(None),
            turn: Arc::default(),
        }))
    }

    /// The role's ARN, or `process` for what the environment gives.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// Has STS asked in `region` too where it cannot be reached in its own: what is there in two regions
    /// shall not hang on the STS of one. What needs no STS of its own choosing stays as it is.
    pub fn stand_by(&self, region: &str) {
        match &self.0.source {
            Source::Role { sts, base, .. } => {
                sts.add(region);
                base.stand_by(region);
            }
            Source::WebIdentity { sts, .. } => sts.add(region),
            Source::Ambient { .. } | Source::PodIdentity { .. } => {}
        }
    }

    /// When the credentials now held end; `None` when none are held or they do not end.
    #[must_use]
    pub fn expiry(&self) -> Option<SystemTime> {
        self.held().as_ref().and_then(|held| held.keys.expiry())
    }

    /// Credentials that AWS should accept: those held, or new ones when they near their end.
    ///
    /// They are fetched on a task of its own, so that no caller's haste cuts a fetch short, and while the
    /// old ones live nobody waits for it. Fails only when there are none to hand out; a renewal that fails
    /// while the old ones still live is logged and tried again later.
    pub async fn get(&self) -> Result<Keys, AwsError> {
        let now = SystemTime::now();
        let held = self.held().as_ref().map(|held| (held.keys.clone(), held.renew_at));
        match held {
            // After a failed renewal the next try may lie beyond their end.
            Some((keys, renew_at)) if renew_at.is_none_or(|at| now < at) && lives(&keys, now) => Ok(keys),
            Some((keys, _)) if lives(&keys, now) => {
                // Still good: whoever gets the turn renews, and all go on with what there is.
                if let Ok(turn) = Arc::clone(&self.0.turn).try_lock_owned() {
                    let this = self.clone();
                    tokio::spawn(async move {
                        this.renew().await;
                        drop(turn);
                    });
                }
                Ok(keys)
            }
            _ => {
                let this = self.clone();
                let queued = Instant::now();
                let fetched = tokio::spawn(async move { this.fetch_or_join(queued).await }).await;
                // The task is ended only with the runtime.
                fetched.unwrap_or_else(|error| {
                    Err(AwsError::new("credentials", Class::Transient, "Ended", &error.to_string()))
                })
            }
        }
    }

    /// Has them renewed with the next use, the old ones serving on meanwhile: they are accepted, and yet
    /// may not be those that are meant.
    pub fn doubt(&self) {
        if let Some(held) = self.held().as_mut() {
            held.renew_at = Some(SystemTime::UNIX_EPOCH);
        }
    }

    /// [`Credentials::get`] for the step below in a role chain; boxed, since the chain has no fixed
    /// depth.
    fn get_boxed(&self) -> Pin<Box<dyn Future<Output = Result<Keys, AwsError>> + Send + '_>> {
        Box::pin(self.get())
    }

    async fn fetch_or_join(&self, queued: Instant) -> Result<Keys, AwsError> {
        let _turn = self.0.turn.lock().await;
        let fetched_meanwhile =
            self.held().as_ref().map(|held| held.keys.clone()).filter(|keys| lives(keys, SystemTime::now()));
        match (fetched_meanwhile, self.failed_since(queued)) {
            (Some(keys), _) => Ok(keys),
            (None, Some(error)) => Err(error),
            (None, None) => self.fetch().await,
        }
    }

    /// Drops the credentials with that key id, because AWS did not accept them. Newer ones, which
    /// another caller may have fetched meanwhile, stay.
    pub fn reject(&self, access_key_id: &str) {
        let mut held = self.held();
        if held.as_ref().is_some_and(|held| held.keys.access_key_id() == access_key_id) {
            *held = None;
        }
    }

    async fn renew(&self) {
        if let Err(error) = self.fetch().await {
            tracing::warn!(identity = self.label(), %error, "credentials not renewed; the old ones serve on");
            if let Some(held) = self.held().as_mut() {
                held.renew_at = Some(SystemTime::now() + RENEWAL_RETRY);
            }
        }
    }

    async fn fetch(&self) -> Result<Keys, AwsError> {
        let fetched = self.0.source.fetch(&*self.0.events).await;
        *self.0.failed.lock().unwrap_or_else(PoisonError::into_inner) =
            fetched.as_ref().err().map(|error| (Instant::now(), error.clone()));
        let keys = fetched?;
        let now = SystemTime::now();
        let renew_at = keys.expiry().map(|end| {
            let life = end.duration_since(now).unwrap_or_default();
            let part = RENEWAL_POINT + RENEWAL_JITTER * (2.0 * fastrand::f64() - 1.0);
            now + life.mul_f64(part)
        });
        *self.held() = Some(Held { keys: keys.clone(), renew_at });
        Ok(keys)
    }

    /// The error of a fetch that ended while somebody waited for it.
    fn failed_since(&self, queued: Instant) -> Option<AwsError> {
        let failed = self.0.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(ended, _)| *ended >= queued).map(|(_, error)| error.clone())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        // Nothing panics while the lock is held; a poisoned one would hold a whole value still.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.0.label).finish()
    }
}

impl ProvideCredentials for Credentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { self.get().await.map_err(CredentialsError::provider_error) })
    }
}

impl Source {
    async fn fetch(&self, events: &dyn CallObserver) -> Result<Keys, AwsError> {
        match self {
            Self::Ambient { aws, region } => from_environment(aws, region, events).await,
            Self::Role { sts, base, step, session_name } => {
                match sts.assume_role(base, step, session_name, events).await {
                    // What STS rejects are the base's credentials, and it has others now.
                    Err(error) if error.class == Class::CredentialsRejected && error.action == sts::ASSUME_ROLE => {
                        sts.assume_role(base, step, session_name, events).await
                    }
                    other => other,
                }
            }
            Self::WebIdentity { sts, role_arn, session_name, tokens } => {
                with_newest(&**tokens, |token| async move {
                    sts.assume_role_with_web_identity(role_arn, session_name, &token, events).await.map_err(refused)
                })
                .await
            }
            Self::PodIdentity { agent, tokens } => {
                with_newest(&**tokens, |token| async move { agent.fetch(&token, events).await }).await
            }
        }
    }
}

/// Asks with the newest token; and once more where a newer one has come while it was refused.
async fn with_newest<Asked>(tokens: &dyn TokenSource, ask: impl Fn(Arc<Secret>) -> Asked) -> Result<Keys, AwsError>
where
    Asked: Future<Output = Result<Keys, AwsError>>,
{
    let token = Arc::new(tokens.token()?);
    let error = match ask(Arc::clone(&token)).await {
        Err(error) if error.class != Class::Transient => error,
        other => return other,
    };
    match tokens.token() {
        Ok(newer) if newer.expose() != token.expose() => ask(Arc::new(newer)).await,
        _ => Err(error),
    }
}

/// A token that STS does not take may be followed by one that it does.
fn refused(error: AwsError) -> AwsError {
    let class = if error.code == "InvalidIdentityToken" { Class::CredentialsRejected } else { error.class };
    AwsError { class, ..error }
}

async fn from_environment(aws: &Aws, region: &str, events: &dyn CallObserver) -> Result<Keys, AwsError> {
    const ACTION: &str = "credentials";
    let config = ProviderConfig::without_region()
        .with_region(Some(aws_config::Region::new(region.to_owned())))
        .with_http_client(aws.node_local.clone());
    let profile = ProviderConfig::without_region()
        .with_region(Some(aws_config::Region::new(region.to_owned())))
        .with_http_client(aws.sdk.http_client().unwrap_or_else(|| aws.node_local.clone()));
    let chain = CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
        .or_else("profile", ProfileFileCredentialsProvider::builder().configure(&profile).build());
    match chain.provide_credentials().await {
        Ok(keys) => return Ok(keys),
        Err(CredentialsError::CredentialsNotLoaded(_)) => {}
        Err(error) => return Err(AwsError::new(ACTION, Class::NoCredentials, "ProfileUnusable", &describe(&error))),
    }
    if let Some((path, role_arn)) = token_role(&found) {
        let sts = Sts::new(aws, region, None);
        let token = read_token(Path::new(&path)).await?;
        return sts.assume_role_with_web_identity(&role_arn, &session_name(&found), &token, events).await;
    }
    let node =
        CredentialsProviderChain::first_try("container", EcsCredentialsProvider::builder().configure(&config).build())
            .or_else("instance", ImdsCredentialsProvider::builder().configure(&config).build());
    let started = Instant::now();
    let result = node.provide_credentials().await.map_err(|error| match &error {
        CredentialsError::CredentialsNotLoaded(_) => AwsError::new(
            ACTION,
            Class::NoCredentials,
            "NoCredentials",
            "none found in the environment, a profile, a web-identity token, a container endpoint or the instance metadata",
        ),
        other => AwsError::new(ACTION, Class::Transient, "CredentialsEndpoint", &describe(other)),
    });
    events.called(ACTION, result.as_ref().map(|_| None), started.elapsed());
    result
}

fn found(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// The token file and the role of IRSA, unless keys in the environment go before them.
fn token_role(env: &dyn Fn(&str) -> Option<String>) -> Option<(String, String)> {
    match env("AWS_ACCESS_KEY_ID") {
        Some(_) => None,
        None => Some((env("AWS_WEB_IDENTITY_TOKEN_FILE")?, env("AWS_ROLE_ARN")?)),
    }
}

/// Reads the token file anew at each use: the kubelet replaces it long before the token ends.
async fn read_token(path: &Path) -> Result<Secret, AwsError> {
    tokio::fs::read(path).await.map(Secret::new).map_err(|error| {
        let text = format!("cannot read the web-identity token {}: {error}", path.display());
        AwsError::new(sts::ASSUME_ROLE_WITH_WEB_IDENTITY, Class::NoCredentials, "TokenUnreadable", &text)
    })
}

fn lives(keys: &Keys, now: SystemTime) -> bool {
    keys.expiry().is_none_or(|end| now + LAST_MOMENT < end)
}

fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", describe(cause)),
        None => error.to_string(),
    }
}

/// The name under which CloudTrail lists what a role's session did: `AWS_ROLE_SESSION_NAME`, else
/// `POD_NAMESPACE.POD_NAME`, else the host's name; cut and cleaned to what STS takes. `env` looks a
/// variable up.
#[must_use]
pub fn session_name(env: &dyn Fn(&str) -> Option<String>) -> String {
    let name = env("AWS_ROLE_SESSION_NAME")
        .or_else(|| Some(format!("{}.{}", env("POD_NAMESPACE")?, env("POD_NAME")?)))
        .or_else(|| env("POD_NAME"))
        .or_else(|| env("HOSTNAME"))
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let mut clean: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) { c } else { '-' })
        .take(SESSION_NAME_MAX)
        .collect();
    if clean.len() < 2 {
        clean.push_str("coffer");
    }
    clean
}

#[cfg(test)]
mod tests;
