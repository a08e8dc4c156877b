//! When one way to ask is closed, the next is taken; what fails, fails alone.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use bed::{Call, Fault, Rule, aws::ParameterType, eventually};

use crate::fixture::{Fixture, SOON, ends_with, last_line, list};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

async fn four_secrets(fixture: &Fixture, refresh: &str) -> Result<()> {
    for name in NAMES {
        fixture.aws.create_secret(&format!("prod/{name}"), &format!("old {name}")).await?;
    }
    fixture.config(refresh, NAMES.map(|name| format!("{{name: {name}, from: 'secretsmanager:prod/{name}'}}")))
}

async fn four_parameters(fixture: &Fixture, refresh: &str) -> Result<()> {
    for name in NAMES {
        fixture.aws.put_parameter(&format!("/prod/{name}"), ParameterType::String, &format!("old {name}")).await?;
    }
    fixture.config(refresh, NAMES.map(|name| format!("{{name: {name}, from: 'parameterstore:/prod/{name}'}}")))
}

/// As IAM does it: one forbidden name refuses the whole call.
fn forbidden(name: &'static str) -> Rule {
    Rule::new(Fault::AccessDenied).operation("GetParameters").when(move |call| list(call, "Names").contains(&name))
}

#[tokio::test]
async fn a_batch_that_is_denied_or_throttled_is_asked_for_one_by_one() -> Result<()> {
    for fault in [Fault::AccessDenied, Fault::Throttle] {
        let fixture = Fixture::new().await?;
        fixture.proxy.fault(Rule::new(fault.clone()).operation("BatchGetSecretValue"));
        four_secrets(&fixture, "1h").await?;
        fixture.once().await?;
        let one_by_one = fixture.proxy.calls_to("GetSecretValue");
        let mut asked: Vec<_> = one_by_one.iter().filter_map(|call| call.request["SecretId"].as_str()).collect();
        asked.sort_unstable();
        ensure!(asked == ["prod/a", "prod/b", "prod/c", "prod/d"], "{fault:?}: {asked:?}");
        ensure!(fixture.proxy.count("BatchGetSecretValue") == 1, "{fault:?}: tried the batch again");
        for name in NAMES {
            ensure!(fixture.read(name)? == format!("old {name}"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_secret_that_a_batch_refuses_sinks_only_itself() -> Result<()> {
    let fixture = Fixture::new().await?;
    four_secrets(&fixture, "1s").await?;
    // Without leave to describe, every look is a batch.
    fixture.proxy.fault(Rule::new(Fault::AccessDenied).operation("DescribeSecret"));
    let sidecar = fixture.ready().await?;
    let refusal = ("AccessDeniedException".to_owned(), "You may not read this one.".to_owned());
    fixture.proxy.fault(Rule::new(Fault::BatchErrors(BTreeMap::from([("prod/b".to_owned(), refusal)]))));
    let of_b = |call: &Call| call.request["SecretId"] == "prod/b";
    fixture.proxy.fault(Rule::new(Fault::AccessDenied).operation("GetSecretValue").when(of_b));
    let stale = sidecar.becomes("secretsmanager:prod/b", "stale").await?;
    ensure!(stale["why"].as_str().is_some_and(|why| why.contains("AccessDeniedException")), "{stale:#}");

    for name in ["prod/a", "prod/b", "prod/c", "prod/d"] {
        fixture.aws.put_secret_value(name, &format!("new {name}")).await?;
    }
    for name in ["a", "c", "d"] {
        fixture.holds(name, &format!("new prod/{name}")).await?;
        sidecar.becomes(&format!("secretsmanager:prod/{name}"), "fresh").await?;
    }
    ensure!(fixture.read("b")? == "old b", "what may not be read has changed");
    fixture.proxy.clear_faults();
    fixture.holds("b", "new prod/b").await?;
    sidecar.becomes("secretsmanager:prod/b", "fresh").await?;
    Ok(())
}

#[tokio::test]
async fn a_batch_that_only_throttles_one_secret_gets_it_apart() -> Result<()> {
    let fixture = Fixture::new().await?;
    four_secrets(&fixture, "1h").await?;
    let refusal = ("ThrottlingException".to_owned(), "Rate exceeded".to_owned());
    fixture.proxy.fault(Rule::new(Fault::BatchErrors(BTreeMap::from([("prod/c".to_owned(), refusal)]))));
    fixture.once().await?;
    let apart = fixture.proxy.calls_to("GetSecretValue");
    ensure!(apart.len() == 1 && apart[0].request["SecretId"] == "prod/c", "{apart:#?}");
    ensure!(fixture.read("c")? == "old c");
    Ok(())
}

#[tokio::test]
async fn a_forbidden_parameter_does_not_sink_the_others_and_is_asked_for_apart() -> Result<()> {
    let fixture = Fixture::new().await?;
    four_parameters(&fixture, "1s").await?;
    let sidecar = fixture.ready().await?;
    fixture.proxy.fault(forbidden("/prod/b"));
    let stale = sidecar.becomes("parameterstore:/prod/b", "stale").await?;
    ensure!(stale["why"].as_str().is_some_and(|why| why.contains("AccessDeniedException")), "{stale:#}");
    for name in ["a", "c", "d"] {
        fixture.aws.put_parameter(&format!("/prod/{name}"), ParameterType::String, "new").await?;
    }
    for name in ["a", "c", "d"] {
        fixture.holds(name, "new").await?;
        sidecar.becomes(&format!("parameterstore:/prod/{name}"), "fresh").await?;
    }
    ensure!(fixture.read("b")? == "old b");

    // From now on the troubled one stands alone in its calls, so that the others need one.
    fixture.proxy.clear_log();
    eventually(SOON, async || {
        let asked = fixture.proxy.calls_to("GetParameters");
        let alone = asked.iter().filter(|call| list(call, "Names") == ["/prod/b"]).count();
        ensure!(alone >= 1 && asked.len() >= 4, "{alone} of {}", asked.len());
        Ok(())
    })
    .await?;
    for call in fixture.proxy.calls_to("GetParameters") {
        let names = list(&call, "Names");
        ensure!(names == ["/prod/b"] || names == ["/prod/a", "/prod/c", "/prod/d"], "{names:?}");
    }
    fixture.proxy.clear_faults();
    sidecar.becomes("parameterstore:/prod/b", "fresh").await?;
    Ok(())
}

#[tokio::test]
async fn at_the_start_only_the_forbidden_parameter_is_blamed_and_the_others_are_not_asked_for_again() -> Result<()> {
    let fixture = Fixture::new().await?;
    four_parameters(&fixture, "1h").await?;
    fixture.proxy.fault(forbidden("/prod/c"));
    let process = fixture.run().arg("--startup-timeout=4s").start()?;
    ends_with(&process, 1).await?;
    let said = process.stderr();
    let said = last_line(&said);
    ensure!(said.contains("parameterstore:/prod/c") && said.contains("AccessDeniedException"), "{said}");
    ensure!(["/prod/a", "/prod/b", "/prod/d"].iter().all(|name| !said.contains(name)), "{said}");
    let asked_for_a =
        fixture.proxy.calls_to("GetParameters").iter().filter(|call| list(call, "Names").contains(&"/prod/a")).count();
    ensure!(asked_for_a == 2, "together and apart, not {asked_for_a} times");
    ensure!(fixture.volume_is_empty()?);
    Ok(())
}

#[tokio::test]
async fn a_deleted_secret_and_parameter_leave_their_files_and_the_rest_alone() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/doomed", "last words").await?;
    fixture.aws.create_secret("prod/db", "old").await?;
    fixture.aws.put_parameter("/prod/doomed", ParameterType::String, "last words").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "old").await?;
    fixture.config(
        "1s",
        [
            "{name: doomed, from: 'secretsmanager:prod/doomed', optional: true}",
            "{name: db, from: 'secretsmanager:prod/db'}",
            "{name: gone, from: 'parameterstore:/prod/doomed'}",
            "{name: level, from: 'parameterstore:/prod/level'}",
        ],
    )?;
    let sidecar = fixture.ready().await?;
    fixture.aws.delete_secret("prod/doomed").await?;
    fixture.aws.delete_parameter("/prod/doomed").await?;
    let secret = sidecar.becomes("secretsmanager:prod/doomed", "stale").await?;
    let why = secret["why"].as_str().unwrap_or_default();
    ensure!(why.contains("ScheduledForDeletion") && why.contains("restore-secret"), "{why}");
    let parameter = sidecar.becomes("parameterstore:/prod/doomed", "stale").await?;
    ensure!(parameter["why"].as_str().is_some_and(|why| why.contains("ParameterNotFound")), "{parameter:#}");

    fixture.aws.put_secret_value("prod/db", "new").await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "new").await?;
    fixture.holds("db", "new").await?;
    fixture.holds("level", "new").await?;
    ensure!(fixture.read("doomed")? == "last words" && fixture.read("gone")? == "last words");

    fixture.aws.restore_secret("prod/doomed").await?;
    sidecar.becomes("secretsmanager:prod/doomed", "fresh").await?;
    Ok(())
}
