//! As whom KMS is asked, where, and on whose behalf.

use anyhow::{Result, ensure};
use bed::{FaultProxy, LocalStack, Service};
use serde_json::json;
use tonic::Code;

use crate::fixture::{Fixture, id_of, refused};

#[tokio::test]
async fn every_call_says_on_whose_behalf_and_by_what_program() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let account = fixture.aws.account();
    let source = format!("arn:aws:eks:eu-west-1:{account}:cluster/prod");
    let plugin = fixture.serve(&key, &["--source-arn", &source, "--follow-key"]).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    plugin.api.decrypt(&answer.ciphertext, &answer.key_id).await?;
    let calls = fixture.proxy.calls();
    for operation in ["Encrypt", "Decrypt", "DescribeKey"] {
        ensure!(calls.iter().any(|call| call.operation == operation), "no {operation}");
    }
    for call in &calls {
        ensure!(call.source_arn.as_deref() == Some(&*source), "{call:?}");
        ensure!(call.source_account.as_deref() == Some(account), "{call:?}");
        ensure!(call.user_agent.as_ref().is_some_and(|agent| agent.contains("coffer/")), "{call:?}");
    }
    plugin.stop().await?;
    fixture.proxy.clear_log();
    fixture.serve(&key, &[]).await?;
    ensure!(fixture.proxy.calls().iter().all(|call| call.source_arn.is_none() && call.source_account.is_none()));
    Ok(())
}

#[tokio::test]
async fn a_key_says_its_region_and_the_flag_that_of_others() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.multi_region_key().await?;
    fixture.kms("ReplicateKey", json!({"KeyId": key, "ReplicaRegion": "eu-central-1"})).await?;
    let replica = key.replace("eu-west-1", "eu-central-1");
    // An ARN, whatever else is said; and a bare id, by what is said first.
    let none: Option<&str> = None;
    for (name, flag, variable, expected) in [
        (replica.as_str(), none, none, "eu-central-1"),
        (&replica, none, Some("eu-west-1"), "eu-central-1"),
        (&key, Some("eu-central-1"), Some("eu-central-1"), "eu-west-1"),
        (id_of(&key), none, Some("eu-central-1"), "eu-central-1"),
        (id_of(&key), Some("eu-central-1"), Some("eu-west-1"), "eu-central-1"),
    ] {
        let mut program = fixture.program(&[name]).without_env("AWS_REGION").env("AWS_EC2_METADATA_DISABLED", "true");
        if let Some(region) = flag {
            program = program.args(["--region", region]);
        }
        if let Some(region) = variable {
            program = program.env("AWS_REGION", region);
        }
        fixture.proxy.clear_log();
        let plugin = fixture.start(program).await?;
        plugin.api.becomes("ok").await?;
        let regions: Vec<_> = fixture.proxy.calls().into_iter().map(|call| call.region).collect();
        let right = regions.iter().all(|region| region.as_deref() == Some(expected));
        ensure!(right && !regions.is_empty(), "{name} {flag:?} {variable:?}: {regions:?}");
        plugin.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_role_is_assumed_and_the_endpoint_of_kms_is_for_kms_alone() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let of_kms = FaultProxy::start(LocalStack::shared().await?.url())?;
    let role = fixture.aws.role_arn("kms");
    let flags = ["--role-arn", &role, "--external-id=cluster-7", "--kms-endpoint", &of_kms.url()];
    let plugin = fixture.serve(&key, &flags).await?;
    let answer = plugin.api.encrypt(b"seed").await?;
    plugin.api.decrypt(&answer.ciphertext, &key).await?;
    let sts = fixture.proxy.calls();
    ensure!(sts.len() == 1 && sts[0].operation == "AssumeRole", "{sts:?}");
    ensure!(sts[0].request["RoleArn"] == *role && sts[0].request["ExternalId"] == "cluster-7", "{sts:?}");
    let calls = of_kms.calls();
    ensure!(calls.len() >= 4 && calls.iter().all(|call| call.service == Service::Kms), "{calls:?}");
    let own = fixture.aws.account();
    ensure!(calls.iter().all(|call| call.access_key.as_deref().is_some_and(|key| key != own)), "{calls:?}");
    Ok(())
}

#[tokio::test]
async fn without_credentials_it_serves_and_says_so() -> Result<()> {
    let fixture = Fixture::new().await?;
    let key = fixture.key().await?;
    let program = fixture
        .program(&[&key])
        .without_env("AWS_ACCESS_KEY_ID")
        .without_env("AWS_SECRET_ACCESS_KEY")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let plugin = fixture.start(program).await?;
    let status = plugin.api.becomes("no credentials").await?;
    ensure!(status.key_id == key, "{status:?}");
    refused(plugin.api.encrypt(b"seed").await, Code::Unauthenticated, &["no credentials"])?;
    refused(plugin.api.decrypt(b"1blob", &key).await, Code::Unauthenticated, &["no credentials"])?;
    ensure!(fixture.proxy.calls().is_empty());
    ensure!(plugin.get("/livez").await?.0 == 200);
    Ok(())
}
