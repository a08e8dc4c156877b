//! How much and how long a KEK may be used.

use std::num::NonZeroUsize;
use std::time::Duration;

/// The bounds of local KEKs. [`Limits::default`] is what the flags default to.
///
/// Nonces are random, 96 bits long, so two of `n` are the same with a chance of about n²/2⁹⁷, and one
/// pair that is would give away both plaintexts and the means to forge. NIST SP 800-38D (8.3) allows
/// 2³² uses of a key with such nonces, which keeps the chance below 2⁻³² (8). With the default of 2²⁰
/// uses it is 2⁻⁵⁷ for a KEK; a cluster that used up a KEK every day for a thousand years would be at
/// 2⁻³⁸ over all of them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Encryptions under one KEK: 1 to 2³². The next KEK is made from about 80 % of them on.
    pub max_uses: u64,
    /// How long one KEK encrypts: a second at least. The next is made from about 80 % of it on. It
    /// goes on decrypting for as long as KMS unwraps it.
    pub max_age: Duration,
    /// How often KMS has to unwrap a KEK that is in use anew: a second at least. For one that is not
    /// used, KMS is asked when it is used again.
    pub revalidate: Duration,
    /// How long a KEK serves since KMS last unwrapped it, while KMS cannot be reached: `revalidate`
    /// at least.
    pub max_unverified: Duration,
    /// KEKs in memory. Beyond it, the one that was not used for longest leaves.
    pub held: NonZeroUsize,
}

/// A limit out of its range. The text names the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLimits {
    /// `max_uses` is 0 or beyond what NIST allows.
    #[error("--local-kek-max-uses {0}: give 1 to 4294967296 (2^32, the most that NIST SP 800-38D allows)")]
    MaxUses(u64),
    /// `max_age` is below a second.
    #[error("--local-kek-max-age {0:?}: give 1s or more")]
    MaxAge(Duration),
    /// `revalidate` is below a second.
    #[error("--local-kek-revalidate {0:?}: give 1s or more")]
    Revalidate(Duration),
    /// `max_unverified` is shorter than `revalidate`, so that every KEK would be gone before its time.
    #[error("--local-kek-max-unverified {given:?}: give {least:?} or more, as --local-kek-revalidate is")]
    MaxUnverified {
        /// What was given.
        given: Duration,
        /// `revalidate`.
        least: Duration,
    },
}

impl Limits {
    /// Whether every limit is in its range.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), InvalidLimits> {
        let second = Duration::from_secs(1);
        if !(1..=1 << 32).contains(&self.max_uses) {
            return Err(InvalidLimits::MaxUses(self.max_uses));
        }
        if self.max_age < second {
            return Err(InvalidLimits::MaxAge(self.max_age));
        }
        if self.revalidate < second {
            return Err(InvalidLimits::Revalidate(self.revalidate));
        }
        if self.max_unverified < self.revalidate {
            return Err(InvalidLimits::MaxUnverified { given: self.max_unverified, least: self.revalidate });
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_uses: 1 << 20,
            max_age: Duration::from_secs(24 * 3600),
            revalidate: Duration::from_secs(5 * 60),
            max_unverified: Duration::from_secs(3600),
            held: const { NonZeroUsize::new(256).unwrap() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_range_and_what_is_not_is_named() {
        let said = |limits: Limits| limits.check().map_err(|error| error.to_string());
        assert_eq!(said(Limits::default()), Ok(()));
        assert!(said(Limits { max_uses: 0, ..Limits::default() }).unwrap_err().starts_with("--local-kek-max-uses 0: "));
        assert!(said(Limits { max_uses: (1 << 32) + 1, ..Limits::default() }).is_err());
        assert!(said(Limits { max_age: Duration::ZERO, ..Limits::default() }).unwrap_err().contains("max-age 0ns"));
        let short = Limits { revalidate: Duration::from_millis(999), ..Limits::default() };
        assert!(said(short).unwrap_err().contains("revalidate 999ms"));
        let short = Limits { max_unverified: Duration::from_secs(60), ..Limits::default() };
        assert_eq!(
            said(short).unwrap_err(),
            "--local-kek-max-unverified 60s: give 300s or more, as --local-kek-revalidate is"
        );
    }
}
