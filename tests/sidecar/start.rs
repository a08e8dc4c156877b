//! Bad days of AWS at the start: retried to a deadline, then one line that says all.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Fault, Rule, Service, aws::ParameterType, eventually};

use crate::{
    faults::{Expected, PARAMETER, SECRET, for_data, matrix, pair},
    fixture::{Case, Fixture, SOON, ends_with, last_line, side_by_side},
};

/// What AWS says for good: no second try would help, and so none is made.
const FOR_GOOD: [&str; 2] = ["DecryptionFailure", "NeverHeardOf"];

async fn give_up(Expected { fault, codes, fix }: Expected) -> Result<()> {
    let fixture = pair("1h").await?;
    let for_good = codes.iter().any(|code| FOR_GOOD.contains(code));
    // What hangs has no code before the deadline.
    let hangs = codes == ["Timeout"];
    fixture.proxy.fault(for_data(fault));
    for once in [false, true] {
        let started = Instant::now();
        // With keys at hand, so that the time is not spent on getting them from LocalStack.
        let program = fixture.run().envs(fixture.aws.environment(&fixture.proxy.url())).arg("--startup-timeout=3s");
        let process = if once { program.arg("--once") } else { program }.start()?;
        ends_with(&process, 1).await?;
        let took = started.elapsed();
        ensure!(for_good || took >= Duration::from_secs(3), "gave up after {took:?} already");
        let said = process.stderr();
        let line = last_line(&said);
        let start = format!("error: {}: ", fixture.volume().display());
        ensure!(line.starts_with(&start), "the last line does not start with `{start}`:\n{said}");
        ensure!(said.matches("error: ").count() == 1, "more than one error:\n{said}");
        ensure!(line.contains(SECRET) || line.contains(PARAMETER), "no reference: {line}");
        ensure!(hangs || codes.iter().any(|code| line.contains(code)), "none of {codes:?}: {line}");
        ensure!(line.contains(if hangs { "can be reached" } else { fix }), "no fix ({fix}): {line}");
        ensure!(line.contains("gave up after 3s") != for_good, "{line}");
        ensure!(fixture.volume_is_empty()?, "something half-written: {:?}", fixture.tree()?);
    }
    Ok(())
}

async fn get_through(fault: Fault) -> Result<()> {
    let fixture = pair("1h").await?;
    fixture.proxy.fault(for_data(fault));
    let sidecar = fixture.start()?;
    fixture.asked("GetParameters", 1).await?;
    eventually(SOON, async || {
        let (status, body) = sidecar.get("/readyz").await?;
        ensure!(status == 503, "{status}: {body}");
        Ok(())
    })
    .await?;
    ensure!(fixture.volume_is_empty()?, "half a set: {:?}", fixture.tree()?);
    fixture.proxy.clear_faults();
    sidecar.ready().await?;
    ensure!(fixture.read("db")? == "old" && fixture.read("level")? == "old");
    sidecar.becomes(SECRET, "fresh").await?;
    sidecar.becomes(PARAMETER, "fresh").await?;
    Ok(())
}

#[tokio::test]
async fn a_fault_that_stays_ends_the_start_with_one_line_that_says_all() -> Result<()> {
    let cases =
        matrix().into_iter().map(|expected| -> Case { (format!("{:?}", expected.fault), Box::pin(give_up(expected))) });
    side_by_side(cases.collect()).await
}

#[tokio::test]
async fn a_fault_that_passes_in_time_is_sat_out() -> Result<()> {
    let lasting = matrix().into_iter().filter(|expected| !expected.codes.iter().any(|code| FOR_GOOD.contains(code)));
    let cases =
        lasting.map(|expected| -> Case { (format!("{:?}", expected.fault), Box::pin(get_through(expected.fault))) });
    side_by_side(cases.collect()).await
}

#[tokio::test]
async fn without_credentials_the_line_says_what_sts_said() -> Result<()> {
    for (fault, code, fix) in [
        (Fault::AccessDenied, "sts:AssumeRoleWithWebIdentity: AccessDenied", "trust policy"),
        (Fault::InvalidIdentityToken, "InvalidIdentityToken", "OIDC provider"),
        (Fault::ExpiredToken, "ExpiredTokenException", "still valid"),
        (Fault::Throttle, "sts:AssumeRoleWithWebIdentity: Throttling", "quota"),
        (Fault::Status(503), "ServiceUnavailable", "AWS's side"),
        (Fault::Garbage, "UnreadableAnswer", "AWS_ENDPOINT_URL"),
    ] {
        let fixture = pair("1h").await?;
        fixture.proxy.fault(Rule::new(fault).service(Service::Sts));
        let process = fixture.run().arg("--startup-timeout=4s").start()?;
        ends_with(&process, 1).await?;
        let said = process.stderr();
        let line = last_line(&said);
        ensure!(line.starts_with("error: ") && line.contains(SECRET), "{said}");
        ensure!(line.contains(code) && line.contains(fix), "no {code} or {fix}: {line}");
        ensure!(fixture.proxy.calls().iter().all(|call| call.service == Service::Sts), "asked without credentials");
        ensure!(fixture.volume_is_empty()?);
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_token_is_named() -> Result<()> {
    let fixture = pair("1h").await?;
    let nowhere = fixture.path("no-such-token");
    let program = fixture.run().arg("--startup-timeout=4s").env("AWS_WEB_IDENTITY_TOKEN_FILE", &nowhere);
    let process = program.start()?;
    ends_with(&process, 1).await?;
    let said = process.stderr();
    let line = last_line(&said);
    ensure!(line.contains(&nowhere.display().to_string()) && line.contains("AWS_WEB_IDENTITY_TOKEN_FILE"), "{line}");
    ensure!(fixture.proxy.calls().is_empty());
    Ok(())
}

#[tokio::test]
async fn what_came_is_kept_while_the_rest_is_waited_for() -> Result<()> {
    let fixture = pair("1h").await?;
    fixture.proxy.fault(Rule::new(Fault::Status(503)).operation("GetParameters"));
    let sidecar = fixture.start()?;
    fixture.asked("GetParameters", 6).await?;
    ensure!(fixture.proxy.count("GetSecretValue") == 1, "fetched again what had come already");
    ensure!(fixture.volume_is_empty()?, "half a set");
    let (status, why) = sidecar.get("/readyz").await?;
    ensure!(status == 503 && why.contains(PARAMETER) && why.contains("ServiceUnavailableException"), "{status}: {why}");
    fixture.proxy.clear_faults();
    sidecar.ready().await?;
    ensure!(fixture.read("db")? == "old" && fixture.read("level")? == "old");
    Ok(())
}

#[tokio::test]
async fn one_volume_that_cannot_come_fails_the_start_and_is_the_one_named() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "here").await?;
    let good = fixture.volume_text("good", ["{name: a, from: 'secretsmanager:prod/db'}"]);
    let bad = fixture.volume_text("volume", ["{name: a, from: 'secretsmanager:prod/none'}"]);
    fixture.write_config(&format!("volumes:\n{good}{bad}"))?;
    let process = fixture.run().arg("--startup-timeout=4s").start()?;
    ends_with(&process, 1).await?;
    let said = process.stderr();
    ensure!(last_line(&said).starts_with(&format!("error: {}: ", fixture.volume().display())), "{said}");
    ensure!(fixture.volume_is_empty()?);
    Ok(())
}

#[tokio::test]
async fn a_value_that_cannot_be_rendered_ends_the_start_at_once() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", r#"{"password": "swordfish"}"#).await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "info").await?;
    fixture.config(
        "1h",
        [
            "{name: password, from: 'secretsmanager:prod/db', select: passwrod}",
            "{name: level, from: 'parameterstore:/prod/level'}",
        ],
    )?;
    let started = Instant::now();
    let process = fixture.start()?.process;
    ends_with(&process, 1).await?;
    ensure!(started.elapsed() < Duration::from_secs(30), "waited for what no time will mend");
    let said = process.stderr();
    let line = last_line(&said);
    ensure!(line.contains(SECRET) && line.contains("passwrod") && line.contains("did you mean `password`?"), "{line}");
    ensure!(fixture.volume_is_empty()?);
    Ok(())
}
