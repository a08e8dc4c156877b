//! The API server's end of an admission webhook: reviews over HTTPS, and the certificate that is shown there.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::unique_id;

/// Longest wait for an answer: an API server waits no longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A certificate for one address, in files, as another would keep them.
#[derive(Debug)]
pub struct ServingCertificate {
    address: SocketAddr,
    folder: TempDir,
    pem: String,
}

/// A client that trusts that certificate. It keeps connections as the API server's does: HTTP/1.1, the one taken first
/// that was used last, none that the other end has closed; and nothing is sent again of which a byte was written. A clone shares them.
#[derive(Clone)]
pub struct ReviewClient {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    kept: Arc<Mutex<Vec<Sender>>>,
}

type Sender = SendRequest<Full<Bytes>>;

/// No connection, and nothing sent.
#[derive(Debug)]
pub struct NotConnected(anyhow::Error);

/// What a webhook answers.
#[derive(Clone, Debug)]
pub struct Reviewed {
    /// HTTP's status.
    pub status: u16,
    /// What came with it.
    pub body: Bytes,
}

impl ServingCertificate {
    /// A new one that signs itself, for that address.
    pub fn new(address: SocketAddr) -> Result<Self> {
        let made = generate_simple_self_signed(vec![address.ip().to_string(), "localhost".to_owned()])?;
        let folder = tempfile::Builder::new().prefix("coffer-webhook-").tempdir()?;
        let pem = made.cert.pem();
        std::fs::write(folder.path().join("tls.crt"), &pem)?;
        std::fs::write(folder.path().join("tls.key"), made.signing_key.serialize_pem())?;
        Ok(Self { address, folder, pem })
    }

    /// What it is for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate's file.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    /// The key's file.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("tls.key")
    }

    /// The folder, in which others may put more.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the API server has to know, as `caBundle` takes it.
    pub fn ca_bundle(&self) -> String {
        BASE64_STANDARD.encode(&self.pem)
    }

    /// TLS to who shows it.
    pub async fn connect(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>> {
        connect(address, &self.trusting()?).await
    }

    /// A client of who shows it there, with one connection.
    pub async fn client(&self, address: SocketAddr) -> Result<ReviewClient> {
        let client = ReviewClient { address, tls: self.trusting()?, kept: Arc::default() };
        let sender = client.connect().await?;
        client.keep(sender);
        Ok(client)
    }

    fn trusting(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).context("no certificate")?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ReviewClient {
    /// How many connections are open.
    pub fn connections(&self) -> usize {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|sender| !sender.is_closed());
        kept.len()
    }

    /// Has the next request made on a new connection.
    pub fn forget_connections(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sends a review, or what is none.
    pub async fn post(&self, body: impl Into<Bytes>) -> Result<Reviewed> {
        self.request(Method::POST, "/mutate?timeout=10s", body).await
    }

    /// Sends whatever request.
    ///
    /// # Errors
    /// [`NotConnected`] when nothing was sent, and anything when there is no answer.
    pub async fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Reviewed> {
        let body: Bytes = body.into();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            // As Go's client, of an empty body too.
            .header(header::CONTENT_LENGTH, body.len())
            .body(Full::from(body))?;
        let answer = async {
            let (sender, answer) = self.send(request).await?;
            let answer = read(answer).await?;
            self.keep(sender);
            Ok(answer)
        };
        timeout(PATIENCE, answer).await.with_context(|| format!("no answer within {PATIENCE:?}"))?
    }

    /// Has a pod reviewed that is about to be created in the namespace `shop`.
    pub async fn review(&self, pod: &Value) -> Result<Reviewed> {
        self.post(admission_review(pod).to_string()).await
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<(Sender, Response<Incoming>)> {
        loop {
            let (mut sender, kept) = match self.kept() {
                Some(sender) => (sender, true),
                None => (self.connect().await.map_err(NotConnected)?, false),
            };
            // An end that has come already shows here.
            if sender.ready().await.is_err() && kept {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok((sender, answer)),
                Err(mut failed) => match failed.take_message() {
                    // Nothing of it was written.
                    Some(again) if kept => request = again,
                    _ => return Err(failed.into_error().into()),
                },
            }
        }
    }

    fn kept(&self) -> Option<Sender> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep(&self, sender: Sender) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }

    async fn connect(&self) -> Result<Sender> {
        let stream = connect(self.address, &self.tls).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its sender.
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Reviewed {
    /// The `response` of the review.
    pub fn response(&self) -> Result<Value> {
        let answer: Value = serde_json::from_slice(&self.body).with_context(|| self.text())?;
        Ok(answer["response"].clone())
    }

    /// The patch, decoded; none if there is none.
    pub fn patch(&self) -> Result<Option<Value>> {
        let response = self.response()?;
        let Some(patch) = response["patch"].as_str() else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&BASE64_STANDARD.decode(patch)?)?))
    }

    /// The body, as a text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl fmt::Debug for ReviewClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReviewClient").field("address", &self.address).finish_non_exhaustive()
    }
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection: {:#}", self.0)
    }
}

impl std::error::Error for NotConnected {}

async fn connect(address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(address.ip().into());
    Ok(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?)
}

/// What the API server sends when a pod is about to be created in the namespace `shop`.
pub fn admission_review(pod: &Value) -> Value {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": unique_id(),
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

async fn read(answer: Response<Incoming>) -> Result<Reviewed> {
    let status = answer.status().as_u16();
    Ok(Reviewed { status, body: answer.into_body().collect().await?.to_bytes() })
}
