//! A key in AWS KMS.

use std::future::Future;

use coffer_runtime::Secret;
use tokio::time::Instant;

use crate::Trouble;

/// What can be done with a key that never leaves KMS, always under the same encryption context.
pub trait RemoteKey: Send + Sync + 'static {
    /// KMS's ciphertext of up to 4,096 bytes.
    fn encrypt(&self, plaintext: &Secret, deadline: Instant) -> impl Future<Output = Result<Vec<u8>, Trouble>> + Send;

    /// The plaintext of a ciphertext of [`RemoteKey::encrypt`].
    fn decrypt(&self, blob: &[u8], deadline: Instant) -> impl Future<Output = Result<Secret, Trouble>> + Send;
}
