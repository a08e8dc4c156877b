//! A tmpfs that is full.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, ensure};
use bed::{FileWatch, eventually};

use crate::{
    faults::SECRET,
    fixture::{Fixture, SOON, ends_with, last_line, skip},
};

/// A tmpfs that holds one set of a 60 KB secret, and not two beside a filler.
struct SmallTmpfs(PathBuf);

impl SmallTmpfs {
    /// Nothing if this process may not mount.
    fn mount(at: PathBuf) -> Result<Option<Self>> {
        fs::create_dir_all(&at)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=160k,mode=755", "none"]).arg(&at).output();
        Ok(mounted.is_ok_and(|output| output.status.success()).then(|| Self(at)))
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        // Also while a process that is about to be killed has it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn large(letter: &str) -> String {
    letter.repeat(60_000)
}

#[tokio::test]
async fn without_room_the_old_set_stays_and_the_new_one_comes_when_there_is() -> Result<()> {
    let fixture = Fixture::new().await?;
    let Some(_mounted) = SmallTmpfs::mount(fixture.volume())? else {
        return skip("root, to mount a small tmpfs");
    };
    fixture.aws.create_secret("prod/db", &large("a")).await?;
    fixture.aws.create_secret("prod/small", "one").await?;
    fixture.config(
        "1s",
        [format!("{{name: db, from: '{SECRET}'}}"), "{name: small, from: 'secretsmanager:prod/small'}".to_owned()],
    )?;
    let sidecar = fixture.ready().await?;
    let filler = fixture.volume().join("filler");
    fs::write(&filler, vec![0; 64_000])?;
    let before = fixture.reader().read(&["db", "small"])?;
    fixture.aws.put_secret_value("prod/db", &large("b")).await?;

    eventually(SOON, async || {
        let stale = sidecar.reference(SECRET).await?;
        let why = stale["why"].as_str().unwrap_or_default();
        ensure!(stale["state"] == "stale" && why.contains("no room"), "{stale:#}");
        Ok(())
    })
    .await?;
    let status = sidecar.looks_again().await?;
    let obstacle = status["obstacle"].as_str().unwrap_or_default();
    ensure!(obstacle.contains("no room") && obstacle.contains("sizeLimit"), "{status:#}");
    ensure!(status["published"] == true && sidecar.get("/readyz").await?.0 == 200);
    ensure!(fixture.reader().read(&["db", "small"])? == before, "the old set did not stay");
    let generations = fs::read_dir(fixture.volume())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("..2"));
    ensure!(generations.count() == 1, "half a generation is left");
    ensure!(fixture.read("db")? == large("a"));

    fs::remove_file(&filler)?;
    eventually(SOON, async || {
        ensure!(fixture.read("db")? == large("b"), "the old one still");
        Ok(())
    })
    .await?;
    sidecar.becomes(SECRET, "fresh").await?;
    ensure!(sidecar.status().await?["obstacle"].is_null());
    Ok(())
}

#[tokio::test]
async fn without_room_at_the_start_the_line_says_how_much_is_missing() -> Result<()> {
    let fixture = Fixture::new().await?;
    let Some(_mounted) = SmallTmpfs::mount(fixture.volume())? else {
        return skip("root, to mount a small tmpfs");
    };
    let filler = fixture.volume().join("filler");
    fs::write(&filler, vec![0; 120_000])?;
    fixture.aws.create_secret("prod/db", &large("a")).await?;
    fixture.config("1s", [format!("{{name: db, from: '{SECRET}'}}")])?;
    let mut watch = FileWatch::new(&fixture.volume())?;
    let process = fixture.run().arg("--startup-timeout=4s").start()?;
    ends_with(&process, 1).await?;
    let said = process.stderr();
    ensure!(last_line(&said).contains("has no room") && last_line(&said).contains("are free"), "{said}");
    let left: Vec<_> = fs::read_dir(fixture.volume())?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left == ["filler"], "{left:?}");
    drop(watch.events()?);

    // One that stays sits it out.
    let sidecar = fixture.start()?;
    eventually(SOON, async || {
        let (status, why) = sidecar.get("/readyz").await?;
        ensure!(status == 503 && why.contains("no room"), "{status}: {why}");
        Ok(())
    })
    .await?;
    fs::remove_file(&filler)?;
    sidecar.ready().await?;
    ensure!(fixture.read("db")? == large("a"));
    Ok(())
}
