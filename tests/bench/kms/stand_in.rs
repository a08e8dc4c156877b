//! A KMS that is fast and predictable: what LocalStack cannot be, with its hundred requests a second.
//!
//! It answers Encrypt, Decrypt, GenerateDataKey and DescribeKey after a fixed delay, and counts. There is one
//! key, whatever it is called; encryption contexts and signatures are not looked at; and nothing is secret:
//! a blob holds its plaintext with all bits turned.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::runtime;
use tokio::time::sleep;

/// The one key.
pub(crate) const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-4000-8000-000000000000";

/// What a blob begins with; in AWS's, too, the first part says which key it is of.
const HEADER: &[u8; 120] = &[7; 120];
/// After the header, so that no blob comes twice.
const SERIAL: usize = 8;

/// A running stand-in, for as long as the process lives.
pub(crate) struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    delay: Duration,
    serial: AtomicU64,
    calls: Mutex<BTreeMap<String, u64>>,
}

impl StandIn {
    /// Starts one on a free loopback port, on a thread of its own; each answer takes `delay` at least.
    pub(crate) fn start(delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { delay, serial: AtomicU64::new(0), calls: Mutex::default() });
        let serving = Arc::clone(&shared);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("kms".to_owned()).spawn(move || runtime.block_on(serve(listener, serving)))?;
        Ok(Self { address, shared })
    }

    /// The endpoint, as `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many calls to an operation came since the last [`Self::forget_calls`].
    pub(crate) fn calls(&self, operation: &str) -> u64 {
        self.shared.calls().get(operation).copied().unwrap_or(0)
    }

    pub(crate) fn forget_calls(&self) {
        self.shared.calls().clear();
    }

    /// A blob that was never seen before, of a DEK's 32 bytes.
    pub(crate) fn new_blob(&self) -> Vec<u8> {
        self.shared.blob(&[5; 32])
    }
}

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
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
        let operation = target.trim_start_matches("TrentService.").to_owned();
        *self.calls().entry(operation.clone()).or_default() += 1;
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let (status, answer) = match self.result(&operation, &body) {
            Ok(answer) => (StatusCode::OK, answer),
            Err(error) => (
                StatusCode::BAD_REQUEST,
                json!({"__type": "InvalidCiphertextException", "message": format!("{error:#}")}),
            ),
        };
        sleep(self.delay).await;
        let mut response = Response::new(Full::from(answer.to_string()));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-amz-json-1.1"));
        Ok(response)
    }

    fn result(&self, operation: &str, body: &[u8]) -> Result<Value> {
        let request: Value = serde_json::from_slice(body)?;
        let bytes = |field: &str| -> Result<Vec<u8>> {
            let text = request[field].as_str().with_context(|| format!("no {field}"))?;
            Ok(BASE64_STANDARD.decode(text)?)
        };
        match operation {
            "Encrypt" => Ok(json!({
                "KeyId": KEY,
                "CiphertextBlob": BASE64_STANDARD.encode(self.blob(&bytes("Plaintext")?)),
                "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            })),
            "GenerateDataKey" => {
                let plaintext = [5; 32];
                Ok(json!({
                    "KeyId": KEY,
                    "Plaintext": BASE64_STANDARD.encode(plaintext),
                    "CiphertextBlob": BASE64_STANDARD.encode(self.blob(&plaintext)),
                }))
            }
            "Decrypt" => Ok(json!({
                "KeyId": KEY,
                "Plaintext": BASE64_STANDARD.encode(opened(&bytes("CiphertextBlob")?).context("no blob of this KMS")?),
                "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            })),
            "DescribeKey" => {
                Ok(json!({"KeyMetadata": {"KeyId": KEY, "Arn": KEY, "Enabled": true, "KeyState": "Enabled"}}))
            }
            _ => anyhow::bail!("this KMS knows no {operation}"),
        }
    }

    fn blob(&self, plaintext: &[u8]) -> Vec<u8> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let turned = plaintext.iter().map(|byte| !byte);
        HEADER.iter().copied().chain(serial).chain(turned).collect()
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn opened(blob: &[u8]) -> Option<Vec<u8>> {
    let turned = blob.strip_prefix(HEADER)?.get(SERIAL..)?;
    Some(turned.iter().map(|byte| !byte).collect())
}
