//! What it tells of itself: readiness, metrics, status, the audit journal.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use bed::{Fault, Metrics, Outcome, Rule, Service, Times, eventually, http_get};
use serde_json::Value;

use crate::{
    faults::{PARAMETER, SECRET, pair},
    fixture::{Fixture, SOON, ends_with},
};

#[tokio::test]
async fn it_is_ready_from_the_first_full_set_on_and_not_before() -> Result<()> {
    let fixture = pair("1s").await?;
    let stuck = fixture.proxy.fault(Rule::new(Fault::AccessDenied).operation("GetParameters"));
    let sidecar = fixture.start()?;
    let why = eventually(SOON, async || {
        let (status, body) = sidecar.get("/readyz").await?;
        ensure!(status == 503, "{status}");
        ensure!(body.contains(PARAMETER) && body.contains("AccessDeniedException"), "no reason yet: {body}");
        Ok(body)
    })
    .await?;
    ensure!(why.contains(&fixture.volume().display().to_string()), "{why}");
    ensure!(sidecar.get("/healthz").await? == (200, "ok\n".to_owned()));
    let status = sidecar.status().await?;
    ensure!(status["published"] == false && status["publishes"] == 0 && status["published_at"].is_null(), "{status:#}");
    let listen = format!("--listen={}", fixture.listen());
    ends_with(&fixture.coffer().args(["status", "--quiet", &listen]).start()?, 1).await?;

    fixture.proxy.clear_fault(stuck);
    sidecar.ready().await?;
    ensure!(fixture.read("db")? == "old" && fixture.read("level")? == "old", "ready without the files");
    ends_with(&fixture.coffer().args(["status", "--quiet", &listen]).start()?, 0).await?;

    fixture.proxy.fault(Rule::new(Fault::Status(503)));
    sidecar.becomes(SECRET, "stale").await?;
    ensure!(sidecar.get("/readyz").await?.0 == 200, "the application would be cut off for a failure of AWS");
    Ok(())
}

#[tokio::test]
async fn status_shows_a_person_what_is_known() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    let listen = format!("--listen={}", fixture.listen());
    let version = sidecar.reference(SECRET).await?["version"].as_str().context("no version")?.to_owned();
    let shown = fixture.coffer().args(["status", &listen]).start()?;
    ends_with(&shown, 0).await?;
    let table = shown.stdout();
    ensure!(table.starts_with(&format!("{}: published ", fixture.volume().display())), "{table}");
    ensure!(table.contains("fresh") && table.contains(SECRET) && table.contains(&version[..12]), "{table}");

    fixture.proxy.fault(Rule::new(Fault::Throttle));
    sidecar.becomes(SECRET, "stale").await?;
    let shown = fixture.coffer().args(["status", &listen]).start()?;
    ends_with(&shown, 0).await?;
    let table = shown.stdout();
    ensure!(
        table.contains(" stale for ")
            && table.contains(&format!("  {SECRET} "))
            && table.contains("ThrottlingException"),
        "{table}"
    );

    let shown =
        fixture.coffer().args(["status", "--json"]).env("COFFER_LISTEN", fixture.listen().to_string()).start()?;
    ends_with(&shown, 0).await?;
    let json: Value = serde_json::from_str(&shown.stdout())?;
    ensure!(json["volumes"][0]["references"].as_array().is_some_and(|all| all.len() == 2), "{json:#}");
    Ok(())
}

/// The samples of a family, by their labels as written.
type Samples = BTreeMap<String, f64>;

/// Reads OpenMetrics text as its specification has it: every sample below the TYPE of its family,
/// no family twice, the end marked.
fn read_metrics(text: &str) -> Result<BTreeMap<String, Samples>> {
    let body = text.strip_suffix("# EOF\n").context("no `# EOF` at the end")?;
    let mut families = BTreeSet::new();
    let mut family = (String::new(), String::new());
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
            match kind {
                Some("TYPE") => {
                    family = (name.to_owned(), rest.to_owned());
                    ensure!(families.insert(name.to_owned()), "the family {name} stands twice");
                }
                Some("HELP") => ensure!(!rest.is_empty(), "{name} has no help"),
                Some("UNIT") => ensure!(name.ends_with(rest), "{name} is not in {rest}"),
                _ => bail!("not a line of OpenMetrics: {line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
        let value: f64 = value.parse().with_context(|| format!("no number: {line}"))?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').with_context(|| format!("no end: {line}"))?),
            None => (series, ""),
        };
        let suffixes = match family.1.as_str() {
            "counter" => &["_total"][..],
            "gauge" => &[""][..],
            "info" => &["_info"][..],
            "histogram" => &["_bucket", "_sum", "_count"][..],
            other => bail!("a family of type {other}"),
        };
        ensure!(
            suffixes.iter().any(|suffix| name == format!("{}{suffix}", family.0)),
            "{name} does not belong to the {} {}",
            family.1,
            family.0
        );
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once("=\"").with_context(|| format!("not a label: {label} in {line}"))?;
            ensure!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{key} in {line}");
            ensure!(!value.is_empty(), "an empty label: {line}");
        }
        let twice = samples.entry(name.to_owned()).or_default().insert(labels.to_owned(), value);
        ensure!(twice.is_none(), "the series {series} stands twice");
    }
    Ok(samples)
}

#[tokio::test]
async fn metrics_are_openmetrics_and_tell_the_state() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    fixture.asked("DescribeSecret", 1).await?;
    let (status, text) = sidecar.get("/metrics").await?;
    ensure!(status == 200);
    let metrics = read_metrics(&text).with_context(|| text.clone())?;
    ensure!(metrics.keys().all(|name| name.starts_with("coffer_")), "{:?}", metrics.keys());
    let volume = fixture.volume().display().to_string();
    let volume = ("volume", volume.as_str());
    let one = |metrics: &Metrics, name: &str, labels: &[(&str, &str)]| -> Result<f64> {
        let found = metrics.values(name, labels)?;
        let [value] = found[..] else { bail!("{found:?} for {name} with {labels:?}\n{metrics}") };
        Ok(value)
    };
    let metrics = sidecar.metrics().await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    let recent = |value: f64| (now - 100.0..=now + 1.0).contains(&value);
    ensure!(one(&metrics, "coffer_build_info", &[("version", env!("CARGO_PKG_VERSION"))])? == 1.0);
    ensure!(one(&metrics, "coffer_volume_ready", &[volume])? == 1.0);
    ensure!(one(&metrics, "coffer_publishes_total", &[volume])? == 1.0);
    ensure!(one(&metrics, "coffer_references_fresh", &[volume])? == 2.0);
    ensure!(one(&metrics, "coffer_references_stale", &[volume])? == 0.0);
    ensure!(one(&metrics, "coffer_references_missing", &[volume])? == 0.0);
    ensure!(recent(one(&metrics, "coffer_volume_last_publish_timestamp_seconds", &[volume])?));
    let secret = ("reference", SECRET);
    ensure!(recent(one(&metrics, "coffer_reference_last_success_timestamp_seconds", &[volume, secret])?));
    ensure!((0.0..100.0).contains(&one(&metrics, "coffer_reference_age_seconds", &[volume, secret])?));
    ensure!(one(&metrics, "coffer_reference_stale", &[volume, secret])? == 0.0);
    let identity = fixture.aws.role_arn("app");
    let expiry = one(&metrics, "coffer_credentials_expiry_timestamp_seconds", &[("identity", &identity)])?;
    ensure!(expiry > now, "credentials that have ended: {expiry}");
    for action in ["sts:AssumeRoleWithWebIdentity", "secretsmanager:GetSecretValue", "ssm:GetParameters"] {
        let action = ("action", action);
        ensure!(one(&metrics, "coffer_aws_calls_total", &[action, ("result", "ok")])? >= 1.0);
        ensure!(one(&metrics, "coffer_aws_call_duration_seconds_count", &[action])? >= 1.0);
    }
    ensure!(
        one(&metrics, "coffer_aws_calls_total", &[("action", "sts:AssumeRoleWithWebIdentity"), ("result", "ok")])?
            == 1.0
    );

    // A bad day shows.
    fixture.proxy.fault(Rule::new(Fault::Throttle).service(Service::ParameterStore));
    sidecar.becomes(PARAMETER, "stale").await?;
    let metrics = sidecar.metrics().await?;
    ensure!(one(&metrics, "coffer_references_stale", &[volume])? == 1.0);
    ensure!(one(&metrics, "coffer_reference_stale", &[("reference", PARAMETER)])? == 1.0);
    ensure!(one(&metrics, "coffer_reference_stale", &[secret])? == 0.0);
    ensure!(
        one(&metrics, "coffer_aws_calls_total", &[("action", "ssm:GetParameters"), ("result", "throttled")])? >= 1.0
    );
    ensure!(one(&metrics, "coffer_volume_ready", &[volume])? == 1.0);
    Ok(())
}

#[tokio::test]
async fn a_scrape_is_bounded_however_many_references_there_are() -> Result<()> {
    let fixture = Fixture::new().await?;
    let entries = (0..400).map(|n| format!("{{name: p{n}, from: 'parameterstore:/many/p{n}', optional: true}}"));
    fixture.config("1h", entries.chain([format!("{{name: db, from: '{SECRET}'}}")]))?;
    let config = std::fs::read_to_string(fixture.config_path())?;
    fixture.write_config(&format!("rate_limits: {{parameterstore: 1000}}\n{config}"))?;
    fixture.aws.create_secret("prod/db", "old").await?;
    let sidecar = fixture.ready().await?;
    let (_, text) = sidecar.get("/metrics").await?;
    let metrics = read_metrics(&text)?;
    ensure!(metrics["coffer_reference_stale"].len() <= 200, "{} series", metrics["coffer_reference_stale"].len());
    let missing: f64 = metrics["coffer_references_missing"].values().sum();
    ensure!((missing - 400.0).abs() < 0.5, "{missing} of 400 are missing");
    Ok(())
}

#[tokio::test]
async fn another_address_serves_the_metrics_and_nothing_else() -> Result<()> {
    let fixture = pair("1h").await?;
    // The fixture's address is no other test's, and so are its ports.
    let address = format!("{}:9467", fixture.listen().ip());
    let config = std::fs::read_to_string(fixture.config_path())?;
    fixture.write_config(&format!("metrics: {address}\n{config}"))?;
    let sidecar = fixture.ready().await?;
    let (status, there) = http_get(&format!("http://{address}/metrics")).await?;
    let (_, here) = sidecar.get("/metrics").await?;
    let (there, here) = (read_metrics(&there)?, read_metrics(&here)?);
    ensure!(status == 200 && there.keys().eq(here.keys()), "{:?} and {:?}", there.keys(), here.keys());
    ensure!(
        there["coffer_volume_last_publish_timestamp_seconds"] == here["coffer_volume_last_publish_timestamp_seconds"],
        "counted apart: {there:?} and {here:?}"
    );
    for path in ["/status", "/readyz", "/healthz", "/rotationz", "/"] {
        let (status, body) = http_get(&format!("http://{address}{path}")).await?;
        ensure!(status == 404 && body.is_empty(), "{path}: {status}: {body}");
    }
    Ok(())
}

fn journal(text: &str) -> Result<Vec<Value>> {
    let read = |line: &str| serde_json::from_str(line).with_context(|| format!("not JSON on standard output: {line}"));
    text.lines().map(read).collect()
}

#[tokio::test]
async fn the_journal_names_reference_version_request_and_cause_of_each_fetch() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    let second = fixture.aws.put_secret_value("prod/db", "new").await?;
    fixture.holds("db", "new").await?;
    let fault = Rule::new(Fault::AccessDenied).operation("GetParameters").times(Times::First(1));
    fixture.proxy.fault(fault);
    sidecar.becomes(PARAMETER, "stale").await?;
    sidecar.becomes(PARAMETER, "fresh").await?;
    ensure!(sidecar.process.stop().await?.success());

    let lines = journal(&sidecar.process.stdout())?;
    let calls = fixture.proxy.calls();
    for line in &lines {
        let time = line["time"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok());
        ensure!(time.is_some() && line["volume"] == fixture.volume().display().to_string(), "{line}");
        ensure!(["start", "schedule", "retry", "repair"].iter().any(|cause| line["cause"] == *cause), "{line}");
        if line["event"] != "fetch" {
            continue;
        }
        ensure!(line["identity"] == fixture.aws.role_arn("app"), "{line}");
        let id = line["request_id"].as_str().with_context(|| format!("no request id: {line}"))?;
        let call = calls.iter().find(|call| call.request_id.as_deref() == Some(id));
        let call = call.with_context(|| format!("AWS has no call {id}: {line}"))?;
        let operation = if line["reference"] == SECRET { "GetSecretValue" } else { "GetParameters" };
        ensure!(call.operation == operation, "{line} is of a call to {}", call.operation);
        ensure!(line["version"].is_string() == (call.outcome == Outcome::Relayed), "{line}");
    }
    let fetches = |reference: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["event"] == "fetch" && line["reference"] == reference).collect()
    };
    let secret = fetches(SECRET);
    ensure!(secret.len() == 2, "{secret:#?}");
    ensure!(secret[0]["cause"] == "start" && secret[1]["cause"] == "schedule");
    ensure!(secret[1]["version"] == *second.version_id);
    let denied = fetches(PARAMETER).into_iter().find(|line| line["error"].is_string()).context("no failed fetch")?;
    ensure!(denied["error"] == "AccessDeniedException" && denied["version"].is_null(), "{denied}");
    ensure!(fetches(PARAMETER).iter().any(|line| line["cause"] == "retry" && line["version"] == "1"), "{lines:#?}");

    let published: Vec<&Value> = lines.iter().filter(|line| line["event"] == "publish").collect();
    ensure!(published.len() == 2, "{published:#?}");
    let files = published[1]["files"].as_array().context("no files")?;
    ensure!(files.iter().any(|file| file["name"] == "db" && file["version"] == *second.version_id), "{files:#?}");
    ensure!(files.iter().any(|file| file["name"] == "level" && file["from"] == PARAMETER && file["version"] == "1"));
    Ok(())
}

#[tokio::test]
async fn the_journal_can_be_turned_off_and_the_log_goes_elsewhere() -> Result<()> {
    let fixture = pair("1h").await?;
    let process = fixture.run().args(["--once", "--no-audit", "--log-level=debug", "--log-format=json"]).start()?;
    ends_with(&process, 0).await?;
    ensure!(process.stdout().is_empty(), "{}", process.stdout());
    for line in process.stderr().lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    ensure!(!process.stderr().is_empty());
    let process = fixture.run().args(["--once", "--log-level=off"]).start()?;
    ends_with(&process, 0).await?;
    ensure!(process.stderr().is_empty(), "{}", process.stderr());
    ensure!(!journal(&process.stdout())?.is_empty());
    Ok(())
}
