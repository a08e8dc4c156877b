//! What the notifier counts.

use std::fmt;

use coffer::push::PushHandle;
use coffer_runtime::telemetry::{Calls, Described, Listed, Readings, listed};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::lease::Standing;

/// What is counted; a clone counts on the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    /// Changes that stand, or stood, in the object.
    pub(super) changes: Counter,
    /// Times that the object was written.
    pub(super) writes: Counter,
    /// Times that it could not be.
    pub(super) failures: Counter,
}

pub(super) const PREFIX: &str = "coffer";

const LEADER: Described =
    Described::gauge("notifier_leader", &[], "Whether this process holds the lease and reads the queue");
const CHANGES: Described = Described::counter("notifier_changes", &[], "Changes that were told to the nodes");
const WRITES: Described =
    Described::counter("notifier_writes", &[], "Times that the object with the changes was written");
const FAILURES: Described =
    Described::counter("notifier_failures", &[], "Times that the object with the changes could not be read or written");

/// Every family that a notifier may show; those of the queue while it leads.
#[must_use]
pub fn families() -> Vec<Listed> {
    let own: [&Described; 4] = [&LEADER, &CHANGES, &WRITES, &FAILURES];
    listed(PREFIX, &[&[&Described::BUILD][..], &Calls::FAMILIES[..], &own, &PushHandle::FAMILIES].concat())
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry, standing: watch::Receiver<Standing>, queue: PushHandle) {
        CHANGES.register(registry, self.changes.clone());
        WRITES.register(registry, self.writes.clone());
        FAILURES.register(registry, self.failures.clone());
        registry.register_collector(Box::new(Leadership { standing, queue }));
    }
}

/// Who leads; and of the queue, what the leader knows: another one does not read it.
#[derive(Debug)]
struct Leadership {
    standing: watch::Receiver<Standing>,
    queue: PushHandle,
}

impl Collector for Leadership {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let leads = self.standing.borrow().leads();
        Readings::new(&mut encoder).gauge(&LEADER, f64::from(u8::from(leads)))?;
        if leads { self.queue.encode(encoder) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_the_leaders() {
        let metrics = Metrics::default();
        let (standing, seen) = watch::channel(Standing::StandingBy);
        let mut registry = Registry::with_prefix("coffer");
        metrics.register(&mut registry, seen, PushHandle::new("https://q"));
        let scrape = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let text = scrape();
        assert!(text.contains("coffer_notifier_leader 0.0\n") && !text.contains("coffer_push"), "{text}");
        standing.send_replace(Standing::Leading);
        metrics.changes.inc_by(2);
        let text = scrape();
        for line in ["coffer_notifier_leader 1.0", "coffer_push_up 0.0", "coffer_notifier_changes_total 2"] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
    }
}
