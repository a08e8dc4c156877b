//! Keyed digests: enough to notice a change, nothing to learn a value from.

use std::fmt;

use coffer_runtime::Secret;
use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;

/// The key of a process's digests. It lives as long as the process, so a digest tells nothing to
/// anyone who finds it elsewhere: not even that two secrets are equal.
#[derive(Debug)]
pub(crate) struct Key(Secret);

/// HMAC-SHA256 of some bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Key {
    /// Draws a key.
    pub(crate) fn random() -> rustix::io::Result<Self> {
        let mut key = vec![0; 32];
        // getrandom(2): a request of up to 256 bytes is always answered in full.
        getrandom(key.as_mut_slice(), GetRandomFlags::empty())?;
        Ok(Self(Secret::new(key)))
    }

    /// The digest of `pieces`, which are told apart: `["ab", "c"]` differs from `["a", "bc"]`.
    pub(crate) fn digest<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Digest {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose()).expect("HMAC takes a key of any length");
        for piece in pieces {
            mac.update(&(piece.len() as u64).to_le_bytes());
            mac.update(piece);
        }
        Digest(mac.finalize().into_bytes().into())
    }
}

impl Digest {
    /// Its bytes, to make a digest of digests.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn tells_pieces_apart_and_is_keyed() {
        let key = Key::random().unwrap();
        let digest = |pieces: &[&str]| key.digest(pieces.iter().map(|piece| piece.as_bytes()));
        assert_eq!(digest(&["ab", "c"]), digest(&["ab", "c"]));
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["a"]), Key::random().unwrap().digest([b"a".as_slice()]));
    }
}
