//! What an API server gives to Decrypt, told apart by how it begins.
//!
//! | begins with | is |
//! |---|---|
//! | `0x31` (`1`) | a ciphertext of KMS follows: the AWS Encryption Provider's format, and ours |
//! | `0xC5 0x01` | an [`Envelope`]: sealed with a local KEK |
//! | anything else | under v1 a ciphertext of KMS with no prefix, as the AWS Encryption Provider once wrote it; under v2 an error |

use crate::kek::Envelope;
use crate::{Kind, Trouble};

/// The byte before a ciphertext of KMS: `StorageVersion` of the AWS Encryption Provider
/// (`pkg/kmsplugin/kms.go`).
const KMS_PREFIX: u8 = 0x31;
/// The longest `CiphertextBlob`, in bytes, that KMS's Decrypt takes (AWS KMS API Reference).
const MAX_BLOB: usize = 6144;

/// A ciphertext whose shape is right; whether it opens is for KMS or the KEK to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ciphertext<'a> {
    /// For KMS's Decrypt: 1 to 6,144 bytes, without our prefix.
    Kms(&'a [u8]),
    /// Sealed with a local KEK.
    Local(Envelope<'a>),
}

impl<'a> Ciphertext<'a> {
    /// Reads what came by v1.
    ///
    /// Data without a prefix could begin like either format; the formats win. `0x31` is always
    /// stripped because the AWS Encryption Provider does so: what it reads, we read the same way.
    /// `0xC5 0x01` is always an envelope because every ciphertext seen of KMS begins with `0x01`,
    /// and because a damaged envelope is better told as one than sent to KMS, which would be paid
    /// to call it an invalid ciphertext.
    ///
    /// # Errors
    /// The bytes are none, too many for KMS, or a damaged envelope.
    pub fn parse_v1(bytes: &'a [u8]) -> Result<Self, Trouble> {
        match bytes {
            [] => Err(empty()),
            [KMS_PREFIX, blob @ ..] => Self::kms(blob),
            _ if Envelope::is_announced_by(bytes) => Envelope::parse(bytes).map(Self::Local),
            blob => Self::kms(blob),
        }
    }

    /// Reads what came by v2, which has always had a prefix.
    ///
    /// # Errors
    /// The bytes are none, begin with no prefix, are too many for KMS, or are a damaged envelope.
    pub fn parse_v2(bytes: &'a [u8]) -> Result<Self, Trouble> {
        match bytes {
            [] => Err(empty()),
            [KMS_PREFIX, blob @ ..] => Self::kms(blob),
            _ if Envelope::is_announced_by(bytes) => Envelope::parse(bytes).map(Self::Local),
            _ => Err(unknown(bytes)),
        }
    }

    fn kms(blob: &'a [u8]) -> Result<Self, Trouble> {
        match blob.len() {
            0 => Err(Trouble::new(
                Kind::BadCiphertext,
                "the ciphertext is the prefix 0x31 with nothing after it: it was cut off; restore it from a backup of etcd",
            )),
            1..=MAX_BLOB => Ok(Self::Kms(blob)),
            length => Err(Trouble::new(
                Kind::BadCiphertext,
                format!("the ciphertext has {length} bytes and KMS takes {MAX_BLOB} at most: it was not made by KMS"),
            )),
        }
    }
}

/// Writes KMS's ciphertext in the AWS Encryption Provider's format, for v1 and v2.
#[must_use]
pub fn kms(blob: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + blob.len());
    bytes.push(KMS_PREFIX);
    bytes.extend_from_slice(blob);
    bytes
}

fn empty() -> Trouble {
    Trouble::new(Kind::BadRequest, "the ciphertext is empty")
}

fn unknown(bytes: &[u8]) -> Trouble {
    let found = match bytes {
        [first, second, ..] => format!("{first:#04x} {second:#04x}"),
        [first] => format!("{first:#04x} and ends there"),
        [] => return empty(),
    };
    let fix = match bytes {
        // KMS's own ciphertexts begin so.
        [0x01, ..] => {
            "it may be KMS's ciphertext with no prefix, which is read under v1 only: \
             configure the provider that wrote it with apiVersion: v1"
        }
        [0xC5, _, ..] => "it may be a newer format of the local KEK: run the release of coffer-kms that wrote it",
        _ => "another plugin wrote it, or it is damaged: configure the provider that wrote it",
    };
    Trouble::new(
        Kind::BadCiphertext,
        format!("the ciphertext begins with {found}, not with 0x31 (KMS) or 0xc5 0x01 (local KEK): {fix}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Parse = for<'a> fn(&'a [u8]) -> Result<Ciphertext<'a>, Trouble>;
    const VERSIONS: [Parse; 2] = [|bytes| Ciphertext::parse_v1(bytes), |bytes| Ciphertext::parse_v2(bytes)];

    /// An envelope's shape, sealed by nobody.
    fn envelope() -> Vec<u8> {
        let mut bytes = vec![0xC5, 0x01, 0, 3, b'k', b'e', b'k'];
        bytes.extend_from_slice(&[9; 12 + 32 + 16]);
        bytes
    }

    fn text(result: Result<Ciphertext<'_>, Trouble>) -> String {
        let trouble = result.unwrap_err();
        assert_eq!(trouble.kind.code(), tonic::Code::InvalidArgument);
        trouble.text
    }

    #[test]
    fn both_versions_read_what_is_written() {
        for parse in VERSIONS {
            assert_eq!(parse(&kms(b"\x01\x02blob")).unwrap(), Ciphertext::Kms(b"\x01\x02blob"));
            // One prefix is stripped, never two.
            assert_eq!(parse(&kms(b"1blob")).unwrap(), Ciphertext::Kms(b"1blob"));
            // After KMS's prefix nothing is told apart any more.
            assert_eq!(parse(&kms(&envelope())).unwrap(), Ciphertext::Kms(&envelope()));
            assert!(matches!(parse(&envelope()).unwrap(), Ciphertext::Local(it) if it.wrapped_kek() == b"kek"));
        }
    }

    #[test]
    fn v1_reads_what_was_written_before_there_was_a_prefix() {
        assert_eq!(Ciphertext::parse_v1(b"\x01\x02\x02\0x").unwrap(), Ciphertext::Kms(b"\x01\x02\x02\0x"));
        assert_eq!(Ciphertext::parse_v1(b"\xC5").unwrap(), Ciphertext::Kms(b"\xC5"));
        assert_eq!(Ciphertext::parse_v1(b"\xC5\x02abc").unwrap(), Ciphertext::Kms(b"\xC5\x02abc"));
        // The formats win over a blob that begins like one.
        assert_eq!(Ciphertext::parse_v1(b"1abc").unwrap(), Ciphertext::Kms(b"abc"));
        assert!(Ciphertext::parse_v1(b"\xC5\x01abc").is_err());
    }

    #[test]
    fn v2_says_what_it_found_and_what_to_do() {
        let said = text(Ciphertext::parse_v2(b"\x01\x02\x02"));
        assert!(said.contains("begins with 0x01 0x02") && said.contains("apiVersion: v1"), "{said}");
        let said = text(Ciphertext::parse_v2(b"\xC5\x02\x02"));
        assert!(said.contains("0xc5 0x02") && said.contains("release of coffer-kms"), "{said}");
        let said = text(Ciphertext::parse_v2(b"{"));
        assert!(said.contains("0x7b and ends there") && said.contains("another plugin"), "{said}");
    }

    #[test]
    fn sizes_that_kms_would_refuse_are_refused_here() {
        for parse in VERSIONS {
            assert_eq!(text(parse(b"")), "the ciphertext is empty");
            assert!(text(parse(b"1")).contains("nothing after it"));
            let longest = kms(&[7; MAX_BLOB]);
            assert_eq!(parse(&longest).unwrap(), Ciphertext::Kms(&longest[1..]));
            let said = text(parse(&kms(&[7; MAX_BLOB + 1])));
            assert!(said.contains("6145 bytes") && said.contains("6144 at most"), "{said}");
        }
        assert!(Ciphertext::parse_v1(&[7; MAX_BLOB]).is_ok());
        assert!(text(Ciphertext::parse_v1(&[7; 1 << 20])).contains("1048576 bytes"));
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes: Vec<u8>, start in 0usize..4) {
            let bytes = [[b"".as_slice(), b"1", b"\xC5", b"\xC5\x01"][start], &bytes].concat();
            for parse in VERSIONS {
                match parse(&bytes) {
                    Ok(Ciphertext::Kms(blob)) => prop_assert!(bytes.ends_with(blob) && !blob.is_empty()),
                    Ok(Ciphertext::Local(_)) => prop_assert!(bytes.starts_with(&[0xC5, 0x01])),
                    Err(trouble) => prop_assert_eq!(trouble.kind.code(), tonic::Code::InvalidArgument),
                }
            }
        }
    }
}
