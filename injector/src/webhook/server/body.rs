//! Bodies of requests, within limits: of size and time for each, of size for all.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::webhook::review::MOST_BYTES;

/// How long a body may take to come. An API server waits 30 s at most, and rarely longer than 10.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The most that all bodies may take at a time, in bytes.
pub(super) const MOST_AT_ONCE: usize = 32 << 20;
/// What is counted in.
const UNIT: usize = 16 * 1024;
/// Who sends too much is told so once all of it has come, up to this: a client that still writes may not read.
const READ_TO_TELL: u64 = 64 << 20;

/// Room for bodies.
#[derive(Debug)]
pub(super) struct Bodies(Arc<Semaphore>);

/// A body, and its room.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

/// Why a body is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It is too big.
    #[error("an AdmissionReview may have {MOST_BYTES} bytes; this one has more")]
    TooLarge,
    /// It takes too long to come, or the others take all the room there is.
    #[error("the body did not come within {PATIENCE:?}")]
    Slow,
    /// The client broke off.
    #[error("the body ends too early")]
    Broken,
}

impl Refused {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_AT_ONCE / UNIT)))
    }
}

impl Bodies {
    /// Reads one, once there is room for it.
    pub(super) async fn read(&self, body: Incoming) -> Result<Body, Refused> {
        timeout(PATIENCE, self.collect(body)).await.unwrap_or(Err(Refused::Slow))
    }

    async fn collect(&self, mut incoming: Incoming) -> Result<Body, Refused> {
        let announced = incoming.size_hint();
        if announced.lower() > MOST_BYTES as u64 {
            return Err(pass_over(incoming, 0).await);
        }
        let mut body = Body::default();
        while let Some(frame) = incoming.frame().await {
            let Ok(bytes) = frame.map_err(|_| Refused::Broken)?.into_data() else { continue };
            let length = body.bytes.len() + bytes.len();
            if length > MOST_BYTES {
                drop(body);
                return Err(pass_over(incoming, length as u64).await);
            }
            self.make_room(&mut body, length).await;
            body.bytes.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    async fn make_room(&self, body: &mut Body, length: usize) {
        let held = body.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = length.div_ceil(UNIT).saturating_sub(held);
        if wanted == 0 {
            return;
        }
        // At most as many as all have, and the semaphore is never closed.
        let more = u32::try_from(wanted).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(&self.0).acquire_many_owned(more).await else { return };
        match &mut body.room {
            Some(room) => room.merge(more),
            room => *room = Some(more),
        }
    }
}

impl Body {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads the rest of what is too much, without keeping it.
async fn pass_over(mut incoming: Incoming, mut length: u64) -> Refused {
    while length < READ_TO_TELL
        && let Some(Ok(frame)) = incoming.frame().await
    {
        length += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    Refused::TooLarge
}
