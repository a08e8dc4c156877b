//! Which of the ways to store a value it is, by its first bytes.

use super::{Sealed, StoredError};

/// The prefixes of an API server (`pkg/server/options/encryptionconfig/config.go`).
const ENCRYPTED: &[u8] = b"k8s:enc:";
const KMS_V1: &[u8] = b"k8s:enc:kms:v1:";
const KMS_V2: &[u8] = b"k8s:enc:kms:v2:";
const OTHERS: [(&[u8], &str); 3] =
    [(b"k8s:enc:aescbc:v1:", "aescbc"), (b"k8s:enc:aesgcm:v1:", "aesgcm"), (b"k8s:enc:secretbox:v1:", "secretbox")];

/// What an object in protobuf starts with, unencrypted.
pub(super) const PROTOBUF: &[u8] = b"k8s\0";
/// What one in CBOR starts with: its own tag (RFC 8949, 3.4.6).
pub(super) const CBOR: &[u8] = &[0xd9, 0xd9, 0xf7];

/// A value as it lies in etcd.
#[derive(Debug)]
pub enum Stored<'a> {
    /// Not encrypted at all: the provider `identity`, or no encryption configured when it was written.
    Plain(Plain<'a>),
    /// Encrypted by a KMS provider.
    Sealed(Sealed<'a>),
}

/// The bytes of an object.
pub struct Plain<'a>(pub &'a [u8]);

impl std::fmt::Debug for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plain(…)")
    }
}

impl<'a> Stored<'a> {
    /// Tells what `value` is.
    ///
    /// # Errors
    /// When it is none of what an API server writes, is cut off, or was encrypted without KMS.
    pub fn parse(value: &'a [u8]) -> Result<Self, StoredError> {
        if value.is_empty() {
            return Err(StoredError::Empty);
        }
        if let Some(rest) = value.strip_prefix(KMS_V2) {
            return Sealed::v2(rest).map(Self::Sealed);
        }
        if let Some(rest) = value.strip_prefix(KMS_V1) {
            return Sealed::v1(rest).map(Self::Sealed);
        }
        for (prefix, provider) in OTHERS {
            if let Some(rest) = value.strip_prefix(prefix) {
                return Err(StoredError::OtherProvider { provider, key: shown_name(rest) });
            }
        }
        if let Some(rest) = value.strip_prefix(ENCRYPTED) {
            return Err(StoredError::UnknownEncryption(format!("k8s:enc:{}:", shown_name(rest))));
        }
        if is_object(value) { Ok(Self::Plain(Plain(value))) } else { Err(StoredError::Unrecognised) }
    }
}

/// Whether `bytes` start as objects do in etcd.
pub(super) fn is_object(bytes: &[u8]) -> bool {
    bytes.starts_with(PROTOBUF) || bytes.starts_with(b"{") || bytes.starts_with(CBOR)
}

/// What stands before the next colon, if it can be shown.
fn shown_name(rest: &[u8]) -> String {
    let name = rest.split(|byte| *byte == b':').next().unwrap_or_default();
    match std::str::from_utf8(name) {
        Ok(name) if name.len() <= 253 && !name.contains(char::is_control) => name.to_owned(),
        _ => "…".to_owned(),
    }
}
