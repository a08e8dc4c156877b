//! The first publication: everything in the fewest calls, each value once.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use bed::{Fault, Rule, Times, aws::ParameterType};

use crate::fixture::{Fixture, list};

async fn seed(fixture: &Fixture, secrets: usize, parameters: usize) -> Result<()> {
    for n in 0..secrets {
        fixture.aws.create_secret(&format!("prod/s{n}"), &format!("secret {n}")).await?;
    }
    for n in 0..parameters {
        fixture.aws.put_parameter(&format!("/prod/p{n}"), ParameterType::String, &format!("parameter {n}")).await?;
    }
    Ok(())
}

fn secret(n: usize) -> String {
    format!("{{name: s{n}, from: 'secretsmanager:prod/s{n}'}}")
}

fn parameter(n: usize) -> String {
    format!("{{name: p{n}, from: 'parameterstore:/prod/p{n}'}}")
}

/// The calls of a first publication of ten secrets and ten parameters, wherever they stand.
fn assert_two_data_calls_and_one_for_credentials(fixture: &Fixture) -> Result<()> {
    let mut operations = fixture.operations();
    ensure!(operations.first().is_some_and(|first| first == "AssumeRoleWithWebIdentity"), "{operations:?}");
    operations.sort();
    ensure!(operations == ["AssumeRoleWithWebIdentity", "BatchGetSecretValue", "GetParameters"], "{operations:?}");
    ensure!(list(&fixture.proxy.calls_to("BatchGetSecretValue")[0], "SecretIdList").len() == 10);
    ensure!(list(&fixture.proxy.calls_to("GetParameters")[0], "Names").len() == 10);
    Ok(())
}

#[tokio::test]
async fn ten_secrets_and_ten_parameters_cost_two_calls_and_one_for_credentials() -> Result<()> {
    let fixture = Fixture::new().await?;
    seed(&fixture, 10, 10).await?;
    fixture.config("1h", (0..10).map(secret).chain((0..10).map(parameter)))?;
    let _sidecar = fixture.ready().await?;
    assert_two_data_calls_and_one_for_credentials(&fixture)?;
    for n in 0..10 {
        ensure!(fixture.read(&format!("s{n}"))? == format!("secret {n}"));
        ensure!(fixture.read(&format!("p{n}"))? == format!("parameter {n}"));
    }
    Ok(())
}

#[tokio::test]
async fn two_volumes_share_the_calls_and_what_both_want_is_fetched_once() -> Result<()> {
    let fixture = Fixture::new().await?;
    seed(&fixture, 10, 10).await?;
    // Each has six of the ten, and so two stand in both.
    let one = fixture.volume_text("volume", (0..6).map(secret).chain((0..6).map(parameter)));
    let other = fixture.volume_text("other", (4..10).map(secret).chain((4..10).map(parameter)));
    fixture.write_config(&format!("refresh: 1h\nvolumes:\n{one}{other}"))?;
    let _sidecar = fixture.ready().await?;
    assert_two_data_calls_and_one_for_credentials(&fixture)?;
    ensure!(fixture.read("s5")? == "secret 5");
    for n in 4..10 {
        ensure!(std::fs::read_to_string(fixture.path(&format!("other/s{n}")))? == format!("secret {n}"));
    }
    Ok(())
}

#[tokio::test]
async fn a_reference_of_many_files_is_fetched_once() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", r#"{"user": "app", "password": "swordfish"}"#).await?;
    fixture.aws.put_parameter("/prod/level", ParameterType::String, "info").await?;
    fixture.config(
        "1h",
        [
            "{name: whole.json, from: 'secretsmanager:prod/db'}",
            "{name: user, from: 'secretsmanager:prod/db', select: user}",
            "{name: password, from: 'secretsmanager:prod/db?stage=AWSCURRENT', select: password}",
            "{name: level, from: 'parameterstore:/prod/level'}",
            "{name: again/level, from: 'parameterstore:/prod/level'}",
        ],
    )?;
    fixture.once().await?;
    let mut operations = fixture.operations();
    operations.sort();
    ensure!(operations == ["AssumeRoleWithWebIdentity", "GetParameters", "GetSecretValue"], "{operations:?}");
    ensure!(list(&fixture.proxy.calls_to("GetParameters")[0], "Names") == ["/prod/level"]);
    ensure!(fixture.read("password")? == "swordfish" && fixture.read("again/level")? == "info");
    Ok(())
}

#[tokio::test]
async fn many_are_asked_for_by_twenty_secrets_and_ten_parameters() -> Result<()> {
    let fixture = Fixture::new().await?;
    seed(&fixture, 45, 23).await?;
    fixture.config("1h", (0..45).map(secret).chain((0..23).map(parameter)))?;
    fixture.once().await?;
    for (operation, field, prefix, count, most, calls) in
        [("BatchGetSecretValue", "SecretIdList", "prod/s", 45, 20, 3), ("GetParameters", "Names", "/prod/p", 23, 10, 3)]
    {
        let asked = fixture.proxy.calls_to(operation);
        ensure!(asked.len() == calls, "{} calls of {operation}", asked.len());
        ensure!(asked.iter().all(|call| list(call, field).len() <= most), "{operation} asked for more than {most}");
        let names: Vec<String> = asked.iter().flat_map(|call| list(call, field)).map(str::to_owned).collect();
        let expected: BTreeSet<String> = (0..count).map(|n| format!("{prefix}{n}")).collect();
        ensure!(names.len() == count && names.into_iter().collect::<BTreeSet<_>>() == expected);
    }
    ensure!(fixture.proxy.count("GetSecretValue") == 0);
    for n in 0..45 {
        ensure!(fixture.read(&format!("s{n}"))? == format!("secret {n}"));
    }
    ensure!(fixture.read("p22")? == "parameter 22");
    Ok(())
}

#[tokio::test]
async fn a_path_is_read_to_its_last_page_also_past_an_empty_one() -> Result<()> {
    let fixture = Fixture::new().await?;
    seed(&fixture, 0, 23).await?;
    fixture.proxy.fault(Rule::new(Fault::EmptyPageFirst));
    fixture.config("1h", ["{from: 'parameterstore:/prod/'}"])?;
    fixture.once().await?;
    let pages = fixture.proxy.calls_to("GetParametersByPath");
    ensure!(pages.len() == 4, "an empty page, two of ten and one of three, not {}", pages.len());
    ensure!(
        pages[0].request["NextToken"].is_null() && pages[1..].iter().all(|page| page.request["NextToken"].is_string())
    );
    for n in 0..23 {
        ensure!(fixture.read(&format!("p{n}"))? == format!("parameter {n}"));
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_is_read_to_its_last_page_also_past_an_empty_one() -> Result<()> {
    let fixture = Fixture::new().await?;
    seed(&fixture, 3, 0).await?;
    fixture.proxy.fault(Rule::new(Fault::EmptyPageFirst));
    fixture.config("1h", (0..3).map(secret))?;
    fixture.once().await?;
    ensure!(fixture.proxy.count("BatchGetSecretValue") == 2 && fixture.proxy.count("GetSecretValue") == 0);
    ensure!(fixture.read("s2")? == "secret 2");
    Ok(())
}

#[tokio::test]
async fn a_role_that_cannot_be_assumed_yet_costs_no_permission_of_its_own() -> Result<()> {
    let fixture = Fixture::new().await?;
    let mut files = Vec::new();
    for n in 0..10 {
        fixture.aws.create_secret(&format!("prod/{n}"), "x").await?;
        fixture.aws.put_parameter(&format!("/prod/{n}"), ParameterType::String, "x").await?;
        files.push(format!("{{name: s{n}, from: 'secretsmanager:prod/{n}'}}"));
        files.push(format!("{{name: p{n}, from: 'parameterstore:/prod/{n}'}}"));
    }
    fixture.config("1h", files)?;
    let sts = "AssumeRoleWithWebIdentity";
    fixture.proxy.fault(Rule::new(Fault::AccessDenied).operation(sts).times(Times::First(2)));
    let _sidecar = fixture.ready().await?;
    let asked = ["BatchGetSecretValue", "GetParameters", "GetSecretValue"].map(|name| fixture.proxy.count(name));
    ensure!(asked == [1, 1, 0], "{asked:?}");
    // Refused once a round: what waited for the same refusal took it.
    ensure!(fixture.proxy.count(sts) <= 4, "{} calls to STS", fixture.proxy.count(sts));
    Ok(())
}
