//! What `etcdctl get` prints, in the forms that keep every byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coffer_runtime::Secret;
use serde::Deserialize;

use super::{Sealed, Stored, StoredError};

/// One value, and where etcd has it.
#[derive(Debug)]
pub struct Entry {
    /// The whole path, if it is known.
    pub etcd_key: Option<String>,
    /// The value, not yet looked at.
    pub value: Secret,
}

/// What was read.
#[derive(Debug)]
pub enum Printed {
    /// One value by itself.
    One(Entry),
    /// The answer to a `get` in JSON with more than one key.
    Many(Vec<Entry>),
}

impl Entry {
    /// The value as a KMS provider encrypted it, with or without a line break at its end.
    fn sealed(&self) -> Option<Sealed<'_>> {
        let value = self.value.expose();
        let parsed = Stored::parse(value).or_else(|error| value.strip_suffix(b"\n").map_or(Err(error), Stored::parse));
        match parsed {
            Ok(Stored::Sealed(sealed)) => Some(sealed),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    kvs: Vec<KeyValue<'a>>,
}

#[derive(Deserialize)]
struct KeyValue<'a> {
    key: &'a str,
    value: Option<&'a str>,
}

/// What both an object and etcdctl's answer may have at their top.
#[derive(Deserialize)]
struct Top {
    #[serde(default)]
    kind: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    header: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    kvs: Option<serde::de::IgnoredAny>,
}

impl Printed {
    /// Tells which of the forms `input` has: the answer of `etcdctl get … -w json`, the two lines that
    /// `etcdctl get KEY` prints, or the value alone.
    ///
    /// # Errors
    /// When it is JSON of etcdctl without a value in it.
    pub fn parse(input: Secret) -> Result<Self, StoredError> {
        let bytes = input.expose();
        if bytes.is_empty() {
            return Err(StoredError::Empty);
        }
        if is_answer(bytes) {
            return Self::answer(bytes);
        }
        if let Some((key, value)) = two_lines(bytes) {
            return Ok(Self::One(Entry { etcd_key: Some(key.to_owned()), value: Secret::copy_of(value) }));
        }
        Ok(Self::One(Entry { etcd_key: None, value: input }))
    }

    /// The same value, under `etcd_key`.
    ///
    /// # Errors
    /// When it is more than one.
    pub fn at(self, etcd_key: &str) -> Result<Self, StoredError> {
        match self {
            Self::One(entry) => Ok(Self::One(Entry { etcd_key: Some(etcd_key.to_owned()), ..entry })),
            Self::Many(entries) => Err(StoredError::KeyOfMany(entries.len())),
        }
    }

    /// Whether a KMS provider encrypted any of it.
    #[must_use]
    pub fn needs_kms(&self) -> bool {
        self.entries().iter().any(|entry| entry.sealed().is_some())
    }

    /// A key id that stands in it, which is as good a name of the key as its plugin had.
    #[must_use]
    pub fn key_id(&self) -> Option<String> {
        let mut sealed = self.entries().iter().filter_map(Entry::sealed);
        sealed.find_map(|sealed| Some(sealed.dek_source().key_id.to_owned()).filter(|key_id| !key_id.is_empty()))
    }

    fn entries(&self) -> &[Entry] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    fn answer(bytes: &[u8]) -> Result<Self, StoredError> {
        let malformed = |what: &str| StoredError::NotEtcdctl(what.to_owned());
        // serde's own messages may quote a value.
        let answer: Answer<'_> = serde_json::from_slice(bytes)
            .map_err(|_| malformed("`kvs` is no list of `key` and `value`, both in base64"))?;
        let mut entries = Vec::with_capacity(answer.kvs.len());
        for kv in answer.kvs {
            let key = STANDARD.decode(kv.key).map_err(|_| malformed("a `key` is not base64"))?;
            let key = String::from_utf8(key).map_err(|_| malformed("a `key` is not UTF-8"))?;
            let value = kv.value.ok_or_else(|| malformed("it has no `value`; leave --keys-only out"))?;
            let value = STANDARD.decode(value).map_err(|_| malformed("a `value` is not base64"))?;
            entries.push(Entry { etcd_key: Some(key), value: Secret::new(value) });
        }
        match entries.len() {
            0 => Err(StoredError::Empty),
            1 => Ok(Self::One(entries.remove(0))),
            _ => Ok(Self::Many(entries)),
        }
    }
}

/// An object is JSON too, and has a kind.
fn is_answer(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<Top>(bytes)
            .is_ok_and(|top| top.kind.is_none() && (top.header.is_some() || top.kvs.is_some()))
}

/// The key on a line of its own, then the value: no value of an API server starts with `/`.
fn two_lines(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let key = std::str::from_utf8(&bytes[..end]).ok()?;
    key.starts_with('/').then(|| (key, &bytes[end + 1..]))
}
