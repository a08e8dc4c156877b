//! The volumes of this node: which are mounted, who keeps each fresh, and one at a time for each path.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coffer::engine::{Destination, Kept};
use coffer::push::Change;
use coffer::spec::VolumeSpec;
use coffer::status::{NOT_LOOKED_AT, State, Status};
use tokio::sync::watch;
use tonic::Code;

use super::mounts::{self, Top};
use super::tmpfs::Tmpfs;
use crate::identity::Key;
use crate::plan::Plan;
use crate::pod::Pod;
use crate::refusal::Refusal;

/// What came of a volume that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// A set is in place that was not before.
    New,
    /// It was mounted before, and is as it is to be.
    Already,
    /// It was mounted before and stays as it is: why it could not become what it is to be.
    Kept(Refusal),
}

/// All volumes of this node.
pub(super) struct Volumes {
    slots: Mutex<HashMap<PathBuf, Arc<Slot>>>,
    status: Status,
    /// The most that the files of one may hold, in bytes.
    limit: u64,
    /// Whether the process is about to end.
    closing: AtomicBool,
}

/// A path at which a volume is, comes or goes.
struct Slot {
    turn: tokio::sync::Mutex<()>,
    held: Mutex<Option<Held>>,
    /// How many wait to take the volume away.
    leaving: watch::Sender<usize>,
}

/// A volume that is kept fresh.
#[derive(Clone)]
struct Held {
    kept: Arc<Kept>,
    spec: VolumeSpec,
    access: (Key, String),
    pod: Pod,
    /// The number of its filesystem, which nobody else is given as long as the keeper has it open.
    device: Option<u64>,
}

/// A volume of which something has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reference: String,
    pub(super) code: String,
    pub(super) why: String,
}

impl Volumes {
    pub(super) fn new(status: Status, limit: u64) -> Self {
        Self { slots: Mutex::default(), status, limit, closing: AtomicBool::new(false) }
    }

    /// Mounts the volume of `pod` at the resolved path `target` if it is not, and has it be as `plan` says.
    /// `plan` is asked for in this call's turn, and told whether it is for a first set.
    ///
    /// What is mounted for the pod already stays whatever fails: a pod that runs keeps its files.
    ///
    /// # Errors
    /// Why there is no set; nothing is mounted then, and if something may be, the code says so.
    pub(super) async fn publish<P>(
        &self,
        target: &Path,
        pod: &Pod,
        limit: Duration,
        plan: impl FnOnce(bool) -> P,
    ) -> Result<Published, Refusal>
    where
        P: Future<Output = Result<Plan, Refusal>>,
    {
        let slot = self.slot(target);
        let published = self.publish_in(&slot, target, pod, limit, plan).await;
        drop(slot);
        if published.is_err() {
            self.forget_unused();
        }
        published
    }

    async fn publish_in<P>(
        &self,
        slot: &Slot,
        target: &Path,
        pod: &Pod,
        limit: Duration,
        plan: impl FnOnce(bool) -> P,
    ) -> Result<Published, Refusal>
    where
        P: Future<Output = Result<Plan, Refusal>>,
    {
        let busy = || Refusal::new(Code::Aborted, "another call for this volume is under way; the kubelet tries again");
        let mut leaving = slot.leaving.subscribe();
        let Ok(_turn) = slot.turn.try_lock() else { return Err(busy()) };
        let deadline = Instant::now() + limit;
        let work = async {
            let standing = slot.stands(target, pod)?;
            let done = match plan(!standing).await {
                Ok(plan) => self.have(slot, target, plan, deadline).await,
                Err(refusal) => Err(refusal),
            };
            match done {
                Err(refusal) if standing => Ok(Published::Kept(refusal)),
                Ok(Published::New) if standing => Ok(Published::Already),
                Ok(published) => Ok(published),
                Err(refusal) => {
                    // Of a mount that somebody took away: nothing may be mounted anew once the kubelet was told
                    // that nothing is.
                    let held = slot.held().take();
                    if let Some(held) = held {
                        held.kept.release().await;
                    }
                    Err(clear_failed(target, pod, refusal))
                }
            }
        };
        tokio::select! {
            done = work => done,
            // The pod goes: what it still waits for is of no use.
            _ = leaving.wait_for(|waiting| *waiting > 0) => Err(busy()),
        }
    }

    /// Takes the volume at the resolved path `target` away, whatever is left of it. Tells which pod's it was,
    /// if that is known, and what stays mounted or cannot be removed.
    pub(super) async fn unpublish(&self, target: &Path) -> (Option<Pod>, Result<(), Refusal>) {
        let slot = self.slot(target);
        slot.leaving.send_modify(|waiting| *waiting += 1);
        let turn = slot.turn.lock().await;
        slot.leaving.send_modify(|waiting| *waiting -= 1);
        let held = slot.held().take();
        let pod = held.as_ref().map(|held| held.pod.clone());
        if let Some(held) = held {
            held.kept.release().await;
        }
        let gone = mounts::unmount_all(target).and_then(|()| remove(target));
        drop(turn);
        drop(slot);
        self.forget_unused();
        let stays = |error| Refusal::new(Code::Internal, format!("cannot take away {}: {error}", target.display()));
        (pod, gone.map_err(stays))
    }

    /// Has everything that these changes are about looked at within `spread`.
    pub(super) fn look(&self, changes: &Arc<[Change]>, spread: Duration) {
        let slots: Vec<_> = self.slots().values().cloned().collect();
        // One delay for all: those under one identity ask together.
        let delay = spread.mul_f64(fastrand::f64());
        for slot in slots {
            if let Some(held) = &*slot.held() {
                held.kept.look(Arc::clone(changes), delay);
            }
        }
    }

    /// Each volume that is kept, its pod, and what keeps it from being fresh, if anything.
    pub(super) fn troubles(&self) -> Vec<(PathBuf, Pod, Option<Trouble>)> {
        self.forget_unused();
        let slots: Vec<_> = self.slots().iter().map(|(path, slot)| (path.clone(), Arc::clone(slot))).collect();
        let mut stale: HashMap<PathBuf, Trouble> = HashMap::new();
        self.status.each(|volume| {
            let trouble = volume.references.iter().find_map(|known| match &known.state {
                // Taken over a moment ago, and not looked at yet.
                State::Stale { code, .. } if code == NOT_LOOKED_AT => None,
                State::Stale { code, why, .. } => {
                    Some(Trouble { reference: known.reference.clone(), code: code.clone(), why: why.clone() })
                }
                State::Fresh | State::Missing { .. } => None,
            });
            stale.extend(trouble.map(|trouble| (volume.path.clone(), trouble)));
        });
        let kept = slots.into_iter().filter_map(|(path, slot)| {
            let pod = slot.held().as_ref().map(|held| held.pod.clone())?;
            let trouble = stale.remove(&path);
            Some((path, pod, trouble))
        });
        kept.collect()
    }

    /// Whether any volume is kept for the pod of that uid.
    pub(super) fn any_of(&self, uid: &str) -> bool {
        let slots: Vec<_> = self.slots().values().cloned().collect();
        slots.iter().any(|slot| slot.held().as_ref().is_some_and(|held| held.pod.uid == uid))
    }

    /// How many are kept fresh, and how many of these are stale.
    pub(super) fn count(&self) -> (usize, usize) {
        let slots: Vec<_> = self.slots().values().cloned().collect();
        let kept = slots.iter().filter(|slot| slot.held().is_some()).count();
        let is_stale = |state: &State| matches!(state, State::Stale { code, .. } if code != NOT_LOOKED_AT);
        let mut stale = 0;
        self.status.each(|volume| stale += usize::from(volume.references.iter().any(|known| is_stale(&known.state))));
        (kept, stale)
    }

    /// From now on every call that waits for a set ends, and none begins.
    pub(super) fn leave(&self) {
        self.closing.store(true, Ordering::Relaxed);
        for slot in self.slots().values() {
            slot.leaving.send_modify(|waiting| *waiting += 1);
        }
    }

    /// Releases every volume; what is mounted stays, for the next process to take over.
    pub(super) async fn close(&self) {
        let slots: Vec<_> = self.slots().drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            let held = slot.held().take();
            if let Some(held) = held {
                held.kept.release().await;
            }
        }
    }

    /// Has the volume be as planned, in this call's turn.
    async fn have(&self, slot: &Slot, target: &Path, plan: Plan, deadline: Instant) -> Result<Published, Refusal> {
        let Plan { mut spec, pod, access, shared, .. } = plan;
        target.clone_into(&mut spec.path);
        let standing = slot.stands(target, &pod)?;
        let held = slot.held().clone();
        if let Some(held) = held {
            let same = standing && held.kept.is_alive() && held.pod == pod && held.access == access;
            if same {
                let reformed = match held.spec == spec {
                    true => Ok(()),
                    // Whatever AWS does, the kubelet is answered; the keeper goes on by itself.
                    false => tokio::time::timeout_at(deadline.into(), held.kept.reform(spec.clone()))
                        .await
                        .unwrap_or_else(|_| Err("what is new is still being fetched".to_owned())),
                };
                if reformed.is_ok() {
                    *slot.held() = Some(Held { spec, ..held });
                }
                let why = |why| Refusal::new(Code::Unavailable, why);
                return reformed.map(|()| Published::Already).map_err(why);
            }
            // Another identity, or a mount that somebody took away: begun anew, over what is there.
            slot.held().take();
            held.kept.release().await;
        }
        let destination = Tmpfs::open(target, &pod.uid, spec.owner, self.limit);
        let destination = destination.map_err(|error| Refusal::new(Code::Unavailable, error.to_string()))?;
        let adopted = destination.published_at().is_some();
        let limit = deadline.saturating_duration_since(Instant::now());
        let (kept, trouble) = Kept::start(spec.clone(), Box::new(destination), &shared, limit).await?;
        *slot.held() = Some(Held { kept: Arc::new(kept), spec, access, pod, device: device(target) });
        match trouble {
            Some(trouble) => Err(trouble.into()),
            None if adopted => Ok(Published::Already),
            None => Ok(Published::New),
        }
    }

    fn slot(&self, target: &Path) -> Arc<Slot> {
        let new = || {
            let leaving = usize::from(self.closing.load(Ordering::Relaxed));
            Arc::new(Slot {
                turn: tokio::sync::Mutex::default(),
                held: Mutex::default(),
                leaving: watch::Sender::new(leaving),
            })
        };
        Arc::clone(self.slots().entry(target.to_owned()).or_insert_with(new))
    }

    /// Paths that nobody has to do with any more are forgotten.
    fn forget_unused(&self) {
        // Slots are taken under the lock only: where the map's is the only one, nobody is about to use it.
        self.slots().retain(|_, slot| Arc::strong_count(slot) > 1 || slot.held().is_some());
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a whole set of this pod is mounted.
    fn stands(&self, target: &Path, pod: &Pod) -> Result<bool, Refusal> {
        // Of a volume that is kept, the filesystem itself tells: the kubelet asks for each volume every minute,
        // and the mount table is as long as they are many.
        let known =
            self.held().as_ref().filter(|held| held.pod == *pod && held.kept.is_alive()).map(|held| held.device);
        if let Some(known @ Some(_)) = known
            && device(target) == known
            && target.join("..data").exists()
        {
            return Ok(true);
        }
        Tmpfs::holds_a_set(target, &pod.uid)
            .map_err(|error| Refusal::new(Code::Unavailable, format!("cannot read the mount table: {error}")))
    }
}

/// The number of the filesystem at a path.
fn device(target: &Path) -> Option<u64> {
    std::fs::symlink_metadata(target).ok().map(|there| there.dev())
}

pub(super) fn resolved(target: &Path) -> Result<PathBuf, Refusal> {
    mounts::resolve(target).map_err(|error| {
        Refusal::new(Code::FailedPrecondition, format!("the folder above {} cannot be used: {error}", target.display()))
    })
}

/// The resolved path; where the folder above is gone already, as it was named.
pub(super) fn resolved_if_there(target: &Path) -> Result<PathBuf, Refusal> {
    match mounts::resolve(target) {
        Ok(target) => Ok(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(target.to_owned()),
        Err(error) => {
            Err(Refusal::new(Code::Internal, format!("the folder above {} cannot be used: {error}", target.display())))
        }
    }
}

/// After a failed start nothing of ours stays that could be taken for a volume.
fn clear_failed(target: &Path, pod: &Pod, refusal: Refusal) -> Refusal {
    let cleared = match mounts::top(target, &pod.uid) {
        Ok(Top::Ours) => mounts::unmount_all(target).and_then(|()| remove(target)),
        // Another's is left as it is: a pod of before may read it.
        Ok(Top::Foreign) => return refusal.uncertain(),
        Ok(Top::Nothing) => Ok(()),
        Err(error) => Err(error),
    };
    match cleared {
        Ok(()) => refusal,
        Err(_) => refusal.uncertain(),
    }
}

/// Removes what is at the path once nothing is mounted there.
fn remove(target: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() => std::fs::remove_dir_all(target),
        Ok(_) => std::fs::remove_file(target),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
