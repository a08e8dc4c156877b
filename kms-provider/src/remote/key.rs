//! One key in KMS, and what is asked of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_sdk_kms::Client;
use aws_sdk_kms::operation::RequestId;
use aws_sdk_kms::primitives::Blob;
use coffer_runtime::Secret;
use coffer_runtime::aws::{AwsError, Class};
use tokio::time::Instant;

use super::detour::{Detour, Journey};
use super::kms::{Kms, Limits};
use super::{Lane, Retries};
use crate::Trouble;
use crate::audit::Caller;
use crate::key::{EncryptionContext, KeyName};

/// One key in KMS, under one encryption context.
pub struct KmsKey {
    kms: Arc<Kms>,
    name: KeyName,
    context: Option<HashMap<String, String>>,
    retries: Retries,
    /// The key's own region first, then where else it is.
    sites: Vec<Site>,
    detour: Mutex<Detour>,
    /// Whether it ever encrypted, and decrypted, for this identity.
    encrypted: AtomicBool,
    decrypted: AtomicBool,
}

/// The key in one region.
pub(super) struct Site {
    pub(super) region: String,
    pub(super) client: Client,
    pub(super) key: String,
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

/// What Encrypt gives.
#[derive(Debug)]
pub struct Encrypted {
    /// KMS's ciphertext.
    pub blob: Vec<u8>,
    /// ARN of the key that it is encrypted under.
    pub key_arn: Option<String>,
}

impl KmsKey {
    pub(super) fn new(
        kms: Arc<Kms>,
        name: &KeyName,
        context: &EncryptionContext,
        home: Site,
        replicas: Vec<Site>,
        retries: Retries,
    ) -> Self {
        Self {
            kms,
            name: name.clone(),
            context: context.to_request(),
            retries,
            sites: std::iter::once(home).chain(replicas).collect(),
            detour: Mutex::default(),
            encrypted: AtomicBool::new(false),
            decrypted: AtomicBool::new(false),
        }
    }

    /// The key's own region.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.home().region
    }

    /// Whether a Decrypt of that key, when KMS is not told the key, asks the same of KMS as one of this.
    #[must_use]
    pub fn asks_like(&self, other: &Self) -> bool {
        self.region() == other.region() && self.context == other.context
    }

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
    ) -> Result<Encrypted, Trouble> {
        const ACTION: &str = "kms:Encrypt";
        let started = Instant::now();
        let worked = self.encrypted.load(Ordering::Relaxed);
        let answer = self.kms.call(ACTION, self.limits(lane), deadline, worked, || async {
            let answer = self
                .home()
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
                Some(blob) => Ok((Encrypted { blob: blob.into_inner(), key_arn: answer.key_id }, request_id)),
                None => Err(AwsError::new(ACTION, Class::Transient, "UnreadableAnswer", "no ciphertext in the answer")),
            }
        });
        let answer = answer.await;
        let outcome = answer.as_ref().map(|(encrypted, id)| (encrypted.key_arn.as_deref(), id.as_deref()));
        caller.audit(ACTION, &self.name, self.region(), outcome, started.elapsed());
        let (encrypted, _) = answer?;
        self.encrypted.store(true, Ordering::Relaxed);
        Ok(encrypted)
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
        let order = self.detour().order(self.sites.len() - 1, Instant::now());
        let mut journey = Journey::default();
        for (asked, &place) in order.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_last = asked + 1 == order.len();
            let until = if is_last { deadline } else { Instant::now() + left / 2 };
            let site = &self.sites[place];
            // The name of a key, and so what to pin, is another one in each region.
            let key = if place == 0 { pin } else { Some(site.key.as_str()) };
            match self.decrypt_at(site, blob, key, lane, until, caller).await {
                Ok(decrypted) => {
                    if journey.arrived(place, &mut self.detour(), Instant::now()) {
                        tracing::warn!(key = self.name.as_str(), region = site.region, "decrypted in another region");
                    }
                    self.decrypted.store(true, Ordering::Relaxed);
                    return Ok(decrypted);
                }
                Err(trouble) => journey.failed(place, trouble)?,
            }
        }
        Err(journey.end())
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
        let worked = self.decrypted.load(Ordering::Relaxed);
        let answer = self.kms.call(ACTION, self.limits(lane), deadline, worked, || async {
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
        let answer = self.kms.call(ACTION, self.limits(lane), deadline, false, || async {
            let answer = self
                .home()
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
            let answer = self.kms.call(ACTION, self.limits(lane), deadline, false, || async {
                let answer = self
                    .home()
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

    fn home(&self) -> &Site {
        &self.sites[0]
    }

    fn limits<'a>(&'a self, lane: &'a Lane) -> Limits<'a> {
        Limits { lane, retries: &self.retries }
    }

    fn detour(&self) -> std::sync::MutexGuard<'_, Detour> {
        self.detour.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
