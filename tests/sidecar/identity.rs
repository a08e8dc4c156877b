//! As whom AWS is asked: tokens, sessions, renewal, and identities that stay apart.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bed::{Aws, Call, Fault, LocalStack, Rule, Service, eventually};

use crate::{
    faults::{PARAMETER, SECRET, pair},
    fixture::{AUDIENCE, Fixture, SOON, SUBJECT, ends_with, last_line},
};

const STS: &str = "AssumeRoleWithWebIdentity";

fn lasting(life: Duration) -> Rule {
    Rule::new(Fault::CredentialsLastFor(life)).operation(STS)
}

/// No key may be used past its end; keys are told by the first call that they sign, and each
/// issue of credentials comes just before that.
fn ensure_no_expired_key_is_used(calls: &[Call], life: Duration) -> Result<()> {
    let mut issued: BTreeMap<String, Instant> = BTreeMap::new();
    let mut last_issue = None;
    for call in calls {
        if call.service == Service::Sts {
            last_issue = (call.status == Some(200)).then_some(call.at).or(last_issue);
            continue;
        }
        let key = call.access_key.clone().context("an unsigned call")?;
        let at = *issued.entry(key).or_insert(last_issue.context("a call before any credentials")?);
        let age = call.at.duration_since(at);
        ensure!(age < life + Duration::from_millis(500), "a key of {life:?} is used after {age:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_replaced_is_used_and_credentials_are_renewed_before_their_end() -> Result<()> {
    const LIFE: Duration = Duration::from_secs(15);
    let mut fixture = pair("1s").await?;
    fixture.proxy.fault(lasting(LIFE));
    let sidecar = fixture.ready().await?;
    let first = fixture.token.token().to_owned();
    fixture.token.replace(SUBJECT, AUDIENCE)?;
    fixture.asked(STS, 2).await.with_context(|| sidecar.process.stderr())?;
    let after = fixture.proxy.count("GetParameters");
    fixture.asked("GetParameters", after + 2).await?;

    let issued = fixture.proxy.calls_to(STS);
    ensure!(issued[0].request["WebIdentityToken"] == *first);
    ensure!(issued[1].request["WebIdentityToken"] == *fixture.token.token(), "the old token was used again");
    let waited = issued[1].at.duration_since(issued[0].at);
    ensure!(waited > LIFE.mul_f64(0.74), "renewed after {waited:?} of {LIFE:?} already");
    // Each look asks for credentials first: the last one with the old key came before their time.
    let with_the_old =
        fixture.proxy.calls_to("GetParameters").into_iter().map(|call| call.at.duration_since(issued[0].at));
    let late = with_the_old.filter(|age| *age > LIFE.mul_f64(0.86) && *age + Duration::from_secs(1) < waited);
    let late: Vec<_> = late.collect();
    ensure!(late.is_empty(), "looks without a renewal of credentials of {LIFE:?}: {late:?}");
    ensure_no_expired_key_is_used(&fixture.proxy.calls(), LIFE)?;
    let keys: Vec<_> = fixture.proxy.calls_to("GetParameters").into_iter().map(|call| call.access_key).collect();
    ensure!(keys.first() != keys.last(), "the new credentials are not used");
    ensure!(!sidecar.process.stderr().contains("stale"), "{}", sidecar.process.stderr());
    Ok(())
}

#[tokio::test]
async fn a_renewal_that_fails_keeps_the_old_credentials_to_their_end_and_no_longer() -> Result<()> {
    // On a machine so busy that no look falls between renewal and end, a longer life shows it.
    for life in [24, 60, 120].map(Duration::from_secs) {
        if old_credentials_served_on(life).await? {
            return Ok(());
        }
    }
    bail!("the machine is too slow for this test");
}

/// Nothing is proven if the renewal was tried so late that the old credentials had all but ended.
async fn old_credentials_served_on(life: Duration) -> Result<bool> {
    let fixture = pair("1s").await?;
    fixture.proxy.fault(lasting(life));
    let sidecar = fixture.ready().await?;
    fixture.proxy.fault(Rule::new(Fault::Throttle).operation(STS));
    eventually(life + SOON, async || {
        ensure!(fixture.proxy.count(STS) >= 2, "no renewal");
        Ok(())
    })
    .await?;
    let [issued, refused] = [0, 1].map(|at| fixture.proxy.calls_to(STS)[at].at);
    if refused.duration_since(issued) > life - Duration::from_secs(3) {
        return Ok(false);
    }
    // The old ones serve on: at once, or in a look before their end where the machine lets one be.
    let served = eventually(life, async || {
        let served = fixture.proxy.calls_to("GetParameters");
        ensure!(served.iter().any(|call| call.at > refused && call.status == Some(200)), "no call after the refusal");
        Ok(())
    });
    if served.await.is_err() {
        return Ok(false);
    }
    ensure!(!sidecar.process.stderr().contains("stale"), "{}", sidecar.process.stderr());
    // They end, and now it is a failure like any other.
    for reference in [SECRET, PARAMETER] {
        let stale = sidecar.becomes(reference, "stale").await?;
        ensure!(stale["why"].as_str().is_some_and(|why| why.contains("Throttling")), "{stale:#}");
    }
    ensure_no_expired_key_is_used(&fixture.proxy.calls(), life)?;
    fixture.proxy.clear_faults();
    sidecar.becomes(SECRET, "fresh").await?;
    sidecar.becomes(PARAMETER, "fresh").await?;
    Ok(true)
}

#[tokio::test]
async fn two_roles_in_one_process_never_see_each_others_values() -> Result<()> {
    let fixture = Fixture::new().await?;
    let url = LocalStack::shared().await?.url();
    let (one, other) = (Aws::new(url), Aws::new(url));
    // The same name in two accounts, and a value in each.
    for (aws, value) in [(&one, "of the one"), (&other, "of the other")] {
        aws.create_secret("prod/db", value).await?;
        aws.put_parameter("/prod/level", bed::aws::ParameterType::String, value).await?;
    }
    fixture.aws.create_secret("prod/db", "of the process").await?;
    let (role_one, role_other) = (one.role_arn("reader"), other.role_arn("reader"));
    let by = |name: &str, from: &str, role: &str| format!("{{name: {name}, from: '{from}', role_arn: '{role}'}}");
    fixture.config(
        "1s",
        [
            by("one", SECRET, &role_one),
            by("other", SECRET, &role_other),
            by("one-level", PARAMETER, &role_one),
            by("other-level", PARAMETER, &role_other),
            format!("{{name: own, from: '{SECRET}'}}"),
        ],
    )?;
    let _sidecar = fixture.ready().await?;
    let right = |suffix: &str| -> Result<()> {
        for (name, value) in [("one", "of the one"), ("other", "of the other"), ("own", "of the process")] {
            let found = fixture.read(name)?;
            ensure!(found == format!("{value}{suffix}"), "{name} holds {found}");
        }
        Ok(())
    };
    right("")?;
    ensure!(fixture.read("one-level")? == "of the one" && fixture.read("other-level")? == "of the other");
    // Also when all change at once.
    for (aws, value) in [(&one, "of the one"), (&other, "of the other"), (&fixture.aws, "of the process")] {
        aws.put_secret_value("prod/db", &format!("{value}, new")).await?;
    }
    eventually(SOON, async || right(", new")).await?;

    // Who asked: the process for itself, and each role in a session of its own.
    let sessions = fixture.proxy.calls_to("AssumeRole");
    ensure!(sessions.len() == 2, "{} roles were assumed", sessions.len());
    ensure!(sessions.iter().all(|call| call.role.as_deref() == Some(&*fixture.aws.role_arn("app"))));
    Ok(())
}

/// What one identity may read, another that asks at the same moment for the same does not get.
#[tokio::test]
async fn a_role_that_is_denied_does_not_get_what_another_was_given() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "for readers only").await?;
    let (reader, stranger) = (fixture.aws.role_arn("reader"), fixture.aws.role_arn("stranger"));
    let denied = stranger.clone();
    fixture.proxy.fault(
        Rule::new(Fault::AccessDenied)
            .when(move |call| call.service != Service::Sts && call.role.as_deref() == Some(&*denied)),
    );
    let allowed = fixture.volume_text("allowed", [format!("{{name: a, from: '{SECRET}', role_arn: '{reader}'}}")]);
    let refused = fixture.volume_text("volume", [format!("{{name: a, from: '{SECRET}', role_arn: '{stranger}'}}")]);
    fixture.write_config(&format!("refresh: 1s\nvolumes:\n{allowed}{refused}"))?;
    let process = fixture.run().arg("--startup-timeout=3s").start()?;
    ends_with(&process, 1).await?;
    let said = process.stderr();
    let line = last_line(&said);
    ensure!(line.contains("AccessDeniedException") && line.contains(&stranger), "{line}");
    ensure!(line.contains(&format!("{}: ", fixture.volume().display())), "{line}");
    ensure!(fixture.volume_is_empty()?, "{:?}", fixture.tree()?);
    ensure!(std::fs::read_to_string(fixture.path("allowed/a"))? == "for readers only");
    Ok(())
}

#[tokio::test]
async fn a_role_is_assumed_with_its_external_id() -> Result<()> {
    let fixture = Fixture::new().await?;
    let other = Aws::new(LocalStack::shared().await?.url());
    other.create_secret("prod/db", "theirs").await?;
    let role = other.role_arn("partner");
    fixture.config("1h", [format!("{{name: a, from: '{SECRET}', role_arn: '{role}', external_id: 'ticket-7'}}")])?;
    fixture.once().await?;
    ensure!(fixture.read("a")? == "theirs");
    let assumed = fixture.proxy.calls_to("AssumeRole");
    ensure!(assumed.len() == 1 && assumed[0].request["ExternalId"] == "ticket-7", "{assumed:#?}");
    ensure!(assumed[0].request["RoleArn"] == *role);
    Ok(())
}

#[tokio::test]
async fn the_session_is_named_after_the_pod_and_every_call_after_coffer() -> Result<()> {
    let fixture = pair("1h").await?;
    let long = format!("api/ключ {}", "x".repeat(80));
    let cases = [
        (vec![("POD_NAMESPACE", "shop"), ("POD_NAME", "api-7d4b9")], "shop.api-7d4b9".to_owned()),
        (vec![("POD_NAMESPACE", "shop"), ("POD_NAME", long.as_str())], format!("shop.api------{}", "x".repeat(50))),
        (vec![("AWS_ROLE_SESSION_NAME", "by-hand")], "by-hand".to_owned()),
    ];
    for (variables, expected) in cases {
        fixture.proxy.clear_log();
        let process = fixture.run().arg("--once").envs(variables).start()?;
        ends_with(&process, 0).await?;
        let session = &fixture.proxy.calls_to(STS)[0].request["RoleSessionName"];
        ensure!(*session == *expected, "{session} and not {expected}");
        ensure!(expected.len() <= 64);
        for call in fixture.proxy.calls() {
            let agent = call.user_agent.unwrap_or_default();
            ensure!(
                agent.starts_with(&format!("coffer/{} ", env!("CARGO_PKG_VERSION"))),
                "{}: {agent}",
                call.operation
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_region_is_asked_for_what_is_there_with_the_same_credentials() -> Result<()> {
    let fixture = pair("1h").await?;
    let frankfurt = format!("arn:aws:ssm:eu-central-1:{}:parameter/prod/level", fixture.aws.account());
    fixture.config(
        "1h",
        [
            format!("{{name: db, from: '{SECRET}'}}"),
            "{name: there, from: 'secretsmanager:prod/db', region: us-east-1, optional: true}".to_owned(),
            format!("{{name: level, from: '{frankfurt}', optional: true}}"),
        ],
    )?;
    fixture.once().await?;
    let regions: BTreeMap<String, usize> = fixture
        .proxy
        .calls()
        .into_iter()
        .filter(|call| call.service != Service::Sts)
        .filter_map(|call| call.region)
        .fold(BTreeMap::new(), |mut counts, region| {
            *counts.entry(region).or_default() += 1;
            counts
        });
    ensure!(regions.keys().eq(["eu-central-1", "eu-west-1", "us-east-1"]), "{regions:?}");
    ensure!(fixture.proxy.count(STS) == 1);
    // What is not there is absent, and what is here does not stand in for it.
    ensure!(fixture.read("db")? == "old" && fixture.read("there").is_err() && fixture.read("level").is_err());
    Ok(())
}
