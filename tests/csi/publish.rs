//! A volume is published when its files are there, and never before.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use bed::{Fault, Rule, csi::PodVolume, eventually};
use coffer_injector::proto::csi::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
    volume_capability::{AccessType, BlockVolume},
};
use futures_util::future::join_all;
use tonic::Code;

use crate::fixture::{Driver, Fixture, NOT_FINAL, SEEDED, SOON, refused};

#[tokio::test]
async fn a_volume_comes_and_goes() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)?;
    // Its note is the kubelet's.
    ensure!(fixture.kubelet.target(&volume).with_file_name("vol_data.json").exists());
    driver.stop().await?;
    Ok(())
}

#[tokio::test]
async fn publishing_again_changes_nothing() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    let (mounts, generation) = (fixture.kubelet.mounts(&volume)?, fixture.kubelet.generation(&volume)?);
    for _ in 0..10 {
        fixture.kubelet.publish(&volume).await?;
    }
    fixture.ensure_seeded(&volume)?;
    ensure!(fixture.kubelet.mounts(&volume)? == mounts);
    ensure!(fixture.kubelet.generation(&volume)? == generation);
    for _ in 0..2 {
        fixture.kubelet.unpublish(&volume).await?;
        fixture.kubelet.ensure_gone(&volume)?;
    }
    // And the same volume once more, from the start.
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn many_publish_one_volume_at_once() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.proxy.set_latency(Duration::from_millis(300));
    let answers = join_all((0..10).map(|_| fixture.kubelet.publish(&volume))).await;
    let (fine, not): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    ensure!(!fine.is_empty(), "none was published: {not:?}");
    for answer in not {
        refused(answer, &[Code::Aborted], &[])?;
    }
    fixture.ensure_seeded(&volume)?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)?;
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn publish_and_unpublish_of_one_volume_at_once_end_in_one_or_the_other() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    for _ in 0..10 {
        let volume = fixture.seeded_pod()?;
        let [publish, unpublish] = [(); 2].map(|()| &fixture.kubelet);
        let (published, unpublished) = tokio::join!(publish.publish(&volume), async {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..40))).await;
            unpublish.unpublish(&volume).await
        });
        for answer in [published, unpublished] {
            if answer.is_err() {
                refused(answer, NOT_FINAL, &[])?;
            }
        }
        // The kubelet tears down until it is answered well.
        fixture.kubelet.unpublish(&volume).await?;
        fixture.kubelet.ensure_gone(&volume)?;
    }
    let left = fixture.kubelet.all_mounts()?;
    ensure!(left.is_empty(), "{left:?}");
    driver.ensure_serves().await
}

/// What a crash, of the driver's or the kubelet's, may leave at a target.
#[derive(Clone, Copy, Debug)]
enum Left {
    Folder,
    FolderWithAFile,
    EmptyTmpfs,
    HalfASet,
    StackedTmpfs,
    ALinkToNowhere,
}

impl Left {
    const ALL: [Self; 6] = [
        Self::Folder,
        Self::FolderWithAFile,
        Self::EmptyTmpfs,
        Self::HalfASet,
        Self::StackedTmpfs,
        Self::ALinkToNowhere,
    ];

    fn leave(self, fixture: &Fixture, volume: &PodVolume) -> Result<()> {
        let target = fixture.kubelet.prepare(volume)?;
        fs::create_dir(&target)?;
        let inside = fixture.kubelet.volume(volume);
        let mount = || fixture.kubelet.namespace().mount_tmpfs(&target);
        match self {
            Self::Folder => {}
            Self::FolderWithAFile => fs::write(inside.join("password"), "not from here")?,
            Self::EmptyTmpfs => mount()?,
            Self::HalfASet => {
                mount()?;
                fs::create_dir(inside.join("..2026_01_01"))?;
                fs::write(inside.join("..2026_01_01/password"), "half")?;
            }
            Self::StackedTmpfs => {
                mount()?;
                fs::write(inside.join("password"), "lower")?;
                mount()?;
            }
            Self::ALinkToNowhere => {
                mount()?;
                std::os::unix::fs::symlink("..2026_01_01", inside.join("..data"))?;
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn whatever_a_crash_left_is_published_wholly_or_not_at_all() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--mount-timeout=2s"]).await?;
    for (number, left) in Left::ALL.into_iter().enumerate() {
        // Each for itself: what one was given, others of its identity get too for a moment.
        let volume = fixture.pod(&format!("api-{number}"), SEEDED)?;
        left.leave(&fixture, &volume)?;
        // First when nothing can be had: that is no success, whatever stands there.
        let denied = fixture.proxy.fault(Rule::new(Fault::AccessDenied));
        let answer = fixture.kubelet.publish(&volume).await;
        ensure!(answer.is_err(), "{left:?} was taken for a published volume");
        fixture.proxy.clear_fault(denied);
        fixture.published(&volume).await.with_context(|| format!("{left:?}"))?;
        fixture.ensure_seeded(&volume).with_context(|| format!("{left:?}"))?;
        fixture.kubelet.unpublish(&volume).await.with_context(|| format!("{left:?}"))?;
        fixture.kubelet.ensure_gone(&volume).with_context(|| format!("{left:?}"))?;
    }
    driver.ensure_serves().await
}

#[tokio::test]
async fn whatever_a_crash_left_is_taken_away() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    for left in Left::ALL {
        let volume = fixture.seeded_pod()?;
        left.leave(&fixture, &volume)?;
        fixture.kubelet.unpublish(&volume).await.with_context(|| format!("{left:?}"))?;
        fixture.kubelet.ensure_gone(&volume).with_context(|| format!("{left:?}"))?;
    }
    // Nothing at all, not even the folder above.
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.prepare(&volume)?;
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)?;
    // Three deep over a published one.
    fixture.kubelet.publish(&volume).await?;
    for _ in 0..3 {
        fixture.kubelet.namespace().mount_tmpfs(&fixture.kubelet.target(&volume))?;
    }
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)?;
    driver.ensure_serves().await
}

/// What is mounted over a published volume hides its files from a pod that starts now.
#[tokio::test]
async fn a_mount_over_a_published_volume_is_no_published_volume() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    fixture.kubelet.namespace().mount_tmpfs(&fixture.kubelet.target(&volume))?;
    ensure!(fixture.names(&volume)?.is_empty());
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)
}

#[tokio::test]
async fn a_volume_that_was_unmounted_behind_the_driver_is_published_again() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    fixture.kubelet.namespace().unmount(&fixture.kubelet.target(&volume))?;
    fixture.ensure_nothing(&volume)?;
    fixture.kubelet.publish(&volume).await?;
    fixture.ensure_seeded(&volume)
}

#[tokio::test]
async fn a_volume_in_use_is_taken_away_all_the_same() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    let _open = fs::File::open(fixture.kubelet.volume(&volume).join("password"))?;
    fixture.kubelet.unpublish(&volume).await?;
    fixture.kubelet.ensure_gone(&volume)
}

/// Killed at any moment of a publish: the next one is either whole or refused, and a teardown is whole.
#[tokio::test]
async fn killed_in_mid_publish_it_never_leaves_what_passes_for_a_volume() -> Result<()> {
    const ROUNDS: u64 = 12;
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let mut driver = fixture.start(&["--mount-timeout=3s"]).await?;
    for round in 0..ROUNDS {
        let volume = fixture.seeded_pod()?;
        if round % 3 == 0 {
            // While it waits for AWS.
            fixture.proxy.fault(Rule::new(Fault::Hang).operation("GetParameters"));
        }
        let (_, killed) = tokio::join!(fixture.kubelet.publish(&volume), async {
            tokio::time::sleep(Duration::from_millis(round * 12 + fastrand::u64(0..12))).await;
            driver.crash().await
        });
        killed?;
        fixture.proxy.clear_faults();
        driver = fixture.start(&["--mount-timeout=3s"]).await?;
        if round % 2 == 0 {
            // The kubelet asks again, and AWS does not answer.
            let denied = fixture.proxy.fault(Rule::new(Fault::AccessDenied));
            let answer = fixture.kubelet.publish(&volume).await;
            fixture.proxy.clear_fault(denied);
            if answer.is_ok() {
                fixture.ensure_seeded(&volume).context("a success without the files")?;
            }
            fixture.published(&volume).await?;
            fixture.ensure_seeded(&volume)?;
        }
        fixture.kubelet.unpublish(&volume).await?;
        fixture.kubelet.ensure_gone(&volume)?;
    }
    let left = fixture.kubelet.all_mounts()?;
    ensure!(left.is_empty(), "{left:?}");
    driver.ensure_serves().await
}

#[tokio::test]
async fn killed_in_mid_unpublish_the_next_one_ends_it() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let mut driver = fixture.start(&[]).await?;
    for round in 0..6 {
        let volume = fixture.seeded_pod()?;
        fixture.kubelet.publish(&volume).await?;
        let (_, killed) = tokio::join!(fixture.kubelet.unpublish(&volume), async {
            tokio::time::sleep(Duration::from_millis(round)).await;
            driver.crash().await
        });
        killed?;
        driver = fixture.start(&[]).await?;
        fixture.kubelet.unpublish(&volume).await?;
        fixture.kubelet.ensure_gone(&volume)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_deleted_while_a_fetch_hangs_is_gone_quickly() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--mount-timeout=60s"]).await?;
    fixture.proxy.fault(Rule::new(Fault::Hang));
    let volume = fixture.seeded_pod()?;
    let publish = async { fixture.kubelet.publish(&volume).await };
    let unpublish = async {
        fixture.asked("AssumeRoleWithWebIdentity", 1).await?;
        let started = tokio::time::Instant::now();
        // As often as the kubelet asks, until it is answered well.
        eventually(SOON, async || Ok(fixture.kubelet.unpublish(&volume).await?)).await?;
        anyhow::Ok(started.elapsed())
    };
    let (published, took) = tokio::join!(publish, unpublish);
    let took = took?;
    ensure!(took < Duration::from_secs(3), "it took {took:?}");
    refused(published, NOT_FINAL, &[])?;
    fixture.kubelet.ensure_gone(&volume)?;
    driver.ensure_serves().await
}

/// The kubelet leaves a call after two minutes, or with its own end.
#[tokio::test]
async fn a_kubelet_that_leaves_in_mid_publish_finds_no_lock_when_it_comes_back() -> Result<()> {
    let (mut fixture, driver) = Fixture::seeded(&["--mount-timeout=20s"]).await?;
    let hang = fixture.proxy.fault(Rule::new(Fault::Hang));
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.set_patience(Duration::from_secs(1));
    ensure!(fixture.kubelet.publish(&volume).await.is_err());
    fixture.proxy.clear_fault(hang);
    fixture.kubelet.set_patience(Duration::from_secs(30));
    let started = tokio::time::Instant::now();
    fixture.published(&volume).await?;
    // The call that hangs is given up after ten seconds.
    ensure!(started.elapsed() < Duration::from_secs(15), "the lock was held for {:?}", started.elapsed());
    fixture.ensure_seeded(&volume)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_fetch_that_hangs_ends_at_the_mount_timeout_and_the_kubelet_is_told_why() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--mount-timeout=2s"]).await?;
    for operation in ["AssumeRoleWithWebIdentity", "GetParameters"] {
        let hang = fixture.proxy.fault(Rule::new(Fault::Hang).operation(operation));
        let volume = fixture.pod(&operation.to_lowercase(), SEEDED)?;
        let started = tokio::time::Instant::now();
        let answer = fixture.kubelet.publish(&volume).await;
        let took = started.elapsed();
        ensure!(took < Duration::from_secs(6), "{operation}: it took {took:?}");
        // Not final: the next try may find it done.
        refused(answer, NOT_FINAL, &[]).with_context(|| operation.to_owned())?;
        fixture.ensure_nothing(&volume)?;
        fixture.proxy.clear_fault(hang);
        fixture.published(&volume).await?;
        fixture.ensure_seeded(&volume)?;
    }
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_pod_with_several_volumes_has_each_by_itself() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let one = fixture.seeded_pod()?.called("one");
    let other = fixture.pod("api", "files: [{name: only, from: 'parameterstore:/prod/level'}]")?;
    let other = other.of_pod(one.pod(), one.uid()).called("other");
    fixture.kubelet.publish(&one).await?;
    fixture.kubelet.publish(&other).await?;
    fixture.ensure_seeded(&one)?;
    fixture.ensure_holds(&other, &[("only", "info")])?;
    fixture.kubelet.unpublish(&one).await?;
    fixture.kubelet.ensure_gone(&one)?;
    fixture.ensure_holds(&other, &[("only", "info")])
}

/// A request that asks for what no inline volume of secrets is.
#[tokio::test]
async fn what_is_no_request_for_a_volume_is_refused() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    let target = fixture.kubelet.prepare(&volume)?;
    let request = || volume.publish_request(&target);
    let mut requests = Vec::new();
    let mut add = |name: &'static str, change: &dyn Fn(&mut NodePublishVolumeRequest)| {
        let mut request = request();
        change(&mut request);
        requests.push((name, request));
    };
    add("no volume id", &|request| request.volume_id.clear());
    add("no target", &|request| request.target_path.clear());
    add("a relative target", &|request| request.target_path = "pods/x/mount".to_owned());
    add("no capability", &|request| request.volume_capability = None);
    add("no access type", &|request| {
        request.volume_capability.as_mut().expect("it has one").access_type = None;
    });
    add("a block volume", &|request| {
        request.volume_capability.as_mut().expect("it has one").access_type = Some(AccessType::Block(BlockVolume {}));
    });
    add("no pod", &|request| drop(request.volume_context.remove("csi.storage.k8s.io/pod.name")));
    add("not ephemeral", &|request| {
        drop(request.volume_context.insert("csi.storage.k8s.io/ephemeral".to_owned(), "false".to_owned()));
    });
    add("a group that is none", &|request| {
        let capability = request.volume_capability.as_mut().expect("it has one");
        if let Some(AccessType::Mount(mount)) = &mut capability.access_type {
            mount.volume_mount_group = "wheel".to_owned();
        }
    });
    for (name, request) in requests {
        let answer = fixture.kubelet.publish_request(request).await;
        // That the kubelet names no pod is for the CSIDriver object to mend.
        let codes = [Code::InvalidArgument, Code::FailedPrecondition];
        refused(answer, &codes, &[]).with_context(|| name.to_owned())?;
    }
    ensure!(fixture.kubelet.all_mounts()?.is_empty());
    ensure!(fixture.proxy.calls().is_empty(), "AWS was asked: {:?}", fixture.operations());
    for request in [
        NodeUnpublishVolumeRequest { volume_id: String::new(), ..volume.unpublish_request(&target) },
        NodeUnpublishVolumeRequest { target_path: String::new(), ..volume.unpublish_request(&target) },
    ] {
        refused(fixture.kubelet.unpublish_request(request).await, &[Code::InvalidArgument], &[])?;
    }
    driver.ensure_serves().await
}

/// The kubelet names every target, plainly: one that leads up again would have the driver mount over, or
/// remove, anything on the node.
#[tokio::test]
async fn a_target_that_leads_elsewhere_is_refused() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    let elsewhere = tempfile::tempdir()?;
    fs::write(elsewhere.path().join("keep"), "me")?;
    let above = fixture.kubelet.folder().join("pods").join(volume.uid());
    let dotted = above.join("../../../..").join(elsewhere.path().strip_prefix("/")?);
    for target in [dotted, "/".into(), "/..".into(), elsewhere.path().join("..").join("x")] {
        for answer in [
            fixture.kubelet.publish_request(volume.publish_request(&target)).await,
            fixture.kubelet.unpublish_request(volume.unpublish_request(&target)).await,
        ] {
            refused(answer, &[Code::InvalidArgument], &["target_path"])
                .with_context(|| target.display().to_string())?;
        }
    }
    ensure!(elsewhere.path().join("keep").exists());
    driver.ensure_serves().await
}

/// Many pods come and go while the driver is killed again and again: in the end, all that should be is
/// there and nothing else.
#[tokio::test]
async fn pods_come_and_go_while_the_driver_is_killed() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.seed().await?;
    let mut driver: Option<Driver> = Some(fixture.start(&[]).await?);
    let volumes: Vec<_> = (0..20).map(|_| fixture.seeded_pod()).collect::<Result<_>>()?;
    let life = async {
        let kubelet = &fixture.kubelet;
        let all = volumes.iter().enumerate().map(|(place, volume)| async move {
            for _ in 0..4 {
                eventually(SOON, async || Ok(kubelet.publish(volume).await?)).await?;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..100))).await;
                eventually(SOON, async || Ok(kubelet.unpublish(volume).await?)).await?;
            }
            if place % 2 == 0 {
                eventually(SOON, async || Ok(kubelet.publish(volume).await?)).await?;
            }
            anyhow::Ok(())
        });
        join_all(all).await.into_iter().collect::<Result<Vec<()>>>()
    };
    let deaths = async {
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(50..400))).await;
            if let Some(driver) = driver.take() {
                driver.crash().await?;
            }
            driver = Some(fixture.start(&[]).await?);
        }
        anyhow::Ok(())
    };
    let (lived, died) = tokio::join!(life, deaths);
    lived?;
    died?;
    for (place, volume) in volumes.iter().enumerate() {
        if place % 2 == 0 {
            fixture.kubelet.publish(volume).await?;
            fixture.ensure_seeded(volume)?;
        } else {
            fixture.kubelet.ensure_gone(volume)?;
        }
    }
    ensure!(fixture.kubelet.all_mounts()?.len() == volumes.len() / 2);
    Ok(())
}
