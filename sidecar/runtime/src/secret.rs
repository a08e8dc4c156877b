//! Memory that holds a secret value.

use std::fmt;

use zeroize::Zeroize;

/// The bytes of one secret value.
///
/// It cannot be printed, cloned, compared or serialised, and it is wiped when dropped. The one
/// way to the bytes is [`Secret::expose`], so every place that handles a value can be found by
/// searching for that word.
///
/// What this does not cover: the SDK's reply structures, its HTTP and TLS buffers, and the JSON
/// tree built while a field is selected hold copies for the length of a fetch; those libraries
/// do not wipe them.
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes ownership of `bytes`. The allocation is reused where it has no spare capacity;
    /// otherwise the bytes move to one of the right size and the old one is wiped.
    #[must_use]
    pub fn new(mut bytes: Vec<u8>) -> Self {
        if bytes.len() == bytes.capacity() {
            return Self(bytes.into_boxed_slice());
        }
        let exact = Self::copy_of(&bytes);
        bytes.zeroize();
        exact
    }

    /// Copies `bytes` into memory of its own. The caller stays responsible for the original.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes. A length is not treated as secret: it shows in file sizes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the value has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn debug_never_shows_the_value() {
        let shown = format!("{:?} {:#?}", Secret::copy_of(b"hunter2"), Secret::from("hunter2".to_owned()));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn keeps_every_byte_whatever_the_spare_capacity() {
        let mut roomy = Vec::with_capacity(64);
        roomy.extend_from_slice(b"a\0\xffb");
        assert_eq!(Secret::new(roomy).expose(), b"a\0\xffb");
        assert_eq!(Secret::new(b"ab".to_vec()).expose(), b"ab");
        assert!(Secret::new(Vec::new()).is_empty());
    }
}
