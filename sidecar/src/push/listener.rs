//! The loop: read the queue, hand changes on, delete, read again; and bear everything.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coffer_runtime::aws::{Aws, AwsError, CallObserver, Credentials};
use tokio::time::{Instant, sleep};

use super::change::Change;
use super::event::parse;
use super::explain::why;
use super::queue::{BATCH_MAX, Message, Queue};
use super::status::PushHandle;
use crate::spec::PushSpec;

/// The longest that SQS lets a read wait for a message (ReceiveMessage, `WaitTimeSeconds`).
const LONG_POLL: Duration = Duration::from_secs(20);
/// A long poll that brings nothing sooner than this was not waited for; asking on at once would
/// spin.
const SHORTEST_POLL: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// What comes within so long of a message is handed on with it: a rotation is told of several times,
/// and many are often made at once.
const GATHER: Duration = Duration::from_millis(50);
/// The most messages that are handed on at once.
const GATHER_MAX: usize = 100;
/// Ids of messages that were handed on and not deleted, so that they are not handed on again each
/// time they come back.
const UNDELETED_MAX: usize = 1000;
/// How long after a failed deletion a read alone is no sign of health: what could not be deleted
/// comes back within 30 s.
const DELETION_IN_DOUBT: Duration = Duration::from_secs(90);

/// What was handed on could not be kept. Its messages stay in the queue, and come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotKept;

/// Reads the queue for ever and hands on what it tells, at least once and nearly without delay.
///
/// `region` is where a queue is whose region `spec` does not say. `changed` is given the changes of
/// up to a hundred messages at once, each but once; a message is deleted only after the future of
/// `changed` has said that they are kept, so this future may be dropped at any point and nothing is
/// lost. While it is waited for, nothing is read; after 30 s SQS gives the messages to other readers
/// again. A queue that cannot be read is retried after 1 s to 60 s and told in `status` and the log;
/// nothing ends this.
pub async fn listen<Kept>(
    spec: PushSpec,
    aws: Aws,
    region: &str,
    credentials: Credentials,
    calls: Arc<dyn CallObserver>,
    status: PushHandle,
    changed: impl Fn(Vec<Change>) -> Kept,
) -> Infallible
where
    Kept: Future<Output = Result<(), NotKept>>,
{
    let arn = spec.queue_arn(region);
    let region = spec.region.as_deref().unwrap_or(region);
    let queue = Queue::new(&aws, region, spec.queue.as_str(), credentials, calls);
    let mut listener = Listener { queue, status, undeleted: VecDeque::new(), deletion_failed: None };
    let mut failures = 0_u32;
    // The first read after a start or a failure does not wait, so that the state is soon known.
    let mut wait = Duration::ZERO;
    loop {
        match listener.turn(wait, &changed).await {
            Ok(()) => {
                failures = 0;
                wait = LONG_POLL;
                listener.went_well();
            }
            Err(Trouble::NotKept) => {
                failures = failures.saturating_add(1);
                wait = LONG_POLL;
                // What is read is not kept for now, but the queue itself is well.
                listener.went_well();
                sleep(backoff(failures, fastrand::f64())).await;
            }
            Err(Trouble::Aws(error)) => {
                failures = failures.saturating_add(1);
                wait = Duration::ZERO;
                listener.went_wrong(&error, region, &arn);
                sleep(backoff(failures, fastrand::f64())).await;
            }
        }
    }
}

/// Why a turn did not end well.
enum Trouble {
    /// The queue could not be read, or what was read not be deleted.
    Aws(AwsError),
    /// What was handed on was not kept.
    NotKept,
}

struct Listener {
    queue: Queue,
    status: PushHandle,
    undeleted: VecDeque<String>,
    deletion_failed: Option<Instant>,
}

impl Listener {
    async fn turn<Kept>(&mut self, wait: Duration, changed: &impl Fn(Vec<Change>) -> Kept) -> Result<(), Trouble>
    where
        Kept: Future<Output = Result<(), NotKept>>,
    {
        let asked = Instant::now();
        let mut messages = self.queue.receive(wait).await.map_err(Trouble::Aws)?;
        if messages.is_empty() {
            if !wait.is_zero() && asked.elapsed() < SHORTEST_POLL {
                sleep(SHORTEST_POLL).await;
            }
            return Ok(());
        }
        let gathered = self.gather(&mut messages).await;
        let changes = self.read(&messages);
        if !changes.is_empty() {
            changed(changes).await.map_err(|NotKept| Trouble::NotKept)?;
        }
        self.delete(&messages).await.and(gathered).map_err(Trouble::Aws)
    }

    /// Adds what else is in the queue, now or in a moment.
    async fn gather(&self, messages: &mut Vec<Message>) -> Result<(), AwsError> {
        sleep(GATHER).await;
        while messages.len() + BATCH_MAX <= GATHER_MAX {
            let more = self.queue.receive(Duration::ZERO).await?;
            if more.is_empty() {
                break;
            }
            messages.extend(more);
        }
        Ok(())
    }

    /// The changes that messages tell of, each once.
    fn read(&self, messages: &[Message]) -> Vec<Change> {
        let mut changes = Vec::new();
        for message in messages.iter().filter(|message| !self.undeleted.contains(&message.id)) {
            match parse(&message.body) {
                Ok(told) if told.is_empty() => self.status.ignored(),
                Ok(told) => {
                    self.status.event();
                    for change in told {
                        if !changes.contains(&change) {
                            changes.push(change);
                        }
                    }
                }
                Err(reason) => {
                    let (id, reason) = (&message.id, reason.to_string());
                    if self.status.rejected(&reason) {
                        tracing::warn!(
                            id,
                            reason,
                            "a message of the queue is no event; it is deleted, as others like it will be"
                        );
                    } else {
                        tracing::debug!(id, reason, "a message of the queue is no event; it is deleted");
                    }
                }
            }
        }
        changes
    }

    async fn delete(&mut self, messages: &[Message]) -> Result<(), AwsError> {
        let mut result = Ok(());
        for batch in messages.chunks(BATCH_MAX) {
            let deleted = match result {
                Ok(()) => self.queue.delete(batch).await,
                // They would fail alike.
                Err(_) => Ok(0),
            };
            self.remember(batch, deleted.as_ref().is_ok_and(|gone| *gone == batch.len()));
            result = result.and(deleted.map(drop));
        }
        self.deletion_failed = result.is_err().then(Instant::now);
        result
    }

    /// Notes which messages were handed on and come again.
    fn remember(&mut self, messages: &[Message], deleted: bool) {
        self.undeleted.retain(|id| !deleted || !messages.iter().any(|message| message.id == *id));
        if deleted {
            return;
        }
        for message in messages.iter().filter(|message| !message.id.is_empty()) {
            if !self.undeleted.contains(&message.id) {
                self.undeleted.push_back(message.id.clone());
            }
        }
        let surplus = self.undeleted.len().saturating_sub(UNDELETED_MAX);
        self.undeleted.drain(..surplus);
    }

    fn went_well(&self) {
        if self.deletion_failed.is_some_and(|at| at.elapsed() < DELETION_IN_DOUBT) {
            return;
        }
        if self.status.up() {
            tracing::info!(identity = self.queue.who(), "reading the queue of events");
        }
    }

    fn went_wrong(&self, error: &AwsError, region: &str, arn: &str) {
        let why = why(error, self.queue.who(), region, arn);
        if self.status.failing(&error.code, &why) {
            tracing::warn!(why, "the queue of events fails; changes are found at the next refresh");
        } else {
            tracing::debug!(why, "the queue of events still fails");
        }
    }
}

/// How long to wait after the `failures`th failure in a row (from 1); `chance` is uniform in 0..1.
fn backoff(failures: u32, chance: f64) -> Duration {
    let doublings = 2_u32.saturating_pow(failures.saturating_sub(1));
    FIRST_BACKOFF.saturating_mul(doublings).min(LONGEST_BACKOFF).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_can_be_a_task_of_its_own() {
        fn spawnable<T: Send>(_: &T) {}
        let _ =
            |spec: PushSpec, aws: Aws, credentials: Credentials, calls: Arc<dyn CallObserver>, status: PushHandle| {
                let kept = |_| std::future::ready(Ok(()));
                spawnable(&listen(spec, aws, "eu-west-1", credentials, calls, status, kept));
            };
    }

    #[test]
    fn backoff_doubles_to_a_minute_and_is_spread_over_all_of_it() {
        let longest: Vec<u64> = (1..=8).map(|failures| backoff(failures, 1.0).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(u32::MAX, 1.0), LONGEST_BACKOFF);
        assert_eq!(backoff(5, 0.0), Duration::ZERO);
    }
}
