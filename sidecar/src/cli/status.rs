//! `coffer status`: asks a running sidecar what it knows. The two ends of that question.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::Json;
use axum::routing::get;
use coffer_runtime::process::Exit;
use serde_json::Value;

use super::{answer, complain};

/// How long a sidecar may take to answer. It answers from memory, but its container may be short of
/// CPU time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ask a running sidecar for the state of every reference
///
/// Ends with 0 if every volume has a full set, with 1 if one has not or nobody answers: as a
/// startup or readiness probe, use `coffer status --quiet`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Where the sidecar listens
    #[arg(long, value_name = "ADDRESS", env = "COFFER_LISTEN", default_value = "127.0.0.1:9465")]
    listen: SocketAddr,

    /// As JSON
    #[arg(long, conflicts_with = "quiet")]
    json: bool,

    /// Only the exit code
    #[arg(long, short)]
    quiet: bool,
}

/// `/status`, as JSON.
pub(super) fn status_route(whole: impl Fn() -> Value + Clone + Send + Sync + 'static) -> Router {
    Router::new().route("/status", get(move || async move { Json(whole()) }))
}

impl Show {
    pub(super) fn run(self) -> Exit {
        let body = match ask(self.listen) {
            Ok(body) => body,
            Err(error) => {
                complain(&format!(
                    "no sidecar answers on {}: {error}; is it running, and with this --listen?",
                    self.listen
                ));
                return Exit::Failed;
            }
        };
        let volumes = body["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
        if self.json {
            answer(&format!("{body:#}"));
        } else if !self.quiet {
            let mut text = table(volumes, SystemTime::now());
            let config = &body["config"];
            if config["state"] == "failing" {
                let path = config["path"].as_str().unwrap_or_default();
                let why = config["why"].as_str().unwrap_or_default();
                text.push_str(&format!("\n{path}: NOT TAKEN OVER, going on with the one from before: {why}"));
            }
            answer(&text);
        }
        let ready = !volumes.is_empty() && volumes.iter().all(|volume| volume["published"] == true);
        if ready { Exit::Done } else { Exit::Failed }
    }
}

/// One request over a plain socket: a client library for it would weigh more than the rest.
fn ask(address: SocketAddr) -> Result<Value, String> {
    let text = |error: std::io::Error| match error.kind() {
        // What a socket's time limit is called when it is over; the kernel's words would mislead.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("no answer within {} s", PATIENCE.as_secs()),
        _ => error.to_string(),
    };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(text)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    // HTTP/1.0: the answer ends with the connection and comes in one piece.
    write!(stream, "GET /status HTTP/1.0\r\nhost: {address}\r\n\r\n").map_err(text)?;
    let mut response = String::new();
    stream.read_to_string(&mut response).map_err(text)?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("the answer is not HTTP")?;
    if head.split(' ').nth(1) != Some("200") {
        return Err("what answers is not a coffer sidecar".to_owned());
    }
    serde_json::from_str(body).map_err(|_| "what answers is not a coffer sidecar".to_owned())
}

fn table(volumes: &[Value], now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    volumes.iter().flat_map(|volume| volume_lines(volume, now)).collect::<Vec<_>>().join("\n")
}

fn volume_lines(volume: &Value, now: u64) -> Vec<String> {
    let since = |value: &Value| value.as_u64().map(|then| age(now.saturating_sub(then)));
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("-").to_owned();
    let published = match since(&volume["published_at"]) {
        Some(age) if volume["published"] == true => format!("published {age} ago"),
        _ => "NOT PUBLISHED".to_owned(),
    };
    let mut lines = vec![format!("{}: {published}", text(volume, "path"))];
    lines.extend(volume["obstacle"].as_str().map(|obstacle| format!("  {obstacle}")));

    let references = volume["references"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows = vec![["  STATE", "CONFIRMED", "VERSION", "REFERENCE"].map(str::to_owned)];
    let mut reasons: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
    for reference in references {
        let state = text(reference, "state");
        let confirmed = since(&reference["last_success"]).unwrap_or_else(|| "-".to_owned());
        rows.push([format!("  {state}"), confirmed, short(&text(reference, "version")), text(reference, "reference")]);
        if reference["why"].is_string() {
            reasons.entry((state, text(reference, "code"))).or_default().push(reference);
        }
    }
    lines.extend(aligned(&rows));
    for ((state, _), alike) in reasons {
        let first = alike[0];
        let others = match alike.len() {
            1 => "is".to_owned(),
            count => format!("and {} more are", count - 1),
        };
        let since = since(&first["since"]).map(|age| format!(" for {age}")).unwrap_or_default();
        lines.push(format!("  {} {others} {state}{since}: {}", text(first, "reference"), text(first, "why")));
    }
    lines
}

/// As much of a VersionId as tells it from others in a table.
fn short(version: &str) -> String {
    const SHOWN: usize = 12;
    match version.char_indices().nth(SHOWN + 1) {
        Some(_) => format!("{}…", version.chars().take(SHOWN).collect::<String>()),
        None => version.to_owned(),
    }
}

fn aligned(rows: &[[String; 4]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2)];
    rows.iter().map(|[a, b, c, d]| format!("{a:<0$}  {b:<1$}  {c:<2$}  {d}", widths[0], widths[1], widths[2])).collect()
}

fn age(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(match seconds {
        0..3600 => seconds,
        3600..86_400 => seconds / 60 * 60,
        _ => seconds / 3600 * 3600,
    }))
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_state_age_and_each_reason_once() {
        let stale = |reference: &str| {
            serde_json::json!({"reference": reference, "state": "stale", "since": 700, "code": "ThrottlingException",
                "why": "throttled", "version": "3", "last_success": 690})
        };
        let body = serde_json::json!([{
            "path": "/run/secrets/app", "published": true, "published_at": 940, "obstacle": null,
            "references": [
                {"reference": "secretsmanager:a", "state": "fresh", "last_success": 990,
                    "version": "11111111-1111-1111-1111-111111111111"},
                stale("parameterstore:/b"),
                stale("parameterstore:/c"),
            ],
        }]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(
            table(body.as_array().unwrap(), now),
            "/run/secrets/app: published 1m ago\n  \
               STATE  CONFIRMED  VERSION        REFERENCE\n  \
               fresh  10s        11111111-111…  secretsmanager:a\n  \
               stale  5m 10s     3              parameterstore:/b\n  \
               stale  5m 10s     3              parameterstore:/c\n  \
               parameterstore:/b and 1 more are stale for 5m: throttled"
        );
    }
}
