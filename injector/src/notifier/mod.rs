//! Reads the queue of events for all nodes: one elected process hears what changed in AWS and writes it into
//! the object that the nodes follow (see [`rotations`](crate::rotations)).
//!
//! ```text
//! SQS ──► the leader of a Lease ──► ConfigMap; then, and only then, the message is deleted
//! ```
//!
//! Whatever happens in between, a crash, an API server that is away, a lease that is lost, the message comes
//! again and the next one writes it. It knows no secret and fetches none: a role that may read the queue is
//! all that it needs in AWS.

mod announcer;
mod metrics;

use std::sync::Arc;
use std::time::Duration;

use coffer::push::{self, PushHandle};
use coffer::spec::PushSpec;
use coffer_runtime::VERSION;
use coffer_runtime::aws::{Aws, Credentials};
use coffer_runtime::telemetry::{Calls, Described, Readiness};
use kube::Client;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::announcer::Announcer;
pub use self::metrics::families;
use self::metrics::{Metrics, PREFIX};
use crate::kubernetes::KubernetesError;
use crate::lease::{Candidate, Standing};

/// How long what is under way at the end may take.
const DRAIN: Duration = Duration::from_secs(3);
/// How long the deletion of what was written may take at the end. What is not deleted is told once more.
const DELETION: Duration = Duration::from_millis(300);

/// The queue, and as whom it is read.
pub struct Events {
    /// Which queue.
    pub queue: PushSpec,
    /// How AWS is asked.
    pub aws: Aws,
    /// Where, if the queue's URL does not say.
    pub region: String,
    /// As whom.
    pub credentials: Credentials,
    /// Who counts the calls.
    pub calls: Calls,
}

/// The names of the two objects in the notifier's namespace.
#[derive(Clone, Debug)]
pub struct Objects {
    /// The namespace.
    pub namespace: String,
    /// The ConfigMap that the nodes follow.
    pub rotations: String,
    /// The Lease that is held by the one who reads the queue.
    pub lease: String,
}

/// One of the processes of which one reads the queue.
pub struct Notifier {
    events: Events,
    status: PushHandle,
    candidate: Candidate,
    announcer: Announcer,
    metrics: Metrics,
}

impl Notifier {
    /// Nothing is asked yet. `name` is what the lease shows of its holder: the pod's name.
    ///
    /// # Errors
    /// When one of the objects, or the namespace, cannot be called so.
    pub fn new(client: Client, objects: &Objects, name: &str, events: Events) -> Result<Self, KubernetesError> {
        let metrics = Metrics::default();
        let candidate = Candidate::new(client.clone(), &objects.namespace, &objects.lease, name)?;
        let announcer = Announcer::new(client, &objects.namespace, &objects.rotations, metrics.clone())?;
        let status = PushHandle::new(events.queue.queue.as_str());
        Ok(Self { events, status, candidate, announcer, metrics })
    }

    /// Its metrics.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        Described::BUILD.register(&mut registry, Info::new([("version", VERSION)]));
        self.events.calls.register(&mut registry);
        self.metrics.register(&mut registry, self.candidate.standing(), self.status.clone());
        registry
    }

    /// Whether it does its part: it leads, or sees who does. The queue is another matter, told in the metrics
    /// and the log: a restart would not mend it.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let standing = self.candidate.standing();
        Arc::new(move || match &*standing.borrow() {
            Standing::Leading | Standing::StandingBy => Ok(()),
            Standing::Starting => Err("the lease has not been seen yet".to_owned()),
            Standing::Failing(error) => Err(error.to_string()),
        })
    }

    /// Reads the queue whenever it leads, until `shutdown` says true; then it ends what is under way and gives
    /// the lease back.
    pub async fn run(&self, shutdown: watch::Receiver<bool>) {
        let ending = ended(shutdown.clone());
        self.candidate.lead(ending, || self.read(shutdown.clone())).await;
    }

    /// Reads the queue until `shutdown`, or until it is dropped.
    async fn read(&self, shutdown: watch::Receiver<bool>) {
        let Events { queue, aws, region, credentials, calls } = &self.events;
        self.announcer.forget();
        let calls = Arc::new(calls.clone());
        let changed = |changes| self.announcer.announce(changes);
        let listening =
            push::listen(queue.clone(), aws.clone(), region, credentials.clone(), calls, self.status.clone(), changed);
        let drained = async {
            ended(shutdown).await;
            if self.announcer.is_busy() {
                let _ = timeout(DRAIN, self.announcer.idle()).await;
                sleep(DELETION).await;
            }
        };
        tokio::select! {
            never = listening => match never {},
            () = drained => {}
        }
    }
}

/// Waits until it says true, or nobody is there to say so any more.
async fn ended(mut shutdown: watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|end| *end).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_can_be_a_task_of_its_own() {
        fn spawnable<T: Send>(_: &T) {}
        let _ = |notifier: &'static Notifier, shutdown| spawnable(&notifier.run(shutdown));
    }
}
