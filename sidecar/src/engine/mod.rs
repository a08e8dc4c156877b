//! The engine: keeps every volume fresh, each in a task of its own, over one source.

mod destination;
mod entry;
mod keeper;
mod kept;
mod once;
mod recipe;
mod round;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use coffer_runtime::aws::Class;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::destination::{Destination, DestinationError, Directory, Handoff, Taker};
use self::keeper::{Keeper, Order};
pub use self::kept::Kept;
pub use self::once::once;
use crate::journal::Journal;
use crate::notify::{NotifyCounters, RotationProbe};
use crate::push::Change;
use crate::render::RenderedSet;
use crate::source::Source;
use crate::spec::VolumeSpec;
use crate::status::Status;
use crate::volume::{Options, VolumeError};

/// What all volumes of an engine share.
#[derive(Clone)]
pub struct Shared {
    /// Where values come from.
    pub source: Arc<Source>,
    /// Where the state of things is written.
    pub status: Status,
    /// Where audit lines go.
    pub journal: Journal,
    /// Of this instance, the same after a restart; see [`crate::schedule::Schedule::new`].
    pub seed: u64,
    /// Take volumes that are not in memory: secrets will reach a disk.
    pub allow_disk: bool,
    /// Answers that old serve for a first set, where others under the same identity have just asked;
    /// zero for a process whose volumes all start together.
    pub recent: Duration,
    /// Whether a start ends at once with what only a person can mend, because whoever waits for it tries
    /// again; else it is tried until the start's limit, for permissions come late.
    pub hasty: bool,
    /// Who is told of new sets; nobody where the process does not stay.
    pub told: Option<Told>,
}

/// Who is told of new sets.
#[derive(Clone)]
pub struct Told {
    /// Counts what each volume's own actions came to.
    pub counters: NotifyCounters,
    /// The probe that fails once for each rotation.
    pub probe: Arc<Mutex<RotationProbe>>,
    /// Called with each new set, once it is in place, and with whether it is the first.
    pub swapped: Option<Swapped>,
}

/// See [`Told::swapped`].
pub type Swapped = Arc<dyn Fn(&Path, &RenderedSet, bool) + Send + Sync>;

impl Shared {
    /// A volume is kept from now on.
    fn keeps(&self, volume: &Path) {
        if let Some(told) = &self.told {
            told.probe.lock().unwrap_or_else(PoisonError::into_inner).add(volume);
        }
    }

    /// A volume is kept no longer.
    fn forget(&self, volume: &Path) {
        self.status.forget(volume);
        if let Some(told) = &self.told {
            told.probe.lock().unwrap_or_else(PoisonError::into_inner).remove(volume);
        }
    }

    fn swapped(&self, volume: &Path, set: &RenderedSet, first: bool) {
        let Some(told) = &self.told else { return };
        if !first {
            told.probe.lock().unwrap_or_else(PoisonError::into_inner).changed(volume);
        }
        if let Some(swapped) = &told.swapped {
            swapped(volume, set, first);
        }
    }
}

/// Volumes, opened and locked, before or after their first set.
pub struct Engine {
    keepers: Vec<Keeper>,
    /// Those that no config can take away.
    pinned: BTreeSet<PathBuf>,
    shared: Shared,
}

/// The way to an engine that runs.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Command>);

/// What the engine is told by way of [`Orders`].
enum Command {
    Look(Hint, SystemTime),
    Reform(Vec<VolumeSpec>, Duration, oneshot::Sender<Result<(), ReformError>>),
}

/// What is to be looked at sooner than it is due.
#[derive(Clone)]
enum Hint {
    /// All there is.
    Everything,
    /// What these changes are about.
    Changes(Arc<[Change]>),
}

/// Where [`Orders`] arrive.
pub struct Inbox(mpsc::Receiver<Command>);

/// The first sets could not be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A value will not come as long as nobody acts, or did not come in time.
    #[error("{volume}: {why}{}", gave_up(*.after))]
    NotPublished {
        /// The volume's directory.
        volume: String,
        /// Reference, AWS's code and fix.
        why: String,
        /// The start's time limit, when that is what ended it.
        after: Option<Duration>,
        /// What kind of failure it was.
        class: Class,
    },
    /// A task of the engine panicked.
    #[error("a volume's task ended unexpectedly; what was published before stays; start it again")]
    Lost,
}

/// Other specifications could not be taken over, all or some; the volumes that are named go on as
/// they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ReformError(pub Vec<String>);

impl StartError {
    /// A destination that could not be opened.
    fn refused(path: &Path, error: &VolumeError) -> Self {
        let volume = path.display().to_string();
        Self::NotPublished { volume, why: error.to_string(), after: None, class: Class::Invalid }
    }
}

fn gave_up(after: Option<Duration>) -> String {
    after.map(|after| format!(" (gave up after {})", humantime::format_duration(after))).unwrap_or_default()
}

/// A task of the engine panicked; its volume would no longer be kept fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a volume's task ended unexpectedly; the files stay, and a restart takes them over")]
pub struct KeeperLost;

/// A new way to an engine.
#[must_use]
pub fn orders() -> (Orders, Inbox) {
    // Each order is waited for by whoever gives it; few give any.
    let (sender, receiver) = mpsc::channel(16);
    (Orders(sender), Inbox(receiver))
}

impl Orders {
    /// Has everything that these changes are about looked at after `delay`.
    pub fn look(&self, changes: Vec<Change>, delay: Duration) {
        self.hurry(Hint::Changes(changes.into()), delay);
    }

    /// Has everything looked at at once.
    pub fn look_at_everything(&self) {
        self.hurry(Hint::Everything, Duration::ZERO);
    }

    fn hurry(&self, hint: Hint, delay: Duration) {
        let command = Command::Look(hint, SystemTime::now() + delay);
        let orders = self.0.clone();
        // Never waits where it is called; a queue may be read on meanwhile.
        tokio::spawn(async move { orders.send(command).await });
    }

    /// Keeps these volumes from now on: those that are new once they are published (within `limit`),
    /// changed ones once their new set is in place, and what is missing no longer, once all that is
    /// there to take its place. Each volume for itself: one that fails stays as it was, and is named
    /// in the error.
    pub async fn reform(&self, volumes: Vec<VolumeSpec>, limit: Duration) -> Result<(), ReformError> {
        let (done, answer) = oneshot::channel();
        let ended = || ReformError(vec!["the engine has ended".to_owned()]);
        self.0.send(Command::Reform(volumes, limit, done)).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl Engine {
    /// Opens every volume. No AWS call is made, and a refused volume leaves the others untouched.
    pub fn open(volumes: Vec<VolumeSpec>, shared: &Shared) -> Result<Self, VolumeError> {
        let keepers = volumes.into_iter().map(|spec| open(spec, shared)).collect::<Result<_, _>>()?;
        let engine = Self { keepers, pinned: BTreeSet::new(), shared: shared.clone() };
        shared.status.expect(engine.keepers.iter().map(|keeper| keeper.path().to_owned()).collect());
        Ok(engine)
    }

    /// Adds a volume whose sets go elsewhere than to a directory. [`Orders::reform`] leaves it alone.
    pub fn add(&mut self, spec: VolumeSpec, destination: Box<dyn Destination>) -> Result<(), VolumeError> {
        self.pinned.insert(spec.path.clone());
        self.keepers.push(Keeper::open(spec, destination, self.shared.clone())?);
        Ok(())
    }

    /// Publishes the first set of every volume, retrying what may yet come until `limit` is over.
    ///
    /// A volume that still holds a whole set of the same files, from before a restart, does not
    /// fail the start unless `afresh`: it goes on, stale. Ends early, and well, when `shutdown` says
    /// true.
    pub async fn start(
        &mut self,
        limit: Duration,
        afresh: bool,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        let deadline = Instant::now() + limit;
        let mut starts = JoinSet::new();
        for mut keeper in self.keepers.drain(..) {
            let mut shutdown = shutdown.clone();
            starts.spawn(async move {
                let result = tokio::select! {
                    result = keeper.start(deadline, limit, afresh) => result,
                    _ = shutdown.wait_for(|end| *end) => Ok(()),
                };
                (keeper, result)
            });
        }
        let mut first_error = Ok(());
        while let Some(joined) = starts.join_next().await {
            let Ok((keeper, result)) = joined else {
                first_error = first_error.and(Err(StartError::Lost));
                continue;
            };
            self.keepers.push(keeper);
            first_error = first_error.and(result);
        }
        first_error
    }

    /// Keeps the volumes fresh until `shutdown` says true, or its sender is gone.
    pub async fn run(self, mut inbox: Inbox, mut shutdown: watch::Receiver<bool>) -> Result<(), KeeperLost> {
        let mut running = Running {
            shared: self.shared,
            shutdown: shutdown.clone(),
            pinned: self.pinned,
            volumes: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        for keeper in self.keepers {
            running.keep(keeper);
        }
        let (opened, mut new) = mpsc::channel(1);
        loop {
            tokio::select! {
                // In this order: a command may be about a volume that has just been opened.
                biased;
                _ = shutdown.wait_for(|end| *end) => break,
                Some(ended) = running.tasks.join_next() => ended.map_err(|_| KeeperLost)?,
                Some(keeper) = new.recv() => running.keep(keeper),
                Some(command) = inbox.0.recv() => match command {
                    Command::Look(hint, at) => running.look(&hint, at),
                    Command::Reform(volumes, limit, done) => running.reform(volumes, limit, done, opened.clone()),
                },
            }
        }
        while let Some(ended) = running.tasks.join_next().await {
            ended.map_err(|_| KeeperLost)?;
        }
        Ok(())
    }

    /// Waits until no replaced set is left to be removed.
    pub async fn sweep(&mut self) {
        for keeper in &mut self.keepers {
            keeper.sweep().await;
        }
    }

    /// Ends without having run: what was published stays, nothing else is left.
    pub fn close(self) {
        self.keepers.into_iter().for_each(Keeper::close);
    }
}

/// An engine at work.
struct Running {
    shared: Shared,
    shutdown: watch::Receiver<bool>,
    pinned: BTreeSet<PathBuf>,
    /// The keeper of each volume, by its path.
    volumes: BTreeMap<PathBuf, mpsc::Sender<Order>>,
    tasks: JoinSet<()>,
}

impl Running {
    fn keep(&mut self, keeper: Keeper) {
        let (orders, inbox) = mpsc::channel(16);
        self.volumes.insert(keeper.path().to_owned(), orders);
        self.tasks.spawn(keeper.run(inbox, self.shutdown.clone()));
    }

    /// Passes news on to every volume.
    fn look(&self, hint: &Hint, at: SystemTime) {
        for orders in self.volumes.values() {
            let (hint, orders) = (hint.clone(), orders.clone());
            tokio::spawn(async move { orders.send(Order::Look(hint, at)).await });
        }
    }

    /// Hands each volume what is to become of it; `done` hears when all have answered. New ones come
    /// by way of `opened`.
    fn reform(
        &mut self,
        volumes: Vec<VolumeSpec>,
        limit: Duration,
        done: oneshot::Sender<Result<(), ReformError>>,
        opened: mpsc::Sender<Keeper>,
    ) {
        let shared = self.shared.clone();
        let wanted: Vec<PathBuf> = volumes.iter().map(|volume| volume.path.clone()).collect();
        self.volumes.retain(|_, orders| !orders.is_closed());
        let stays = |path: &PathBuf| wanted.contains(path) || self.pinned.contains(path);
        let (kept, removed): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.volumes.clone().into_iter().partition(|(path, _)| stays(path));
        // What is no longer wanted goes last, so that a config of which nothing can be had takes nothing
        // away. Only what stands where a new volume shall be has to make room for it.
        let (in_the_way, removed): (BTreeMap<_, _>, BTreeMap<_, _>) = removed
            .into_iter()
            .partition(|(path, _)| wanted.iter().any(|new| !kept.contains_key(new) && overlap(path, new)));
        tokio::spawn(async move {
            remove(in_the_way, &shared).await;
            let mut changes = JoinSet::new();
            for volume in volumes {
                let (kept, shared, opened) = (kept.get(&volume.path).cloned(), shared.clone(), opened.clone());
                changes.spawn(async move {
                    let path = volume.path.clone();
                    let changed = match kept {
                        Some(orders) => reform_one(&orders, volume).await,
                        None => open_one(volume, limit, &shared, &opened).await,
                    };
                    changed.map_err(|why| format!("{}: {why}", path.display()))
                });
            }
            let failed: Vec<String> = changes.join_all().await.into_iter().filter_map(Result::err).collect();
            if failed.is_empty() {
                shared.status.expect(wanted);
                remove(removed, &shared).await;
            }
            // Whoever asked may have ended.
            let _ = done.send(if failed.is_empty() { Ok(()) } else { Err(ReformError(failed)) });
        });
    }
}

fn open(spec: VolumeSpec, shared: &Shared) -> Result<Keeper, VolumeError> {
    let options = Options { path: spec.path.clone(), owner: spec.owner, allow_disk: shared.allow_disk };
    Keeper::open(spec, Box::new(Directory::open(options)?), shared.clone())
}

/// Has the keepers of these volumes end and take the files away.
async fn remove(volumes: BTreeMap<PathBuf, mpsc::Sender<Order>>, shared: &Shared) {
    for (path, orders) in volumes {
        // One whose task has ended is gone already.
        let _ = orders.send(Order::Remove).await;
        orders.closed().await;
        shared.forget(&path);
    }
}

/// Whether one of two volumes lies in the other, by whatever links.
fn overlap(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (one, other) = (real(one), real(other));
    one.starts_with(&other) || other.starts_with(&one)
}

async fn reform_one(orders: &mpsc::Sender<Order>, volume: VolumeSpec) -> Result<(), String> {
    let (done, answer) = oneshot::channel();
    let ended = || "its task has ended".to_owned();
    orders.send(Order::Become(Box::new(volume), done)).await.map_err(|_| ended())?;
    answer.await.unwrap_or_else(|_| Err(ended()))
}

async fn open_one(
    volume: VolumeSpec,
    limit: Duration,
    shared: &Shared,
    opened: &mpsc::Sender<Keeper>,
) -> Result<(), String> {
    let path = volume.path.clone();
    let mut keeper = open(volume, shared).map_err(|error| error.to_string())?;
    match keeper.start(Instant::now() + limit, limit, false).await {
        Ok(()) => opened.send(keeper).await.map_err(|_| "the engine has ended".to_owned()),
        Err(error) => {
            keeper.close();
            shared.forget(&path);
            Err(match error {
                StartError::NotPublished { why, .. } => why,
                StartError::Lost => error.to_string(),
            })
        }
    }
}
