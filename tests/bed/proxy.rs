//! A reverse proxy in front of LocalStack that logs every call, and answers as AWS does on a
//! bad day.
//!
//! LocalStack never throttles, never is slow, knows no expired token and no forbidden secret.
//! The proxy adds all that, call by call, as [`Rule`]s say; and since it sees each call, tests
//! count calls and look at who made them.
//!
//! It runs on a thread of its own, so that a test may block without stopping it.

mod call;
mod fault;
mod relay;
mod reply;
#[cfg(test)]
mod tests;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    runtime,
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};

pub use self::{
    call::{Call, Outcome},
    fault::{Fault, Rule, RuleId, Times},
};
use self::{
    call::{Log, LogEntry},
    fault::Rules,
    relay::Upstream,
    reply::{AnswerBody, ConnectionCut, Reply},
};

/// A running proxy. It ends when dropped, and every open connection with it.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the proxy's thread and its owner both hold.
#[derive(Debug)]
struct Shared {
    log: Arc<Log>,
    rules: Rules,
    latency: Mutex<Duration>,
    upstream: Upstream,
}

impl FaultProxy {
    /// Starts a proxy on a free loopback port, in front of an endpoint such as
    /// [`LocalStack::url`](crate::LocalStack::url).
    pub fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot bind a port on 127.0.0.1")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            log: Arc::default(),
            rules: Rules::default(),
            latency: Mutex::default(),
            upstream: Upstream::new(upstream),
        });
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new().name("fault-proxy".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, as `http://127.0.0.1:PORT`: the value for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every call since the start or the last [`Self::clear_log`], in order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.log.calls()
    }

    /// The calls to one operation, such as `GetSecretValue`.
    pub fn calls_to(&self, operation: &str) -> Vec<Call> {
        self.shared.log.calls_where(|call| call.operation == operation)
    }

    /// How many calls went to one operation.
    pub fn count(&self, operation: &str) -> usize {
        self.calls_to(operation).len()
    }

    /// Forgets all calls so far.
    pub fn clear_log(&self) {
        self.shared.log.clear();
    }

    /// Sets a rule. Where several rules meet a call, the one set last answers it.
    pub fn fault(&self, rule: Rule) -> RuleId {
        self.shared.rules.add(rule)
    }

    /// Takes one rule back. Calls it holds up stay held up.
    pub fn clear_fault(&self, id: RuleId) {
        self.shared.rules.remove(id);
    }

    /// Takes all rules back. Calls they hold up stay held up.
    pub fn clear_faults(&self) {
        self.shared.rules.clear();
    }

    /// Makes each answer take at least this long, from the whole request to the first byte;
    /// answers that take longer by themselves are not held back.
    pub fn set_latency(&self, latency: Duration) {
        *lock(&self.shared.latency) = latency;
    }

    /// Turned on, answers reads from memory once LocalStack has answered the same request, so
    /// that a benchmark measures the program and not LocalStack. Turning it on or off forgets
    /// what was in memory.
    ///
    /// Reads are `Get…`, `BatchGet…`, `Describe…` and `AssumeRole…`. Requests are the same when
    /// they come from the same role (or access key) and differ in no field but the web-identity
    /// token and the session name. Credentials are answered from memory while they last.
    pub fn set_replay(&self, on: bool) {
        self.shared.upstream.set_replay(on);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been told on standard error already.
            let _ = thread.join();
        }
    }
}

/// Accepts connections until it is dropped.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener made non-blocking, in a runtime");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: some will be free soon.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Fails only for a connection that is gone already.
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        let answer = service_fn(move |request| Arc::clone(&shared).answer(request));
        // How a connection ends, by a fault or by the client, is no matter here.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<AnswerBody>, ConnectionCut> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.collect().await.map_err(|_| ConnectionCut)?.to_bytes());
        let arrived = Instant::now();
        let call = self.log.read(&request);
        let fault = self.rules.choose(&call);
        let entry = self.log.open(call.clone(), fault.clone());
        let (reply, ending) = self.reply(request, &call, fault, &entry).await?;
        let latency = *lock(&self.latency);
        sleep_until(arrived + latency).await;
        entry.close(&reply);
        Ok(ending(reply))
    }

    /// What to answer, and how to put it on the wire.
    async fn reply(
        &self,
        request: Request<Bytes>,
        call: &Call,
        fault: Option<Fault>,
        entry: &LogEntry,
    ) -> Result<(Reply, fn(Reply) -> Response<AnswerBody>), ConnectionCut> {
        let relay = async || self.upstream.answer(request, call, entry).await;
        let reply = match fault {
            None => relay().await,
            Some(Fault::Slow(delay)) => {
                sleep(delay).await;
                relay().await
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Cut) => return Err(ConnectionCut),
            Some(Fault::CutMidBody) => return Ok((relay().await, Reply::half)),
            Some(Fault::BatchErrors(errors)) => relay().await.with_batch_errors(&call.request, &errors),
            Some(Fault::CredentialsLastFor(lifetime)) => relay().await.with_expiration(lifetime),
            Some(Fault::EmptyPageFirst) => Reply::empty_page(&call.operation),
            Some(Fault::Garbage) => Reply::garbage(),
            Some(Fault::Body(body)) => Reply::of_body(body),
            Some(Fault::Throttle) => Reply::throttled(call.service),
            Some(Fault::Status(status)) => Reply::server_error(call.service, status),
            Some(Fault::AccessDenied) => Reply::access_denied(call),
            Some(Fault::ExpiredToken) => Reply::expired_token(call.service),
            Some(Fault::InvalidIdentityToken) => Reply::invalid_identity_token(),
            Some(Fault::Error { status, code, message }) => Reply::error(call.service, status, &code, &message),
        };
        Ok((reply, Reply::whole))
    }
}

/// Locks, even after a panic elsewhere: a failed test must not fail the next.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
