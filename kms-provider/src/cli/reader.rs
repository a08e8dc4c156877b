//! Decrypting without a server, as the flags say.

use std::sync::Arc;
use std::time::Duration;

use coffer_kms::Trouble;
use coffer_kms::keyring::Keyring;
use coffer_kms::metrics::{ApiVersion, Metrics};
use coffer_kms::remote::Kms;
use coffer_kms::service::{Door, StatusSettings, WriteFormat};
use coffer_runtime::Secret;
use tokio::time::Instant;

use super::Failed;
use super::flags::KeyFlags;

/// A person waits, and KMS may be in trouble as well.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads what an API server's KMS plugin wrote.
pub(super) struct Reader(Door);

impl Reader {
    /// `named_in_data` is the key_id that stands beside a ciphertext, which says in which region the key is
    /// where no flag does.
    pub(super) async fn new(flags: &KeyFlags, named_in_data: Option<&str>) -> Result<Self, Failed> {
        // A name that is never used: KMS reads from the ciphertext which key it was.
        let name = named_in_data.map_or("alias/unnamed", |key_id| {
            let name = key_id.split('#').next().unwrap_or(key_id);
            // The name of a multi-region key goes without a region, which a flag has to say then.
            if name.contains(":kms::") { name.rsplit(":key/").next().unwrap_or(name) } else { name }
        });
        let plan = flags.plan_to_read(name).map_err(Failed::usage)?;
        let metrics = Metrics::default();
        let calls = Arc::new(metrics.calls().clone());
        let keys: Vec<_> = plan.writers.iter().chain(&plan.readers).collect();
        let kms = Kms::load(plan.kms, keys.iter().map(|key| &key.name), calls).await.map_err(Failed::usage)?;
        let kms = Arc::new(kms);
        let mut keys = keys.into_iter().map(|key| kms.key(&key.name, &key.context, &plan.replicas));
        let first = keys.next().ok_or_else(|| Failed::usage("no key to decrypt with"))?.map_err(Failed::usage)?;
        let rest = keys.collect::<Result<_, _>>().map_err(Failed::usage)?;
        let counters = metrics.of_key(first.name().as_str(), ApiVersion::V2);
        let keyring = Arc::new(Keyring::new(first, rest, plan.policy, true, 8, counters));
        let cache = coffer_kms::cache::CacheSettings { ttl: PATIENCE * 30, max_stale: Duration::ZERO, size: 1024 };
        let status = StatusSettings { version: "v2", fail_on_refusal: false };
        let door =
            Door::new(String::new(), keyring, cache, coffer_kms::kek::Limits::default(), WriteFormat::Aep, status);
        Ok(Self(door.map_err(Failed::usage)?))
    }

    /// The plaintext of a ciphertext as an API server stores it.
    pub(super) async fn read(
        &self,
        ciphertext: &[u8],
        version: ApiVersion,
        key_id: Option<&str>,
    ) -> Result<Arc<Secret>, Trouble> {
        self.0.read(ciphertext, key_id, version, Instant::now() + PATIENCE).await
    }
}
