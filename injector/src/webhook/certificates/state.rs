//! What the Secret says, and what it says after a step.
//!
//! | key | holds |
//! |---|---|
//! | `ca.crt` | everything that is trusted now: this is what goes into `caBundle` |
//! | `ca.key` | the key of the CA that signs; its certificate is in `ca.crt` |
//! | `tls.crt`, `tls.key` | the leaf that is shown; empty while there is none that the API server could know |
//! | `next.key` | the key of the CA that signs next, while the API server learns of it; its certificate is in `ca.crt` |
//!
//! A CA in `ca.crt` that has no key here is an earlier one, which leaves it soon. Each step is one update of the
//! Secret, so whoever leads next finds either all of it or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use zeroize::Zeroizing;

use super::authority::{Authority, Leaf};
use super::certificate::Certificate;
use super::plan::{Step, Wanted};

pub(super) const TRUSTED: &str = "ca.crt";
const SIGNING_KEY: &str = "ca.key";
const NEXT_KEY: &str = "next.key";
const LEAF: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";

/// What the Secret says.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Everything that is trusted, the CA that signs first.
    pub(super) trusted: Vec<Certificate>,
    /// The CA that signs.
    pub(super) signing: Option<Authority>,
    /// The one that signs next.
    pub(super) next: Option<Authority>,
    /// What is shown.
    pub(super) leaf: Option<Leaf>,
}

/// The Secret as it was read last: to parse its keys takes a while, and most looks are at the same.
#[derive(Default)]
pub(super) struct Reading {
    of: Option<Arc<Secret>>,
    state: State,
}

impl Reading {
    /// What the Secret says; parsed anew for another one only. [`follow`](crate::kubernetes::follow) gives another for
    /// each version.
    pub(super) fn of(&mut self, secret: Option<Arc<Secret>>) -> &State {
        let same = match (&self.of, &secret) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if !same {
            let data = secret.as_ref().and_then(|secret| secret.data.as_ref());
            self.state = data.map(State::read).unwrap_or_default().0;
            self.of = secret;
        }
        &self.state
    }
}

impl State {
    /// Reads the Secret's data: what can be used of it, and what is wrong with the rest.
    pub(super) fn read(data: &BTreeMap<String, ByteString>) -> (Self, Vec<String>) {
        let mut faults = Vec::new();
        let get = |key: &str| data.get(key).map(|value| value.0.as_slice()).filter(|value| !value.is_empty());
        let trusted = get(TRUSTED).map(Certificate::read_pem).unwrap_or_else(|| Ok(Vec::new()));
        let trusted = trusted.unwrap_or_else(|why| {
            faults.push(format!("`{TRUSTED}`: {why}"));
            Vec::new()
        });
        let mut authority = |key: &str| {
            let read = get(key).map(|pem| Authority::read(pem, &trusted))?;
            read.map_err(|why| faults.push(format!("`{key}`: {why}"))).ok()
        };
        let (signing, next) = (authority(SIGNING_KEY), authority(NEXT_KEY));
        let leaf = match (get(LEAF), get(LEAF_KEY)) {
            (None, None) => None,
            (chain, key) => Leaf::read(chain.unwrap_or_default(), key.unwrap_or_default())
                .map_err(|why| faults.push(format!("`{LEAF}`, `{LEAF_KEY}`: {why}")))
                .ok(),
        };
        (Self { trusted, signing, next, leaf }, faults)
    }

    /// Puts it into the Secret's data, beside what others may keep there.
    pub(super) fn write(&self, data: &mut BTreeMap<String, ByteString>) {
        let key_of = |authority: &Option<Authority>| authority.as_ref().map(|authority| authority.key_pem());
        let leaf = self.leaf.as_ref();
        // A Secret of the type kubernetes.io/tls has to have the last two.
        for (key, text) in [
            (TRUSTED, Some(Zeroizing::new(self.bundle()))),
            (SIGNING_KEY, key_of(&self.signing)),
            (NEXT_KEY, key_of(&self.next)),
            (LEAF, Some(Zeroizing::new(leaf.map(Leaf::chain_pem).unwrap_or_default()))),
            (LEAF_KEY, Some(leaf.map(|leaf| leaf.key_pem.clone()).unwrap_or_default())),
        ] {
            match text {
                Some(text) => data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec())),
                None => data.remove(key),
            };
        }
    }

    /// Everything that is trusted, as `caBundle` has it before its own Base64.
    pub(super) fn bundle(&self) -> String {
        self.trusted.iter().map(Certificate::pem).collect()
    }

    /// What it is after a step.
    ///
    /// `known` is what the API server trusts beyond it and the step is to keep.
    pub(super) fn after(self, step: Step, wanted: &Wanted, known: &[Certificate], now: i64) -> Result<Self, String> {
        let Self { mut trusted, signing, next, leaf } = self;
        let keep = |trusted: &mut Vec<Certificate>| {
            let news: Vec<_> = known.iter().filter(|known| !trusted.contains(known)).cloned().collect();
            trusted.extend(news);
        };
        let sign = |authority: Option<&Authority>| match authority {
            Some(authority) => authority.leaf(&wanted.names, now, wanted.leaf),
            None => Err("there is no CA to sign with".to_owned()),
        };
        let mut state = match step {
            Step::Leaf => {
                let leaf = Some(sign(signing.as_ref())?);
                Self { trusted, signing, next, leaf }
            }
            Step::Join => {
                keep(&mut trusted);
                let made = Authority::make(now, wanted.authority)?;
                trusted.push(made.certificate.clone());
                Self { trusted, signing, next: Some(made), leaf }
            }
            Step::Rejoin => {
                keep(&mut trusted);
                Self { trusted, signing: None, next: signing, leaf: None }
            }
            Step::Switch => {
                let leaf = Some(sign(next.as_ref())?);
                Self { trusted, signing: next, next: None, leaf }
            }
            Step::Drop => {
                trusted.retain(|one| signing.as_ref().is_some_and(|signing| signing.certificate == *one));
                Self { trusted, signing, next, leaf }
            }
            Step::Anew => {
                keep(&mut trusted);
                let made = Authority::make(now, wanted.authority)?;
                let leaf = Some(sign(Some(&made))?);
                trusted.push(made.certificate.clone());
                Self { trusted, signing: Some(made), next: None, leaf }
            }
        };
        state.trusted.retain(|one| one.is_valid(now));
        let good = |authority: &Authority| authority.certificate.is_valid(now);
        state.signing = state.signing.filter(good);
        state.next = state.next.filter(good);
        let signing = state.signing.as_ref().map(|signing| &signing.certificate);
        state.trusted.sort_by_key(|one| signing != Some(one));
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_parsed_anew_when_it_is_another() {
        let wanted = Wanted {
            names: vec!["a.b.svc".to_owned()],
            leaf: 100,
            authority: 1000,
            overlap: std::time::Duration::ZERO,
        };
        let state = State::default().after(Step::Anew, &wanted, &[], 1_800_000_000).unwrap();
        let mut data = BTreeMap::new();
        state.write(&mut data);
        let secret = Arc::new(Secret { data: Some(data), ..Secret::default() });
        let mut reading = Reading::default();
        assert!(reading.of(None).leaf.is_none());
        let certified = |reading: &mut Reading, secret: &Arc<Secret>| {
            Arc::clone(&reading.of(Some(Arc::clone(secret))).leaf.as_ref().unwrap().certified)
        };
        let first = certified(&mut reading, &secret);
        assert!(Arc::ptr_eq(&first, &certified(&mut reading, &secret)));
        let other = Arc::new(Secret::clone(&secret));
        assert!(!Arc::ptr_eq(&first, &certified(&mut reading, &other)));
        assert!(reading.of(None).leaf.is_none(), "it is gone");
    }
}
