//! Where the rendered text goes.

use std::io;

use coffer_runtime::Secret;
use zeroize::Zeroize;

/// Collects text up to a bound. Memory that it grows out of is wiped, as is what it holds when dropped.
pub(super) struct Sink {
    bytes: Vec<u8>,
    most: usize,
    full: bool,
}

impl Sink {
    /// A sink that refuses more than `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { bytes: Vec::new(), most, full: false }
    }

    /// Whether more was written than there is room for.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// What was written.
    pub(super) fn into_secret(mut self) -> Secret {
        Secret::new(std::mem::take(&mut self.bytes))
    }
}

impl io::Write for Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len() + piece.len();
        if length > self.most {
            self.full = true;
            return Err(io::ErrorKind::StorageFull.into());
        }
        if length > self.bytes.capacity() {
            let mut larger = Vec::with_capacity(length.max(2 * self.bytes.capacity()).max(256));
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}
