//! What an application sees: names, modes, owners, and the file system below.

use std::fs;

use anyhow::{Context, Result, ensure};
use tonic::Code;

use crate::fixture::{Fixture, Permissions, SEEDED, refused};

const GROUP: u32 = 2000;

#[tokio::test]
async fn files_are_read_through_the_pods_group_and_by_nobody_else() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?.group(GROUP);
    fixture.kubelet.publish(&volume).await?;
    for file in ["db.json", "password", "app/level"] {
        let found = fixture.permissions(&volume, file)?;
        ensure!(found == Permissions { mode: 0o440, uid: 0, gid: GROUP }, "{file}: {found:?}");
    }
    for folder in ["", "..data", "app"] {
        let found = fixture.permissions(&volume, folder)?;
        ensure!(found.uid == 0 && found.mode & 0o022 == 0, "others than root write: {folder:?}: {found:?}");
    }
    // An application of that group, and of no other, in fact reads.
    let read = |group: u32| {
        let path = fixture.kubelet.target(&volume).join("password");
        let [nsenter, arguments @ ..] = fixture.kubelet.enter();
        let mut command = std::process::Command::new(nsenter);
        command.args(arguments).args(["setpriv", "--reuid=1000", "--regid=1000", &format!("--groups={group}"), "cat"]);
        command.arg(path).output().context("cannot run setpriv (package util-linux)")
    };
    // The kubelet's folders above are for root alone, here as on a node; a container sees only the volume.
    for above in fixture.kubelet.target(&volume).ancestors().skip(1) {
        if above.starts_with(fixture.kubelet.folder()) {
            fs::set_permissions(above, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
    }
    let by_group = read(GROUP)?;
    ensure!(by_group.stdout == b"one", "{by_group:?}");
    let by_other = read(GROUP + 1)?;
    ensure!(!by_other.status.success() && by_other.stdout.is_empty(), "{by_other:?}");
    Ok(())
}

#[tokio::test]
async fn without_a_group_files_are_roots() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.seeded_pod()?;
    fixture.kubelet.publish(&volume).await?;
    for file in ["db.json", "password", "app/level"] {
        let found = fixture.permissions(&volume, file)?;
        ensure!(found.uid == 0 && found.gid == 0 && found.mode & 0o007 == 0, "{file}: {found:?}");
    }
    Ok(())
}

#[tokio::test]
async fn modes_are_as_they_are_asked_for() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let spec = "\
mode: '0400'
files:
  - {name: by-volume, from: 'parameterstore:/prod/level'}
  - {name: by-file, from: 'parameterstore:/prod/level', mode: '0444'}
";
    let volume = fixture.pod("api", spec)?.group(GROUP);
    fixture.kubelet.publish(&volume).await?;
    for (file, mode) in [("by-volume", 0o400), ("by-file", 0o444)] {
        let found = fixture.permissions(&volume, file)?;
        ensure!(found == Permissions { mode, uid: 0, gid: GROUP }, "{file}: {found:?}");
    }
    Ok(())
}

#[tokio::test]
async fn rotated_files_keep_the_group() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&["--refresh=1s"]).await?;
    let volume = fixture.seeded_pod()?.group(GROUP);
    fixture.kubelet.publish(&volume).await?;
    fixture.aws.put_secret_value("prod/db", r#"{"password": "two"}"#).await?;
    fixture.becomes(&volume, "password", "two").await?;
    let found = fixture.permissions(&volume, "password")?;
    ensure!(found == Permissions { mode: 0o440, uid: 0, gid: GROUP }, "{found:?}");
    Ok(())
}

#[tokio::test]
async fn the_volume_is_a_tmpfs_on_which_nothing_runs_and_nothing_swaps() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    for volume in [fixture.seeded_pod()?, fixture.seeded_pod()?.writable()] {
        fixture.kubelet.publish(&volume).await?;
        let mounts = fixture.kubelet.mounts(&volume)?;
        let [mount] = &mounts[..] else { anyhow::bail!("mounted {} times", mounts.len()) };
        ensure!(mount.kind == "tmpfs", "{mount:?}");
        for option in ["noexec", "nosuid", "nodev"] {
            ensure!(mount.options.iter().any(|found| found == option), "no {option}: {mount:?}");
        }
        // The container's runtime mounts it read-only there; here it has to be written at each rotation.
        ensure!(mount.options.iter().any(|option| option == "rw"), "{mount:?}");
        let size = mount.super_option("size").with_context(|| format!("no size: {mount:?}"))?;
        let kib: u64 = size.strip_suffix('k').with_context(|| size.to_owned())?.parse()?;
        ensure!((4..=8 << 10).contains(&kib), "{kib} KiB for less than one");
        if kernel_from(6, 4)? {
            ensure!(mount.super_options.iter().any(|option| option == "noswap"), "{mount:?}");
        }
    }
    Ok(())
}

fn kernel_from(major: u32, minor: u32) -> Result<bool> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    Ok((numbers.next(), numbers.next()) >= (Some(major), Some(minor)))
}

#[tokio::test]
async fn a_set_that_grows_finds_room() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&["--refresh=1s"]).await?;
    fixture.aws.create_secret("grows", "x").await?;
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let entries = names.map(|name| format!("- {{name: {name}, from: 'secretsmanager:grows'}}\n"));
    let volume = fixture.pod("api", &entries.concat())?;
    fixture.kubelet.publish(&volume).await?;
    for size in [2_000, 60_000, 10] {
        let value = fastrand::alphanumeric().to_string().repeat(size);
        fixture.aws.put_secret_value("grows", &value).await?;
        fixture.becomes(&volume, "h", &value).await?;
        for name in names {
            ensure!(fixture.kubelet.read(&volume, name)? == value);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_set_that_is_too_large_is_refused_and_says_how_large() -> Result<()> {
    let (fixture, driver) = Fixture::seeded(&["--max-volume-size=100000"]).await?;
    fixture.aws.create_secret("large", &"x".repeat(60_000)).await?;
    let one = fixture.pod("api", "[{name: a, from: 'secretsmanager:large'}]")?;
    fixture.kubelet.publish(&one).await?;
    ensure!(fixture.kubelet.read(&one, "a")?.len() == 60_000);
    let two = "[{name: a, from: 'secretsmanager:large'}, {name: b, from: 'secretsmanager:large'}]";
    let volume = fixture.pod("api", two)?;
    let answer = fixture.kubelet.publish(&volume).await;
    refused(
        answer,
        &[Code::InvalidArgument, Code::OutOfRange, Code::FailedPrecondition, Code::ResourceExhausted],
        &["100000"],
    )?;
    fixture.ensure_nothing(&volume)?;
    driver.ensure_serves().await
}

#[tokio::test]
async fn a_bare_spec_shows_nothing_but_its_files() -> Result<()> {
    let (fixture, _driver) = Fixture::seeded(&[]).await?;
    let volume = fixture.pod("api", SEEDED)?;
    fixture.kubelet.publish(&volume).await?;
    // Kubernetes' own layout: what is no file of the set begins with two dots.
    let folder = fixture.kubelet.volume(&volume);
    let hidden: Vec<_> = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .filter(|name: &Result<String>| name.as_ref().is_ok_and(|name| name.starts_with('.')))
        .collect::<Result<_>>()?;
    ensure!(hidden.iter().all(|name| name.starts_with("..")), "{hidden:?}");
    ensure!(fs::read_link(folder.join("password"))?.starts_with("..data"));
    ensure!(fixture.names(&volume)? == ["app", "db.json", "password"]);
    Ok(())
}
