//! etcd, asked past the API server: what really is stored.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

use crate::http;

/// Where it listens, at the address of its control plane: for clients, and for peers it has not.
const PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// A reader of one etcd.
#[derive(Debug)]
pub struct Etcd {
    address: Ipv4Addr,
}

/// A value in etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its bytes.
    pub value: Vec<u8>,
    /// The revision of etcd at which it was last written: the same as long as nobody writes.
    pub revision: u64,
}

impl Etcd {
    pub(super) fn at(address: Ipv4Addr) -> Self {
        Self { address }
    }

    /// Where it is, as `http://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}:{PORT}", self.address)
    }

    /// The value under a key, such as `/registry/secrets/default/db`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, key: &str) -> Result<Stored> {
        let found = self.range(&json!({"key": BASE64_STANDARD.encode(key)})).await?;
        found.into_values().next().with_context(|| format!("etcd holds no {key}"))
    }

    /// Every key that begins so, and its value.
    pub async fn under(&self, prefix: &str) -> Result<BTreeMap<String, Stored>> {
        ensure!(prefix.ends_with('/'), "{prefix} should end with a slash");
        // The next byte after the slash: the first key that no longer begins so.
        let end = format!("{}0", &prefix[..prefix.len() - 1]);
        self.range(&json!({"key": BASE64_STANDARD.encode(prefix), "range_end": BASE64_STANDARD.encode(end)})).await
    }

    pub(super) fn flags(&self, folder: &Path) -> [String; 9] {
        let peer = format!("http://{}:{PEER_PORT}", self.address);
        [
            "--name=test".to_owned(),
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls={}", self.url()),
            format!("--advertise-client-urls={}", self.url()),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=test={peer}"),
            "--log-level=warn".to_owned(),
            // Nothing here outlives the machine.
            "--unsafe-no-fsync".to_owned(),
        ]
    }

    async fn range(&self, request: &Value) -> Result<BTreeMap<String, Stored>> {
        let request = Request::post(format!("{}/v3/kv/range", self.url())).body(Full::from(request.to_string()))?;
        let answer = http::exchange(&http::client(), request).await?;
        let body = answer.body();
        ensure!(answer.status() == 200, "etcd answers {}: {}", answer.status(), String::from_utf8_lossy(body));
        let answer: Value = serde_json::from_slice(body)?;
        let found = answer["kvs"].as_array().into_iter().flatten();
        found.map(Stored::read).collect::<Option<_>>().with_context(|| format!("not an answer of etcd: {answer}"))
    }
}

impl Stored {
    /// Whether these bytes stand anywhere in the value.
    pub fn contains(&self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        self.value.windows(bytes.len()).any(|window| window == bytes)
    }

    fn read(found: &Value) -> Option<(String, Self)> {
        let bytes = |name: &str| BASE64_STANDARD.decode(found[name].as_str().unwrap_or_default()).ok();
        // Numbers of 64 bits are strings in this JSON.
        let revision = found["mod_revision"].as_str()?.parse().ok()?;
        Some((String::from_utf8(bytes("key")?).ok()?, Self { value: bytes("value")?, revision }))
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.value[..self.value.len().min(64)];
        write!(f, "revision {}, {} bytes: {}…", self.revision, self.value.len(), start.escape_ascii())
    }
}
