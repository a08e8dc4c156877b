//! Bodies of requests, within limits: of size and time for each, of size for all.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::webhook::review::MOST_BYTES;

/// What is read from everyone who is connected, in bytes: a review is rarely larger.
pub(super) const SMALL: usize = 64 << 10;
/// How long such a body may take to come. An API server waits 30 s at most, and rarely longer than 10.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The most that all larger ones may take at a time, in bytes.
pub(super) const MOST_AT_ONCE: usize = 8 << 20;
/// How long one is let wait for the others.
pub(super) const TURN: Duration = Duration::from_secs(1);
/// How long a larger one may take to come, while others wait.
pub(super) const PATIENCE_BIG: Duration = Duration::from_secs(3);
/// Who sends what is not read is told so once all of it has come, up to this: a client that still writes may not read.
const READ_TO_TELL: u64 = 64 << 20;

/// Room for bodies.
#[derive(Debug)]
pub(super) struct Bodies(Arc<Semaphore>);

/// A body; its room is held until it is dropped.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Why a body is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It does not say how long it is; Go's client does, of what it has whole.
    #[error("the request has no Content-Length: tell how long the AdmissionReview is")]
    Unmeasured,
    /// It is too big.
    #[error("an AdmissionReview may have {MOST_BYTES} bytes; this one has more")]
    TooLarge,
    /// It is large, and others take all the room that there is for those.
    #[error("all room for large AdmissionReviews is taken, and was for {TURN:?}: try again")]
    NoRoom,
    /// It takes too long to come.
    #[error("the body did not come within {0:?}")]
    Slow(Duration),
    /// The client broke off.
    #[error("the body ends too early")]
    Broken,
}

impl Refused {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Unmeasured => StatusCode::LENGTH_REQUIRED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_AT_ONCE)))
    }
}

impl Bodies {
    /// Reads one, once there is room for it. `measured` is whether the request says how long it is.
    pub(super) async fn read(&self, mut body: Incoming, measured: bool) -> Result<Body, Refused> {
        let refused = match body.size_hint().exact().filter(|_| measured) {
            None => Refused::Unmeasured,
            Some(length) => match usize::try_from(length).ok().filter(|length| *length <= MOST_BYTES) {
                None => Refused::TooLarge,
                Some(length) if length <= SMALL => return collect(body, length, None, PATIENCE).await,
                Some(length) => match self.room(length).await {
                    Some(room) => return collect(body, length, Some(room), PATIENCE_BIG).await,
                    None => Refused::NoRoom,
                },
            },
        };
        pass_over(&mut body).await;
        Err(refused)
    }

    async fn room(&self, length: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(length).ok()?;
        timeout(TURN, Arc::clone(&self.0).acquire_many_owned(permits)).await.ok()?.ok()
    }
}

impl Body {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

async fn collect(
    mut incoming: Incoming,
    length: usize,
    room: Option<OwnedSemaphorePermit>,
    patience: Duration,
) -> Result<Body, Refused> {
    let end = Instant::now() + patience;
    let mut bytes = Vec::new();
    while let Some(frame) = timeout_at(end, incoming.frame()).await.map_err(|_| Refused::Slow(patience))? {
        let Ok(data) = frame.map_err(|_| Refused::Broken)?.into_data() else { continue };
        // All at once, and only for who has begun to send; hyper passes on no more than was announced.
        bytes.reserve_exact(length.saturating_sub(bytes.len()));
        bytes.extend_from_slice(&data);
    }
    Ok(Body { bytes, _room: room })
}

/// Reads what is not kept, for as long as a large body may take.
async fn pass_over(incoming: &mut Incoming) {
    let end = Instant::now() + PATIENCE_BIG;
    let mut length = 0;
    while length < READ_TO_TELL
        && let Ok(Some(Ok(frame))) = timeout_at(end, incoming.frame()).await
    {
        length += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}
