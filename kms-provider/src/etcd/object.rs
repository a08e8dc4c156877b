//! The object in a value: protobuf or JSON in, a manifest that `kubectl apply -f` takes out.

mod messages;

use coffer_runtime::Secret;
use prost::Message;
use serde::Serialize;
use serde_json::value::RawValue;

use self::messages::{ConfigMap, SecretObject, Unknown};
use super::StoredError;
use super::stored::{PROTOBUF, is_object};

/// The JSON manifest of an object, without a line break at its end.
///
/// What is stored as JSON (every custom resource) is given as it is. Of a Secret or `ConfigMap` everything is
/// given but `managedFields`, which `kubectl` leaves out as well.
///
/// # Errors
/// When the kind's protobuf is not known here, or the bytes are no object.
pub fn manifest(object: &Secret) -> Result<Secret, StoredError> {
    let bytes = object.expose();
    let Some(protobuf) = bytes.strip_prefix(PROTOBUF) else {
        let json = is_object(bytes) && serde_json::from_slice::<&RawValue>(bytes).is_ok();
        return if json { Ok(Secret::copy_of(bytes.trim_ascii())) } else { Err(StoredError::NoObject) };
    };
    let unknown = Unknown::decode(protobuf).map_err(|_| StoredError::NoObject)?;
    let kind = unknown.type_meta.as_ref().ok_or(StoredError::NoObject)?;
    let (api_version, kind) = (kind.api_version.as_str(), kind.kind.as_str());
    // Twice as much room as the protobuf takes is enough for all but the tiny, so that the text seldom moves.
    let room = 2 * bytes.len() + 1024;
    match (api_version, kind) {
        ("v1", "Secret") => written::<SecretObject>(&unknown, api_version, kind, room),
        ("v1", "ConfigMap") => written::<ConfigMap>(&unknown, api_version, kind, room),
        _ => Err(StoredError::UnknownKind { kind: kind.to_owned(), api_version: api_version.to_owned() }),
    }
}

/// Whether the bytes are an object from their first to their last, as far as that can be told.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    bytes.strip_prefix(PROTOBUF).is_none_or(|protobuf| Unknown::decode(protobuf).is_ok())
}

fn written<T: Message + Default + Serialize>(
    unknown: &Unknown,
    api_version: &str,
    kind: &str,
    room: usize,
) -> Result<Secret, StoredError> {
    let damaged = || StoredError::Damaged(format!("it says that it is a {kind}, and is none"));
    let object = T::decode(unknown.raw.as_slice()).map_err(|_| damaged())?;
    let mut text = Vec::with_capacity(room);
    serde_json::to_writer_pretty(&mut text, &Manifest { api_version, kind, object: &object }).map_err(|_| damaged())?;
    Ok(Secret::new(text))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a, T> {
    api_version: &'a str,
    kind: &'a str,
    #[serde(flatten)]
    object: &'a T,
}
