//! How often applications were told, for metrics.

use std::path::Path;

use coffer_runtime::telemetry::Described;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counts the attempts of all volumes' actions. The labels are those of the configuration: there
/// are two series for each action.
#[derive(Clone, Debug, Default)]
pub struct NotifyCounters(Family<Labels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    volume: String,
    action: String,
    result: &'static str,
}

const NOTIFICATIONS: Described = Described::counter(
    "notifications",
    &["volume", "action", "result"],
    "Attempts to tell an application that a set was replaced",
);
const RESULTS: [&str; 2] = ["ok", "failed"];

impl NotifyCounters {
    /// Their families.
    pub const FAMILIES: [&Described; 1] = [&NOTIFICATIONS];

    /// Shows the counters as `notifications`.
    pub fn register(&self, registry: &mut Registry) {
        NOTIFICATIONS.register(registry, self.0.clone());
    }

    /// Shows an action from zero on: an alert has to see the first failure as a rise.
    pub(super) fn add(&self, volume: &Path, action: &str) {
        for result in RESULTS {
            drop(self.0.get_or_create(&labels(volume, action, result)));
        }
    }

    /// An attempt has ended.
    pub(super) fn count(&self, volume: &Path, action: &str, ok: bool) {
        self.0.get_or_create(&labels(volume, action, RESULTS[usize::from(!ok)])).inc();
    }

    /// Forgets an action whose volume is gone: a process that serves volumes for a while each would
    /// otherwise show ever more.
    pub(super) fn remove(&self, volume: &Path, action: &str) {
        for result in RESULTS {
            self.0.remove(&labels(volume, action, result));
        }
    }
}

fn labels(volume: &Path, action: &str, result: &'static str) -> Labels {
    Labels { volume: volume.display().to_string(), action: action.to_owned(), result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_has_two_series_from_zero_until_its_volume_is_gone() {
        let counters = NotifyCounters::default();
        let mut registry = Registry::with_prefix("coffer");
        counters.register(&mut registry);
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        counters.add(Path::new("/v"), "touch /a");
        counters.count(Path::new("/v"), "touch /a", false);
        let text = shown();
        assert!(
            text.contains("coffer_notifications_total{volume=\"/v\",action=\"touch /a\",result=\"ok\"} 0\n"),
            "{text}"
        );
        assert!(text.contains("{volume=\"/v\",action=\"touch /a\",result=\"failed\"} 1\n"), "{text}");
        counters.remove(Path::new("/v"), "touch /a");
        assert!(!shown().contains("touch"), "{}", shown());
    }
}
