//! A config that changes while the sidecar runs.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bed::{Fault, Rule, SetReader, Signal, eventually};
use serde_json::Value;

use crate::fixture::{Fixture, SOON, Sidecar, ends_with};

async fn config_status(sidecar: &Sidecar) -> Result<Value> {
    let (_, body) = sidecar.get("/status").await?;
    Ok(serde_json::from_str::<Value>(&body)?["config"].take())
}

async fn config_is(sidecar: &Sidecar, state: &str) -> Result<Value> {
    eventually(SOON, async || {
        let status = config_status(sidecar).await?;
        ensure!(status["state"] == state, "{status:#}");
        Ok(status)
    })
    .await
}

/// A folder as the kubelet mounts a ConfigMap: the file is a link into `..data`, and that is a link
/// which is renamed.
struct ConfigMap<'a> {
    folder: &'a Path,
    generation: u32,
}

impl ConfigMap<'_> {
    fn put(&mut self, name: &str, text: &str) -> Result<()> {
        self.generation += 1;
        let generation = format!("..{}", self.generation);
        fs::create_dir_all(self.folder.join(&generation))?;
        fs::write(self.folder.join(&generation).join(name), text)?;
        symlink(&generation, self.folder.join("..data_tmp"))?;
        fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data"))?;
        if self.generation == 1 {
            symlink(format!("..data/{name}"), self.folder.join(name))?;
        } else {
            fs::remove_dir_all(self.folder.join(format!("..{}", self.generation - 1)))?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn new_files_come_and_removed_ones_go_in_one_swap() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", r#"{"user": "u"}"#).await?;
    fixture.aws.create_secret("prod/key", "k1").await?;
    fixture.config(
        "1h",
        ["{name: db, from: 'secretsmanager:prod/db'}", "{name: gone, from: 'secretsmanager:prod/key'}"],
    )?;
    let sidecar = fixture.ready().await?;

    fixture.config(
        "1h",
        [
            "{name: db, from: 'secretsmanager:prod/db', mode: 0400}",
            "{name: user, from: 'secretsmanager:prod/db', select: user}",
            "{name: sub/key, from: 'secretsmanager:prod/key'}",
        ],
    )?;
    fixture.holds("user", "u").await?;
    fixture.holds("sub/key", "k1").await?;
    ensure!(!fixture.volume().join("gone").exists(), "the removed file is still there");
    let status = config_is(&sidecar, "current").await?;
    ensure!(status["reloads"] == 1 && status["failures"] == 0, "{status:#}");
    ensure!(sidecar.status().await?["publishes"] == 2);

    // What is taken away as a whole leaves nothing behind.
    let other = fixture.volume_text("other", ["{name: a, from: 'secretsmanager:prod/key'}"]);
    fixture.write_config(&format!("refresh: 1h\nvolumes:\n{other}"))?;
    eventually(SOON, async || {
        ensure!(fs::read_to_string(fixture.path("other/a"))? == "k1");
        let left: Vec<_> = fs::read_dir(fixture.volume())?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left.iter().all(|name| name.to_string_lossy().starts_with("..")), "{left:?}");
        Ok(())
    })
    .await?;
    let (status, _) = sidecar.get("/readyz").await?;
    ensure!(status == 200);
    Ok(())
}

#[tokio::test]
async fn a_bad_config_changes_nothing_and_is_told_until_it_is_mended() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    fixture.config("1s", ["{name: db, from: 'secretsmanager:prod/db'}"])?;
    let sidecar = fixture.ready().await?;

    fixture.config("1s", ["{name: db, form: 'secretsmanager:prod/db'}"])?;
    let status = config_is(&sidecar, "failing").await?;
    let why = status["why"].as_str().unwrap_or_default();
    ensure!(why.contains("coffer.yaml:5:") && why.contains("did you mean `from`?"), "{why}");
    sidecar.process.wait_for_stderr("config not taken over", SOON).await?;
    let shown = fixture.coffer().args(["status", &format!("--listen={}", fixture.listen())]).start()?;
    shown.wait(SOON).await?;
    ensure!(shown.stdout().contains("did you mean `from`?"), "{}", shown.stdout());
    let metrics = sidecar.metrics().await?;
    ensure!(metrics.values("coffer_config_current", &[])? == [0.0], "{metrics}");

    // The volume is kept fresh all the while.
    fixture.aws.put_secret_value("prod/db", "two").await?;
    fixture.holds("db", "two").await?;

    // A reference that AWS does not have: nothing of the new config is taken over, and it is when it can be.
    fixture
        .config("1s", ["{name: db, from: 'secretsmanager:prod/db'}", "{name: new, from: 'secretsmanager:prod/new'}"])?;
    eventually(SOON, async || {
        let status = config_status(&sidecar).await?;
        let why = status["why"].as_str().unwrap_or_default().to_owned();
        ensure!(why.contains("secretsmanager:prod/new") && why.contains("ResourceNotFoundException"), "{why}");
        Ok(())
    })
    .await?;
    ensure!(fixture.read("db")? == "two" && fixture.read("new").is_err());
    fixture.aws.put_secret_value("prod/db", "three").await?;
    fixture.holds("db", "three").await?;
    fixture.aws.create_secret("prod/new", "here").await?;
    fixture.holds("new", "here").await?;
    config_is(&sidecar, "current").await?;
    Ok(())
}

#[tokio::test]
async fn a_fault_while_a_new_file_is_fetched_is_sat_out() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    fixture.aws.create_secret("prod/new", "two").await?;
    fixture.config("1h", ["{name: db, from: 'secretsmanager:prod/db'}"])?;
    let sidecar = fixture.ready().await?;
    let fault = fixture.proxy.fault(Rule::new(Fault::Throttle));
    fixture
        .config("1h", ["{name: db, from: 'secretsmanager:prod/db'}", "{name: new, from: 'secretsmanager:prod/new'}"])?;
    let status = config_is(&sidecar, "failing").await?;
    ensure!(status["why"].as_str().is_some_and(|why| why.contains("ThrottlingException")), "{status:#}");
    ensure!(fixture.read("db")? == "one");
    fixture.proxy.clear_fault(fault);
    fixture.holds("new", "two").await?;
    config_is(&sidecar, "current").await?;
    Ok(())
}

#[tokio::test]
async fn a_volume_goes_only_when_all_that_takes_its_place_is_there() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    fixture.config("1s", ["{name: db, from: 'secretsmanager:prod/db'}"])?;
    let sidecar = fixture.ready().await?;
    let old = fs::read_to_string(fixture.config_path())?;

    let moved = fixture.volume_text("moved", ["{name: new, from: 'secretsmanager:prod/new'}"]);
    fixture.write_config(&format!("refresh: 1s\nvolumes:\n{moved}"))?;
    sidecar.process.wait_for_stderr("prod/new", SOON).await?;
    // The volume that cannot be filled yet makes the one in place neither vanish nor unready nor stale.
    fixture.aws.put_secret_value("prod/db", "two").await?;
    fixture.holds("db", "two").await?;
    ensure!(sidecar.get("/readyz").await? == (200, "ready\n".to_owned()));
    let listen = format!("--listen={}", fixture.listen());
    ends_with(&fixture.coffer().args(["status", "--quiet", &listen]).start()?, 0).await?;
    config_is(&sidecar, "failing").await?;
    ensure!(fixture.read("db")? == "two");

    // Who takes the mistake back finds everything as it was.
    fixture.write_config(&old)?;
    config_is(&sidecar, "current").await?;
    ensure!(fixture.read("db")? == "two");
    ensure!(!sidecar.process.stderr().contains("no longer in the config"), "{}", sidecar.process.stderr());

    fixture.aws.create_secret("prod/new", "here").await?;
    fixture.write_config(&format!("refresh: 1s\nvolumes:\n{moved}"))?;
    eventually(SOON, async || {
        ensure!(fs::read_to_string(fixture.path("moved/new"))? == "here");
        ensure!(fixture.read("db").is_err(), "the old volume is still there");
        Ok(())
    })
    .await?;
    config_is(&sidecar, "current").await?;

    // One inside the other has no place before the other is gone, and the other way round.
    for name in ["moved/inner", "moved"] {
        let volume = fixture.volume_text(name, ["{name: db, from: 'secretsmanager:prod/db'}"]);
        fixture.write_config(&format!("refresh: 1s\nvolumes:\n{volume}"))?;
        eventually(SOON, async || {
            ensure!(fs::read_to_string(fixture.path(name).join("db"))? == "two");
            Ok(())
        })
        .await?;
        config_is(&sidecar, "current").await?;
    }
    ensure!(!fixture.path("moved/inner/db").exists());
    Ok(())
}

#[tokio::test]
async fn a_config_that_leaves_nothing_to_publish_takes_nothing_away() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    fixture.config("1h", ["{name: db, from: 'secretsmanager:prod/db'}"])?;
    let sidecar = fixture.ready().await?;
    for text in ["env:\n  - {name: DB, from: 'secretsmanager:prod/db'}\n", "api: {}\n"] {
        fixture.write_config(text)?;
        let status = config_is(&sidecar, "failing").await?;
        ensure!(status["why"].as_str().is_some_and(|why| why.contains("no volume is left")), "{status:#}");
        ensure!(fixture.read("db")? == "one");
    }
    Ok(())
}

#[tokio::test]
async fn actions_that_are_no_longer_wanted_are_no_longer_shown_and_the_others_are() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    let volume = fixture.volume_text("volume", ["{name: db, from: 'secretsmanager:prod/db'}"]);
    let with = |names: &[&str]| {
        let touch = |name: &&str| format!("      - touch: {}\n", fixture.path(name).display());
        let actions: String = names.iter().map(touch).collect();
        let on_change = if names.is_empty() { String::new() } else { format!("    on_change:\n{actions}") };
        fixture.write_config(&format!("refresh: 1h\nvolumes:\n{volume}{on_change}"))
    };
    with(&["stays", "goes"])?;
    let sidecar = fixture.ready().await?;
    for names in [vec!["stays"], vec![], vec!["stays", "comes"]] {
        with(&names)?;
        let paths: Vec<String> = names.iter().map(|name| fixture.path(name).display().to_string()).collect();
        eventually(SOON, async || {
            let status = sidecar.status().await?;
            let shown = status["on_change"].as_array().context("no list")?;
            ensure!(shown.len() == paths.len(), "{status:#}");
            let metrics = sidecar.metrics().await?;
            let counted = |path: &str| -> Result<bool> {
                let action = format!("touch {path}");
                Ok(!metrics.values("coffer_notifications_total", &[("action", &action)])?.is_empty())
            };
            for path in &paths {
                ensure!(counted(path)?, "{metrics}");
            }
            ensure!(!counted(&fixture.path("goes").display().to_string())?, "{metrics}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn sighup_before_the_first_set_ends_nothing() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    let stuck = fixture.proxy.fault(Rule::new(Fault::AccessDenied));
    fixture.config("1h", ["{name: db, from: 'secretsmanager:prod/db'}"])?;
    let sidecar = fixture.start()?;
    sidecar.process.wait_for_stderr("trying again", SOON).await?;
    sidecar.process.signal(Signal::HUP)?;
    fixture.proxy.clear_fault(stuck);
    sidecar.ready().await
}

#[tokio::test]
async fn a_config_behind_a_link_is_followed_where_it_is() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    let folder = fixture.path("elsewhere");
    fs::create_dir(&folder)?;
    let text = |name: &str| {
        let file = format!("{{name: {name}, from: 'secretsmanager:prod/db'}}");
        format!("refresh: 1h\nvolumes:\n{}", fixture.volume_text("volume", [file]))
    };
    fs::write(folder.join("real.yaml"), text("first"))?;
    let links = fixture.path("links");
    fs::create_dir(&links)?;
    symlink(folder.join("real.yaml"), links.join("coffer.yaml"))?;
    let listen = format!("--listen={}", fixture.listen());
    let program = fixture.coffer().args(["run", "--config"]).arg(links.join("coffer.yaml")).arg(listen);
    let sidecar = fixture.start_as(program)?;
    sidecar.ready().await?;
    // Longer than the start takes, and shorter than the slow look that stands beside the watch.
    tokio::time::sleep(Duration::from_secs(1)).await;
    fs::write(folder.join("real.yaml"), text("second"))?;
    eventually(Duration::from_secs(10), async || {
        ensure!(fixture.read("second")? == "one");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn sighup_and_a_setting_that_takes_a_restart_are_told() -> Result<()> {
    let fixture = Fixture::new().await?;
    fixture.aws.create_secret("prod/db", "one").await?;
    fixture.config("1h", ["{name: db, from: 'secretsmanager:prod/db'}"])?;
    let sidecar = fixture.ready().await?;
    sidecar.process.signal(Signal::HUP)?;
    sidecar.process.wait_for_stderr("SIGHUP: reading the config", SOON).await?;
    ensure!(sidecar.process.status()?.is_none(), "SIGHUP ended it");
    let text = fs::read_to_string(fixture.config_path())?;
    fixture.write_config(&format!("listen: 127.0.0.1:1\nmetrics: 127.0.0.1:2\n{text}"))?;
    eventually(SOON, async || {
        let status = config_status(&sidecar).await?;
        ensure!(status["needs_restart"] == serde_json::json!(["listen", "metrics"]), "{status:#}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_hundred_config_maps_every_third_one_broken_leave_no_gap() -> Result<()> {
    const RELOADS: u64 = 200;
    let fixture = Fixture::new().await?;
    for number in 0..2 {
        fixture.aws.create_secret(&format!("prod/{number}"), number.to_string().as_str()).await?;
    }
    let folder = fixture.path("config");
    fs::create_dir(&folder)?;
    let mut config_map = ConfigMap { folder: &folder, generation: 0 };
    // Every other config makes all three files of the other secret.
    let text = |round: u64| {
        let from = format!("secretsmanager:prod/{}", round % 2);
        let files = ["a", "b", "c"].map(|name| format!("{{name: {name}, from: '{from}'}}"));
        format!("refresh: 1h\nvolumes:\n{}", fixture.volume_text("volume", files))
    };
    config_map.put("coffer.yaml", &text(0))?;
    let listen = format!("--listen={}", fixture.listen());
    let program = fixture.coffer().args(["run", "--config"]).arg(folder.join("coffer.yaml")).arg(listen);
    let sidecar = fixture.start_as(program)?;
    sidecar.ready().await?;

    let ended = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicU64::new(0));
    let reader = {
        let (ended, looks, reader) = (Arc::clone(&ended), Arc::clone(&looks), SetReader::new(fixture.volume()));
        std::thread::spawn(move || -> Result<()> {
            while !ended.load(Ordering::Relaxed) {
                reader.read_number(&["a", "b", "c"], |text| text.parse().context("a number"))?;
                looks.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    for round in 1..=RELOADS {
        let good = text(round);
        let broken = round % 3 == 0;
        config_map.put("coffer.yaml", &if broken { good.replace("from:", "form:") } else { good })?;
        // Now and then it is given the time to take each one over, and else the next comes upon it.
        if round % 10 < 3 {
            config_is(&sidecar, if broken { "failing" } else { "current" }).await?;
            if !broken {
                fixture.holds("a", &(round % 2).to_string()).await?;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ensure!(!reader.is_finished(), "the reader met a gap: {:?}", reader.join());
    }
    config_map.put("coffer.yaml", &text(1))?;
    config_is(&sidecar, "current").await?;
    fixture.holds("c", "1").await?;
    ended.store(true, Ordering::Relaxed);
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    ensure!(looks.load(Ordering::Relaxed) > 1000, "only {} looks", looks.load(Ordering::Relaxed));
    let status = config_status(&sidecar).await?;
    ensure!(status["reloads"].as_u64() >= Some(20) && status["failures"].as_u64() >= Some(10), "{status:#}");
    Ok(())
}
