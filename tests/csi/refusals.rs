//! A pod whose secrets cannot be had: it never starts, is told why in one sentence, and starts by itself
//! once they can.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bed::{
    Fault, Rule, Service,
    csi::{POD_IDENTITY_AUDIENCE, PodVolume, STS_AUDIENCE, TokensIn},
    web_identity_token,
};
use tonic::Code;

use crate::fixture::{Fixture, NAMESPACE, NOT_FINAL, SEEDED, refused};

/// Codes of a failure that AWS is the cause of.
const OF_AWS: &[Code] = &[
    Code::PermissionDenied,
    Code::NotFound,
    Code::FailedPrecondition,
    Code::InvalidArgument,
    Code::Unavailable,
    Code::DeadlineExceeded,
    Code::ResourceExhausted,
    Code::Unauthenticated,
    Code::Internal,
];

#[tokio::test]
async fn an_error_of_aws_is_told_with_its_code_the_reference_and_the_role() -> Result<()> {
    const SECRET: &str = "secretsmanager:prod/db";
    const PARAMETER: &str = "parameterstore:/prod/level";
    let (fixture, driver) = Fixture::seeded(&["--mount-timeout=3s"]).await?;
    let error = |status, code: &str| Fault::Error { status, code: code.to_owned(), message: "No.".to_owned() };
    let secrets = |fault| Rule::new(fault).service(Service::SecretsManager);
    let parameters = |fault| Rule::new(fault).service(Service::ParameterStore);
    let sts = |fault| Rule::new(fault).service(Service::Sts);
    let cases: Vec<(&str, Rule, &[Code], &[&str])> = vec![
        ("may not read", secrets(Fault::AccessDenied), &[Code::PermissionDenied], &[SECRET, "AccessDeniedException"]),
        (
            "may not read it",
            parameters(Fault::AccessDenied),
            &[Code::PermissionDenied],
            &[PARAMETER, "AccessDeniedException"],
        ),
        ("key", secrets(error(400, "DecryptionFailure")), OF_AWS, &[SECRET, "DecryptionFailure"]),
        ("throttled", parameters(Fault::Throttle), NOT_FINAL, &[PARAMETER, "Throttling"]),
        ("server", secrets(Fault::Status(503)), NOT_FINAL, &[SECRET]),
        ("cut", parameters(Fault::Cut), NOT_FINAL, &[PARAMETER]),
        ("role", sts(Fault::AccessDenied), &[Code::PermissionDenied, Code::Unauthenticated], &["AccessDenied"]),
        ("token", sts(Fault::InvalidIdentityToken), OF_AWS, &["InvalidIdentityToken"]),
        ("expired", sts(Fault::ExpiredToken), OF_AWS, &["ExpiredToken"]),
    ];
    for (name, rule, codes, words) in cases {
        let account = name.replace(' ', "-");
        let role = fixture.aws.role_arn(&account);
        let volume = fixture.pod(&account, SEEDED)?;
        let id = fixture.proxy.fault(rule);
        let said = refused(fixture.kubelet.publish(&volume).await, codes, words).with_context(|| name.to_owned())?;
        if ["may not read", "may not read it", "role"].contains(&name) {
            ensure!(
                said.contains(&role) || said.contains(&format!("assumed-role/{account}/")),
                "{name}: whose? {said}"
            );
        }
        fixture.ensure_nothing(&volume)?;
        // By itself, once it can be had.
        fixture.proxy.clear_fault(id);
        fixture.published(&volume).await.with_context(|| name.to_owned())?;
        fixture.ensure_seeded(&volume)?;
    }
    driver.ensure_serves().await
}

#[tokio::test]
async fn what_does_not_exist_is_named_and_nothing_else_is_given() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    for (reference, code) in [
        ("secretsmanager:prod/absent", "ResourceNotFoundException"),
        ("parameterstore:/prod/absent", "ParameterNotFound"),
        ("secretsmanager:prod/db?version=00000000-0000-0000-0000-000000000000", "ResourceNotFoundException"),
    ] {
        let volume = fixture.pod("api", &format!("{SEEDED}  - {{name: x, from: '{reference}'}}\n"))?;
        let answer = fixture.kubelet.publish(&volume).await;
        let said = refused(answer, OF_AWS, &[reference]).with_context(|| reference.to_owned())?;
        ensure!(said.contains(code) || said.contains("does not exist") || said.contains("no such"), "{said}");
        fixture.ensure_nothing(&volume)?;
        ensure!(fixture.kubelet.mounts(&volume)?.is_empty(), "a mount is left for a final error");
    }
    driver.ensure_serves().await
}

#[tokio::test]
async fn every_refused_reference_is_named_at_once() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.pod(
        "api",
        "[{name: a, from: 'secretsmanager:no/a'}, {name: b, from: 'secretsmanager:no/b'}, {name: c, from: 'parameterstore:/no/c'}]",
    )?;
    let said = refused(fixture.kubelet.publish(&volume).await, OF_AWS, &["no/a"])?;
    // The kubelet shows one line; it should save two more rounds, or at least say that there are more.
    ensure!(said.contains("no/b") && said.contains("/no/c") || said.contains("2 more"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_field_that_is_not_there_is_named() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.pod("api", "[{name: a, from: 'secretsmanager:prod/db', select: passwort}]")?;
    let said = refused(
        fixture.kubelet.publish(&volume).await,
        &[Code::FailedPrecondition, Code::InvalidArgument, Code::NotFound],
        &["secretsmanager:prod/db", "passwort"],
    )?;
    ensure!(!said.contains("one") || said.contains("none"), "a value in it? {said}");
    fixture.ensure_nothing(&volume)
}

#[tokio::test]
async fn a_request_without_the_token_it_needs_says_what_the_csidriver_lacks() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let irsa = fixture.seeded_pod()?;
    let by_agent = fixture.pod_without_role("api")?.attribute("spec", SEEDED).attribute("identity", "pod-identity");
    let cases = [
        (irsa.clone().tokens_in(TokensIn::Nowhere), STS_AUDIENCE),
        (irsa.without_token(STS_AUDIENCE), STS_AUDIENCE),
        (by_agent.clone().tokens_in(TokensIn::Nowhere), POD_IDENTITY_AUDIENCE),
        (by_agent.without_token(POD_IDENTITY_AUDIENCE), POD_IDENTITY_AUDIENCE),
    ];
    for (volume, audience) in cases {
        let answer = fixture.kubelet.publish(&volume).await;
        refused(
            answer,
            &[Code::FailedPrecondition, Code::Unauthenticated, Code::InvalidArgument],
            &[audience, "tokenRequests"],
        )?;
        fixture.ensure_nothing(&volume)?;
    }
    ensure!(fixture.proxy.calls().is_empty(), "AWS was asked: {:?}", fixture.operations());
    driver.ensure_serves().await
}

/// The attributes of a pod are its author's: a token put there must not speak for anybody else.
#[tokio::test]
async fn a_token_of_another_service_account_is_refused() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let stolen = |subject: &str| web_identity_token(subject, STS_AUDIENCE);
    for subject in [
        "system:serviceaccount:shop:admin",
        "system:serviceaccount:kube-system:api",
        "system:serviceaccount:shop:api:x",
        "system:node:node-a",
        "",
    ] {
        for place in [TokensIn::Secrets, TokensIn::Context] {
            let volume = fixture.seeded_pod()?.token(STS_AUDIENCE, &stolen(subject)?).tokens_in(place);
            let answer = fixture.kubelet.publish(&volume).await;
            let codes =
                [Code::PermissionDenied, Code::Unauthenticated, Code::InvalidArgument, Code::FailedPrecondition];
            let said = refused(answer, &codes, &["system:serviceaccount:shop:api"])?;
            ensure!(!said.contains(volume.token_for(STS_AUDIENCE)), "the token itself is told");
            fixture.ensure_nothing(&volume)?;
        }
    }
    ensure!(fixture.proxy.calls().is_empty(), "AWS was asked: {:?}", fixture.operations());
    driver.ensure_serves().await
}

/// With tokens in `secrets`, what the pod's author wrote under the same key in the attributes is nothing.
#[tokio::test]
async fn a_forged_token_in_the_attributes_does_not_stand_in_for_the_kubelets() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    let forged =
        format!(r#"{{"{STS_AUDIENCE}": {{"token": "not.a.jwt", "expirationTimestamp": "2099-01-01T00:00:00Z"}}}}"#);
    let forging = volume.clone().attribute(bed::csi::TOKENS_KEY, forged);
    fixture.kubelet.publish(&forging).await?;
    let assumed = fixture.proxy.calls_to("AssumeRoleWithWebIdentity");
    ensure!(assumed[0].request["WebIdentityToken"] == *volume.token_for(STS_AUDIENCE));
    Ok(())
}

#[tokio::test]
async fn tokens_that_are_no_tokens_are_refused_and_not_told() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    let target = fixture.kubelet.prepare(&volume)?;
    for tokens in ["", "{", "[]", "null", r#"{"sts.amazonaws.com": "canary-token"}"#, r#"{"sts.amazonaws.com": {}}"#] {
        let mut request = volume.publish_request(&target);
        request.secrets.insert(bed::csi::TOKENS_KEY.to_owned(), tokens.to_owned());
        let answer = fixture.kubelet.publish_request(request).await;
        let codes = [Code::FailedPrecondition, Code::Unauthenticated, Code::InvalidArgument];
        let said = refused(answer, &codes, &[]).with_context(|| tokens.to_owned())?;
        ensure!(!said.contains("canary-token"), "{said}");
    }
    fixture.ensure_nothing(&volume)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_service_account_without_a_role_is_told_how_to_get_one() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    fixture.cluster().service_account("api", None).await?;
    let driver = fixture.start(&[]).await?;
    let volume = fixture.pod_without_role("api")?.attribute("spec", SEEDED);
    let answer = fixture.kubelet.publish(&volume).await;
    refused(answer, &[Code::FailedPrecondition, Code::InvalidArgument], &["api", "eks.amazonaws.com/role-arn"])?;
    let volume = fixture.pod_without_role("nobody")?.attribute("spec", SEEDED);
    let answer = fixture.kubelet.publish(&volume).await;
    refused(answer, &[Code::FailedPrecondition, Code::NotFound, Code::InvalidArgument], &["nobody"])?;
    ensure!(fixture.proxy.calls().is_empty());
    driver.ensure_serves().await
}

/// As often as it fails, the pod is told once in a while.
#[tokio::test]
async fn the_reason_is_an_event_on_the_pod() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    let driver = fixture.start(&[]).await?;
    let volume = fixture.pod_without_role("api")?.attribute("spec", "[{name: a, from: 'secretsmanager:prod/absent'}]");
    let volume = cluster.pod_of(volume, "api").await?;
    for _ in 0..5 {
        refused(fixture.kubelet.publish(&volume).await, OF_AWS, &["secretsmanager:prod/absent"])?;
    }
    cluster.event(&volume, &["secretsmanager:prod/absent", "ResourceNotFoundException"]).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let events = cluster.events(&volume).await?;
    ensure!(events.len() <= 2, "{} events for one and the same: {events:#?}", events.len());
    driver.ensure_serves().await
}

/// A failing pod is asked for again and again; AWS is not asked in the same rhythm by hundreds.
#[tokio::test]
async fn pods_that_cannot_start_do_not_flood_aws() -> Result<()> {
    const PODS: usize = 20;
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let spec = "[{name: a, from: 'secretsmanager:prod/absent'}]";
    let volumes: Vec<PodVolume> = (0..PODS).map(|_| fixture.pod("api", spec)).collect::<Result<_>>()?;
    let answers = futures_util::future::join_all(volumes.iter().map(|volume| fixture.kubelet.publish(volume))).await;
    for answer in answers {
        refused(answer, OF_AWS, &["prod/absent"])?;
    }
    let calls = fixture.value_calls().len();
    ensure!(calls <= PODS / 2, "{calls} calls for one secret that is not there");
    ensure!(fixture.proxy.count("AssumeRoleWithWebIdentity") == 1);
    ensure!(NAMESPACE == fixture.namespace());
    driver.ensure_serves().await
}
