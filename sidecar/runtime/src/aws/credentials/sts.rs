//! STS: roles for tokens, and roles for credentials.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_sts::Client;
use aws_sdk_sts::types::Credentials as StsKeys;
use aws_types::request_id::RequestId;

use super::{CallObserver, Credentials, RoleStep};
use crate::Secret;
use crate::aws::{Aws, AwsError, Class, UserAgent};

pub(super) const ASSUME_ROLE: &str = "sts:AssumeRole";
pub(super) const ASSUME_ROLE_WITH_WEB_IDENTITY: &str = "sts:AssumeRoleWithWebIdentity";

/// STS in one region; and in others, for when that one cannot be reached.
pub(super) struct Sts {
    aws: Aws,
    signer: Option<Credentials>,
    /// In the order in which they are tried: one that failed goes to the end.
    regions: Mutex<Vec<(String, Client)>>,
}

impl Sts {
    pub(super) fn new(aws: &Aws, region: &str, signer: Option<Credentials>) -> Self {
        let sts = Self { aws: aws.clone(), signer, regions: Mutex::default() };
        sts.add(region);
        sts
    }

    /// Has `region` tried after those that are known.
    pub(super) fn add(&self, region: &str) {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        if regions.iter().all(|(known, _)| known != region) {
            regions.push((region.to_owned(), client(&self.aws.in_region(region), self.signer.clone())));
        }
    }

    pub(super) async fn assume_role_with_web_identity(
        &self,
        role_arn: &str,
        session_name: &str,
        token: &Secret,
        events: &dyn CallObserver,
    ) -> Result<Keys, AwsError> {
        const ACTION: &str = ASSUME_ROLE_WITH_WEB_IDENTITY;
        let text = std::str::from_utf8(token.expose()).map_err(|_| {
            AwsError::new(ACTION, Class::NoCredentials, "TokenUnreadable", "the web-identity token is not text")
        })?;
        self.ask(|sts| async move {
            let started = Instant::now();
            let answer = sts
                .assume_role_with_web_identity()
                .role_arn(role_arn)
                .role_session_name(session_name)
                .web_identity_token(text.trim())
                .send()
                .await
                .map_err(|error| AwsError::from_sdk(ACTION, &error));
            events.called(ACTION, answer.as_ref().map(|answer| answer.request_id()), started.elapsed());
            keys(ACTION, answer?.credentials)
        })
        .await
    }

    /// Rejects the credentials of `base` where STS does.
    pub(super) async fn assume_role(
        &self,
        base: &Credentials,
        step: &RoleStep,
        session_name: &str,
        events: &dyn CallObserver,
    ) -> Result<Keys, AwsError> {
        let signing = base.get_boxed().await?;
        let assumed = self
            .ask(|sts| async move {
                let started = Instant::now();
                let answer = sts
                    .assume_role()
                    .role_arn(&step.role_arn)
                    .role_session_name(session_name)
                    .set_external_id(step.external_id.clone())
                    .send()
                    .await
                    .map_err(|error| AwsError::from_sdk(ASSUME_ROLE, &error));
                events.called(ASSUME_ROLE, answer.as_ref().map(|answer| answer.request_id()), started.elapsed());
                keys(ASSUME_ROLE, answer?.credentials)
            })
            .await;
        if assumed.as_ref().is_err_and(|error| error.class == Class::CredentialsRejected) {
            base.reject(signing.access_key_id());
        }
        assumed
    }

    /// Asks in one region after the other, as long as they cannot be reached.
    async fn ask<Asked>(&self, call: impl Fn(Client) -> Asked) -> Result<Keys, AwsError>
    where
        Asked: Future<Output = Result<Keys, AwsError>>,
    {
        let regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut at = 0;
        loop {
            let (region, sts) = &regions[at];
            at += 1;
            match call(sts.clone()).await {
                Err(error) if error.class == Class::Transient && at < regions.len() => {
                    tracing::warn!(region, %error, "STS not reached; trying that of another region");
                    self.put_last(region);
                }
                other => return other,
            }
        }
    }

    fn put_last(&self, region: &str) {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        // Stable: the others keep their order.
        regions.sort_by_key(|(known, _)| known == region);
    }
}

fn keys(action: &'static str, answer: Option<StsKeys>) -> Result<Keys, AwsError> {
    let answer = answer.ok_or_else(|| {
        AwsError::new(action, Class::Transient, "UnreadableAnswer", "the answer holds no credentials")
    })?;
    Ok(Keys::new(
        answer.access_key_id,
        answer.secret_access_key,
        Some(answer.session_token),
        SystemTime::try_from(answer.expiration).ok(),
        "coffer",
    ))
}

fn client(config: &aws_types::SdkConfig, signer: Option<Credentials>) -> Client {
    let mut builder = aws_sdk_sts::config::Builder::from(config)
        .identity_cache(aws_sdk_sts::config::IdentityCache::no_cache())
        .interceptor(UserAgent);
    if let Some(signer) = signer {
        builder = builder.credentials_provider(SharedCredentialsProvider::new(signer));
    }
    Client::from_conf(builder.build())
}
