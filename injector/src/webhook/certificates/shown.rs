//! What one replica shows, and whether that is good.
//!
//! A replica shows what the Secret, or the files, hold; unless the API server is seen not to take it and to take
//! what is shown until now.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::Certificates;
use super::authority::Leaf;
use super::configuration::Hooks;

/// What is shown, and those who are told of it.
pub(super) struct Shown {
    leaf: Option<Leaf>,
    current: watch::Sender<Option<Arc<CertifiedKey>>>,
    ready: watch::Sender<Result<(), String>>,
    renewal: watch::Sender<Result<(), String>>,
    ends: watch::Sender<Option<i64>>,
}

impl Shown {
    pub(super) fn new(why_not: &str) -> (Self, Certificates) {
        let (current, current_receiver) = watch::channel(None);
        let (ready, ready_receiver) = watch::channel(Err(why_not.to_owned()));
        let (renewal, renewal_receiver) = watch::channel(Ok(()));
        let (ends, ends_receiver) = watch::channel(None);
        let told = Certificates {
            current: current_receiver,
            ready: ready_receiver,
            renewal: renewal_receiver,
            ends: ends_receiver,
        };
        (Self { leaf: None, current, ready, renewal, ends }, told)
    }

    pub(super) fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    /// Offers what is to be shown.
    pub(super) fn offer(&mut self, leaf: Option<&Leaf>, hooks: Option<&Hooks>, now: i64) {
        let Some(leaf) = leaf else { return };
        let takes = |leaf: &Leaf| match hooks {
            Some(hooks) => hooks.take(&leaf.chain, now).is_ok(),
            None => leaf.certificate().is_valid(now),
        };
        if !is_better(leaf, self.leaf.as_ref(), takes) {
            return;
        }
        tracing::info!(ends = leaf.certificate().ends, "another certificate is shown");
        self.current.send_replace(Some(Arc::clone(&leaf.certified)));
        self.ends.send_replace(Some(leaf.certificate().ends));
        self.leaf = Some(leaf.clone());
    }

    /// Tells how it stands.
    pub(super) fn stands(&self, standing: Result<(), String>) {
        self.ready.send_if_modified(|ready| {
            let news = *ready != standing;
            if news {
                match &standing {
                    Ok(()) => tracing::info!("the certificate is valid and known to the API server"),
                    Err(why) => tracing::warn!("not ready: {why}"),
                }
                *ready = standing;
            }
            news
        });
    }

    /// Tells whether anything is in the way of the next certificate.
    pub(super) fn renews(&self, renewal: Result<(), String>) {
        self.renewal.send_if_modified(|before| {
            let news = *before != renewal;
            match (&*before, &renewal) {
                // Its words may change with each attempt.
                (Ok(()), Err(why)) => tracing::warn!("the certificate is not renewed at the moment: {why}"),
                (Err(_), Ok(())) => tracing::info!("nothing keeps the certificate from being renewed any more"),
                _ => {}
            }
            *before = renewal;
            news
        });
    }

    /// Until nobody listens any longer.
    pub(super) fn listeners_gone(&self) -> impl Future<Output = ()> + use<> {
        let (current, ready, ends) = (self.current.clone(), self.ready.clone(), self.ends.clone());
        let renewal = self.renewal.clone();
        async move {
            current.closed().await;
            ready.closed().await;
            renewal.closed().await;
            ends.closed().await;
        }
    }
}

/// Whether `offered` is to be shown in place of `shown`, by which of them the API server `takes`.
pub(super) fn is_better(offered: &Leaf, shown: Option<&Leaf>, takes: impl Fn(&Leaf) -> bool) -> bool {
    let Some(shown) = shown else { return true };
    shown.chain != offered.chain && (takes(offered) || !takes(shown))
}
