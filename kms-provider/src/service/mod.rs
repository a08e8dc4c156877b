//! What is served on one socket: both versions of the KMS API over one keyring.

mod v1;
mod v2;

use std::sync::Arc;
use std::time::Duration;

use coffer_runtime::Secret;
use tokio::sync::RwLock;
use tokio::time::{Instant, timeout_at};
use tonic::service::Routes;

use crate::audit::{Caller, Purpose};
use crate::cache::{Asked, Cache, CacheSettings};
use crate::ciphertext::{self, Ciphertext};
use crate::follow::{Active, of_local_kek};
use crate::health::{Operation, Verdict};
use crate::kek::{InvalidLimits, Limits, LocalKek, Snapshot};
use crate::keyring::Keyring;
use crate::metrics::ApiVersion;
use crate::proto::v1beta1::key_management_service_server::KeyManagementServiceServer as V1Server;
use crate::proto::v2::key_management_service_server::KeyManagementServiceServer as V2Server;
use crate::{Kind, Trouble};

/// The most that KMS encrypts directly, in bytes (AWS KMS API Reference, Encrypt).
const PLAINTEXT_MAX: usize = 4096;

/// How new data is written. What is read is told apart by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFormat {
    /// The AWS Encryption Provider's: KMS encrypts each plaintext.
    Aep,
    /// Sealed with a local KEK, which KMS has wrapped.
    LocalKek,
}

/// What `Status` of v2 tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusSettings {
    /// The API's version. It must not change under a running API server, which takes the plugin for
    /// unhealthy from then on (k8s.io/apiserver, `encryptionconfig/config.go`).
    pub version: &'static str,
    /// Whether a key that KMS refuses makes Status itself fail. An API server goes on writing under
    /// its present seed for as long as Status answers, whatever `healthz` says.
    pub fail_on_refusal: bool,
}

/// One socket's keys, caches and formats.
pub struct Door {
    keyring: Arc<Keyring>,
    cache: Cache,
    kek: LocalKek<Keyring>,
    /// Held for writing while the key changes: what is sealed and the key_id that it goes by must be of
    /// one key.
    change: RwLock<()>,
    format: WriteFormat,
    status: StatusSettings,
    socket: String,
}

impl Door {
    /// Nothing cached yet. `socket` is its label in metrics.
    pub fn new(
        socket: String,
        keyring: Arc<Keyring>,
        cache: CacheSettings,
        limits: Limits,
        format: WriteFormat,
        status: StatusSettings,
    ) -> Result<Self, InvalidLimits> {
        let kek = LocalKek::new(Arc::clone(&keyring), limits)?;
        Ok(Self { keyring, cache: Cache::new(cache), kek, change: RwLock::new(()), format, status, socket })
    }

    /// Both services, to be served on a socket.
    #[must_use]
    pub fn routes(self: &Arc<Self>) -> Routes {
        Routes::new(V1Server::new(v1::Service(Arc::clone(self))))
            .add_service(V2Server::new(v2::Service(Arc::clone(self))))
    }

    /// Where it is served.
    #[must_use]
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// The keys.
    #[must_use]
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// From now on, `active` is encrypted under, and local KEKs are wrapped under it.
    pub async fn activate(&self, active: Active) {
        let _changing = self.change.write().await;
        self.keyring.activate(active);
        self.kek.renew();
    }

    /// How many decrypted values are in memory.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    /// How the local KEKs are.
    #[must_use]
    pub fn kek(&self) -> Snapshot {
        self.kek.snapshot()
    }

    /// Wipes cached values that are past their time.
    pub fn sweep(&self) {
        self.cache.sweep();
    }

    /// Decrypts for a command.
    pub async fn read(
        &self,
        bytes: &[u8],
        key_id: Option<&str>,
        version: ApiVersion,
        deadline: Instant,
    ) -> Result<Arc<Secret>, Trouble> {
        self.decrypt(bytes, key_id, version, &Caller::own(Purpose::Command), deadline).await
    }

    /// The ciphertext, and the key_id that it goes by.
    async fn encrypt(
        &self,
        plaintext: &Secret,
        version: ApiVersion,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<(Vec<u8>, String), Trouble> {
        let started = Instant::now();
        let checked = check_plaintext(plaintext);
        let at_kms = checked.is_ok();
        let sealed = match checked {
            Ok(()) => self.seal(plaintext, caller, deadline).await,
            Err(trouble) => Err(trouble),
        };
        let outcome = sealed.as_ref().map(drop);
        self.keyring.metrics().answered(Operation::Encrypt, version, outcome, at_kms, started.elapsed());
        sealed
    }

    async fn seal(&self, plaintext: &Secret, caller: &Caller, deadline: Instant) -> Result<(Vec<u8>, String), Trouble> {
        match self.format {
            WriteFormat::Aep => {
                let active = self.keyring.active()?;
                let blob = self.keyring.encrypt(plaintext, &active, deadline, caller).await?;
                Ok((ciphertext::kms(&blob), self.key_id(&active)))
            }
            WriteFormat::LocalKek => {
                let changing = || Trouble::new(Kind::Busy, "the key is changing; try again");
                let _unchanged = timeout_at(deadline, self.change.read()).await.map_err(|_| changing())?;
                let active = self.keyring.active()?;
                Ok((self.kek.encrypt(plaintext, deadline).await?, self.key_id(&active)))
            }
        }
    }

    /// `key_id` is what the API server was told with the ciphertext; v1 knows none.
    async fn decrypt(
        &self,
        bytes: &[u8],
        key_id: Option<&str>,
        version: ApiVersion,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<Arc<Secret>, Trouble> {
        let started = Instant::now();
        let read = match version {
            ApiVersion::V1 => Ciphertext::parse_v1(bytes),
            ApiVersion::V2 => Ciphertext::parse_v2(bytes),
        };
        let read = read.and_then(|ciphertext| Ok((ciphertext, self.keyring.route(key_id)?)));
        let at_kms = read.is_ok();
        let opened = match read {
            Ok((Ciphertext::Local(envelope), _)) => self.kek.decrypt(&envelope, deadline).await.map(Arc::new),
            Ok((Ciphertext::Kms(blob), route)) => self.open(blob, key_id, route, caller, deadline).await,
            Err(trouble) => Err(trouble),
        };
        let outcome = opened.as_ref().map(drop);
        self.keyring.metrics().answered(Operation::Decrypt, version, outcome, at_kms, started.elapsed());
        opened
    }

    async fn open(
        &self,
        blob: &[u8],
        key_id: Option<&str>,
        route: &str,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<Arc<Secret>, Trouble> {
        let ask = || {
            // The call outlives whoever asked first, so it has a time of its own; and it ends before that
            // caller's, who shall hear why.
            let until = (deadline - REASON).max(Instant::now() + KMS_TIME);
            let (keyring, caller) = (Arc::clone(&self.keyring), caller.clone());
            let (blob, key_id) = (blob.to_vec(), key_id.map(str::to_owned));
            async move { keyring.decrypt(&blob, key_id.as_deref(), until, &caller).await }
        };
        let (value, source) = self.cache.get(Asked::of(route, blob), deadline, ask).await;
        self.keyring.metrics().came_from(source);
        value
    }

    /// What Status tells: healthz and key_id.
    fn state(&self) -> Result<(String, String), Trouble> {
        let active = self.keyring.active()?;
        let verdict = self.keyring.verdict();
        match &verdict {
            Verdict::Failing(_, trouble) if self.status.fail_on_refusal && trouble.kind.is_refusal() => {
                Err(trouble.clone())
            }
            _ => Ok((verdict.to_string(), self.key_id(&active))),
        }
    }

    /// What the API server is told of the key, and of the format.
    pub(crate) fn key_id(&self, active: &Active) -> String {
        match self.format {
            WriteFormat::Aep => active.key_id.clone(),
            WriteFormat::LocalKek => of_local_kek(&active.key_id),
        }
    }
}

/// What a shared call to KMS has at least: an API server's own 3 s, less the way back and the reason's.
const KMS_TIME: Duration = Duration::from_millis(2_900);
/// What is left of a caller's time for an answer to reach it.
const REASON: Duration = Duration::from_millis(50);

fn check_plaintext(plaintext: &Secret) -> Result<(), Trouble> {
    match plaintext.len() {
        0 => Err(Trouble::new(Kind::BadRequest, "the plaintext is empty")),
        1..=PLAINTEXT_MAX => Ok(()),
        length => {
            let text = format!("the plaintext has {length} bytes; KMS encrypts {PLAINTEXT_MAX} at most");
            Err(Trouble::new(Kind::BadRequest, text))
        }
    }
}

fn caller(purpose: Purpose, uid: &str) -> Caller {
    // An API server sends a UUID; anything longer is not one.
    Caller { purpose, uid: uid.chars().filter(|c| !c.is_control()).take(64).collect() }
}
