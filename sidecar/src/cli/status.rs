//! `coffer status`: asks a running sidecar what it knows. The two ends of that question.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal, Read, Write};
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
/// Ends with 0 if every volume has a full set, with 1 if one has not or nobody answers: as a startup or
/// readiness probe, use `coffer status --probe`, whose words Kubernetes shows in the pod's events.
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

    /// In one line, what is not there yet and why; nothing once all is there
    #[arg(long, conflicts_with_all = ["json", "quiet"])]
    probe: bool,
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
        if self.probe {
            lacking(&body).iter().for_each(|lacking| answer(lacking));
        } else if self.json {
            answer(&format!("{body:#}"));
        } else if !self.quiet {
            let coloured =
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            answer(&Report { now: unix_now(), coloured }.of(&body));
        }
        // As /readyz has it: a volume that a new config is still to bring makes nothing unready.
        if body["ready"] == true { Exit::Done } else { Exit::Failed }
    }
}

/// What keeps the first volumes from having a full set, short enough for an event of Kubernetes, which is cut
/// at 1024 characters (`NoteLengthLimit` of its event validation).
fn lacking(body: &Value) -> Option<String> {
    const SHOWN: usize = 3;
    const LONGEST: usize = 250;
    let cut = |why: &str| match why.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &why[..at]),
        None => why.to_owned(),
    };
    let mut reasons = Vec::new();
    for volume in list(&body["volumes"]).iter().filter(|volume| volume["published"] != true) {
        reasons.extend(volume["obstacle"].as_str().map(cut));
        let missing = list(&volume["references"]).iter().filter(|reference| reference["state"] == "missing");
        for reference in missing {
            let name = text(reference, "reference");
            let why = reference["why"].as_str().map_or_else(|| "not fetched yet".to_owned(), cut);
            reasons.push(format!("{name}: {why}"));
        }
    }
    if reasons.is_empty() {
        return (body["ready"] != true).then(|| "not ready yet".to_owned());
    }
    let others = reasons.len().saturating_sub(SHOWN);
    reasons.truncate(SHOWN);
    let more = if others > 0 { format!("; and {others} more") } else { String::new() };
    Some(format!("{}{more}", reasons.join("; ")))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
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

/// The answer for a person.
struct Report {
    /// In seconds since 1970.
    now: u64,
    coloured: bool,
}

const COLUMNS: [&str; 6] = ["STATE", "CONFIRMED", "NEXT LOOK", "VERSION", "LAST ERROR", "REFERENCE"];

impl Report {
    fn of(&self, body: &Value) -> String {
        let mut lines: Vec<String> = list(&body["volumes"]).iter().flat_map(|volume| self.volume(volume)).collect();
        lines.extend(self.push(&body["push"]));
        lines.extend(self.api(&body["api"]));
        lines.extend(self.config(&body["config"]));
        lines.join("\n")
    }

    fn volume(&self, volume: &Value) -> Vec<String> {
        let published = match self.ago(&volume["published_at"]) {
            Some(ago) if volume["published"] == true => format!("published {ago}"),
            _ => self.red("NOT PUBLISHED"),
        };
        let mut lines = vec![format!("{}: {published}", text(volume, "path"))];
        lines.extend(volume["obstacle"].as_str().map(|obstacle| format!("  {obstacle}")));

        let mut rows = vec![COLUMNS.map(str::to_owned)];
        let mut reasons: BTreeMap<(String, String), Vec<&Value>> = BTreeMap::new();
        for reference in list(&volume["references"]) {
            rows.push([
                text(reference, "state"),
                self.ago(&reference["last_success"]).unwrap_or_else(|| "-".to_owned()),
                self.ahead(&reference["next_look"]).unwrap_or_else(|| "-".to_owned()),
                short(&text(reference, "version")),
                text(reference, "code"),
                text(reference, "reference"),
            ]);
            if reference["why"].is_string() {
                reasons.entry((text(reference, "state"), text(reference, "code"))).or_default().push(reference);
            }
        }
        lines.extend(self.aligned(&rows));
        for ((state, _), alike) in reasons {
            let first = alike[0];
            let others = match alike.len() {
                1 => "is".to_owned(),
                count => format!("and {} more are", count - 1),
            };
            let since = first["since"].as_u64().map(|since| format!(" for {}", self.age(since))).unwrap_or_default();
            lines.push(format!("  {} {others} {state}{since}: {}", text(first, "reference"), text(first, "why")));
        }
        lines.extend(list(&volume["on_change"]).iter().map(|action| self.action(action)));
        lines
    }

    /// A line on one of a volume's actions.
    fn action(&self, action: &Value) -> String {
        let name = text(action, "action");
        let told = match self.ago(&action["last_success"]) {
            Some(ago) => format!("told {ago}, {} swaps in all", action["swaps"]),
            None => "nothing to tell yet".to_owned(),
        };
        match action["last_error"].as_str() {
            Some(error) => {
                let next = self.ahead(&action["next_try"]).map(|next| format!("; next try {next}"));
                let failing = self.red("FAILING");
                format!("  on change, {name}: {failing}: {error}{} ({told})", next.unwrap_or_default())
            }
            None => format!("  on change, {name}: {told}"),
        }
    }

    fn push(&self, push: &Value) -> Option<String> {
        let queue = push["queue"].as_str()?;
        let heard = match self.ago(&push["last_event"]) {
            Some(ago) => format!("{} events, the last {ago}", push["events"]),
            None => "no event yet".to_owned(),
        };
        Some(match push["state"].as_str() {
            Some("failing") => {
                let since = push["since"].as_u64().map(|since| format!(" for {}", self.age(since))).unwrap_or_default();
                let failing = self.red("FAILING");
                format!("push {queue}: {failing}{since}, looking by schedule meanwhile: {}", text(push, "why"))
            }
            _ => format!("push {queue}: {heard}"),
        })
    }

    fn api(&self, api: &Value) -> Option<String> {
        let entries = api["entries"].as_u64()?;
        let stale = list(&api["stale"]);
        let mut line = format!("api: {entries} answers kept");
        if let Some(first) = stale.first() {
            let since = first["since"].as_u64().map(|since| format!(" for {}", self.age(since))).unwrap_or_default();
            let (reference, reason) = (text(first, "reference"), text(first, "reason"));
            line.push_str(&format!(", {} stale, such as {reference}{since}: {reason}", stale.len()));
        }
        Some(line)
    }

    fn config(&self, config: &Value) -> Vec<String> {
        let path = text(config, "path");
        let mut lines = Vec::new();
        if config["state"] == "failing" {
            let failing = self.red("NOT TAKEN OVER");
            let since = config["since"].as_u64().map(|since| format!(" for {}", self.age(since))).unwrap_or_default();
            lines.push(format!("{path}: {failing}{since}, going on with the one from before: {}", text(config, "why")));
        }
        if config["state"] == "pending" {
            let since = config["since"].as_u64().map(|since| format!(" for {}", self.age(since))).unwrap_or_default();
            lines.push(format!("{path}: being taken over{since}; what it asks for is not all here yet"));
        }
        let restart: Vec<&str> = list(&config["needs_restart"]).iter().filter_map(Value::as_str).collect();
        if !restart.is_empty() {
            lines.push(format!("{path}: restart to take over {}", restart.join(", ")));
        }
        lines
    }

    fn ago(&self, time: &Value) -> Option<String> {
        time.as_u64().map(|then| format!("{} ago", self.age(then)))
    }

    fn ahead(&self, time: &Value) -> Option<String> {
        let ahead = time.as_u64()?.saturating_sub(self.now);
        Some(if ahead == 0 { "now".to_owned() } else { format!("in {}", span(ahead)) })
    }

    fn age(&self, then: u64) -> String {
        span(self.now.saturating_sub(then))
    }

    /// The last column may be as long as it likes; the first says how things are.
    fn aligned(&self, rows: &[[String; 6]]) -> Vec<String> {
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..COLUMNS.len() - 1).map(width).collect();
        let line = |row: &[String; 6]| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                let padded = format!("{cell:<width$}  ");
                if column == 0 { self.state(&padded) } else { padded }
            });
            format!("  {}{}", cells.collect::<String>(), row[COLUMNS.len() - 1])
        };
        rows.iter().map(line).collect()
    }

    fn state(&self, word: &str) -> String {
        let colour = match word.trim() {
            "fresh" => "32",
            "stale" => "33",
            "missing" => "31",
            _ => return word.to_owned(),
        };
        self.painted(word, colour)
    }

    fn red(&self, text: &str) -> String {
        self.painted(text, "31")
    }

    fn painted(&self, text: &str, colour: &str) -> String {
        if self.coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("-").to_owned()
}

/// As much of a VersionId as tells it from others in a table.
fn short(version: &str) -> String {
    const SHOWN: usize = 12;
    match version.char_indices().nth(SHOWN + 1) {
        Some(_) => format!("{}…", version.chars().take(SHOWN).collect::<String>()),
        None => version.to_owned(),
    }
}

/// As precise as anyone wants to know it.
fn span(seconds: u64) -> String {
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

    fn report(body: &Value) -> String {
        Report { now: 1000, coloured: false }.of(body)
    }

    #[test]
    fn the_table_tells_state_age_next_look_and_each_reason_once() {
        let stale = |reference: &str| {
            serde_json::json!({"reference": reference, "state": "stale", "since": 700, "code": "ThrottlingException",
                "why": "throttled", "version": "3", "last_success": 690, "next_look": 1004})
        };
        let body = serde_json::json!({"volumes": [{
            "path": "/run/secrets/app", "published": true, "published_at": 940, "obstacle": null,
            "references": [
                {"reference": "secretsmanager:a", "state": "fresh", "last_success": 990, "next_look": 1050,
                    "version": "11111111-1111-1111-1111-111111111111"},
                stale("parameterstore:/b"),
                stale("parameterstore:/c"),
            ],
            "on_change": [
                {"action": "touch /a", "swaps": 3, "last_success": 940},
                {"action": "http 127.0.0.1/", "swaps": 0, "last_error": "refused", "next_try": 1002},
            ],
        }]});
        assert_eq!(
            report(&body),
            "/run/secrets/app: published 1m ago\n  \
               STATE  CONFIRMED   NEXT LOOK  VERSION        LAST ERROR           REFERENCE\n  \
               fresh  10s ago     in 50s     11111111-111…  -                    secretsmanager:a\n  \
               stale  5m 10s ago  in 4s      3              ThrottlingException  parameterstore:/b\n  \
               stale  5m 10s ago  in 4s      3              ThrottlingException  parameterstore:/c\n  \
               parameterstore:/b and 1 more are stale for 5m: throttled\n  \
               on change, touch /a: told 1m ago, 3 swaps in all\n  \
               on change, http 127.0.0.1/: FAILING: refused; next try in 2s (nothing to tell yet)"
        );
    }

    #[test]
    fn a_probe_says_in_one_line_what_is_missing_and_nothing_once_all_is_there() {
        let missing =
            |name: &str, why: Option<&str>| serde_json::json!({"reference": name, "state": "missing", "why": why});
        let body = |references: Vec<Value>| {
            let published = references.is_empty();
            serde_json::json!({"ready": published, "volumes": [
                {"path": "/a", "published": published, "references": references},
                {"path": "/b", "published": true, "references": [missing("secretsmanager:optional", Some("no"))]},
            ]})
        };
        assert_eq!(lacking(&body(vec![])), None);
        let long = "x".repeat(900);
        let said = lacking(&body(vec![
            missing("secretsmanager:a", Some("denied; allow it")),
            missing("secretsmanager:b", None),
            missing("secretsmanager:c", Some(&long)),
            missing("secretsmanager:d", None),
            missing("secretsmanager:e", None),
        ]))
        .unwrap();
        assert!(said.starts_with("secretsmanager:a: denied; allow it; secretsmanager:b: not fetched yet; "), "{said}");
        assert!(said.ends_with("…; and 2 more") && said.chars().count() < 500, "{said}");
        assert_eq!(lacking(&serde_json::json!({"ready": false})).as_deref(), Some("not ready yet"));
    }

    #[test]
    fn what_is_amiss_beside_the_volumes_is_told_with_its_reason() {
        let body = serde_json::json!({
            "volumes": [],
            "push": {"queue": "https://q", "state": "failing", "since": 940, "why": "no such queue"},
            "api": {"entries": 2, "stale": [{"reference": "secretsmanager:a", "since": 970, "reason": "Throttling"}]},
            "config": {"path": "c.yaml", "state": "failing", "since": 999, "why": "c.yaml:1:1: no", "needs_restart": ["api"]},
        });
        assert_eq!(
            report(&body),
            "push https://q: FAILING for 1m, looking by schedule meanwhile: no such queue\n\
             api: 2 answers kept, 1 stale, such as secretsmanager:a for 30s: Throttling\n\
             c.yaml: NOT TAKEN OVER for 1s, going on with the one from before: c.yaml:1:1: no\n\
             c.yaml: restart to take over api"
        );
    }
}
