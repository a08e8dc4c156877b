//! The bed's own HTTP client: plain HTTP/1.1 to loopback.

use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

/// Longest wait for an answer. LocalStack loads a service at its first call, for seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client that keeps its connections.
///
/// The connections belong to the runtime that was current when they were made: one client,
/// one runtime.
pub(crate) type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// A new client, with no connection yet.
pub(crate) fn client() -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Sends a request and reads the whole answer.
pub(crate) async fn exchange(client: &HttpClient, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
    let what = format!("{} {}", request.method(), request.uri());
    let answer = async {
        let (parts, body) = client.request(request).await?.into_parts();
        anyhow::Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    };
    timeout(PATIENCE, answer)
        .await
        .with_context(|| format!("{what}: no answer within {PATIENCE:?}"))?
        .with_context(|| what)
}

/// GETs a URL: the status and the body.
pub async fn http_get(url: &str) -> Result<(u16, String)> {
    let request = Request::get(url).body(Full::default()).with_context(|| format!("not a URL: {url}"))?;
    let answer = exchange(&client(), request).await?;
    let body = String::from_utf8_lossy(answer.body()).into_owned();
    Ok((answer.status().as_u16(), body))
}
