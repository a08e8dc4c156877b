//! `coffer status`: asks a running sidecar what it knows. The two ends of that question.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::Json;
use axum::routing::get;
use coffer::status::Status;
use coffer_runtime::process::Exit;
use serde_json::Value;

use super::{answer, complain};

/// How long a sidecar may take to answer; it answers from memory.
const PATIENCE: Duration = Duration::from_secs(2);

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
pub(super) fn status_route(status: Status) -> Router {
    Router::new().route("/status", get(move || async move { Json(serde_json::json!({ "volumes": status.volumes() })) }))
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
            answer(&table(volumes, SystemTime::now()));
        }
        let ready = !volumes.is_empty() && volumes.iter().all(|volume| volume["published"] == true);
        if ready { Exit::Done } else { Exit::Failed }
    }
}

/// One request over a plain socket: a client library for it would weigh more than the rest.
fn ask(address: SocketAddr) -> Result<Value, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(text)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    // HTTP/1.0: the answer ends with the connection and comes in one piece.
    write!(stream, "GET /status HTTP/1.0\r\nhost: {address}\r\n\r\n").map_err(text)?;
    let mut response = String::new();
    stream.read_to_string(&mut response).map_err(text)?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("the answer is not HTTP")?;
    if !head.split(' ').nth(1).is_some_and(|code| code == "200") {
        return Err("what answers is not a coffer sidecar".to_owned());
    }
    serde_json::from_str(body).map_err(|_| "what answers is not a coffer sidecar".to_owned())
}

fn table(volumes: &[Value], now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let ago = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |then| age(now.saturating_sub(then)));
    let mut lines = Vec::new();
    for volume in volumes {
        let state = if volume["published"] == true { "published" } else { "NOT PUBLISHED" };
        lines.push(
            format!("{}: {state} {} ago", volume["path"].as_str().unwrap_or("?"), ago(&volume["published_at"]))
                .replace(" - ago", ""),
        );
        if let Some(error) = volume["obstacle"].as_str() {
            lines.push(format!("  {error}"));
        }
        let mut rows =
            vec![["  STATE".to_owned(), "CONFIRMED".to_owned(), "VERSION".to_owned(), "REFERENCE".to_owned()]];
        let references = volume["references"].as_array().map(Vec::as_slice).unwrap_or_default();
        for reference in references {
            let text = |key: &str| reference[key].as_str().unwrap_or("-").to_owned();
            rows.push([
                format!("  {}", text("state")),
                ago(&reference["last_success"]),
                text("version"),
                text("reference"),
            ]);
        }
        lines.extend(aligned(&rows));
        for reference in references {
            if let Some(why) = reference["why"].as_str() {
                let since = reference["since"]
                    .as_u64()
                    .map(|_| format!(" for {}", ago(&reference["since"])))
                    .unwrap_or_default();
                let (word, name) =
                    (reference["state"].as_str().unwrap_or("?"), reference["reference"].as_str().unwrap_or("?"));
                lines.push(format!("  {name} is {word}{since}: {why}"));
            }
        }
    }
    lines.join("\n")
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
    fn the_table_tells_state_age_and_reason() {
        let body = serde_json::json!([{
            "path": "/run/secrets/app", "published": true, "published_at": 940, "obstacle": null,
            "references": [
                {"reference": "secretsmanager:a", "state": "fresh", "version": "v1", "last_success": 990},
                {"reference": "parameterstore:/b", "state": "stale", "since": 700, "why": "throttled", "version": "3", "last_success": 690},
            ],
        }]);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(
            table(body.as_array().unwrap(), now),
            "/run/secrets/app: published 1m ago\n  \
               STATE  CONFIRMED  VERSION  REFERENCE\n  \
               fresh  10s        v1       secretsmanager:a\n  \
               stale  5m 10s     3        parameterstore:/b\n  \
               parameterstore:/b is stale for 5m: throttled"
        );
    }
}
