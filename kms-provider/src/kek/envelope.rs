//! The format of what a local KEK has sealed.
//!
//! ```text
//! 0xC5 0x01 │ u16, big endian: n │ n bytes: the KEK, wrapped by KMS │ 12 bytes: nonce │ ciphertext │ 16 bytes: tag
//! └──────────────── all of this is in the AAD ────────────────────┘                 └── AES-256-GCM ──────┘
//! ```
//!
//! The first byte is one that the AWS Encryption Provider has never written: its v2 refuses it, and
//! its v1 hands it to KMS, which does. The second is this format's version.

use coffer_runtime::Secret;

use super::key::{Key, NONCE, TAG, fill_randomly};
use crate::{Kind, Trouble};

/// How an envelope begins.
const MAGIC: [u8; 2] = [0xC5, 0x01];
/// Before the wrapped KEK: the magic and its length.
const HEADER: usize = 4;
/// Begins the AAD, so that a tag made for this use can never be passed off as one of another.
const LABEL: &[u8] = b"coffer-kms local kek v1\0";
/// The longest wrapped KEK, in bytes. KMS makes fewer than 200 of 32; with this many, the ciphertext of
/// a seed of 32 bytes has 864, and an API server takes up to 1,024 (k8s.io/apiserver,
/// `kmsv2/envelope.go`).
const MAX_WRAPPED: usize = 800;
/// The longest plaintext, in bytes: as KMS's Encrypt takes it for a symmetric key (AWS KMS API Reference).
const MAX_PLAINTEXT: usize = 4096;

/// An envelope whose shape is right, still sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// From the magic to the wrapped KEK's end.
    head: &'a [u8],
    nonce: &'a [u8; NONCE],
    /// Ciphertext and tag.
    sealed: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Whether `bytes` begin like an envelope.
    #[must_use]
    pub fn is_announced_by(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Takes it apart. Every length that can be sealed is accepted, and no other.
    ///
    /// # Errors
    /// The bytes do not begin with the magic, or a part is missing, empty or too long.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Trouble> {
        let damaged = |what: String| {
            let text = format!("the ciphertext of a local KEK is damaged: {what}; restore it from a backup of etcd");
            Trouble::new(Kind::BadCiphertext, text)
        };
        if !Self::is_announced_by(bytes) {
            return Err(damaged("it does not begin with 0xc5 0x01".to_owned()));
        }
        let Some(&[_, _, high, low]) = bytes.first_chunk::<HEADER>() else {
            return Err(damaged(format!("it ends after {} bytes, in its header", bytes.len())));
        };
        let wrapped = usize::from(u16::from_be_bytes([high, low]));
        if !(1..=MAX_WRAPPED).contains(&wrapped) {
            return Err(damaged(format!(
                "its wrapped KEK is said to have {wrapped} bytes, and has 1 to {MAX_WRAPPED}"
            )));
        }
        let parts = bytes.split_at_checked(HEADER + wrapped).and_then(|(head, rest)| {
            let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
            Some(Self { head, nonce, sealed })
        });
        let Some(envelope) = parts.filter(|it| it.sealed.len() > TAG) else {
            let least = HEADER + wrapped + NONCE + 1 + TAG;
            return Err(damaged(format!("it has {} bytes, and at least {least} by its header", bytes.len())));
        };
        let plaintext = envelope.sealed.len() - TAG;
        if plaintext > MAX_PLAINTEXT {
            return Err(damaged(format!("it seals {plaintext} bytes, and never more than {MAX_PLAINTEXT}")));
        }
        Ok(envelope)
    }

    /// The KEK as KMS has wrapped it: 1 to 800 bytes.
    #[must_use]
    pub fn wrapped_kek(&self) -> &'a [u8] {
        &self.head[HEADER..]
    }

    /// The plaintext, given the KEK.
    ///
    /// # Errors
    /// A byte of it was changed, or it was sealed with another KEK.
    pub fn open(&self, key: &Key) -> Result<Secret, Trouble> {
        key.open(self.nonce, &aad(self.head), self.sealed).ok_or_else(|| {
            let text = "the ciphertext does not open with its local KEK: it was changed after it was written; \
                        restore it from a backup of etcd";
            Trouble::new(Kind::BadCiphertext, text)
        })
    }
}

/// Seals `plaintext` with `key`, whose form wrapped by KMS is `wrapped`, and a random nonce.
///
/// # Errors
/// The plaintext or the wrapped KEK is empty or too long, or the kernel gives no random numbers.
pub(super) fn seal(key: &Key, wrapped: &[u8], plaintext: &Secret) -> Result<Vec<u8>, Trouble> {
    let mut nonce = [0; NONCE];
    fill_randomly(&mut nonce)?;
    seal_with_nonce(key, wrapped, &nonce, plaintext)
}

/// Whether `plaintext` can be sealed: 1 to 4,096 bytes, as KMS itself takes it.
///
/// # Errors
/// It cannot.
pub(super) fn check_plaintext(plaintext: &Secret) -> Result<(), Trouble> {
    match plaintext.len() {
        0 => Err(Trouble::new(Kind::BadRequest, "the plaintext is empty, and 1 to 4096 bytes are encrypted")),
        1..=MAX_PLAINTEXT => Ok(()),
        length => {
            let text = format!("the plaintext has {length} bytes, and no more than {MAX_PLAINTEXT} are encrypted");
            Err(Trouble::new(Kind::BadRequest, text))
        }
    }
}

/// Whether a wrapped KEK leaves room for a seed in a ciphertext of v2.
///
/// # Errors
/// It does not.
pub(super) fn check_wrapped(wrapped: &[u8]) -> Result<u16, Trouble> {
    match u16::try_from(wrapped.len()) {
        Ok(length @ 1..) if wrapped.len() <= MAX_WRAPPED => Ok(length),
        _ => {
            let text = format!(
                "KMS's ciphertext of the local KEK has {} bytes, and with more than {MAX_WRAPPED} (or none) what it \
                 seals would not fit into the 1024 bytes that an API server takes: use --write-format aep",
                wrapped.len()
            );
            Err(Trouble::new(Kind::BadRequest, text))
        }
    }
}

fn seal_with_nonce(key: &Key, wrapped: &[u8], nonce: &[u8; NONCE], plaintext: &Secret) -> Result<Vec<u8>, Trouble> {
    check_plaintext(plaintext)?;
    let length = check_wrapped(wrapped)?;
    let mut bytes = Vec::with_capacity(HEADER + wrapped.len() + NONCE + plaintext.len() + TAG);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(wrapped);
    let aad = aad(&bytes);
    bytes.extend_from_slice(nonce);
    key.seal(nonce, &aad, plaintext.expose(), &mut bytes)
        .map_err(|_| Trouble::new(Kind::BadRequest, "AES-GCM does not take a plaintext of this length"))?;
    Ok(bytes)
}

fn aad(head: &[u8]) -> Vec<u8> {
    [LABEL, head].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> Key {
        Key::from_secret(Secret::new((0..32).collect())).unwrap()
    }

    fn sealed(wrapped: &[u8], plaintext: &[u8]) -> Vec<u8> {
        seal(&key(), wrapped, &Secret::copy_of(plaintext)).unwrap()
    }

    fn open(bytes: &[u8]) -> Result<Vec<u8>, Trouble> {
        Ok(Envelope::parse(bytes)?.open(&key())?.expose().to_vec())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The format is a promise: a change here makes data in etcd unreadable. The expected bytes were
    /// computed with OpenSSL (Python's `cryptography`), not with this code.
    #[test]
    fn the_format_does_not_drift() {
        let nonce = std::array::from_fn(|at| 0xA0 + at as u8);
        let bytes = seal_with_nonce(&key(), b"wrapped by KMS", &nonce, &Secret::copy_of(&[0x42; 32])).unwrap();
        assert_eq!(hex(&bytes), GOLDEN);
        assert_eq!(open(&bytes).unwrap(), [0x42; 32]);
    }
    const GOLDEN: &str = "c501000e77726170706564206279204b4d53a0a1a2a3a4a5a6a7a8a9aaaba45a3e6f078940fd2027c5914538829c32ee1b52d0f5002ede4c64c43de937433a3069522b05d6e4eedc774aa7a218bd";

    #[test]
    fn a_seed_fits_into_what_an_api_server_takes() {
        assert_eq!(sealed(&[7; MAX_WRAPPED], &[1; 32]).len(), 864);
        assert!(sealed(&[7; 184], &[1; 32]).len() < 256);
        let refused = seal(&key(), &[7; MAX_WRAPPED + 1], &Secret::new(vec![1; 32])).unwrap_err();
        assert_eq!(refused.kind, Kind::BadRequest);
        assert!(refused.text.contains("has 801 bytes") && refused.text.contains("--write-format aep"), "{refused}");
        for length in [0, 65_535, 65_536, 70_000] {
            assert!(seal(&key(), &vec![7; length], &Secret::new(vec![1; 32])).is_err());
        }
    }

    #[test]
    fn plaintexts_are_as_long_as_with_kms() {
        assert_eq!(open(&sealed(b"w", &[1; MAX_PLAINTEXT])).unwrap(), [1; MAX_PLAINTEXT]);
        let long = seal(&key(), b"w", &Secret::new(vec![1; MAX_PLAINTEXT + 1])).unwrap_err();
        assert_eq!((long.kind, long.text.contains("4097 bytes")), (Kind::BadRequest, true), "{long}");
        assert_eq!(seal(&key(), b"w", &Secret::new(Vec::new())).unwrap_err().kind, Kind::BadRequest);
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(sealed(b"w", b"same"), sealed(b"w", b"same"));
    }

    #[test]
    fn what_is_damaged_is_told() {
        let said = |bytes: &[u8]| {
            let trouble = Envelope::parse(bytes).unwrap_err();
            assert_eq!(trouble.kind, Kind::BadCiphertext);
            trouble.text
        };
        assert!(said(b"").contains("begin with 0xc5 0x01"));
        assert!(said(b"\xC5\x02\0\x01").contains("begin with 0xc5 0x01"));
        assert!(said(b"\xC5\x01\0").contains("ends after 3 bytes"));
        assert!(said(b"\xC5\x01\0\0").contains("said to have 0 bytes"));
        assert!(said(b"\xC5\x01\xFF\xFF").contains("said to have 65535 bytes"));
        assert!(said(b"\xC5\x01\0\x01w").contains("has 5 bytes, and at least 34"));
        let mut long = sealed(b"w", &[1; MAX_PLAINTEXT]);
        long.push(0);
        assert!(said(&long).contains("seals 4097 bytes"));
    }

    proptest! {
        #[test]
        fn whatever_is_sealed_opens(
            wrapped in prop::collection::vec(any::<u8>(), 1..=MAX_WRAPPED),
            plaintext in prop::collection::vec(any::<u8>(), 1..=MAX_PLAINTEXT),
        ) {
            let bytes = sealed(&wrapped, &plaintext);
            prop_assert_eq!(Envelope::parse(&bytes).unwrap().wrapped_kek(), &wrapped[..]);
            prop_assert_eq!(open(&bytes).unwrap(), plaintext);
        }

        #[test]
        fn garbage_never_opens(bytes: Vec<u8>, length in 0u16..900) {
            prop_assert!(open(&bytes).is_err());
            prop_assert!(open(&[&MAGIC[..], &length.to_be_bytes(), &bytes].concat()).is_err());
        }

        #[test]
        fn parts_of_two_do_not_join(cut in 1usize..90) {
            let (one, other) = (sealed(&[1; 20], &[1; 40]), sealed(&[2; 20], &[2; 40]));
            let cut = cut.min(one.len() - 1);
            let joined = [&one[..cut], &other[cut..]].concat();
            prop_assert!(joined == one || joined == other || open(&joined).is_err());
        }
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_refused() {
        let bytes = sealed(&[7; 20], &[1; 33]);
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(open(&flipped).is_err(), "bit {at}");
        }
        for length in 0..bytes.len() {
            assert!(open(&bytes[..length]).is_err(), "cut to {length}");
            assert!(open(&bytes[bytes.len() - length..]).is_err(), "the last {length}");
        }
        assert!(open(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn another_kek_does_not_open_it() {
        let bytes = sealed(b"w", b"seed");
        let other = Key::from_secret(Secret::new(vec![9; 32])).unwrap();
        assert_eq!(Envelope::parse(&bytes).unwrap().open(&other).unwrap_err().kind, Kind::BadCiphertext);
    }
}
