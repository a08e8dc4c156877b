//! A rotated secret reaches every pod, and a failing refresh none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bed::{Fault, Rule, Times, eventually};
use tokio::time::Instant;

use crate::fixture::{Fixture, SEEDED, SOON};

#[tokio::test]
async fn a_rotation_is_seen_within_refresh_by_all_pods_with_one_fetch() -> Result<()> {
    const PODS: usize = 10;
    let (fixture, _driver) = Fixture::seeded(&["--refresh=5s"]).await?;
    let volumes: Vec<_> = (0..PODS).map(|_| fixture.seeded_pod()).collect::<Result<_>>()?;
    for volume in &volumes {
        fixture.kubelet.publish(volume).await?;
    }
    fixture.proxy.clear_log();
    let rotated = Instant::now();
    fixture.aws.rotate_secret("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    for volume in &volumes {
        fixture.becomes(volume, "password", "two").await?;
    }
    let took = rotated.elapsed();
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    let fetches = fixture.value_calls();
    let fetches = fetches.iter().filter(|call| call.operation.contains("SecretValue")).count();
    ensure!(fetches <= 3, "{PODS} pods of one identity made {fetches} fetches: {:?}", fixture.operations());
    Ok(())
}

#[tokio::test]
async fn a_pods_own_refresh_goes_before_the_drivers() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&["--refresh=1h"]).await?;
    let quick = fixture.seeded_pod()?.attribute("refresh", "1s");
    let in_spec = fixture.pod("other", &format!("refresh: 1s\n{SEEDED}"))?;
    fixture.kubelet.publish(&quick).await?;
    fixture.kubelet.publish(&in_spec).await?;
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    fixture.becomes(&quick, "password", "two").await?;
    fixture.becomes(&in_spec, "password", "two").await
}

#[tokio::test]
async fn a_reader_sees_whole_sets_only_while_the_driver_is_killed_and_started_again() -> Result<()> {
    const ROTATIONS: u64 = 8;
    let fixture = Fixture::new().await?;
    let value = |number: u64| format!(r#"{{"a": "{number}", "b": "{number}", "c": "{number}"}}"#);
    fixture.aws.create_secret("prod/db", &value(0)).await?;
    let spec = "\
- {name: a, from: 'secretsmanager:prod/db', select: a}
- {name: b, from: 'secretsmanager:prod/db', select: b}
- {name: sub/c, from: 'secretsmanager:prod/db', select: c}
";
    let volume = fixture.pod("api", spec)?;
    let mut driver = fixture.start(&["--refresh=1s"]).await?;
    fixture.kubelet.publish(&volume).await?;
    let done = Arc::new(AtomicBool::new(false));
    let newest = Arc::new(AtomicU64::new(0));
    let reader = {
        let (set, done, newest) = (fixture.kubelet.reader(&volume), Arc::clone(&done), Arc::clone(&newest));
        thread::spawn(move || -> Result<u64> {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let number = set.read_number(&["a", "b", "sub/c"], |text| Ok(text.parse()?))?;
                let before = newest.fetch_max(number, Ordering::Relaxed);
                ensure!(number >= before, "set {number} came after set {before}");
                reads += 1;
                thread::sleep(Duration::from_micros(200));
            }
            Ok(reads)
        })
    };
    for number in 1..=ROTATIONS {
        fixture.aws.put_secret_value("prod/db", &value(number)).await?;
        if number % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1500))).await;
            driver.crash().await?;
            driver = fixture.start(&["--refresh=1s"]).await?;
            // As the kubelet does, sooner or later.
            fixture.kubelet.publish(&volume).await?;
        }
        eventually(SOON, async || {
            let seen = newest.load(Ordering::Relaxed);
            ensure!(seen == number || reader.is_finished(), "the newest set seen is {seen}, not {number}");
            Ok(())
        })
        .await?;
    }
    done.store(true, Ordering::Relaxed);
    let reads = reader.join().expect("the reader panicked")?;
    ensure!(reads > 100, "only {reads} reads: too few to prove anything");
    Ok(())
}

#[tokio::test]
async fn a_refresh_that_fails_keeps_the_set_and_comes_back_by_itself() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--refresh=1s"]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    let generation = fixture.kubelet.generation(&volume)?;
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    for fault in [Fault::AccessDenied, Fault::Throttle, Fault::ExpiredToken, Fault::Garbage, Fault::Status(500)] {
        let before = fixture.proxy.calls().len();
        let id = fixture.proxy.fault(Rule::new(fault.clone()));
        if fault == Fault::AccessDenied {
            // What was read in between would be the new value.
            eventually(SOON, async || {
                ensure!(fixture.proxy.calls().len() > before, "no look");
                Ok(())
            })
            .await?;
        }
        fixture.proxy.clear_fault(id);
    }
    // It comes, in the end; and what was there meanwhile was whole.
    fixture.becomes(&volume, "password", "two").await?;
    ensure!(fixture.kubelet.generation(&volume)? != generation);
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_secret_that_is_deleted_stays_in_the_volume_and_is_told() -> Result<()> {
    let fixture = Fixture::in_cluster().await?;
    fixture.seed().await?;
    let driver = fixture.start(&["--refresh=1s"]).await?;
    let cluster = fixture.cluster();
    cluster.service_account("api", None).await?;
    let volume = cluster.pod_of(fixture.seeded_pod()?, "api").await?;
    fixture.kubelet.publish(&volume).await?;
    fixture.aws.delete_secret("prod/db").await?;
    let told = cluster.event(&volume, &["secretsmanager:prod/db"]).await?;
    ensure!(!told.contains('\n'), "{told:?}");
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    // Told once in a while, not at each look.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let events = cluster.events(&volume).await?;
    ensure!(events.len() <= 3, "{} events: {events:#?}", events.len());
    fixture.aws.restore_secret("prod/db").await?;
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    fixture.becomes(&volume, "password", "two").await.context("after its return")?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn one_refused_parameter_does_not_hold_up_another_pods_rotation() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&["--refresh=1s"]).await?;
    let (sound, ailing) = (fixture.pod("sound", SEEDED)?, fixture.pod("ailing", SEEDED)?);
    fixture.kubelet.publish(&sound).await?;
    fixture.kubelet.publish(&ailing).await?;
    let role = fixture.aws.role_arn("ailing");
    fixture.proxy.fault(Rule::new(Fault::AccessDenied).when(move |call| call.role.as_deref() == Some(&*role)));
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    fixture.becomes(&sound, "password", "two").await?;
    ensure!(fixture.kubelet.read(&ailing, "password")? == "one");
    Ok(())
}

#[tokio::test]
async fn no_rotation_touches_a_volume_that_is_gone() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--refresh=1s"]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    // A look is under way when the pod goes.
    fixture.proxy.fault(Rule::new(Fault::Slow(Duration::from_secs(2))).times(Times::First(3)));
    fixture.aws.put_secret_value("prod/db", r#"{"user": "app", "password": "two"}"#).await?;
    let before = fixture.proxy.calls().len();
    eventually(SOON, async || {
        ensure!(fixture.proxy.calls().len() > before, "no look");
        Ok(())
    })
    .await?;
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    fixture.kubelet.ensure_gone(&volume)?;
    fixture.proxy.clear_log();
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(fixture.proxy.calls().is_empty(), "it looks for nobody: {:?}", fixture.operations());
    driver.ensure_serves().await
}
