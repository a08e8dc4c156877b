//! The kubelet asks for each volume again every minute or so: that costs nothing, brings fresh tokens, and
//! applies what was changed.

use std::{ffi::OsString, time::Duration};

use anyhow::{Context, Result, ensure};
use bed::{Fault, Rule, csi::PodVolume, csi::STS_AUDIENCE, eventually};
use serde_json::json;
use tonic::Code;

use crate::fixture::{Fixture, SEEDED, SOON};

#[tokio::test]
async fn republishing_asks_aws_nothing() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volumes: Vec<_> = (0..5).map(|_| fixture.seeded_pod()).collect::<Result<_>>()?;
    for volume in &volumes {
        fixture.kubelet.publish(volume).await?;
    }
    fixture.proxy.clear_log();
    for _ in 0..5 {
        for volume in &volumes {
            fixture.kubelet.publish(&volume.clone().with_fresh_tokens()?).await?;
        }
    }
    ensure!(fixture.proxy.calls().is_empty(), "AWS was asked: {:?}", fixture.operations());
    Ok(())
}

#[tokio::test]
async fn republishing_works_while_aws_is_away() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--refresh=1s"]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    let generation = fixture.kubelet.generation(&volume)?;
    for fault in [Fault::AccessDenied, Fault::Cut, Fault::Hang, Fault::Throttle, Fault::Status(503)] {
        fixture.proxy.clear_faults();
        let before = fixture.proxy.calls().len();
        fixture.proxy.fault(Rule::new(fault.clone()));
        eventually(SOON, async || {
            ensure!(fixture.proxy.calls().len() > before, "not one look");
            Ok(())
        })
        .await?;
        let started = tokio::time::Instant::now();
        fixture.kubelet.publish(&volume).await.with_context(|| format!("{fault:?}"))?;
        ensure!(started.elapsed() < Duration::from_secs(2), "{fault:?}: it took {:?}", started.elapsed());
        fixture.ensure_seeded(&volume)?;
    }
    ensure!(fixture.kubelet.generation(&volume)? == generation);
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_fresh_token_is_the_one_that_is_used() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&["--refresh=1s"]).await?;
    // The credentials end soon, so that the token is needed again.
    fixture.proxy.fault(Rule::new(Fault::CredentialsLastFor(Duration::from_secs(8))));
    let old = fixture.seeded_pod()?;
    fixture.kubelet.publish(&old).await?;
    let new = old.clone().with_fresh_tokens()?;
    fixture.kubelet.publish(&new).await?;
    fixture.asked("AssumeRoleWithWebIdentity", 2).await?;
    let assumed = fixture.proxy.calls_to("AssumeRoleWithWebIdentity");
    ensure!(assumed[0].request["WebIdentityToken"] == *old.token_for(STS_AUDIENCE));
    ensure!(assumed[1].request["WebIdentityToken"] == *new.token_for(STS_AUDIENCE), "the old token was used again");
    Ok(())
}

/// An inline spec cannot change while its pod lives; a ConfigMap can.
async fn with_config_map(spec: &str, flags: &[&str]) -> Result<(Fixture, crate::fixture::Driver, PodVolume)> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    fixture.cluster().config_map("app", &[("spec.yaml", spec)]).await?;
    let driver = fixture.start(flags).await?;
    let volume = fixture.pod_without_spec("api")?.attribute("configMap", "app").group(2000);
    fixture.kubelet.publish(&volume).await?;
    Ok((fixture, driver, volume))
}

/// Republishes, as the kubelet does, until a change is seen.
async fn republished(fixture: &Fixture, volume: &PodVolume, seen: impl Fn() -> Result<()>) -> Result<()> {
    // The kubelet comes every 60 to 90 s, and what is read of the API may be that old.
    eventually(Duration::from_secs(100), async || {
        fixture.kubelet.publish(volume).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        seen()
    })
    .await
}

#[tokio::test]
async fn a_change_of_mode_alone_is_applied() -> Result<()> {
    let spec = |mode: &str| format!("[{{name: level, from: 'parameterstore:/prod/level', mode: '{mode}'}}]");
    let (fixture, _driver, volume) = with_config_map(&spec("0440"), &[]).await?;
    ensure!(fixture.permissions(&volume, "level")?.mode == 0o440);
    fixture.cluster().config_map("app", &[("spec.yaml", &spec("0400"))]).await?;
    republished(&fixture, &volume, || {
        let mode = fixture.permissions(&volume, "level")?.mode;
        ensure!(mode == 0o400, "{mode:o}");
        Ok(())
    })
    .await?;
    fixture.ensure_holds(&volume, &[("level", "info")])
}

#[tokio::test]
async fn files_come_and_vanish_as_they_are_asked_for() -> Result<()> {
    let (fixture, _driver, volume) = with_config_map(SEEDED, &[]).await?;
    fixture.ensure_seeded(&volume)?;
    fixture.aws.create_secret("prod/new", "new").await?;
    let other = "\
- {name: password, from: 'secretsmanager:prod/db', select: password}
- {name: new, from: 'secretsmanager:prod/new'}
";
    fixture.cluster().config_map("app", &[("spec.yaml", other)]).await?;
    republished(&fixture, &volume, || fixture.ensure_holds(&volume, &[("password", "one"), ("new", "new")])).await
}

#[tokio::test]
async fn a_change_that_makes_no_sense_keeps_the_set_and_is_told_on_the_pod() -> Result<()> {
    let (fixture, driver, volume) = with_config_map(SEEDED, &[]).await?;
    fixture.cluster().config_map("app", &[("spec.yaml", "files: [{nmae: a}]")]).await?;
    republished(&fixture, &volume, || {
        let said = driver.process.stderr();
        ensure!(said.contains("nmae"), "not a word of it:\n{said}");
        Ok(())
    })
    .await?;
    fixture.cluster().event(&volume, &["nmae"]).await?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    // And so it is when it is gone altogether.
    let path = fixture.cluster().path("configmaps", "app");
    fixture.cluster().api().delete(&path).await?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)
}

#[tokio::test]
async fn a_class_that_is_changed_is_followed() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", Some(&fixture.aws.role_arn("api"))).await?;
    let class = |permission: &str| json!({"objects": format!("- {{objectName: /prod/level, objectType: ssmparameter, objectAlias: level, filePermission: '{permission}'}}")});
    cluster.class("app", class("0644")).await?;
    let _driver = fixture.start(&[]).await?;
    let volume = fixture.pod_without_role("api")?.attribute("secretProviderClass", "app");
    let volume = cluster.pod_of(volume, "api").await?;
    fixture.kubelet.publish(&volume).await?;
    cluster.class("app", class("0600")).await?;
    republished(&fixture, &volume, || {
        let mode = fixture.permissions(&volume, "level")?.mode;
        ensure!(mode == 0o600, "{mode:o}");
        Ok(())
    })
    .await
}

/// A driver that was killed and started again takes over what is there as it is.
#[tokio::test]
async fn after_a_restart_volumes_are_adopted_as_they_are() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let mut driver = fixture.start(&["--refresh=1s"]).await?;
    let volumes: Vec<_> = (0..3).map(|_| fixture.seeded_pod()).collect::<Result<_>>()?;
    for volume in &volumes {
        fixture.kubelet.publish(volume).await?;
    }
    let generations =
        || volumes.iter().map(|volume| fixture.kubelet.generation(volume)).collect::<Result<Vec<OsString>>>();
    let before = generations()?;
    let mounts = fixture.kubelet.all_mounts()?;
    for orderly in [false, true] {
        if orderly {
            driver.stop().await?;
        } else {
            driver.crash().await?;
        }
        // An end of the driver is no end of a pod's files.
        for volume in &volumes {
            fixture.ensure_seeded(volume)?;
        }
        driver = fixture.start(&["--refresh=1s"]).await?;
        for volume in &volumes {
            fixture.kubelet.publish(&volume.clone().with_fresh_tokens()?).await?;
            fixture.ensure_seeded(volume)?;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        ensure!(generations()? == before, "a restart alone changed a volume");
        ensure!(fixture.kubelet.all_mounts()? == mounts, "a restart mounted something");
    }
    // And rotation goes on.
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    for volume in &volumes {
        fixture.becomes(volume, "password", "two").await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_changed_while_the_driver_was_away_comes_with_its_return() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let driver = fixture.start(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    driver.crash().await?;
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    let _driver = fixture.start(&[]).await?;
    fixture.kubelet.publish(&volume).await?;
    fixture.becomes(&volume, "password", "two").await
}

#[tokio::test]
async fn a_restart_while_aws_is_away_keeps_the_set_and_answers_well() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let driver = fixture.start(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    let generation = fixture.kubelet.generation(&volume)?;
    driver.crash().await?;
    fixture.proxy.fault(Rule::new(Fault::AccessDenied));
    let driver = fixture.start(&["--mount-timeout=3s", "--refresh=1s"]).await?;
    // A final error would have some kubelets remove the folder under a running pod.
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    ensure!(fixture.kubelet.generation(&volume)? == generation);
    // A pod that was never published is another matter.
    let fresh = fixture.seeded_pod()?;
    ensure!(fixture.kubelet.publish(&fresh).await.is_err());
    fixture.proxy.clear_faults();
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    fixture.becomes(&volume, "password", "two").await?;
    fixture.kubelet.publish(&fresh).await?;
    driver.ensure_serves().await
}

/// The set of another pod, or of the same pod before its volume was changed, is not adopted blindly.
#[tokio::test]
async fn a_set_with_a_missing_file_is_not_adopted_as_whole() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let driver = fixture.start(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    driver.crash().await?;
    let data = fixture.kubelet.volume(&volume).join("..data").canonicalize();
    let data = match data {
        Ok(data) => data,
        Err(_) => fixture.kubelet.volume(&volume).join(fixture.kubelet.generation(&volume)?),
    };
    std::fs::remove_file(data.join("password")).or_else(|_| {
        std::fs::remove_file(
            fixture.kubelet.volume(&volume).join(fixture.kubelet.generation(&volume)?).join("password"),
        )
        .context("cannot take the file away")
    })?;
    let _driver = fixture.start(&[]).await?;
    fixture.kubelet.publish(&volume).await?;
    fixture.becomes(&volume, "password", "one").await?;
    fixture.ensure_seeded(&volume)
}

/// What another was published with does not come by the name of a target.
#[tokio::test]
async fn a_publish_of_another_id_at_a_published_target_never_shows_the_others_files() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    fixture.aws.create_secret("others", "theirs").await?;
    let first = fixture.seeded_pod()?;
    fixture.kubelet.publish(&first).await?;
    let second = fixture.pod("other", "[{name: theirs, from: 'secretsmanager:others'}]")?;
    let second = second.of_pod(first.pod(), first.uid());
    match fixture.kubelet.publish(&second).await {
        Ok(()) => fixture.ensure_holds(&second, &[("theirs", "theirs")])?,
        Err(status) => ensure!(status.code() != Code::Unknown, "{status:?}"),
    }
    driver.ensure_serves().await
}
