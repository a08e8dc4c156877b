//! The API server, asked in its own JSON.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Credentials;

/// Where an API server listens, at the address of its control plane.
pub(super) const PORT: u16 = 6443;

/// Longest wait for an answer: the API server itself gives up after a minute.
const PATIENCE: Duration = Duration::from_secs(70);

/// An administrator at the API server. Each request makes a connection of its own, so that it may be
/// used in any runtime and does not notice a restart.
#[derive(Clone)]
pub struct Api {
    address: Ipv4Addr,
    token: String,
    tls: TlsConnector,
}

/// An answer of the API server that says no.
///
/// The cause in the errors of [`Api`]: `error.downcast_ref::<Refusal>()` finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Its reason in one word, such as `NotFound`; empty if there is none.
    pub reason: String,
    /// Its message; the whole body if it was no `Status` object.
    pub message: String,
}

impl Api {
    pub(super) fn new(address: Ipv4Addr, credentials: &Credentials) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(credentials.ca().clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { address, token: credentials.token().to_owned(), tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Where it is, as `https://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", self.address)
    }

    /// GETs an object or a list.
    ///
    /// # Errors
    /// A [`Refusal`] if the answer is anything but 2xx, here as in all of these.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// POSTs a new object to its collection: the object as it is now.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.call(Method::POST, path, Some(object)).await
    }

    /// PUTs an object in place of the one there: the object as it is now.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value> {
        self.call(Method::PUT, path, Some(object)).await
    }

    /// PATCHes an object with what is to be different: a merge patch, where null removes.
    pub async fn patch(&self, path: &str, changes: &Value) -> Result<Value> {
        self.call(Method::PATCH, path, Some(changes)).await
    }

    /// DELETEs an object.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.call(Method::DELETE, path, None).await
    }

    /// GETs what is no object: the HTTP status, whatever it is, and the text.
    pub async fn text(&self, path: &str) -> Result<(u16, String)> {
        let answer = self.exchange(Method::GET, path, String::new()).await?;
        Ok((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
    }

    async fn call(&self, method: Method, path: &str, object: Option<&Value>) -> Result<Value> {
        let what = format!("{method} {path}");
        let answer = self.exchange(method, path, object.map(Value::to_string).unwrap_or_default()).await?;
        if answer.status().is_success() {
            return serde_json::from_slice(answer.body()).with_context(|| format!("{what}: the answer is not JSON"));
        }
        Err(Error::new(Refusal::read(&answer)).context(what))
    }

    async fn exchange(&self, method: Method, path: &str, body: String) -> Result<Response<Bytes>> {
        let what = format!("{method} {}{path}", self.url());
        let answer = timeout(PATIENCE, self.send(method, path, body));
        answer.await.with_context(|| format!("{what}: no answer within {PATIENCE:?}"))?.with_context(|| what)
    }

    async fn send(&self, method: Method, path: &str, body: String) -> Result<Response<Bytes>> {
        let stream = TcpStream::connect((self.address, PORT)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.into());
        let stream = self.tls.connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with `sender`; how is no matter once the answer is there.
        tokio::spawn(connection);
        let content = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{}:{PORT}", self.address))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, content)
            .body(Full::<Bytes>::from(body))?;
        let (parts, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Refusal {
    fn read(answer: &Response<Bytes>) -> Self {
        let body = String::from_utf8_lossy(answer.body());
        let object: Value = serde_json::from_str(&body).unwrap_or_default();
        let field = |name: &str| object[name].as_str().map(str::to_owned);
        Self {
            status: answer.status().as_u16(),
            reason: field("reason").unwrap_or_default(),
            message: field("message").unwrap_or_else(|| body.trim().to_owned()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.reason, self.message)
    }
}

impl std::error::Error for Refusal {}
