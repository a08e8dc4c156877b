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
        let shared = Arc::new(Shared {
            state: Mutex::new(SharedState {
                agenda: Agenda::new(Duration::ZERO, []),
                actions: Vec::new(),
                latest: None,
                closing: false,
            }),
            woken: Notify::new(),
        });
        let teller = Teller {
            volume: volume.to_owned(),
            reported: None,
            counters: counters.clone(),
            shared: Arc::clone(&shared),
            report,
        };
        shared.change(volume, on_change, &counters);
        Self { shared, task: tokio::spawn(teller.run()), volume: volume.to_owned(), counters }
    }

    /// Takes note of a swap that is in place; never blocks.
    pub fn swapped(&self, swap: Swap) {
        let mut state = self.shared.lock();
        state.agenda.swapped(now(), swap.first, &swap.changed);
        state.latest = Some(Arc::new(swap));
        drop(state);
        self.shared.woken.notify_one();
    }

    /// Tells by these actions from now on; never blocks.
    ///
    /// An action that stays keeps what it has yet to tell and what is known of it. One that is gone
    /// starts no more, and ends in peace where it runs. A new one hears of the swaps to come.
    pub fn change(&self, on_change: OnChange) {
        self.shared.change(&self.volume, on_change, &self.counters);
        self.shared.woken.notify_one();
    }

    /// Ends: tells at once what has not been tried yet, and tries nothing again. What still runs
    /// after `patience` is killed or cut off.
    ///
    /// A process that starts over the same set has nothing to tell: what is not told now never is.
    pub async fn close(mut self, patience: Duration) {
        self.shared.close();
        self.shared.woken.notify_one();
        if timeout(patience, &mut self.task).await.is_err() {
            self.task.abort();
            // A command's group is killed by the time this comes back.
            let _ = (&mut self.task).await;
        }
        let state = self.shared.lock();
        for (at, known) in state.actions.iter().enumerate() {
            let (action, swaps) = (&known.status.action, state.agenda.untold(at));
            if swaps > 0 {
                tracing::warn!(volume = %self.volume.display(), action, swaps, "ended before this was told");
            }
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.task.abort();
        for known in &self.shared.lock().actions {
            self.counters.remove(&self.volume, &known.status.action);
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

/// Whether two actions tell the same in the same way, however long each may take for it.
fn are_alike(one: &Means, other: &Means) -> bool {
    match (one, other) {
        (Means::Http { hook: one, .. }, Means::Http { hook: other, .. }) => one == other,
        (
            Means::Exec { program: one, arguments: with, .. },
            Means::Exec { program: other, arguments: other_with, .. },
        ) => (one, with) == (other, other_with),
        _ => one == other,
    }
}

/// What the task and the volume both know.
#[derive(Debug)]
struct Shared {
    state: Mutex<SharedState>,
    woken: Notify,
}

#[derive(Debug)]
struct SharedState {
    /// What each action has yet to tell, in the order of `actions`.
    agenda: Agenda,
    actions: Vec<Known>,
    latest: Option<Arc<Swap>>,
    closing: bool,
}

/// An action, and what is known of it.
#[derive(Debug)]
struct Known {
    action: Action,
    status: ActionStatus,
    /// When it was last said to be due.
    due: Option<Instant>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Notifier::change`].
    fn change(&self, volume: &Path, on_change: OnChange, counters: &NotifyCounters) {
        let names = names(&on_change.actions);
        let mut state = self.lock();
        let mut before: Vec<Option<Known>> = std::mem::take(&mut state.actions).into_iter().map(Some).collect();
        let called_before: Vec<String> = before.iter().flatten().map(|known| known.status.action.clone()).collect();
        let mut from = Vec::new();
        for (action, name) in on_change.actions.into_iter().zip(&names) {
            let same = |known: &Option<Known>| {
                known.as_ref().is_some_and(|known| are_alike(&known.action.means, &action.means))
            };
            let at = before.iter().position(same);
            let known = at.and_then(|at| before[at].take());
            let known = known.unwrap_or_else(|| Known {
                action: action.clone(),
                status: ActionStatus::new(name.clone()),
                due: None,
            });
            let status = ActionStatus { action: name.clone(), ..known.status };
            from.push((action.first, at));
            state.actions.push(Known { action, status, ..known });
        }
        state.agenda.rearrange(on_change.debounce, from);
        drop(state);
        called_before.iter().filter(|name| !names.contains(name)).for_each(|name| counters.remove(volume, name));
        names.iter().filter(|name| !called_before.contains(name)).for_each(|name| counters.add(volume, name));
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.agenda.hasten(now());
    }

    fn next_step(&self) -> Step {
        let mut state = self.lock();
        let latest = state.latest.clone();
        let due = state.agenda.begin(now());
        match (due, latest) {
            (Some((at, batch)), Some(swap)) => Step::Run { action: state.actions[at].action.clone(), batch, swap },
            _ if state.closing => Step::End,
            _ => Step::Wait(state.agenda.next()),
        }
    }
}

enum Step {
    /// Runs an action.
    Run {
        action: Action,
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
    /// What was reported last.
    reported: Option<Vec<ActionStatus>>,
    counters: NotifyCounters,
    shared: Arc<Shared>,
    report: F,
}

impl<F: Fn(Vec<ActionStatus>) + Send> Teller<F> {
    async fn run(mut self) {
        self.refresh();
        loop {
            match self.shared.next_step() {
                Step::Run { action, batch, swap } => {
                    self.refresh();
                    let message = Message::new(&self.volume, &swap, &batch);
                    let result = tell(&action.means, &message).await;
                    self.ended(&action, batch.swaps, result);
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
    fn ended(&self, action: &Action, swaps: u64, result: Result<(), TellError>) {
        let volume = self.volume.display();
        let mut state = self.shared.lock();
        let SharedState { agenda, actions, .. } = &mut *state;
        let Some(at) = agenda.running() else {
            // Its action was taken out of the config while it ran: there is nobody to count it for.
            match result {
                Ok(()) => tracing::info!(%volume, %action, swaps, "told, for the last time"),
                Err(why) => tracing::warn!(%volume, %action, swaps, "{why}; no longer in the config"),
            }
            return;
        };
        let status = &mut actions[at].status;
        let action = &status.action;
        let time = SystemTime::now();
        self.counters.count(&self.volume, action, result.is_ok());
        status.runs += 1;
        status.last_run = Some(time);
        match result {
            Ok(()) => {
                tracing::info!(%volume, action, swaps, "told");
                agenda.succeeded(at);
                status.swaps += swaps;
                status.last_success = Some(time);
                status.last_error = None;
            }
            Err(error) => {
                let why = error.to_string();
                match agenda.failed(at, now(), fastrand::f64()) {
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
        let mut state = self.shared.lock();
        let SharedState { agenda, actions, .. } = &mut *state;
        let (time, now) = (SystemTime::now(), now());
        for (at, Known { status, due, .. }) in actions.iter_mut().enumerate() {
            let next = agenda.due(at);
            if next != *due {
                *due = next;
                status.next_try = next.map(|next| time + next.saturating_duration_since(now));
            }
            status.state = if agenda.is_running(at) {
                ActionState::Running
            } else if status.last_error.is_some() {
                ActionState::Failing
            } else if agenda.untold(at) > 0 {
                ActionState::Waiting
            } else {
                ActionState::Idle
            };
        }
        let statuses: Vec<ActionStatus> = actions.iter().map(|known| known.status.clone()).collect();
        drop(state);
        if self.reported.as_ref() != Some(&statuses) {
            self.reported = Some(statuses.clone());
            (self.report)(statuses);
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
