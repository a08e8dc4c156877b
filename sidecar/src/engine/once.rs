//! A set that is made once and handed on, for those who keep nothing themselves.

use std::time::Duration;

use tokio::time::Instant;

use super::keeper::Keeper;
use super::kept::Forget;
use super::{Handoff, Shared, StartError, Taker};
use crate::spec::VolumeSpec;

/// Fetches and renders the set of `spec`, retrying what may yet come until `limit` is over, and hands it
/// to `taker`. Its path only names it in the journal and in errors.
///
/// # Errors
/// [`StartError`]; nothing was handed on.
pub async fn once(spec: VolumeSpec, shared: &Shared, limit: Duration, taker: Taker) -> Result<(), StartError> {
    let path = spec.path.clone();
    let refused = |error| StartError::refused(&path, &error);
    let destination = Handoff::new(&path.to_string_lossy(), taker).map_err(refused)?;
    let _forgotten = Forget(Some((shared, &path)));
    let mut keeper = Keeper::open(spec, Box::new(destination), shared.clone()).map_err(refused)?;
    let started = keeper.start(Instant::now() + limit, limit, false).await;
    keeper.close();
    started
}
