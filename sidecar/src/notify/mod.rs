//! Telling the application that a set has been replaced: after the swap, once for each swap.
//!
//! ```text
//!  swap ──► agenda ──► http · signal · exec · touch ──► status, metrics
//!           when       once; again while it fails
//! ```
//!
//! Swaps that follow one another closely are told as one. A swap that could not be told is tried
//! again, and goes with the next one when that comes first; an application whose answer was lost
//! hears of it twice. What is told holds names and versions, never values.

mod agenda;
mod counters;
mod exec;
mod http;
mod message;
mod probe;
mod processes;
mod signal;
mod status;
#[cfg(test)]
mod tests;
mod touch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

pub use counters::NotifyCounters;
pub use probe::{Answer, ConsumerError, RotationProbe, rotation_router};
pub use status::{ActionState, ActionStatus};

use self::agenda::{ATTEMPTS, Agenda, Batch, Then};
use self::message::Message;
use crate::file::FileName;
use crate::spec::{Action, Means, OnChange};

/// A set that has taken the place of another. Holds no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Whether there was no set before it.
    pub first: bool,
    /// The files of the set in place.
    pub files: Vec<SwappedFile>,
    /// The names of files that are new, have other bytes, or are gone.
    pub changed: BTreeSet<FileName>,
}

/// A file of a set in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwappedFile {
    /// Its name in the volume.
    pub name: FileName,
    /// What it was made from: reference, selector and format as one text.
    pub from: String,
    /// The version of the reference.
    pub version: String,
}

/// Tells the swaps of one volume. Dropping it ends what it runs.
#[derive(Debug)]
pub struct Notifier {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    volume: PathBuf,
    names: Vec<String>,
    counters: NotifyCounters,
}

impl Notifier {
    /// Starts a task on the current tokio runtime; it does nothing until [`Self::swapped`].
    ///
    /// `report` is given the state of all actions, in their order: at once, and whenever it changes.
    pub fn start(
        volume: &Path,
        on_change: OnChange,
        counters: NotifyCounters,
        report: impl Fn(Vec<ActionStatus>) + Send + 'static,
    ) -> Self {
        let names = names(&on_change.actions);
        for name in &names {
            counters.add(volume, name);
        }
        let agenda = Agenda::new(on_change.debounce, on_change.actions.iter().map(|action| action.first));
        let shared = Arc::new(Shared {
            state: Mutex::new(SharedState { agenda, latest: None, closing: false }),
            woken: Notify::new(),
        });
        let teller = Teller {
            volume: volume.to_owned(),
            actions: on_change.actions,
            due: vec![None; names.len()],
            statuses: names.iter().cloned().map(ActionStatus::new).collect(),
            counters: counters.clone(),
            shared: Arc::clone(&shared),
            report,
        };
        Self { shared, task: tokio::spawn(teller.run()), volume: volume.to_owned(), names, counters }
    }

    /// Takes note of a swap that is in place; never blocks.
    pub fn swapped(&self, swap: Swap) {
        let mut state = self.shared.lock();
        state.agenda.swapped(now(), swap.first, &swap.changed);
        state.latest = Some(Arc::new(swap));
        drop(state);
        self.shared.woken.notify_one();
    }

    /// Ends: starts nothing more, and waits up to `patience` for what is running before it is killed
    /// or cut off.
    pub async fn close(mut self, patience: Duration) {
        self.shared.lock().closing = true;
        self.shared.woken.notify_one();
        if timeout(patience, &mut self.task).await.is_err() {
            self.task.abort();
            // A command's group is killed by the time this comes back.
            let _ = (&mut self.task).await;
        }
        let state = self.shared.lock();
        for (at, name) in self.names.iter().enumerate() {
            let swaps = state.agenda.untold(at);
            if swaps > 0 {
                tracing::warn!(volume = %self.volume.display(), action = name, swaps, "ended before this was told");
            }
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.task.abort();
        for name in &self.names {
            self.counters.remove(&self.volume, name);
        }
    }
}

/// What the actions are called; those that would be called alike are numbered.
fn names(actions: &[Action]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for action in actions {
        let mut name = action.to_string();
        let mut number = 1;
        while names.contains(&name) {
            number += 1;
            name = format!("{action} ({number})");
        }
        names.push(name);
    }
    names
}

/// What the task and the volume both know.
#[derive(Debug)]
struct Shared {
    state: Mutex<SharedState>,
    woken: Notify,
}

#[derive(Debug)]
struct SharedState {
    agenda: Agenda,
    latest: Option<Arc<Swap>>,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_step(&self) -> Step {
        let mut state = self.lock();
        let latest = state.latest.clone();
        match latest {
            _ if state.closing => Step::End,
            None => Step::Wait(None),
            Some(swap) => match state.agenda.begin(now()) {
                Some((at, batch)) => Step::Run { at, batch, swap },
                None => Step::Wait(state.agenda.next()),
            },
        }
    }
}

enum Step {
    /// Runs an action.
    Run {
        at: usize,
        batch: Batch,
        swap: Arc<Swap>,
    },
    /// Waits for a swap, or until this time.
    Wait(Option<Instant>),
    End,
}

/// The task.
struct Teller<F> {
    volume: PathBuf,
    actions: Vec<Action>,
    /// When each action was last said to be due.
    due: Vec<Option<Instant>>,
    statuses: Vec<ActionStatus>,
    counters: NotifyCounters,
    shared: Arc<Shared>,
    report: F,
}

impl<F: Fn(Vec<ActionStatus>) + Send> Teller<F> {
    async fn run(mut self) {
        (self.report)(self.statuses.clone());
        loop {
            match self.shared.next_step() {
                Step::Run { at, batch, swap } => {
                    self.refresh();
                    let message = Message::new(&self.volume, &swap, &batch);
                    let result = tell(&self.actions[at].means, &message).await;
                    self.ended(at, batch.swaps, result);
                }
                Step::Wait(until) => {
                    self.refresh();
                    let due = async {
                        match until {
                            Some(until) => sleep_until(until.into()).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = due => {}
                        () = self.shared.woken.notified() => {}
                    }
                }
                Step::End => return,
            }
        }
    }

    /// Takes down what came of a run that told `swaps` swaps.
    fn ended(&mut self, at: usize, swaps: u64, result: Result<(), TellError>) {
        let status = &mut self.statuses[at];
        let (volume, action) = (self.volume.display(), &status.action);
        let time = SystemTime::now();
        self.counters.count(&self.volume, action, result.is_ok());
        status.runs += 1;
        status.last_run = Some(time);
        match result {
            Ok(()) => {
                tracing::info!(%volume, action, swaps, "told");
                self.shared.lock().agenda.succeeded(at);
                status.swaps += swaps;
                status.last_success = Some(time);
                status.last_error = None;
            }
            Err(error) => {
                let why = error.to_string();
                match self.shared.lock().agenda.failed(at, now(), fastrand::f64()) {
                    Then::GivenUp => {
                        tracing::error!(%volume, action, swaps, "{why}; given up after {ATTEMPTS} attempts, until the next change");
                    }
                    // The same once more is no news.
                    Then::Again(_) if status.last_error.as_ref() == Some(&why) => {
                        tracing::debug!(%volume, action, swaps, "{why}; trying again");
                    }
                    Then::Again(_) => tracing::warn!(%volume, action, swaps, "{why}; trying again"),
                }
                status.failures += 1;
                status.last_error = Some(why);
            }
        }
    }

    /// Reports the state where it has changed.
    fn refresh(&mut self) {
        let before = self.statuses.clone();
        let state = self.shared.lock();
        let (time, now) = (SystemTime::now(), now());
        for (at, status) in self.statuses.iter_mut().enumerate() {
            let due = state.agenda.due(at);
            if due != self.due[at] {
                self.due[at] = due;
                status.next_try = due.map(|due| time + due.saturating_duration_since(now));
            }
            status.state = if state.agenda.is_running(at) {
                ActionState::Running
            } else if status.last_error.is_some() {
                ActionState::Failing
            } else if state.agenda.untold(at) > 0 {
                ActionState::Waiting
            } else {
                ActionState::Idle
            };
        }
        drop(state);
        if self.statuses != before {
            (self.report)(self.statuses.clone());
        }
    }
}

/// Why an application was not told.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum TellError {
    /// By HTTP.
    Http(#[from] http::HttpError),
    /// By a signal.
    Signal(#[from] signal::DeliveryError),
    /// By a command.
    Exec(#[from] exec::ExecError),
    /// By a file's time.
    Touch(#[from] touch::TouchError),
}

async fn tell(means: &Means, message: &Message<'_>) -> Result<(), TellError> {
    match means {
        Means::Http { hook, timeout } => http::post(hook, *timeout, message).await?,
        Means::Signal { signal, to } => signal::deliver(*signal, to)?,
        Means::Exec { program, arguments, timeout } => {
            let listen = tracing::enabled!(tracing::Level::DEBUG);
            exec::run(program, arguments, *timeout, message, listen).await?;
        }
        Means::Touch { path } => touch::touch(path)?,
    }
    Ok(())
}

/// The time of the runtime, which a test may have stopped.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
