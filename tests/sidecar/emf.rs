//! Metrics for CloudWatch, as lines of JSON among the output.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bed::{Fault, Process, Rule};
use serde_json::Value;

use crate::faults::{SECRET, pair};
use crate::fixture::{Fixture, ends_with};

const NAMESPACE: &str = "--emf-namespace=Shop/Coffer";

/// The lines that CloudWatch makes metrics of: every line that has `_aws`.
fn told(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["_aws"].is_object())
        .collect()
}

/// What the lines say of one metric, by the values of its dimensions: of a counter all together, else the last.
fn metric(lines: &[Value], name: &str) -> Result<BTreeMap<Vec<String>, f64>> {
    let mut found = BTreeMap::new();
    for line in lines {
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        ensure!(directive["Namespace"] == "Shop/Coffer", "{line:#}");
        let metrics = directive["Metrics"].as_array().context("no metrics")?;
        let Some(metric) = metrics.iter().find(|metric| metric["Name"] == name) else { continue };
        let dimensions = directive["Dimensions"][0].as_array().context("no dimensions")?;
        let value = |name: &Value| Some(line[name.as_str()?].as_str()?.to_owned());
        let values = dimensions.iter().map(value).collect::<Option<Vec<_>>>().context("a dimension without value")?;
        let sum = match &line[name] {
            Value::Number(number) => number.as_f64().context("no number")?,
            several => {
                let all = |key: &str| several[key].as_array().cloned().unwrap_or_default();
                all("Values").iter().zip(all("Counts")).map(|(v, n)| v.as_f64().unwrap() * n.as_f64().unwrap()).sum()
            }
        };
        let kept = found.entry(values).or_default();
        *kept = if metric["Unit"] == "Count" { *kept + sum } else { sum };
    }
    Ok(found)
}

fn of(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

async fn ended(process: &Process) -> Result<()> {
    process.signal(bed::Signal::TERM)?;
    ends_with(process, 0).await.map(drop)
}

#[tokio::test]
async fn the_last_minute_is_told_at_the_end_as_metrics_say_it_and_beside_whole_audit_lines() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.start_as(fixture.run().arg(NAMESPACE))?;
    sidecar.ready().await?;
    fixture.proxy.fault(Rule::new(Fault::Throttle).operation("DescribeSecret"));
    sidecar.becomes(SECRET, "stale").await?;
    let (_, text) = sidecar.get("/metrics").await?;
    ended(&sidecar.process).await?;

    let output = sidecar.process.stdout();
    for line in output.lines() {
        let json: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(json["_aws"].is_object() != json["event"].is_string(), "{line}");
    }
    ensure!(output.contains(r#""event":"publish""#), "{output}");
    let lines = told(&output);
    // A dozen gauges, what calls came to, what was published; twice, when the end is called and when it is there.
    ensure!((4..16).contains(&lines.len()), "{} lines: {output}", lines.len());
    let expected = |result: &str| -> f64 {
        let of =
            |line: &&str| line.starts_with("coffer_aws_calls_total{") && line.contains(&format!("result=\"{result}\""));
        text.lines().filter(of).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    };
    let calls = metric(&lines, "coffer_aws_calls")?;
    ensure!(calls[&of(&["coffer run", "ok"])] >= expected("ok") && expected("ok") >= 3.0, "{calls:?}, {text}");
    ensure!(calls[&of(&["coffer run", "throttled"])] >= expected("throttled"), "{calls:?}, {text}");
    let here = of(&["coffer run"]);
    let one = |name: &str| metric(&lines, name).map(|values| values.get(&here).copied());
    ensure!(one("coffer_references_stale")? == Some(1.0), "{lines:?}");
    ensure!(one("coffer_references_fresh")? == Some(1.0) && one("coffer_volume_ready")? == Some(1.0), "{lines:?}");
    ensure!(one("coffer_publishes")? == Some(1.0), "{lines:?}");
    let left = one("coffer_credentials_expiry_seconds")?.context("no credentials")?;
    ensure!((60.0..13.0 * 3600.0).contains(&left), "{left} s left");
    for line in &lines {
        let line = line.to_string();
        ensure!(!line.contains("prod") && !line.contains("arn:") && !line.contains("/volume"), "{line}");
        ensure!(line.len() < 4096, "{} bytes", line.len());
    }
    Ok(())
}

#[tokio::test]
async fn standard_output_stays_the_programs() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "old").await?;
    let run = |script: &str| {
        let exec = fixture.coffer().args(["exec", NAMESPACE]).env("V", format!("coffer:{SECRET}"));
        exec.args(["--", "sh", "-c", script]).start()
    };
    // With nothing left to watch, the program takes Coffer's place: what was before is told.
    let process = run("echo mine")?;
    ends_with(&process, 0).await?;
    ensure!(process.stdout() == "mine\n", "{}", process.stdout());
    let calls = metric(&told(&process.stderr()), "coffer_aws_calls")?;
    ensure!(calls.get(&of(&["coffer exec", "ok"])).is_some_and(|count| *count >= 1.0), "{}", process.stderr());

    // One that stays is told of at its end.
    fixture.config("60s", [format!("{{name: db, from: \"{SECRET}\"}}")])?;
    let exec = fixture.coffer().args(["exec", NAMESPACE, "--config"]).arg(fixture.config_path());
    let process = exec.args(["--", "sh", "-c", "echo mine"]).start()?;
    ends_with(&process, 0).await?;
    ensure!(process.stdout() == "mine\n", "{}", process.stdout());
    ensure!(metric(&told(&process.stderr()), "coffer_volume_ready")?[&of(&["coffer exec"])] == 1.0);
    Ok(())
}

#[tokio::test]
async fn a_start_that_fails_is_told_with_why() -> Result<()> {
    let fixture = Fixture::new().await?;
    let none = "secretsmanager:prod/none";
    let told_of = |process: &Process| -> Result<Vec<Value>> {
        ensure!(process.stdout().is_empty(), "{}", process.stdout());
        let lines = told(&process.stderr());
        let calls = metric(&lines, "coffer_aws_calls")?;
        ensure!(
            calls.get(&of(&["coffer exec", "not_found"])).is_some_and(|count| *count >= 1.0),
            "{}",
            process.stderr()
        );
        Ok(lines)
    };
    let exec = fixture.coffer().args(["exec", NAMESPACE, "--startup-timeout=2s"]);
    let process = exec.env("V", format!("coffer:{none}")).args(["--", "echo", "mine"]).start()?;
    ends_with(&process, 1).await?;
    told_of(&process)?;

    fixture.config("60s", [format!("{{name: db, from: \"{none}\"}}")])?;
    let exec =
        fixture.coffer().args(["exec", NAMESPACE, "--startup-timeout=2s", "--config"]).arg(fixture.config_path());
    let process = exec.args(["--", "echo", "mine"]).start()?;
    ends_with(&process, 1).await?;
    let lines = told_of(&process)?;
    ensure!(metric(&lines, "coffer_volume_ready")?[&of(&["coffer exec"])] == 0.0, "{lines:?}");
    ensure!(metric(&lines, "coffer_references_missing")?[&of(&["coffer exec"])] == 1.0, "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_told_unless_a_namespace_is_given() -> Result<()> {
    let fixture = pair("60s").await?;
    let sidecar = fixture.ready().await?;
    ended(&sidecar.process).await?;
    ensure!(told(&sidecar.process.stdout()).is_empty(), "{}", sidecar.process.stdout());
    let program = fixture.run().env("COFFER_EMF_NAMESPACE", "AWS/Mine").start()?;
    ends_with(&program, 2).await?;
    ensure!(program.stderr().contains("names that begin with `AWS/` are AWS's own"), "{}", program.stderr());
    Ok(())
}
