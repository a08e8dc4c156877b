//! Local KEKs: a key of our own, wrapped by KMS, seals many DEKs or seeds.

mod envelope;
mod key;

pub use envelope::Envelope;
pub use key::Key;
