//! What is to be done now: pure, over what is known and how late it is.
//!
//! ```text
//!           2/3 of the CA's life            overlap            overlap
//! signs:  S ────────────────────┬──────────────┬──────────────────┬─────────────
//!                               │ Join         │ Switch           │ Drop
//! shown:  leaf of S             │ leaf of S    │ leaf of N        │ leaf of N
//! trusted: S                    │ S, N         │ N, S             │ N
//! ```
//!
//! An overlap runs from when the API server was seen to trust all that the Secret says, by the leader's own clock
//! that nobody can set; a new leader begins it anew. So no time has to be written down, and nobody compares clocks.
//! Only whether a certificate is good is asked of the wall's clock, for that is what the API server does.

use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::time::Instant;

use super::authority::{Leaf, SKEW};
use super::certificate::{Certificate, verify};
use super::configuration::Hooks;
use super::state::State;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A new leaf of the CA that signs.
    Leaf,
    /// A new CA joins what is trusted; nothing of it is shown yet.
    Join,
    /// The CA of the Secret's leaf is made known first, and the leaf taken away until then: the API server does not
    /// know it, and what is shown until now it does.
    Rejoin,
    /// The next CA signs, and its leaf is shown.
    Switch,
    /// Earlier CAs are no longer trusted.
    Drop,
    /// A new CA and a leaf of it at once: there is nothing that works.
    Anew,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// What a leaf is for. The first is the one that the API server asks for.
    pub(super) names: Vec<String>,
    /// How long a leaf is good for, in seconds.
    pub(super) leaf: i64,
    /// How long a CA is good for, in seconds.
    pub(super) authority: i64,
    /// How long everyone is given to hear of a change.
    pub(super) overlap: Duration,
}

/// What there is for the leader to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// The API server is to trust what the Secret says.
    Tell,
    /// A step, and then that.
    Do(Step),
}

/// What the API server trusts, and since when the leader has seen it so.
#[derive(Debug)]
pub(super) struct Settled {
    trusted: Vec<Certificate>,
    signing: Option<Certificate>,
    since: Instant,
}

/// How late it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    /// By the clock that nobody sets.
    pub(super) steady: Instant,
    /// In seconds since 1970.
    pub(super) wall: i64,
}

impl Due {
    /// What it is by what the Secret says, by our webhooks as the API server has them, and by what this replica
    /// shows. `settled` is what was known before, and is brought up to now.
    pub(super) fn of(
        state: &State,
        hooks: Option<&Hooks>,
        shown: Option<&Leaf>,
        wanted: &Wanted,
        settled: &mut Option<Settled>,
        clocks: Clocks,
    ) -> Self {
        let tells = hooks.is_some_and(|hooks| hooks.trust_only(&state.trusted));
        let signing = state.signing.as_ref().map(|signing| &signing.certificate);
        let is_so = |before: &Settled| before.trusted == state.trusted && before.signing.as_ref() == signing;
        let still = settled.take().filter(is_so);
        *settled = tells.then(|| {
            still.unwrap_or_else(|| Settled {
                trusted: state.trusted.clone(),
                signing: signing.cloned(),
                since: clocks.steady,
            })
        });
        let takes = |leaf: Option<&Leaf>| match (hooks, leaf) {
            (Some(hooks), Some(leaf)) => hooks.take(&leaf.chain, clocks.wall).is_ok(),
            _ => false,
        };
        let sight = Sight {
            settled: settled.as_ref().map(|settled| clocks.steady.saturating_duration_since(settled.since)),
            takes_shown: takes(shown),
            takes_leaf: takes(state.leaf.as_ref()),
        };
        match plan(state, wanted, sight, clocks.wall) {
            Some(step) => Self::Do(step),
            None if hooks.is_some() && !tells => Self::Tell,
            None => Self::Nothing,
        }
    }
}

/// What the API server is known to make of things.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sight {
    /// For how long it has been trusting just what the Secret says, and the leaf's CA has been the same; `None`
    /// while it does not.
    pub(super) settled: Option<Duration>,
    /// Whether it takes what this replica shows.
    pub(super) takes_shown: bool,
    /// Whether it would take the Secret's leaf.
    pub(super) takes_leaf: bool,
}

/// What is to be done now, if anything.
pub(super) fn plan(state: &State, wanted: &Wanted, sight: Sight, now: i64) -> Option<Step> {
    let settled = sight.settled.is_some_and(|settled| settled >= wanted.overlap);
    let signing = state.signing.as_ref().map(|signing| &signing.certificate).filter(|signing| signing.is_valid(now));
    let next = state.next.as_ref().map(|next| &next.certificate).filter(|next| next.is_valid(now));
    let leaf = state.leaf.as_ref().filter(|leaf| {
        wanted.names.iter().all(|name| {
            ServerName::try_from(name.as_str())
                .is_ok_and(|name| verify(&leaf.chain, &state.trusted, &name, now).is_ok())
        })
    });
    let Some(leaf) = leaf else {
        // While something else works, it is not given up before the API server knows what comes.
        return match (signing, next, sight.takes_shown) {
            (Some(_), _, _) => Some(Step::Leaf),
            (None, Some(_), true) => settled.then_some(Step::Switch),
            (None, Some(_), false) => Some(Step::Switch),
            (None, None, true) => Some(Step::Join),
            (None, None, false) => Some(Step::Anew),
        };
    };
    if sight.takes_shown && !sight.takes_leaf && signing.is_some() {
        return Some(Step::Rejoin);
    }
    if next.is_some() && settled {
        return Some(Step::Switch);
    }
    let signed_by = |signing: &&Certificate| {
        let only = [(*signing).clone()];
        wanted
            .names
            .first()
            .and_then(|name| ServerName::try_from(name.as_str()).ok())
            .is_some_and(|name| verify(&leaf.chain, &only, &name, now).is_ok())
    };
    if next.is_none() {
        let alone = signing.filter(signed_by).filter(|_| settled);
        if alone.is_some_and(|signing| state.trusted.iter().any(|trusted| trusted != signing)) {
            return Some(Step::Drop);
        }
        if signing.is_none_or(|signing| is_due(signing, wanted.authority, now)) {
            return Some(Step::Join);
        }
    }
    // One that ends with its CA gains nothing from being made again.
    let gains = signing.is_some_and(|signing| signing.ends > leaf.certificate().ends);
    (gains && is_due(leaf.certificate(), wanted.leaf, now)).then_some(Step::Leaf)
}

/// Whether a certificate has lived about two thirds of its life, or of the one that is wanted now.
fn is_due(certificate: &Certificate, wanted: i64, now: i64) -> bool {
    let made = certificate.begins.saturating_add(SKEW);
    let life = certificate.ends.saturating_sub(made).min(wanted).max(0);
    // Many that are made at once are not to be renewed at once. The signature's last byte is chance, and the same
    // for whoever looks.
    let chance = i64::from(certificate.der.last().copied().unwrap_or(0));
    let early = (life / 20).saturating_mul(chance) / 255;
    now >= made.saturating_add(life / 3 * 2 + life % 3 * 2 / 3).saturating_sub(early)
}

#[cfg(test)]
mod tests;
