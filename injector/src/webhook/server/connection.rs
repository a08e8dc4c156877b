//! One client, from its handshake to its end.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;

use super::requests::Requests;
use super::{FIRST, HANDSHAKE, IDLE, LAST_WORD};
use crate::webhook::metrics::{Cut, Metrics};

/// The most that the head of a request may have, and what is read at once.
const HEAD: usize = 16 * 1024;

/// What a client is served with.
pub(super) struct Connection {
    pub(super) requests: Arc<Requests>,
    pub(super) metrics: Metrics,
    pub(super) life: Arc<Life>,
    /// Whether the process is about to end, and every answer is the last of its connection.
    pub(super) leaving: Arc<AtomicBool>,
    /// Whether the process ends.
    pub(super) ending: watch::Receiver<bool>,
}

/// What is under way with a client, and since when nothing is.
#[derive(Debug)]
pub(super) struct Life(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Requests that are not answered yet.
    open: usize,
    /// How many of them are here to their last byte.
    whole: usize,
    /// Whether one was.
    served: bool,
    /// When the last one was; at the beginning, when the client came.
    answered: Instant,
}

/// A request that is under way.
pub(super) struct UnderWay {
    life: Arc<Life>,
    whole: bool,
}

impl Connection {
    /// Serves it to its end.
    pub(super) async fn serve(self, stream: TcpStream, tls: TlsAcceptor) {
        // Answers are small, and each is waited for.
        let _ = stream.set_nodelay(true);
        match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.answer(stream).await,
            Ok(Err(error)) => {
                self.metrics.handshake_failed();
                tell(&error);
            }
            Err(_) => self.metrics.handshake_failed(),
        }
    }

    async fn answer(mut self, stream: TlsStream<TcpStream>) {
        let (requests, life, leaving) = (self.requests, Arc::clone(&self.life), self.leaving);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (requests, leaving, mut under_way) = (Arc::clone(&requests), Arc::clone(&leaving), life.begin());
            async move {
                let mut answer = requests.answer(request, &mut under_way).await;
                // To close between two requests may lose the one that is on its way.
                if leaving.load(Ordering::Relaxed) {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                drop(under_way);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut http = http1::Builder::new();
        // How long who is silent may stay is told by [`Life`]; hyper's own limit would run between requests, too.
        http.header_read_timeout(None).max_buf_size(HEAD);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let idle = tokio::select! {
            // How a connection ends is its client's affair.
            _ = connection.as_mut() => return,
            () = self.life.silent() => true,
            () = ends(&mut self.ending) => false,
        };
        if idle {
            self.metrics.cut(Cut::Idle);
            connection.as_mut().graceful_shutdown();
            // Nothing is under way, but one that does not take the end has to be left all the same.
            let _ = timeout(HANDSHAKE, connection).await;
            return;
        }
        // Who was answered since it is known that the process ends was told so with that answer. Who has just come is
        // about to ask, and that answer will be the end.
        if !self.life.was_served() && timeout(LAST_WORD, connection.as_mut()).await.is_ok() {
            return;
        }
        // All others have asked for nothing during the whole delay. Go's client sees their end, and takes another
        // connection for what comes next. What it is sending at that very moment fails: a POST is repeated only if
        // nothing of it was written yet (`shouldRetryRequest` in net/http/transport.go, `isReplayable` in request.go).
        // That is rare, as of its idle connections it takes the one first that it used last, and cannot be helped.
        connection.as_mut().graceful_shutdown();
        // However long that takes: the server itself has an end.
        let _ = connection.await;
    }
}

/// Waits for the end of the process.
async fn ends(ending: &mut watch::Receiver<bool>) {
    if ending.wait_for(|ending| *ending).await.is_err() {
        // Nobody is there to say so: the task is about to be dropped.
        pending::<()>().await;
    }
}

/// A client that does not know our CA says so; anything else is a port scan or a probe.
fn tell(error: &io::Error) {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::AlertReceived(alert)) => {
            let fix = "if it is the API server, compare `caBundle` of the MutatingWebhookConfiguration";
            tracing::warn!("a client does not take the certificate ({alert:?}): {fix}");
        }
        _ => tracing::debug!(%error, "a client ended the handshake"),
    }
}

impl Life {
    /// A request's head is read.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.lock().open += 1;
        UnderWay { life: Arc::clone(self), whole: false }
    }

    /// In this order clients have to leave when there are too many: first those who are owed nothing, then those who
    /// wait for the answer to what they have sent whole. Of either, first those who have never had an answer, then those
    /// whose last one is longest ago.
    pub(super) fn worth(&self) -> (bool, bool, Instant) {
        let state = self.lock();
        (state.whole > 0, state.served, state.answered)
    }

    /// Whether it was ever answered.
    pub(super) fn was_served(&self) -> bool {
        self.lock().served
    }

    /// Waits until the client has been silent for longer than it may.
    pub(super) async fn silent(&self) {
        loop {
            let until = {
                let state = self.lock();
                let patience = if state.served { IDLE } else { FIRST };
                match state.open {
                    0 => state.answered + patience,
                    // Each has an end of its own.
                    _ => Instant::now() + patience,
                }
            };
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Life {
    fn default() -> Self {
        Self(Mutex::new(State { open: 0, whole: 0, served: false, answered: Instant::now() }))
    }
}

impl UnderWay {
    /// All of it has come; from here on the client waits for us.
    pub(super) fn is_whole(&mut self) {
        if !std::mem::replace(&mut self.whole, true) {
            self.life.lock().whole += 1;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.life.lock();
        state.open = state.open.saturating_sub(1);
        state.whole = state.whole.saturating_sub(usize::from(self.whole));
        state.served = true;
        state.answered = Instant::now();
    }
}
