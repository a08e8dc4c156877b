//! One volume on its own: for those whose volumes come and go one by one, each with a source and a
//! destination of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::keeper::{Keeper, Order};
use super::{Destination, Hint, Shared, StartError, reform_one};
use crate::push::Change;
use crate::spec::VolumeSpec;

/// A volume that is kept fresh by a task of its own, until it is released or dropped.
pub struct Kept {
    path: PathBuf,
    orders: mpsc::Sender<Order>,
    end: watch::Sender<bool>,
    /// Until somebody waits for its end.
    task: Mutex<Option<JoinHandle<()>>>,
    shared: Shared,
}

impl Kept {
    /// Publishes the first set, retrying what may yet come until `limit` is over, and keeps the volume
    /// from then on.
    ///
    /// A whole set of this specification that is in place already is taken over: nothing is waited
    /// for, and the first look follows soon.
    ///
    /// Where a set is in place that is not a whole one of this specification, and its own could not be had,
    /// the volume is kept all the same, as it stands, and why is returned with it.
    ///
    /// # Errors
    /// [`StartError`]; there is no set.
    pub async fn start(
        spec: VolumeSpec,
        destination: Box<dyn Destination>,
        shared: &Shared,
        limit: Duration,
    ) -> Result<(Self, Option<StartError>), StartError> {
        let path = spec.path.clone();
        let mut keeper =
            Keeper::open(spec, destination, shared.clone()).map_err(|error| StartError::refused(&path, &error))?;
        let mut trouble = None;
        if !keeper.is_complete() {
            // Also when whoever waits gives up: nothing may be told of a volume that nobody keeps.
            let forgotten = Forget(Some((shared, &path)));
            match keeper.start(Instant::now() + limit, limit, false).await {
                Err(error) if !keeper.holds_a_set() => {
                    keeper.close();
                    return Err(error);
                }
                started => trouble = started.err(),
            }
            forgotten.not();
        }
        let (orders, inbox) = mpsc::channel(16);
        let (end, ended) = watch::channel(false);
        let task = Mutex::new(Some(tokio::spawn(keeper.run(inbox, ended))));
        Ok((Self { path, orders, end, task, shared: shared.clone() }, trouble))
    }

    /// Whether its task still runs; it ends by itself only by a panic.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.orders.is_closed()
    }

    /// Keeps this specification from now on, of the same path, once its set is in place.
    ///
    /// # Errors
    /// Why that set could not be had; the volume goes on as it was.
    pub async fn reform(&self, spec: VolumeSpec) -> Result<(), String> {
        reform_one(&self.orders, spec).await
    }

    /// Has what these changes are about looked at after `delay`.
    pub fn look(&self, changes: Arc<[Change]>, delay: Duration) {
        let order = Order::Look(Hint::Changes(changes), SystemTime::now() + delay);
        let orders = self.orders.clone();
        // Never waits where it is called.
        tokio::spawn(async move { orders.send(order).await });
    }

    /// Keeps it no longer, and returns once nothing is open any more. The set stays.
    pub async fn release(&self) {
        self.end.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _forgotten = Forget(Some((&self.shared, &self.path)));
            // One that panicked holds nothing either.
            let _ = task.await;
        }
    }
}

/// Has the status forget a volume when dropped.
pub(super) struct Forget<'a>(pub(super) Option<(&'a Shared, &'a Path)>);

impl Forget<'_> {
    fn not(mut self) {
        self.0 = None;
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some((shared, path)) = self.0 {
            shared.forget(path);
        }
    }
}
