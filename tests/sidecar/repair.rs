//! Third parties that meddle with the volume.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use anyhow::{Result, ensure};
use bed::eventually;

use crate::{
    faults::{PARAMETER, SECRET, pair},
    fixture::{Case, Fixture, SOON, side_by_side},
};

/// Damages the volume at a path.
type Meddler = fn(&Path) -> Result<()>;

/// Whether the whole set is there again, as it was.
async fn healed(fixture: &Fixture) -> Result<()> {
    eventually(SOON, async || {
        let data = fs::read_link(fixture.volume().join("..data"))?;
        ensure!(data.to_string_lossy().starts_with("..2"), "..data leads to {}", data.display());
        for (name, expected) in [("db", "old"), ("level", "old")] {
            let link = fs::read_link(fixture.volume().join(name))?;
            ensure!(link == Path::new("..data").join(name), "{name} leads to {}", link.display());
            let found = fixture.read(name)?;
            ensure!(found == expected, "{name} holds {found:?}");
            let mode = fs::metadata(fixture.volume().join(name))?.permissions().mode() & 0o777;
            ensure!(mode == 0o440, "{name} has mode {mode:o}");
        }
        Ok(())
    })
    .await
}

async fn heal(meddle: Meddler) -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    meddle(&fixture.volume())?;
    healed(&fixture).await?;
    sidecar.becomes(SECRET, "fresh").await?;
    sidecar.becomes(PARAMETER, "fresh").await?;
    eventually(SOON, async || {
        let journal = sidecar.process.stdout();
        ensure!(
            journal.lines().any(|line| line.contains(r#""event":"publish""#) && line.contains(r#""cause":"repair""#))
        );
        Ok(())
    })
    .await?;
    // And it is at rest again.
    let publishes = sidecar.status().await?["publishes"].clone();
    sidecar.looks_again().await?;
    sidecar.looks_again().await?;
    ensure!(sidecar.status().await?["publishes"] == publishes, "it goes on repairing");
    Ok(())
}

fn writable(path: &Path) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

#[tokio::test]
async fn what_is_damaged_is_healed_within_a_refresh() -> Result<()> {
    let meddlers: [(&str, Meddler); 7] = [
        ("a file is deleted", |volume| Ok(fs::remove_file(volume.join("..data/db"))?)),
        ("a file is written to", |volume| {
            writable(&volume.join("..data/db"))?;
            Ok(fs::write(volume.join("..data/db"), "hacked")?)
        }),
        ("a file is replaced", |volume| {
            fs::remove_file(volume.join("..data/level"))?;
            Ok(fs::write(volume.join("..data/level"), "old")?)
        }),
        ("a mode is changed", |volume| {
            Ok(fs::set_permissions(volume.join("..data/db"), fs::Permissions::from_mode(0o666))?)
        }),
        ("a link is deleted", |volume| Ok(fs::remove_file(volume.join("db"))?)),
        ("..data is deleted", |volume| Ok(fs::remove_file(volume.join("..data"))?)),
        ("the generation is deleted", |volume| Ok(fs::remove_dir_all(fs::canonicalize(volume.join("..data"))?)?)),
    ];
    let cases = meddlers.into_iter().map(|(name, meddle)| -> Case { (name.to_owned(), Box::pin(heal(meddle))) });
    side_by_side(cases.collect()).await
}

/// What stands in a file's place and is not Coffer's is not removed, but named.
#[tokio::test]
async fn a_link_that_somebody_turned_elsewhere_is_told_and_healed_when_it_is_gone() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    let link = fixture.volume().join("db");
    fs::remove_file(&link)?;
    symlink("/etc/hostname", &link)?;
    eventually(SOON, async || {
        let status = sidecar.status().await?;
        let obstacle = status["obstacle"].as_str().unwrap_or_default();
        let expected = format!("{} is a symbolic link that coffer did not put there; remove it", link.display());
        ensure!(obstacle.contains(&expected), "{status:#}");
        Ok(())
    })
    .await?;
    ensure!(fs::read_link(&link)? == Path::new("/etc/hostname"));
    fs::remove_file(&link)?;
    healed(&fixture).await?;
    eventually(SOON, async || {
        ensure!(sidecar.status().await?["obstacle"].is_null());
        Ok(())
    })
    .await
}

/// Damage is healed even while AWS cannot be asked for what is whole still.
#[tokio::test]
async fn a_deleted_link_is_healed_without_aws() -> Result<()> {
    let fixture = pair("1s").await?;
    let sidecar = fixture.ready().await?;
    fixture.proxy.fault(bed::Rule::new(bed::Fault::Status(503)));
    sidecar.becomes(SECRET, "stale").await?;
    fs::remove_file(fixture.volume().join("db"))?;
    healed(&fixture).await?;
    sidecar.becomes(SECRET, "stale").await?;
    Ok(())
}

#[tokio::test]
async fn a_volume_that_was_removed_whole_is_made_and_filled_anew() -> Result<()> {
    heal(|volume| Ok(fs::remove_dir_all(volume)?)).await
}
