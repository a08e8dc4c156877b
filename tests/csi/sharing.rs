//! Pods of one identity share every call; pods of two share nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::{Aws, Case, Fault, LocalStack, Rule, aws::ParameterType, side_by_side};
use futures_util::future::join_all;
use tonic::Code;

use crate::fixture::{Fixture, SEEDED, refused};

/// Five secrets and five parameters, and a spec of all.
async fn ten(fixture: &Fixture) -> Result<(String, Vec<(String, String)>)> {
    let (mut spec, mut files) = (String::new(), Vec::new());
    for number in 0..5 {
        fixture.aws.create_secret(&format!("ten/{number}"), &format!("secret {number}")).await?;
        let parameter = format!("/ten/{number}");
        fixture.aws.put_parameter(&parameter, ParameterType::SecureString, &format!("parameter {number}")).await?;
        spec.push_str(&format!("- {{name: s{number}, from: 'secretsmanager:ten/{number}'}}\n"));
        spec.push_str(&format!("- {{name: p{number}, from: 'parameterstore:{parameter}'}}\n"));
        files.push((format!("s{number}"), format!("secret {number}")));
        files.push((format!("p{number}"), format!("parameter {number}")));
    }
    Ok((spec, files))
}

#[tokio::test]
async fn a_hundred_pods_of_one_service_account_make_five_calls_at_most() -> Result<()> {
    const PODS: usize = 100;
    let fixture = Fixture::new().await?;
    let (spec, files) = ten(&fixture).await?;
    let files: Vec<_> = files.iter().map(|(name, value)| (&**name, &**value)).collect();
    let driver = fixture.start(&[]).await?;
    fixture.proxy.set_latency(Duration::from_millis(10));
    let volumes: Vec<_> = (0..PODS).map(|_| fixture.pod("api", &spec)).collect::<Result<_>>()?;
    let answers = join_all(volumes.iter().map(|volume| fixture.kubelet.publish(volume))).await;
    answers.into_iter().collect::<Result<Vec<()>, _>>()?;
    for volume in &volumes {
        fixture.ensure_holds(volume, &files)?;
    }
    let calls = fixture.operations();
    ensure!(calls.len() <= 5, "{} calls: {calls:?}", calls.len());
    ensure!(fixture.kubelet.all_mounts()?.len() == PODS);
    join_all(volumes.iter().map(|volume| fixture.kubelet.unpublish(volume)))
        .await
        .into_iter()
        .collect::<Result<Vec<()>, _>>()?;
    ensure!(fixture.kubelet.all_mounts()?.is_empty());
    driver.ensure_serves().await
}

/// The same names in many accounts, each with a value of its own.
#[tokio::test]
async fn a_hundred_service_accounts_each_get_their_own_and_nobody_elses() -> Result<()> {
    const ACCOUNTS: usize = 100;
    let fixture = Fixture::new().await?;
    let url = LocalStack::shared().await?.url();
    let accounts: Vec<Aws> = (0..ACCOUNTS).map(|_| Aws::new(url)).collect();
    for (number, aws) in accounts.iter().enumerate() {
        aws.create_secret("prod/db", &format!("secret of {number}")).await?;
        aws.put_parameter("/prod/level", ParameterType::String, &format!("parameter of {number}")).await?;
    }
    let driver = fixture.start(&["--refresh=4s"]).await?;
    let spec = "[{name: s, from: 'secretsmanager:prod/db'}, {name: p, from: 'parameterstore:/prod/level'}]";
    // Two pods of each.
    let volumes: Vec<_> = (0..2 * ACCOUNTS)
        .map(|place| {
            let number = place % ACCOUNTS;
            let volume = fixture.pod_without_role(&format!("account-{number}"))?.attribute("spec", spec);
            anyhow::Ok((number, volume.attribute("role-arn", accounts[number].role_arn("reader"))))
        })
        .collect::<Result<_>>()?;
    let answers = join_all(volumes.iter().map(|(_, volume)| fixture.kubelet.publish(volume))).await;
    answers.into_iter().collect::<Result<Vec<()>, _>>()?;
    let right = |generation: &str| -> Result<()> {
        for (number, volume) in &volumes {
            let expected = format!("secret of {number}{generation}");
            fixture.ensure_holds(volume, &[("s", &expected), ("p", &format!("parameter of {number}"))])?;
        }
        Ok(())
    };
    right("")?;
    // One session, one fetch of each service for each identity.
    ensure!(fixture.proxy.count("AssumeRoleWithWebIdentity") == ACCOUNTS);
    for (number, aws) in accounts.iter().enumerate() {
        aws.put_secret_value("prod/db", &format!("secret of {number}, new")).await?;
    }
    bed::eventually(Duration::from_secs(120), async || right(", new")).await?;
    // Whoever asked for a value asked with the key of the role whose account holds it.
    for call in fixture.value_calls() {
        ensure!(call.role.is_some(), "asked as nobody: {call:?}");
    }
    driver.ensure_serves().await
}

#[tokio::test]
async fn calls_grow_with_identities_only() -> Result<()> {
    const IDENTITIES: usize = 10;
    let fixture = Fixture::new().await?;
    let (spec, _) = ten(&fixture).await?;
    let _driver = fixture.start(&[]).await?;
    let volumes: Vec<_> = (0..10 * IDENTITIES)
        .map(|place| fixture.pod(&format!("account-{}", place % IDENTITIES), &spec))
        .collect::<Result<_>>()?;
    let answers = join_all(volumes.iter().map(|volume| fixture.kubelet.publish(volume))).await;
    answers.into_iter().collect::<Result<Vec<()>, _>>()?;
    let calls = fixture.operations();
    ensure!(calls.len() <= 5 * IDENTITIES, "{} calls: {calls:?}", calls.len());
    Ok(())
}

#[tokio::test]
async fn what_one_role_may_read_another_does_not_get_from_its_cache() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--mount-timeout=5s"]).await?;
    let stranger = fixture.aws.role_arn("stranger");
    fixture.forbid(&stranger, "prod/db");
    // Before, while and after the one who may: in each order, at the same moment too.
    let refused_one = || async {
        let volume = fixture.pod("stranger", SEEDED)?;
        let answer = fixture.kubelet.publish(&volume).await;
        refused(answer, &[Code::PermissionDenied], &["secretsmanager:prod/db", "AccessDeniedException", "stranger"])?;
        // Not even what it may read.
        fixture.ensure_nothing(&volume)?;
        ensure!(fixture.kubelet.mounts(&volume)?.is_empty());
        anyhow::Ok(())
    };
    let given = || async {
        let volume = fixture.pod("reader", SEEDED)?;
        fixture.kubelet.publish(&volume).await?;
        fixture.ensure_seeded(&volume)?;
        anyhow::Ok(())
    };
    refused_one().await.context("before")?;
    for _ in 0..5 {
        let (refused, given) = tokio::join!(refused_one(), given());
        refused.context("while")?;
        given?;
    }
    refused_one().await.context("after")?;
    driver.ensure_serves().await
}

/// Two that differ in one part of an identity only.
#[tokio::test]
async fn identities_differ_by_namespace_account_and_role() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let role = fixture.aws.role_arn("shared");
    let of = |namespace: &str, account: &str, role: &str| {
        anyhow::Ok(bed::csi::PodVolume::new(namespace, account)?.attribute("spec", SEEDED).attribute("role-arn", role))
    };
    let volumes = [
        of("shop", "api", &role)?,
        of("bank", "api", &role)?,
        of("shop", "web", &role)?,
        of("shop", "api", &fixture.aws.role_arn("other"))?,
    ];
    for (place, volume) in volumes.iter().enumerate() {
        fixture.kubelet.publish(volume).await?;
        fixture.ensure_seeded(volume)?;
        let sessions = fixture.proxy.calls_to("AssumeRoleWithWebIdentity");
        ensure!(sessions.len() == place + 1, "{place} shares a session: {}", sessions.len());
        ensure!(sessions[place].request["WebIdentityToken"] == *volume.token_for(bed::csi::STS_AUDIENCE));
    }
    // And their sessions can be told apart in CloudTrail.
    let names: Vec<_> = fixture
        .proxy
        .calls_to("AssumeRoleWithWebIdentity")
        .iter()
        .map(|call| call.request["RoleSessionName"].as_str().unwrap_or_default().to_owned())
        .collect();
    for (name, (namespace, account)) in names.iter().zip([("shop", "api"), ("bank", "api"), ("shop", "web")]) {
        ensure!(name.contains(namespace) && name.contains(account) && name.len() <= 64, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn one_identity_that_hangs_holds_up_no_other() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&["--mount-timeout=20s"]).await?;
    for account in 0..20 {
        let role = fixture.aws.role_arn(&format!("hangs-{account}"));
        fixture.proxy.fault(
            Rule::new(Fault::Hang)
                .when(move |call| call.role.as_deref() == Some(&*role) || call.request["RoleArn"] == *role),
        );
    }
    let hanging: Vec<_> =
        (0..20).map(|account| fixture.pod(&format!("hangs-{account}"), SEEDED)).collect::<Result<_>>()?;
    let sound = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let started = tokio::time::Instant::now();
        for _ in 0..5 {
            let volume = fixture.pod("sound", SEEDED)?;
            fixture.kubelet.publish(&volume).await?;
            fixture.ensure_seeded(&volume)?;
        }
        anyhow::Ok(started.elapsed())
    };
    tokio::select! {
        _ = join_all(hanging.iter().map(|volume| fixture.kubelet.publish(volume))) => anyhow::bail!("they did not hang"),
        took = sound => {
            let took = took?;
            ensure!(took < Duration::from_secs(5), "it took {took:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn limits_of_calls_per_second_hold_for_the_whole_driver() -> Result<()> {
    let mut cases: Vec<Case> = Vec::new();
    for (flag, operation) in
        [("--secretsmanager-rate=5", "GetSecretValue"), ("--parameterstore-rate=5", "GetParameters")]
    {
        cases.push((
            flag.to_owned(),
            Box::pin(async move {
                let (fixture, _driver) = Fixture::seeded(&[flag]).await?;
                let spec = match operation {
                    "GetParameters" => "[{name: a, from: 'parameterstore:/prod/level'}]",
                    _ => "[{name: a, from: 'secretsmanager:prod/db'}]",
                };
                let volumes: Vec<_> =
                    (0..20).map(|place| fixture.pod(&format!("a-{place}"), spec)).collect::<Result<_>>()?;
                let started = tokio::time::Instant::now();
                let answers = join_all(volumes.iter().map(|volume| fixture.kubelet.publish(volume))).await;
                answers.into_iter().collect::<Result<Vec<()>, _>>()?;
                // Twenty identities in one account and region: twenty calls at five a second, less a burst.
                let took = started.elapsed();
                ensure!(took > Duration::from_secs(1), "twenty calls in {took:?}");
                Ok(())
            }),
        ));
    }
    side_by_side(cases).await
}
