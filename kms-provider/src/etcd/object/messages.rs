//! The protobuf of the kinds that are known, and how each field looks in JSON.
//!
//! Tags are those of the `generated.proto` files of k8s.io/apimachinery (`pkg/runtime`, `pkg/apis/meta/v1`)
//! and k8s.io/api (`core/v1`) at v0.36.3; JSON names and what is left out when empty are those of the Go
//! structs' `json` tags beside them.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::ser::{Error, SerializeMap};
use serde::{Serialize, Serializer};
use zeroize::Zeroize;

/// The seconds of 10000-01-01T00:00:00Z, which RFC 3339 cannot write.
const END_OF_TIME: u64 = 253_402_300_800;

/// What wraps every object (`runtime.Unknown`).
#[derive(Message)]
#[prost(skip_debug)]
pub(super) struct Unknown {
    #[prost(message, optional, tag = "1")]
    pub(super) type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) raw: Vec<u8>,
}

impl Drop for Unknown {
    fn drop(&mut self) {
        self.raw.zeroize();
    }
}

#[derive(Message)]
pub(super) struct TypeMeta {
    #[prost(string, tag = "1")]
    pub(super) api_version: String,
    #[prost(string, tag = "2")]
    pub(super) kind: String,
}

/// `core/v1` Secret. Its `stringData` is never stored.
#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
#[prost(skip_debug)]
pub(super) struct SecretObject {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(bool, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    immutable: Option<bool>,
    #[prost(string, tag = "3")]
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    type_: String,
    #[prost(btree_map = "string, bytes", tag = "2")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "in_base64")]
    data: BTreeMap<String, Vec<u8>>,
}

impl Drop for SecretObject {
    fn drop(&mut self) {
        self.data.values_mut().for_each(Zeroize::zeroize);
    }
}

/// `core/v1` `ConfigMap`: who encrypts them has a reason.
#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
#[prost(skip_debug)]
pub(super) struct ConfigMap {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(bool, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    immutable: Option<bool>,
    #[prost(btree_map = "string, string", tag = "2")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    data: BTreeMap<String, String>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "in_base64")]
    binary_data: BTreeMap<String, Vec<u8>>,
}

impl Drop for ConfigMap {
    fn drop(&mut self) {
        self.data.values_mut().for_each(Zeroize::zeroize);
        self.binary_data.values_mut().for_each(Zeroize::zeroize);
    }
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
#[prost(skip_debug)]
pub(super) struct ObjectMeta {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    generate_name: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[prost(int64, tag = "7")]
    #[serde(skip_serializing_if = "is_zero")]
    generation: i64,
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "is_no_time", serialize_with = "in_rfc3339")]
    creation_timestamp: Option<Time>,
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "is_no_time", serialize_with = "in_rfc3339")]
    deletion_timestamp: Option<Time>,
    #[prost(int64, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion_grace_period_seconds: Option<i64>,
    #[prost(btree_map = "string, string", tag = "11")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    // `kubectl apply` leaves the whole Secret in one of them.
    #[prost(btree_map = "string, string", tag = "12")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "13")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owner_references: Vec<OwnerReference>,
    #[prost(string, repeated, tag = "14")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    finalizers: Vec<String>,
}

impl Drop for ObjectMeta {
    fn drop(&mut self) {
        self.annotations.values_mut().for_each(Zeroize::zeroize);
    }
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OwnerReference {
    #[prost(string, tag = "5")]
    api_version: String,
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    uid: String,
    #[prost(bool, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    block_owner_deletion: Option<bool>,
}

/// Go's zero time is a message without seconds.
#[derive(Message)]
pub(super) struct Time {
    #[prost(int64, optional, tag = "1")]
    seconds: Option<i64>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_no_time(time: &Option<Time>) -> bool {
    time.as_ref().is_none_or(|time| time.seconds.is_none())
}

fn in_rfc3339<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
    let seconds = time.as_ref().and_then(|time| time.seconds).and_then(|seconds| u64::try_from(seconds).ok());
    let seconds = seconds.filter(|seconds| *seconds < END_OF_TIME).ok_or_else(|| S::Error::custom("no such time"))?;
    serializer.collect_str(&humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn in_base64<S: Serializer>(values: &BTreeMap<String, Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    struct Encoded<'a>(&'a [u8]);
    impl Serialize for Encoded<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
        }
    }
    let mut map = serializer.serialize_map(Some(values.len()))?;
    for (name, value) in values {
        map.serialize_entry(name, &Encoded(value))?;
    }
    map.end()
}
