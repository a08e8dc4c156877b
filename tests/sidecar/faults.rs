//! Bad days of AWS while the sidecar runs: the files stay, the status says so, the first good answer
//! ends it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bed::{Fault, FileWatch, Rule, Service, Times, aws::ParameterType};
use serde_json::Value;

use crate::fixture::{Case, Fixture, side_by_side};

pub(crate) const SECRET: &str = "secretsmanager:prod/db";
pub(crate) const PARAMETER: &str = "parameterstore:/prod/level";

/// A fault, and what the sidecar has to say about it.
pub(crate) struct Expected {
    pub(crate) fault: Fault,
    /// One of these codes for Secrets Manager, and for Parameter Store where that differs.
    pub(crate) codes: &'static [&'static str],
    /// Part of the fix.
    pub(crate) fix: &'static str,
}

/// Every way in which AWS, or the way to it, fails for both stores alike.
pub(crate) fn matrix() -> Vec<Expected> {
    let error = |code: &str| Fault::Error { status: 400, code: code.to_owned(), message: "No.".to_owned() };
    let case = |fault, codes, fix| Expected { fault, codes, fix };
    vec![
        case(Fault::Throttle, &["ThrottlingException"], "raise `refresh`"),
        case(Fault::Status(500), &["InternalServiceError", "InternalServerError"], "AWS's side"),
        case(Fault::Status(502), &["HTTP502"], "AWS's side"),
        case(Fault::Status(503), &["ServiceUnavailableException"], "AWS's side"),
        case(Fault::Status(504), &["HTTP504"], "AWS's side"),
        case(Fault::Slow(Duration::from_secs(13)), &["Timeout"], "AWS can be reached"),
        case(Fault::Hang, &["Timeout"], "AWS can be reached"),
        case(Fault::Cut, &["ConnectionFailed"], "AWS can be reached"),
        case(Fault::CutMidBody, &["ConnectionFailed", "UnreadableAnswer"], "check"),
        case(Fault::AccessDenied, &["AccessDeniedException"], "allow s"),
        case(Fault::ExpiredToken, &["ExpiredTokenException"], "still valid"),
        case(error("UnrecognizedClientException"), &["UnrecognizedClientException"], "still valid"),
        case(error("InternalFailure"), &["InternalFailure"], "AWS's side"),
        case(error("DecryptionFailure"), &["DecryptionFailure"], "KMS key"),
        case(error("NeverHeardOf"), &["NeverHeardOf"], "correct the reference"),
        case(Fault::Garbage, &["UnreadableAnswer"], "AWS_ENDPOINT_URL"),
        case(
            Fault::Body("{\"SecretString\": 7, \"Name\": []}".to_owned()),
            &["UnreadableAnswer", "ParameterNotFound"],
            "",
        ),
    ]
}

/// One secret and one parameter.
pub(crate) async fn pair(refresh: &str) -> Result<Fixture> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "old").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "old").await?;
    fixture.config(
        refresh,
        [format!("{{name: db, from: '{SECRET}'}}"), format!("{{name: level, from: '{PARAMETER}'}}")],
    )?;
    Ok(fixture)
}

/// A fault for all calls but those for credentials.
pub(crate) fn for_data(fault: Fault) -> Rule {
    Rule::new(fault).when(|call| call.service != Service::Sts)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn why(reference: &Value) -> &str {
    reference["why"].as_str().unwrap_or_default()
}

async fn survive(Expected { fault, codes, fix }: Expected) -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    let published = fixture.reader().read(&["db", "level"])?;
    let tree = fixture.tree()?;
    let mut watch = FileWatch::new(&fixture.volume())?;

    let bad_since = now();
    fixture.proxy.fault(Rule::new(fault));
    // AWS has news which cannot be had now.
    fixture.aws.put_secret_value("prod/db", "new").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "new").await?;
    // A look may have been on its way, and have brought the news before the fault.
    let overtaken = fixture.read("db")? == "new" || fixture.read("level")? == "new";

    let mut first = Vec::new();
    for reference in [SECRET, PARAMETER] {
        let found = sidecar.becomes(reference, "stale").await?;
        ensure!(codes.iter().any(|code| why(&found).contains(code)), "none of {codes:?} in {found:#}");
        ensure!(why(&found).contains(fix), "no fix ({fix}) in {found:#}");
        let since = found["since"].as_u64().context("since when?")?;
        ensure!((bad_since.saturating_sub(1)..=now()).contains(&since), "since {since}, and it began at {bad_since}");
        first.push(found);
    }
    let status = sidecar.looks_again().await?;
    ensure!(status["published"] == true);
    for (at, reference) in [SECRET, PARAMETER].into_iter().enumerate() {
        let found = sidecar.reference(reference).await?;
        ensure!(found["state"] == "stale" && found["since"] == first[at]["since"], "not stale since then: {found:#}");
        ensure!(found["last_success"] == first[at]["last_success"], "a failure moved the last success: {found:#}");
    }
    let (ready, _) = sidecar.get("/readyz").await?;
    ensure!(ready == 200, "what is stale is still ready, and not {ready}");
    if !overtaken {
        ensure!(fixture.reader().read(&["db", "level"])? == published, "another generation");
        ensure!(fixture.tree()? == tree, "the volume changed");
        let events = watch.events()?;
        ensure!(events.is_empty(), "the volume was touched: {events:?}");
    }

    fixture.proxy.clear_faults();
    for reference in [SECRET, PARAMETER] {
        let found = sidecar.becomes(reference, "fresh").await?;
        ensure!(found["since"].is_null() && found["why"].is_null(), "{found:#}");
    }
    fixture.holds("db", "new").await?;
    fixture.holds("level", "new").await?;
    ensure!(sidecar.process.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn the_last_good_set_outlives_every_fault_and_the_first_good_answer_ends_it() -> Result<()> {
    let cases =
        matrix().into_iter().map(|expected| -> Case { (format!("{:?}", expected.fault), Box::pin(survive(expected))) });
    side_by_side(cases.collect()).await
}

#[tokio::test]
async fn expired_credentials_are_replaced_before_anything_is_stale() -> Result<()> {
    for (operation, fault) in [
        ("DescribeSecret", Fault::ExpiredToken),
        ("GetParameters", Fault::ExpiredToken),
        (
            "GetParameters",
            Fault::Error { status: 400, code: "UnrecognizedClientException".into(), message: "Who?".into() },
        ),
    ] {
        let fixture = pair("1s").await?;
        let sidecar = fixture.ready().await?;
        ensure!(fixture.proxy.count("AssumeRoleWithWebIdentity") == 1);
        fixture.proxy.fault(Rule::new(fault).operation(operation).times(Times::First(1)));
        fixture.asked("AssumeRoleWithWebIdentity", 2).await?;
        // The look that met the fault ends well, and so do those after it.
        let asked = fixture.proxy.count(operation);
        fixture.asked(operation, asked + 2).await?;
        let said = sidecar.process.stderr();
        ensure!(!said.contains("stale"), "{said}");
        ensure!(fixture.proxy.count("AssumeRoleWithWebIdentity") == 2);
        let keys: Vec<_> = fixture.proxy.calls_to(operation).into_iter().map(|call| call.access_key).collect();
        ensure!(keys.first() != keys.last(), "the rejected key is still in use: {keys:?}");
        sidecar.becomes(SECRET, "fresh").await?;
        sidecar.becomes(PARAMETER, "fresh").await?;
    }
    Ok(())
}

#[tokio::test]
async fn one_cut_connection_or_server_error_is_made_good_at_once() -> Result<()> {
    for fault in [Fault::Cut, Fault::CutMidBody, Fault::Status(500), Fault::Status(503)] {
        let fixture = pair("1s").await?;
        let sidecar = fixture.ready().await?;
        fixture.proxy.clear_log();
        fixture.proxy.fault(Rule::new(fault.clone()).operation("GetParameters").times(Times::First(1)));
        fixture.asked("GetParameters", 4).await?;
        let said = sidecar.process.stderr();
        ensure!(!said.contains("stale"), "{fault:?}: {said}");
        sidecar.becomes(PARAMETER, "fresh").await?;
    }
    Ok(())
}

#[tokio::test]
async fn one_store_may_fail_while_the_other_goes_on() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    fixture.proxy.fault(Rule::new(Fault::Throttle).service(Service::ParameterStore));
    sidecar.becomes(PARAMETER, "stale").await?;
    fixture.aws.put_secret_value("prod/db", "new").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "new").await?;
    fixture.holds("db", "new").await?;
    sidecar.becomes(SECRET, "fresh").await?;
    ensure!(fixture.read("level")? == "old", "the volume is one set: what is stale is carried over");
    fixture.proxy.clear_faults();
    fixture.holds("level", "new").await
}

/// A value that cannot be rendered is as good as none: the last good one stays.
#[tokio::test]
async fn a_bad_new_value_keeps_the_good_old_one() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", r#"{"password": "good"}"#).await?;
    fixture.aws.create_secret("prod/other", "old").await?;
    fixture.config(
        "1s",
        [
            "{name: password, from: 'secretsmanager:prod/db', select: password}",
            "{name: other, from: 'secretsmanager:prod/other'}",
        ],
    )?;
    let sidecar = fixture.ready().await?;
    for bad in ["not JSON at all", r#"{"passwort": "typo"}"#, r#"{"password": null}"#] {
        fixture.aws.put_secret_value("prod/db", bad).await?;
        sidecar.becomes(SECRET, "stale").await?;
        fixture.aws.put_secret_value("prod/other", bad).await?;
        fixture.holds("other", bad).await?;
        ensure!(fixture.read("password")? == "good");
        fixture.aws.put_secret_value("prod/db", r#"{"password": "good"}"#).await?;
        sidecar.becomes(SECRET, "fresh").await?;
    }
    fixture.aws.put_secret_value("prod/db", r#"{"password": "better"}"#).await?;
    fixture.holds("password", "better").await
}
