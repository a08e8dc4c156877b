//! As whom and where AWS is asked.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::{
    Aws, Fault, FaultProxy, LocalStack, Rule, Service,
    aws::{ParameterType, REGION},
    csi::{POD_IDENTITY_AUDIENCE, PodIdentityAgent, STS_AUDIENCE},
};
use serde_json::json;
use tonic::Code;

use crate::fixture::{Fixture, SEEDED, refused};

/// Where the second region's secrets are.
const ELSEWHERE: &str = "eu-central-1";

#[tokio::test]
async fn the_role_is_the_service_accounts_and_the_token_the_api_servers() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    let role = fixture.aws.role_arn("annotated");
    cluster.service_account("api", Some(&role)).await?;
    let token = cluster.token("api", STS_AUDIENCE).await?;
    let driver = fixture.start(&[]).await?;
    let volume = fixture.pod_without_role("api")?.attribute("spec", SEEDED).token(STS_AUDIENCE, &token);
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    let assumed = fixture.proxy.calls_to("AssumeRoleWithWebIdentity");
    ensure!(assumed.len() == 1 && assumed[0].request["RoleArn"] == *role, "{assumed:#?}");
    ensure!(assumed[0].request["WebIdentityToken"] == *token);
    ensure!(fixture.value_calls().iter().all(|call| call.role.as_deref() == Some(&*role)));

    // Another's real token does not do.
    cluster.service_account("other", Some(&role)).await?;
    let stolen = cluster.token("other", STS_AUDIENCE).await?;
    let thief = fixture.pod_without_role("api")?.attribute("spec", SEEDED).token(STS_AUDIENCE, &stolen);
    let codes = [Code::PermissionDenied, Code::Unauthenticated, Code::InvalidArgument, Code::FailedPrecondition];
    refused(fixture.kubelet.publish(&thief).await, &codes, &["other"])?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn pod_identity_goes_by_its_agent_and_needs_no_role() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let agent = PodIdentityAgent::start()?;
    let driver = fixture.start(&["--pod-identity-endpoint", agent.url()]).await?;
    let pod = |account: &str| {
        let volume = fixture.pod_without_role(account)?.attribute("spec", SEEDED);
        anyhow::Ok(volume.attribute("identity", "pod-identity"))
    };
    let volume = pod("api")?;
    agent.associate(volume.token_for(POD_IDENTITY_AUDIENCE), fixture.aws.account());
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    ensure!(fixture.proxy.count("AssumeRoleWithWebIdentity") == 0);
    ensure!(agent.asked() == [volume.token_for(POD_IDENTITY_AUDIENCE)], "another token, or asked again");
    ensure!(fixture.value_calls().iter().all(|call| call.access_key.as_deref() == Some(fixture.aws.account())));

    // Another pod of the service account shares the session; a stranger has none.
    let second = pod("api")?;
    fixture.kubelet.publish(&second).await?;
    ensure!(agent.asked().len() == 1);
    let stranger = pod("stranger")?;
    let answer = fixture.kubelet.publish(&stranger).await;
    let codes = [Code::PermissionDenied, Code::Unauthenticated, Code::FailedPrecondition, Code::Unavailable];
    refused(answer, &codes, &["stranger"])?;
    fixture.ensure_nothing(&stranger)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn one_pod_identity_never_gets_anothers_values() -> Result<()> {
    let fixture = Fixture::new().await?;
    let url = LocalStack::shared().await?.url();
    let agent = PodIdentityAgent::start()?;
    let _driver = fixture.start(&["--pod-identity-endpoint", agent.url()]).await?;
    let mut volumes = Vec::new();
    for number in 0..10 {
        let aws = Aws::new(url);
        aws.create_secret("prod/db", &format!("of {number}")).await?;
        let volume = fixture.pod_without_role(&format!("account-{number}"))?;
        let volume = volume.attribute("spec", "[{name: s, from: 'secretsmanager:prod/db'}]");
        let volume = volume.attribute("identity", "pod-identity");
        agent.associate(volume.token_for(POD_IDENTITY_AUDIENCE), aws.account());
        volumes.push(volume);
    }
    let all = volumes.iter().map(|volume| fixture.kubelet.publish(volume));
    futures_util::future::join_all(all).await.into_iter().collect::<Result<Vec<()>, _>>()?;
    for (number, volume) in volumes.iter().enumerate() {
        fixture.ensure_holds(volume, &[("s", &format!("of {number}"))])?;
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_said_so() -> Result<()> {
    let fixture = Fixture::new().await?;
    let nobody = format!("http://127.0.0.1:{}", bed::free_port()?);
    let driver = fixture.start(&["--mount-timeout=3s", "--pod-identity-endpoint", &nobody]).await?;
    let volume = fixture.pod_without_role("api")?.attribute("spec", SEEDED).attribute("identity", "pod-identity");
    let answer = fixture.kubelet.publish(&volume).await;
    let codes = [Code::Unavailable, Code::FailedPrecondition, Code::DeadlineExceeded];
    let said = refused(answer, &codes, &[])?;
    ensure!(said.contains("Pod Identity") || said.contains("pod-identity"), "{said}");
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_class_may_ask_for_pod_identity() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    // No role, and none is needed.
    cluster.service_account("api", None).await?;
    let agent = PodIdentityAgent::start()?;
    let objects = "- {objectName: /prod/level, objectType: ssmparameter, objectAlias: level}";
    cluster.class("app", json!({"objects": objects, "usePodIdentity": "true"})).await?;
    cluster.class("junk", json!({"objects": objects, "usePodIdentity": "maybe"})).await?;
    let _driver = fixture.start(&["--pod-identity-endpoint", agent.url()]).await?;
    let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    agent.associate(volume.token_for(POD_IDENTITY_AUDIENCE), fixture.aws.account());
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_holds(&volume, &[("level", "info")])?;
    ensure!(fixture.proxy.count("AssumeRoleWithWebIdentity") == 0);
    let junk = fixture.pod_without_role("api")?.attribute("secretProviderClass", "junk");
    refused(fixture.kubelet.publish(&junk).await, &[Code::InvalidArgument], &["usePodIdentity", "maybe"])?;
    Ok(())
}

/// The same account in another region.
async fn put_elsewhere(fixture: &Fixture, name: &str, value: &str) -> Result<()> {
    let url = LocalStack::shared().await?.url();
    Aws::in_account(url, fixture.aws.account()).in_region(ELSEWHERE).create_secret(name, value).await?;
    Ok(())
}

#[tokio::test]
async fn the_region_is_the_pods_else_the_drivers_else_the_nodes() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    put_elsewhere(&fixture, "prod/there", "there").await?;
    let there = "[{name: s, from: 'secretsmanager:prod/there'}]";
    let regions = || {
        let mut regions: Vec<_> = fixture.value_calls().into_iter().filter_map(|call| call.region).collect();
        regions.dedup();
        fixture.proxy.clear_log();
        regions
    };
    // By attribute and by the spec itself, over everything else.
    let driver = fixture.start(&[]).await?;
    let volume = fixture.pod("one", there)?.attribute("region", ELSEWHERE);
    fixture.kubelet.publish(&volume).await?;
    ensure!(regions() == [ELSEWHERE]);
    let volume = fixture.pod("two", &format!("region: {ELSEWHERE}\nfiles: {there}"))?;
    fixture.kubelet.publish(&volume).await?;
    ensure!(regions() == [ELSEWHERE]);
    fixture.kubelet.publish(&fixture.seeded_pod()?).await?;
    ensure!(regions() == [REGION]);
    driver.stop().await?;
    // By flag, over the environment.
    let driver = fixture.start(&["--region", ELSEWHERE]).await?;
    fixture.kubelet.publish(&fixture.pod("three", there)?).await?;
    ensure!(regions() == [ELSEWHERE]);
    driver.stop().await?;
    // By the node's label.
    let driver = fixture.start_as(fixture.program(&[]).without_env("AWS_REGION")).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    ensure!(regions() == [REGION]);
    driver.ensure_serves().await
}

#[tokio::test]
async fn where_no_region_is_known_the_ways_to_name_one_are_told() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let driver = fixture.start_as(fixture.program(&[]).without_env("AWS_REGION")).await?;
    let volume = fixture.seeded_pod()?;
    let answer = fixture.kubelet.publish(&volume).await;
    let codes = [Code::FailedPrecondition, Code::InvalidArgument, Code::Unavailable];
    refused(answer, &codes, &["region", "AWS_REGION"])?;
    // One that names its own needs no other.
    fixture.kubelet.publish(&fixture.seeded_pod()?.attribute("region", REGION)).await?;
    driver.ensure_serves().await
}

/// A class with a failover region.
async fn with_failover(flags: &[&str]) -> Result<(Fixture, crate::fixture::Driver)> {
    let fixture = Fixture::in_cluster().await?;
    fixture.aws.create_secret("prod/db", "first").await?;
    put_elsewhere(&fixture, "prod/db-copy", "second").await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    let objects = "- {objectName: prod/db, objectType: secretsmanager, objectAlias: db, failoverObject: {objectName: prod/db-copy}}";
    cluster.class("app", json!({"objects": objects, "region": REGION, "failoverRegion": ELSEWHERE})).await?;
    let driver = fixture.start(flags).await?;
    Ok((fixture, driver))
}

fn in_region(fault: Fault, region: &'static str) -> Rule {
    Rule::new(fault).service(Service::SecretsManager).when(move |call| call.region.as_deref() == Some(region))
}

#[tokio::test]
async fn the_second_region_serves_when_the_first_cannot() -> Result<()> {
    let (fixture, driver) = with_failover(&["--mount-timeout=10s"]).await?;
    let pod = || fixture.pod_without_role("api").map(|volume| volume.attribute("secretProviderClass", "app"));
    let volume = pod()?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_holds(&volume, &[("db", "first")])?;
    // The second is not even asked while the first answers.
    ensure!(fixture.value_calls().iter().all(|call| call.region.as_deref() == Some(REGION)));
    fixture.kubelet.unpublish(&volume).await?;
    for fault in [Fault::Status(503), Fault::AccessDenied, Fault::Cut] {
        let id = fixture.proxy.fault(in_region(fault.clone(), REGION));
        // Past what was fetched for those before.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let volume = pod()?;
        fixture.kubelet.publish(&volume).await.with_context(|| format!("{fault:?}"))?;
        fixture.ensure_holds(&volume, &[("db", "second")])?;
        fixture.kubelet.unpublish(&volume).await?;
        fixture.proxy.clear_fault(id);
    }
    driver.ensure_serves().await
}

/// Where the other provider fails a mount that one region could serve, for the other region says no.
#[tokio::test]
async fn a_second_region_that_says_no_does_not_sink_what_the_first_serves() -> Result<()> {
    let (fixture, _driver) = with_failover(&[]).await?;
    fixture.proxy.fault(in_region(Fault::AccessDenied, ELSEWHERE));
    let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_holds(&volume, &[("db", "first")])
}

#[tokio::test]
async fn when_both_regions_fail_both_are_named() -> Result<()> {
    let (fixture, _driver) = with_failover(&["--mount-timeout=5s"]).await?;
    fixture.proxy.fault(Rule::new(Fault::AccessDenied).service(Service::SecretsManager));
    let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    let answer = fixture.kubelet.publish(&volume).await;
    refused(answer, &[Code::PermissionDenied], &["prod/db", "AccessDenied", ELSEWHERE])?;
    fixture.ensure_nothing(&volume)
}

/// The endpoint of STS is AWS's own variable too, as everywhere in Coffer.
#[tokio::test]
async fn sts_is_asked_where_the_environment_says() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let sts = FaultProxy::start(LocalStack::shared().await?.url())?;
    let _driver = fixture.start_as(fixture.program(&[]).env("AWS_ENDPOINT_URL_STS", sts.url())).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    ensure!(sts.count("AssumeRoleWithWebIdentity") == 1);
    ensure!(fixture.proxy.count("AssumeRoleWithWebIdentity") == 0);
    fixture.aws.put_parameter("/x", ParameterType::String, "x").await?;
    Ok(())
}
