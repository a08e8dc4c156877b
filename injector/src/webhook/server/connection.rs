//! One client, from its handshake to its end.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;

use super::requests::Requests;
use super::{FIRST, HANDSHAKE, IDLE, tls};
use crate::webhook::metrics::{Cut, Metrics};

/// How often a silent client is asked whether it is there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests at a time on one connection; as many as Go's own servers take.
const STREAMS: u32 = 250;
/// What a client may send of a body before it is read, for one request and for all of a connection.
const WINDOW: u32 = 256 * 1024;
/// The most that the head of a request may have.
const HEAD: usize = 16 * 1024;

/// What a client is served with.
pub(super) struct Connection {
    pub(super) requests: Arc<Requests>,
    pub(super) metrics: Metrics,
    pub(super) life: Arc<Life>,
    /// Whether the process is about to end, and every answer over HTTP/1.1 is the last of its connection.
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
    /// Whether one was.
    served: bool,
    /// When the last one was; at the beginning, when the client came.
    answered: Instant,
}

/// A request that is under way.
pub(super) struct UnderWay(Arc<Life>);

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
        // By ALPN alone: to guess it from the first bytes is to wait for them without end.
        let h2 = stream.get_ref().1.alpn_protocol() == Some(tls::H2);
        let http = http(h2);
        let (requests, life, leaving) = (self.requests, Arc::clone(&self.life), self.leaving);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (requests, leaving, under_way) = (Arc::clone(&requests), Arc::clone(&leaving), life.begin());
            async move {
                let mut answer = requests.answer(request).await;
                // To close between two requests would lose the one that is on its way; HTTP/2 has its GOAWAY.
                if !h2 && leaving.load(Ordering::Relaxed) {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                drop(under_way);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let idle = tokio::select! {
            // How a connection ends is its client's affair.
            _ = connection.as_mut() => return,
            () = self.life.silent() => true,
            () = ends(&mut self.ending) => false,
        };
        connection.as_mut().graceful_shutdown();
        if idle {
            self.metrics.cut(Cut::Idle);
            // Nothing is under way, but one that does not take the GOAWAY has to be left all the same.
            let _ = timeout(HANDSHAKE, connection).await;
        } else {
            // However long that takes: the server itself has an end.
            let _ = connection.await;
        }
    }
}

fn http(h2: bool) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(FIRST).max_buf_size(HEAD);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(HEAD as u32);
    if h2 { http.http2_only() } else { http.http1_only() }
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
    /// A request is read.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.lock().open += 1;
        UnderWay(Arc::clone(self))
    }

    /// In this order clients have to leave when there are too many: first those who have never had an answer, then
    /// those whose last one is longest ago.
    pub(super) fn worth(&self) -> (bool, Instant) {
        let state = self.lock();
        (state.served, state.answered)
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
        Self(Mutex::new(State { open: 0, served: false, answered: Instant::now() }))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.open = state.open.saturating_sub(1);
        state.served = true;
        state.answered = Instant::now();
    }
}
