//! Times in JSON: whole seconds since 1970.

use std::time::SystemTime;

use serde::Serializer;

pub(crate) fn seconds<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds_of(time, serializer),
        None => serializer.serialize_none(),
    }
}

pub(crate) fn seconds_of<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}
