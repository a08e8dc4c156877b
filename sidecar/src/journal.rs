//! The audit journal: one JSON object a line for each fetch and each publication. It says who asked
//! for what, why, and which version came; it never holds a value.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use coffer_runtime::telemetry::Unblocking;
use serde::Serialize;

/// Why something was fetched or published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The process started.
    Start,
    /// The refresh interval, or the secret's own rotation date.
    Schedule,
    /// The last try failed.
    Retry,
    /// An event said that it has changed.
    Push,
    /// A client of the API asked for it.
    Api,
    /// What was published was damaged or gone.
    Repair,
    /// The config changed.
    Reload,
}

/// Where audit lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// Standard output, where beside them only lines of metrics stand.
    Stdout,
    /// Standard error, where standard output is another program's.
    Stderr,
    /// Nowhere.
    Off,
}

/// One line.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event<'a> {
    /// A value was fetched, or was refused.
    Fetch {
        /// Nothing for what the API fetches.
        #[serde(skip_serializing_if = "Option::is_none")]
        volume: Option<&'a Path>,
        reference: &'a str,
        /// The one that answered.
        region: &'a str,
        identity: &'a str,
        cause: Cause,
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    },
    /// A set is in place.
    Publish { volume: &'a Path, cause: Cause, files: Vec<PublishedFile<'a>> },
}

/// A file of a published set.
#[derive(Serialize)]
pub(crate) struct PublishedFile<'a> {
    pub(crate) name: &'a str,
    pub(crate) from: &'a str,
    pub(crate) version: &'a str,
}

impl Journal {
    pub(crate) fn write(self, event: &Event<'_>) {
        let Some(mut line) = line(event, SystemTime::now()) else { return };
        line.push('\n');
        // A reader that is stuck or gone must neither hold up nor end the sidecar. Under the lock, for lines of metrics
        // come here too, from other threads.
        let written = match self {
            Self::Stdout => Unblocking(std::io::stdout().lock()).write_all(line.as_bytes()),
            Self::Stderr => Unblocking(std::io::stderr().lock()).write_all(line.as_bytes()),
            Self::Off => Ok(()),
        };
        if let Err(error) = written {
            tracing::warn!("an audit line was dropped: {error}");
        }
    }
}

fn line(event: &Event<'_>, now: SystemTime) -> Option<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        #[serde(flatten)]
        event: &'a Event<'a>,
    }
    let time = humantime::format_rfc3339_millis(now).to_string();
    serde_json::to_string(&Line { time, event }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_names_reference_version_request_and_cause() {
        let event = Event::Fetch {
            volume: Some(Path::new("/v")),
            reference: "secretsmanager:a",
            region: "eu-west-1",
            identity: "process",
            cause: Cause::Start,
            version: Some("1"),
            request_id: Some("r"),
            error: None,
        };
        assert_eq!(
            line(&event, SystemTime::UNIX_EPOCH).unwrap(),
            r#"{"time":"1970-01-01T00:00:00.000Z","event":"fetch","volume":"/v","reference":"secretsmanager:a","region":"eu-west-1","identity":"process","cause":"start","version":"1","request_id":"r"}"#
        );
    }
}
