//! A key in AWS KMS: calls within a caller's deadline, retried within a budget, bounded in number, each
//! written to the audit log.

mod attempts;
mod detour;
mod doubt;
mod key;
mod kms;
mod lane;
mod retries;
mod source_arn;

use std::future::Future;

use coffer_runtime::Secret;
use tokio::time::Instant;

pub use key::{Decrypted, Description, Encrypted, KmsKey};
pub use kms::{Kms, KmsSettings, NoRegion};
pub use lane::Lane;
use retries::Retries;
pub use retries::RetrySettings;
pub use source_arn::{SourceArn, SourceArnError};

use crate::Trouble;

/// What can be done with a key that never leaves KMS, always under the same encryption context.
pub trait RemoteKey: Send + Sync + 'static {
    /// KMS's ciphertext of up to 4,096 bytes.
    fn encrypt(&self, plaintext: &Secret, deadline: Instant) -> impl Future<Output = Result<Vec<u8>, Trouble>> + Send;

    /// The plaintext of a ciphertext of [`RemoteKey::encrypt`].
    fn decrypt(&self, blob: &[u8], deadline: Instant) -> impl Future<Output = Result<Secret, Trouble>> + Send;
}
