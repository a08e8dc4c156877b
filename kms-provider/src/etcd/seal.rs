//! The two envelopes of KMS providers: a DEK that only KMS opens, and the data under it.

use std::collections::BTreeMap;

use aes::Aes256;
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use coffer_runtime::Secret;
use hkdf::Hkdf;
use prost::Message;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::stored::is_object;
use super::{KmsApi, StoredError};

const DEK: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;
/// What the key of one object is expanded from, beside the seed (`encrypt/aes/aes_extended_nonce.go`).
const INFO: usize = 32;
const BLOCK: usize = 16;

/// A wrapped DEK of KMS v1 is shorter than this. Ciphertexts of KMS have at most 6,144 bytes; and a length that
/// is the start of a text (a name with a colon in it) is longer: a space alone stands for 0x2000.
const LONGEST_DEK: usize = 0x2000;

/// A value that a KMS provider encrypted.
#[derive(Debug)]
pub struct Sealed<'a> {
    provider: &'a str,
    envelope: Envelope<'a>,
}

#[derive(Debug)]
enum Envelope<'a> {
    V1 { dek: &'a [u8], data: &'a [u8] },
    V2(EncryptedObject),
}

/// What the plugin is to decrypt, as an API server would ask it to.
#[derive(Clone, Copy, Debug)]
pub struct DekSource<'a> {
    /// Over which of the APIs it was encrypted.
    pub api: KmsApi,
    /// As the plugin gave it.
    pub ciphertext: &'a [u8],
    /// As the plugin gave it; empty in v1, which has none.
    pub key_id: &'a str,
    /// As the plugin gave them; none in v1.
    pub annotations: &'a BTreeMap<String, Vec<u8>>,
}

static NO_ANNOTATIONS: BTreeMap<String, Vec<u8>> = BTreeMap::new();

impl<'a> Sealed<'a> {
    /// Reads what follows `k8s:enc:kms:v1:`: `NAME:`, the wrapped DEK after its length in two bytes, the data.
    ///
    /// A name may hold colons in v1 and nothing tells where it ends, so the first colon counts after which a
    /// DEK can stand.
    pub(super) fn v1(rest: &'a [u8]) -> Result<Self, StoredError> {
        let colons = rest.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at);
        let mut failure = StoredError::CutOff("the name of the provider does not end with `:`");
        for (nth, colon) in colons.enumerate() {
            match split_v1(&rest[colon + 1..]) {
                Ok((dek, data)) => {
                    return Ok(Self { provider: name(&rest[..colon])?, envelope: Envelope::V1 { dek, data } });
                }
                Err(error) if nth == 0 => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// Reads what follows `k8s:enc:kms:v2:`: `NAME:`, then an `EncryptedObject`.
    pub(super) fn v2(rest: &'a [u8]) -> Result<Self, StoredError> {
        let colon = rest
            .iter()
            .position(|byte| *byte == b':')
            .ok_or(StoredError::CutOff("the name of the provider does not end with `:`"))?;
        let object = EncryptedObject::decode(&rest[colon + 1..])
            .map_err(|_| StoredError::Damaged("what follows the provider's name is no EncryptedObject".to_owned()))?;
        object.validate()?;
        Ok(Self { provider: name(&rest[..colon])?, envelope: Envelope::V2(object) })
    }

    /// The provider's name in the `EncryptionConfiguration` that it was written under.
    #[must_use]
    pub fn provider(&self) -> &'a str {
        self.provider
    }

    /// What the plugin is to decrypt before [`Sealed::open`].
    #[must_use]
    pub fn dek_source(&self) -> DekSource<'_> {
        match &self.envelope {
            Envelope::V1 { dek, .. } => {
                DekSource { api: KmsApi::V1, ciphertext: dek, key_id: "", annotations: &NO_ANNOTATIONS }
            }
            Envelope::V2(object) => DekSource {
                api: KmsApi::V2,
                ciphertext: &object.encrypted_dek_source,
                key_id: &object.key_id,
                annotations: &object.annotations,
            },
        }
    }

    /// The object's bytes, with the plaintext of [`Sealed::dek_source`]. `etcd_key` is the whole path, such as
    /// `/registry/secrets/default/db`; only what v1 wrote with AES-CBC can be read without it.
    ///
    /// # Errors
    /// When the etcd key is missing or another one, or the DEK is not the value's.
    pub fn open(&self, dek_source: &Secret, etcd_key: Option<&str>) -> Result<Secret, StoredError> {
        let source = dek_source.expose();
        match &self.envelope {
            Envelope::V1 { data, .. } => {
                let dek = exactly_a_dek(source)?;
                // As an API server does: AES-GCM is what it writes, AES-CBC what it wrote before 1.25. CBC has no tag
                // and takes garbage one time in 256; an object says what it is.
                if let Some(etcd_key) = etcd_key
                    && let Some(object) = open_gcm(dek, data, etcd_key)
                {
                    return Ok(object);
                }
                if let Some(object) = open_cbc(dek, data)
                    && is_object(object.expose())
                {
                    return Ok(object);
                }
                Err(refusal(etcd_key))
            }
            Envelope::V2(object) => {
                let data = &object.encrypted_data;
                let opened = if object.encrypted_dek_source_type == Source::HkdfSeed as i32 {
                    if source.len() < DEK {
                        return Err(StoredError::DekLength { found: source.len(), expected: "32 or more" });
                    }
                    let etcd_key = etcd_key.ok_or(StoredError::NoEtcdKey)?;
                    open_seeded(source, data, etcd_key)
                } else {
                    let dek = exactly_a_dek(source)?;
                    open_gcm(dek, data, etcd_key.ok_or(StoredError::NoEtcdKey)?)
                };
                opened.ok_or_else(|| refusal(etcd_key))
            }
        }
    }
}

fn refusal(etcd_key: Option<&str>) -> StoredError {
    etcd_key.map_or(StoredError::NoEtcdKey, |key| StoredError::Refused(key.to_owned()))
}

fn exactly_a_dek(source: &[u8]) -> Result<&[u8; DEK], StoredError> {
    source.try_into().map_err(|_| StoredError::DekLength { found: source.len(), expected: "32" })
}

fn name(bytes: &[u8]) -> Result<&str, StoredError> {
    std::str::from_utf8(bytes).map_err(|_| StoredError::Damaged("the name of the provider is not UTF-8".to_owned()))
}

fn split_v1(rest: &[u8]) -> Result<(&[u8], &[u8]), StoredError> {
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(StoredError::CutOff("it has no data key"))?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 || length >= LONGEST_DEK {
        return Err(StoredError::Damaged(format!("its data key cannot have {length} bytes")));
    }
    let (dek, data) = rest.split_at_checked(length).ok_or(StoredError::CutOff("it ends within its data key"))?;
    if data.len() < NONCE + TAG {
        return Err(StoredError::CutOff("it ends before its data"));
    }
    Ok((dek, data))
}

/// Nonce, ciphertext, tag (`encrypt/aes/aes.go`).
fn open_gcm(dek: &[u8; DEK], data: &[u8], etcd_key: &str) -> Option<Secret> {
    let (nonce, sealed) = data.split_first_chunk::<NONCE>()?;
    let mut buffer = sealed.to_vec();
    match Aes256Gcm::new(dek.into()).decrypt_in_place(nonce.into(), etcd_key.as_bytes(), &mut buffer) {
        Ok(()) => Some(Secret::new(buffer)),
        Err(_) => {
            buffer.zeroize();
            None
        }
    }
}

/// The object's own key is expanded from the seed and the first bytes of the data.
fn open_seeded(seed: &[u8], data: &[u8], etcd_key: &str) -> Option<Secret> {
    let (info, sealed) = data.split_first_chunk::<INFO>()?;
    let mut dek = Zeroizing::new([0; DEK]);
    Hkdf::<Sha256>::from_prk(seed).ok()?.expand(info, dek.as_mut()).ok()?;
    open_gcm(&dek, sealed, etcd_key)
}

/// IV, then blocks padded as PKCS #7 has it.
fn open_cbc(dek: &[u8; DEK], data: &[u8]) -> Option<Secret> {
    let (iv, blocks) = data.split_first_chunk::<BLOCK>()?;
    if blocks.is_empty() || !blocks.len().is_multiple_of(BLOCK) {
        return None;
    }
    let mut buffer = Zeroizing::new(blocks.to_vec());
    let cipher = cbc::Decryptor::<Aes256>::new(dek.into(), iv.into());
    let length = cipher.decrypt_padded::<cbc::cipher::block_padding::Pkcs7>(&mut buffer).ok()?.len();
    Some(Secret::copy_of(&buffer[..length]))
}

/// `pkg/storage/value/encrypt/envelope/kmsv2/v2/api.proto`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) encrypted_dek_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
    #[prost(enumeration = "Source", tag = "5")]
    pub(super) encrypted_dek_source_type: i32,
}

/// What the plaintext of the DEK source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Source {
    /// The key of AES-GCM.
    AesGcmKey = 0,
    /// The pseudo-random key of HKDF-SHA256.
    HkdfSeed = 1,
}

impl EncryptedObject {
    /// As an API server does before it reads one (`ValidateEncryptedObject`). Its upper limits are not looked at:
    /// what is in etcd is to be read.
    fn validate(&self) -> Result<(), StoredError> {
        let damaged = |what: String| Err(StoredError::Damaged(what));
        match Source::try_from(self.encrypted_dek_source_type) {
            Ok(_) => {}
            Err(_) => {
                return damaged(format!("its encryptedDEKSourceType {} is unknown", self.encrypted_dek_source_type));
            }
        }
        if self.encrypted_data.is_empty() {
            return damaged("it has no encrypted data".to_owned());
        }
        if self.encrypted_dek_source.is_empty() {
            return damaged("it has no encrypted data key".to_owned());
        }
        if self.key_id.is_empty() {
            return damaged("it has no key id".to_owned());
        }
        Ok(())
    }
}
